package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
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
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(st)
			}
			var services []wire.ServiceState
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminServices, nil, &services); err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), st, services)
		},
	}
	stateFlag(cmd, &stateDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func printStatus(w io.Writer, st wire.Status, services []wire.ServiceState) error {
	off := map[string]bool{}
	for _, s := range services {
		off["sidecar/"+s.Name] = s.Disabled
	}
	fmt.Fprintf(w, "%s, configuration %.12s\n\n", st.System, st.Digest)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PLANE\tENFORCES\tSEEN\tLISTENS\tAUDIT RECORDS")
	for _, p := range st.Planes {
		same := "the same file"
		if p.Digest != st.Digest {
			same = "ANOTHER FILE"
		}
		if off[p.Plane] {
			same += ", DISABLED"
		}
		fmt.Fprintf(t, "%s\t%s\t%.1fs ago\t%s\t%d\n", p.Plane, same, p.SeenSeconds, p.Listen, p.AuditSeq)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printEdgeCerts(w, st)
}

func caCmd() *cobra.Command {
	cmd := group("ca", "Work with the local certificate authority")
	var stateDir string
	trust := &cobra.Command{
		Use:   "trust",
		Short: "Print how to make this machine trust the local CA, and how to undo it",
		Long:  "trust changes nothing: it prints the commands, since trusting a CA is a decision about the whole machine.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := statedir.Open(stateDir, statedir.Options{})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			ca := state.Path("ca.pem")
			if _, err := os.Stat(ca); err != nil {
				return usageError("%s has no CA yet; start the system once with: rampart up --state %s", stateDir, stateDir)
			}
			fmt.Fprintf(cmd.OutOrStdout(), `The local CA is %[1]s. Its key never leaves the state folder.

  curl             curl --cacert %[1]s https://localhost:8443/
  Debian, Ubuntu   sudo install -m644 %[1]s /usr/local/share/ca-certificates/rampart-local.crt && sudo update-ca-certificates
    undo           sudo rm /usr/local/share/ca-certificates/rampart-local.crt && sudo update-ca-certificates --fresh
  Fedora, RHEL     sudo trust anchor %[1]s
    undo           sudo trust anchor --remove %[1]s
  macOS            sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain %[1]s
    undo           sudo security remove-trusted-cert -d %[1]s
  Firefox, Chromium on Linux (own store)
                   certutil -A -d sql:$HOME/.pki/nssdb -t C,, -n rampart-local -i %[1]s
    undo           certutil -D -d sql:$HOME/.pki/nssdb -n rampart-local
`, ca)
			return nil
		},
	}
	stateFlag(trust, &stateDir)
	cmd.AddCommand(trust)
	return cmd
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
