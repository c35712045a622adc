package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func kekCmd() *cobra.Command {
	var f adminFlags
	cmd := group("kek", "Look after the key that wraps all other keys")
	cmd.Long = `The key encryption key is in the file kek of the state folder, or where kek of
rampart.yaml says. To move it: change kek there, start the control plane again, run
rampart kek rewrap, and only then take the old key away.`
	cmd.Example = `  rampart kek status
  rampart kek rotate && rampart kek rewrap`
	f.add(cmd)
	cmd.AddCommand(kekStatusCmd(&f), kekRotateCmd(&f), kekRewrapCmd(&f))
	return cmd
}

func (f *adminFlags) kek(cmd *cobra.Command, method string, op any) (wire.KEKInfo, error) {
	var out wire.KEKInfo
	admin, err := f.open()
	if err != nil {
		return out, err
	}
	return out, admin.call(cmd.Context(), method, wire.AdminKEK, op, &out)
}

func kekStatusCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which key wraps, and how much is under which",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, err := f.kek(cmd, http.MethodGet, nil)
			if err != nil {
				return err
			}
			t := table{head: []string{"KEY", "WRAPS", "STATE"}}
			if _, ok := info.Wraps[info.ID]; !ok && info.ID != "" {
				t.add(info.ID, "0", "active")
			}
			for _, id := range slices.Sorted(maps.Keys(info.Wraps)) {
				state := "old: rampart kek rewrap"
				if id == info.ID {
					state = "active"
				}
				t.add(id, strconv.Itoa(info.Wraps[id]), state)
			}
			if info.Before != "" && !f.json {
				defer fmt.Fprintf(cmd.OutOrStdout(), "the key before, %s, must stay until nothing is left under it\n", info.Before)
			}
			return f.show(cmd, info, t, "nothing is wrapped yet")
		},
	}
}

func kekRotateCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Add a new key to the key file; it wraps from now on, and the old ones still open",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, err := f.kek(cmd, http.MethodPost, wire.KEKOp{Op: "rotate"})
			if err != nil {
				return err
			}
			return f.tell(cmd, info, "%s wraps from now on; back the key file up, then move the other %d with: rampart kek rewrap", info.ID, info.Left)
		},
	}
}

func kekRewrapCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rewrap",
		Short: "Move everything under the newest key; it may be stopped and started again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			before := -1
			for {
				info, err := f.kek(cmd, http.MethodPost, wire.KEKOp{Op: "rewrap"})
				if err != nil {
					return err
				}
				if info.Left == 0 {
					return f.tell(cmd, info, "everything is under %s", info.ID)
				}
				if info.Left == before {
					return &exitError{exitFailed, fmt.Errorf("%d are still under another key, because somebody is changing them right now; run it again", info.Left)}
				}
				before = info.Left
				fmt.Fprintf(cmd.ErrOrStderr(), "%d left\n", info.Left)
			}
		},
	}
}
