package main

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func secretRotationsCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "rotations",
		Short:   "How far credentials are that take turns, and who still uses an old one",
		Example: "  rampart secret rotations",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			all := []wire.Rotation{}
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminRotate, nil, &all); err != nil {
				return err
			}
			t := table{head: []string{"NAME", "STEP", "IN USE", "VERSION", "DUE", "NOTE"}}
			for _, r := range all {
				due := "-"
				if !r.Due.IsZero() {
					due = r.Due.UTC().Format(time.RFC3339)
				}
				t.add(r.Name, r.Step, cmp.Or(r.Current, "-"), strconv.Itoa(r.Version), due, cmp.Or(strings.Join(slices.DeleteFunc(append(r.Waiting, r.Error), func(s string) bool { return s == "" }), "; "), "-"))
			}
			return f.show(cmd, all, t, "nothing rotates; add rotate to a database or a credential in rampart.yaml")
		},
	}
}
