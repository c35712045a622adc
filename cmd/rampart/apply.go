package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// applyWait bounds how long planes may take to enforce a new file.
const applyWait = 10 * time.Second

func applyCmd() *cobra.Command {
	var a apply
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Put a changed rampart.yaml in force without a restart",
		Long: `apply checks rampart.yaml as check does, shows what differs from the file in force,
and has every plane enforce it. Connections and requests go on; streams that stay
open are judged again. A file that is refused changes nothing, anywhere: the exit
code is 2. apply waits up to 10 seconds for every plane that lives, and names
those that do not enforce the file, and why: the exit code is 1.

What needs another process, certificate or key cannot change in a running system:
names, listeners, commands, services and stores that come or go, trust, secrets,
kek, identity providers. apply lists such changes and refuses the whole file;
--dry-run shows them too, and ends with the same exit code. Policies that were
pushed stay, unless the file brings others than it did before.`,
		Example: `  rampart apply --dry-run            # what would change, and what takes a restart
  rampart apply
  rampart apply -f examples/payments/rampart.yaml --state /var/lib/shop --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd) },
	}
	fileFlag(cmd, &a.file)
	stateFlag(cmd, &a.stateDir)
	cmd.Flags().BoolVar(&a.dry, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().BoolVar(&a.asJSON, "json", false, "print as JSON")
	return cmd
}

// apply is one run of the command.
type apply struct {
	file, stateDir string
	dry, asJSON    bool
}

// applyAnswer is what --json prints.
type applyAnswer struct {
	wire.Applied
	DryRun     bool           `json:"dry_run,omitempty"`
	Unenforced []applyMissing `json:"unenforced,omitempty"` // planes that do not enforce the file
}

type applyMissing struct {
	Plane string `json:"plane"`
	Why   string `json:"why"`
}

func (a apply) run(cmd *cobra.Command) error {
	sys, err := loadCompiled(a.file)
	if err != nil {
		return a.elsewhere(cmd.Context(), err)
	}
	if err := warn(cmd.ErrOrStderr(), sys); err != nil {
		return err
	}
	admin, _, err := openAdmin(a.stateDir)
	if err != nil {
		return err
	}
	file, err := filepath.Abs(a.file)
	if err != nil {
		return err
	}
	q := wire.Apply{Bundle: sys.Bundle(), File: file, DryRun: true}
	out := applyAnswer{DryRun: a.dry}
	if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminConfig, q, &out.Applied); err != nil {
		return err
	}
	if !a.asJSON {
		printDiffering(cmd.OutOrStdout(), out.Applied)
	}
	if stuck := frozenOf(out.Changes); !a.dry && len(stuck) > 0 {
		if a.asJSON {
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(out); err != nil {
				return err
			}
		}
		return usageError("nothing was applied: %d of the changes above take a restart; take them out, or stop rampart up and start it with this file", len(stuck))
	}
	if !a.dry && out.Old != out.New {
		q.DryRun = false
		if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminConfig, q, &out.Applied); err != nil {
			return err
		}
	}
	if !a.dry {
		out.Unenforced = awaitPlanes(cmd.Context(), admin, out.New, applyWait)
	}
	return a.finish(cmd.OutOrStdout(), out)
}

// elsewhere names the file that is in force when there is none here: the command was
// given in another folder.
func (a apply) elsewhere(ctx context.Context, err error) error {
	if _, there := os.Stat(a.file); !errors.Is(there, fs.ErrNotExist) {
		return err
	}
	admin, _, bad := openAdmin(a.stateDir)
	if bad != nil {
		return err
	}
	st, bad := admin.status(ctx)
	if bad != nil || st.File == "" {
		return err
	}
	return usageError("%s: no such file; this system runs %s: say -f %s", a.file, st.File, st.File)
}

// finish says how it ended.
func (a apply) finish(w io.Writer, out applyAnswer) error {
	if a.asJSON {
		if err := json.NewEncoder(w).Encode(out); err != nil {
			return err
		}
	} else {
		fmt.Fprint(w, out.summary())
	}
	if a.dry && len(frozenOf(out.Changes)) > 0 {
		return &exitError{exitUsage, nil} // said already
	}
	if len(out.Unenforced) > 0 {
		return &exitError{exitFailed, fmt.Errorf("%d planes do not enforce the file", len(out.Unenforced))}
	}
	return nil
}

func (o applyAnswer) summary() string {
	var b strings.Builder
	switch stuck := len(frozenOf(o.Changes)); {
	case o.Old == o.New:
		fmt.Fprintf(&b, "unchanged: %.12s is in force already\n", o.New)
	case o.DryRun && stuck > 0:
		fmt.Fprintf(&b, "dry run: nothing was changed; %d of %d changes take a restart, so rampart apply would refuse this file\n", stuck, len(o.Changes))
	case o.DryRun:
		fmt.Fprintf(&b, "dry run: nothing was changed; rampart apply would put this in force without a restart\n")
	case len(o.Unenforced) == 0:
		fmt.Fprintf(&b, "applied: every plane enforces %.12s\n", o.New)
	}
	if o.Policy > 0 {
		fmt.Fprintf(&b, "its policies are version %d\n", o.Policy)
	}
	for _, m := range o.Unenforced {
		fmt.Fprintf(&b, "%s does not enforce it: %s\n", m.Plane, m.Why)
	}
	return b.String()
}

// printDiffering lists what differs, one key a line, those that take a restart with
// why. Values come last: they may be long.
func printDiffering(w io.Writer, out wire.Applied) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, c := range out.Changes {
		line := ""
		if c.Line > 0 {
			line = fmt.Sprintf("line %d", c.Line)
		}
		fmt.Fprintf(t, "%s\t%s\t%s -> %s\n", c.Key, line, cmp.Or(c.Old, "-"), cmp.Or(c.New, "-"))
		if c.Why != "" {
			fmt.Fprintf(t, "  RESTART: %s\t\t\n", c.Why)
		}
	}
	t.Flush()
	if len(out.Changes) == 0 && out.Old != out.New {
		fmt.Fprintln(w, "only comments, order or spelling differ")
	}
}

func frozenOf(changes []spec.Change) (out []spec.Change) {
	for _, c := range changes {
		if c.Why != "" {
			out = append(out, c)
		}
	}
	return out
}

// awaitPlanes waits until every plane that lives enforces a file, and returns those
// that do not. One that was silent for ten seconds is not waited for: it gets the
// file when it is back.
func awaitPlanes(ctx context.Context, admin *adminClient, digest string, within time.Duration) []applyMissing {
	for end := time.Now().Add(within); ; time.Sleep(pollEvery) {
		st, err := admin.status(ctx)
		missing, refused := unenforced(st, digest)
		if err != nil {
			missing = []applyMissing{{"control", err.Error()}}
		}
		if len(missing) == 0 || refused || ctx.Err() != nil || time.Now().After(end) {
			return missing
		}
	}
}

// unenforced lists the planes that do not enforce a file, and reports whether one
// has said that it will not.
func unenforced(st wire.Status, digest string) (missing []applyMissing, refused bool) {
	for _, p := range st.Planes {
		if p.Digest == digest || p.SeenSeconds > 10 {
			continue
		}
		refused = refused || p.Unenforced != ""
		missing = append(missing, applyMissing{p.Plane, cmp.Or(p.Unenforced, fmt.Sprintf("it says nothing of it; it was heard %.1fs ago", p.SeenSeconds))})
	}
	return missing, refused
}
