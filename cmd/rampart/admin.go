package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

func statusCmd() *cobra.Command {
	var stateDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the planes of a running system and whether they enforce the same file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, _, err := openAdmin(stateDir)
			if err != nil {
				return err
			}
			st, err := admin.status(cmd.Context())
			if err != nil {
				return err
			}
			changed := fileChanged(st)
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					wire.Status
					FileChanged string `json:"file_changed,omitempty"`
				}{st, changed})
			}
			var services []wire.ServiceState
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminServices, nil, &services); err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), st, services); err != nil || changed == "" {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "\n"+changed)
			return err
		},
	}
	stateFlag(cmd, &stateDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// fileChanged says that the file on this machine is not the one in force, "" if it
// is, or is not on this machine.
func fileChanged(st wire.Status) string {
	if st.File == "" {
		return ""
	}
	if _, err := os.Stat(st.File); err != nil {
		return ""
	}
	sys, err := spec.Load(st.File)
	switch {
	case err != nil:
		return fmt.Sprintf("%s has changed since, and is refused: see rampart check -f %s", st.File, st.File)
	case sys.Bundle().Digest != st.Digest:
		return fmt.Sprintf("%s has changed since; run rampart apply -f %s", st.File, st.File)
	}
	return ""
}

func printStatus(w io.Writer, st wire.Status, services []wire.ServiceState) error {
	off := map[string]bool{}
	for _, s := range services {
		off["sidecar/"+s.Name] = s.Disabled
	}
	fmt.Fprintf(w, "%s, configuration %.12s\n\n", st.System, st.Digest)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PLANE\tENFORCES\tSEEN\tCERTIFICATE\tLISTENS\tAUDIT RECORDS")
	for _, p := range st.Planes {
		same := "the same file"
		if p.Digest != st.Digest {
			same = "ANOTHER FILE"
		}
		if p.Unenforced != "" {
			same += ": " + p.Unenforced
		}
		if off[p.Plane] {
			same += ", DISABLED"
		}
		fmt.Fprintf(t, "%s\t%s\t%.1fs ago\t%s\t%s\t%d\n", p.Plane, same, p.SeenSeconds, ownCert(p), p.Listen, p.AuditSeq)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return errors.Join(printGateways(w, st, time.Now()), printEdgeCerts(w, st), printBackends(w, st, time.Now()))
}

// ownCert is how long a plane's own certificate holds.
func ownCert(p wire.PlaneStatus) string {
	switch left := time.Duration(p.CertificateSeconds * float64(time.Second)); {
	case p.Trust.Until.IsZero():
		return "NOT SAID: NOT READY"
	case left <= 0:
		return "EXPIRED: NOT READY"
	case !p.Ready:
		return "ends in " + span(left) + ", SILENT: NOT READY"
	default:
		return "ends in " + span(left)
	}
}

// printBackends says which backends of secrets and keys are away, and since when.
func printBackends(w io.Writer, st wire.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	head := "\nBACKEND\tSTATE\tLAST FAILURE\n"
	for _, b := range st.Backends {
		fmt.Fprint(t, head)
		head = ""
		state := "there"
		if b.Away {
			state = "AWAY for " + span(now.Sub(b.Since))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", b.Name, state, cmp.Or(b.Error, "-"))
	}
	return t.Flush()
}

// readSecret takes a value from standard input, without echo on a terminal and
// never from the command line, where every process could read it.
func readSecret(cmd *cobra.Command, what string) ([]byte, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprintf(cmd.ErrOrStderr(), "The %s (not shown): ", what)
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
	b = []byte(strings.TrimRight(string(b), "\r\n"))
	if err == nil && len(b) == 0 {
		err = usageError("the %s is empty; pipe it in: %s < FILE", what, cmd.CommandPath())
	}
	return b, err
}
