package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
)

func caCmd() *cobra.Command {
	var f adminFlags
	cmd := group("ca", "Look after the certificate authority: its root, what it issued, and who believes it")
	cmd.Example = `  rampart ca status
  rampart ca rotate --wait
  rampart ca issued
  rampart ca revoke --issuer KEY-ID
  rampart ca export-root --recipient age1... --out root.age --remove
  rampart ca write --for postgres --name db.shop.internal --out /etc/postgresql/tls`
	f.add(cmd)
	cmd.AddCommand(
		caStatusCmd(&f), caRotateCmd(&f), caRollbackCmd(&f), caIssuedCmd(&f), caRevokeCmd(&f),
		caExportCmd(&f), caSignCmd(&f), caImportCmd(&f), caWriteCmd(&f), caCRLCmd(&f), caTrustCmd(&f),
	)
	return cmd
}

func caStatusCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show roots, the issuing certificate, where a rotation stands and what it waits for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			st, err := caStatus(cmd.Context(), admin)
			if err != nil {
				return err
			}
			return f.showCA(cmd, st)
		},
	}
}

func caStatus(ctx context.Context, admin *adminClient) (wire.CAStatus, error) {
	var st wire.CAStatus
	err := admin.call(ctx, http.MethodGet, wire.AdminCA, nil, &st)
	return st, err
}

func (f *adminFlags) showCA(cmd *cobra.Command, st wire.CAStatus) error {
	w := cmd.OutOrStdout()
	if f.json {
		return json.NewEncoder(w).Encode(st)
	}
	fmt.Fprintf(w, "%s, root %s, trust version %d, %s\n", st.Domain, st.Kind, st.Version, plural(st.Live, "live certificate"))
	if st.Step != "" {
		fmt.Fprintf(w, "rotation: %s since %s\n", st.Step, when(st.Since, "-"))
	}
	fmt.Fprintln(w)
	t := table{head: []string{"CERTIFICATE", "SIGNS", "KEY", "ENDS", "KEY ID"}}
	for _, c := range st.Roots {
		t.add("root", yesNo(c.Signs), map[bool]string{true: "here", false: "elsewhere"}[c.Key], when(c.NotAfter, "-"), c.KeyID)
	}
	if st.Issuing.KeyID != "" {
		t.add("issuing", yesNo(st.Issuing.Signs), "here", when(st.Issuing.NotAfter, "-"), st.Issuing.KeyID)
	}
	if err := t.print(w); err != nil {
		return err
	}
	if err := printPlanesOfCA(w, st); err != nil {
		return err
	}
	printLines(w, "waits for:", st.Waiting)
	return nil
}

func printPlanesOfCA(w io.Writer, st wire.CAStatus) error {
	if len(st.Planes) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{head: []string{"PLANE", "TRUST", "CERTIFICATE ENDS", "SEEN", "ROOT"}}
	for _, p := range st.Planes {
		t.add(p.Plane, fmt.Sprint(p.Version), when(p.Until, "-"), fmt.Sprintf("%.0fs ago", p.SeenSeconds), firstText(p.Root, "-"))
	}
	return t.print(w)
}

func printLines(w io.Writer, head string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+head)
	for _, l := range lines {
		fmt.Fprintln(w, "  "+l)
	}
}

func yesNo(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }

// afterStep is what follows on each step of a rotation.
func afterStep(step string) string {
	return map[string]string{"": "prepare", "prepare": "publish", "publish": "activate", "activate": "retire"}[step]
}

func caRotateCmd(f *adminFlags) *cobra.Command {
	var wait bool
	var step wire.CAStep
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Take the next step of replacing the root, or all of them with --wait",
		Long: `rotate replaces the root without an outage, in four steps:

  prepare    a new root is made
  publish    everybody is told to believe both; the old one signs
  activate   the new one signs; refused until every live plane has acknowledged
  retire     the old one is forgotten; refused while a live certificate needs it

Each call takes one step, and says what it waits for if it cannot. With --wait it
goes on until the old root is retired; stop it whenever you like, and go on later.
Timers take the same steps by themselves from half of the root's life on.

--force does not wait. It is for a root whose key may be in other hands: what does
not follow is cut off, and retiring by force revokes all that the old root signed.`,
		Example: `  rampart ca rotate
  rampart ca rotate --wait
  rampart ca rotate --force --reason "root key was on a stolen disk" --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.forced(cmd, step, "move the authority on and cut off who has not followed"); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			return f.rotate(cmd, admin, step, wait)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&wait, "wait", false, "take all steps, waiting for each")
	f.addForce(cmd, &step)
	return cmd
}

func (f *adminFlags) addForce(cmd *cobra.Command, step *wire.CAStep) {
	fl := cmd.Flags()
	fl.BoolVar(&step.Force, "force", false, "do not wait; needs --reason")
	fl.StringVar(&step.Reason, "reason", "", "why it is forced, for the audit log")
	f.addYes(cmd)
}

// forced asks before a step that breaks what it does not wait for.
func (f *adminFlags) forced(cmd *cobra.Command, step wire.CAStep, what string) error {
	switch {
	case step.Force && strings.TrimSpace(step.Reason) == "":
		return usageError("--force needs --reason TEXT; it goes on record")
	case !step.Force && step.Reason != "":
		return usageError("--reason goes with --force")
	case !step.Force:
		return nil
	}
	return f.confirm(cmd, "%s", what)
}

// rotate takes one step, or all.
func (f *adminFlags) rotate(cmd *cobra.Command, admin *adminClient, step wire.CAStep, wait bool) error {
	st, err := caStatus(cmd.Context(), admin)
	if err != nil {
		return err
	}
	said := ""
	for {
		step.To = afterStep(st.Step)
		next, err := takeStep(cmd.Context(), admin, step)
		if wait && isConflict(err) {
			if why := err.Error(); why != said && !f.json {
				cmd.PrintErrln(why)
				said = why
			}
			if pause(cmd.Context(), time.Second) != nil {
				return &exitError{exitFailed, errors.New("stopped; nothing is lost: go on with rampart ca rotate --wait")}
			}
			if st, err = caStatus(cmd.Context(), admin); err != nil { // somebody else may take steps too
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		st, said = next, ""
		if !f.json {
			cmd.PrintErrf("%s: done\n", step.To)
			printLines(cmd.ErrOrStderr(), "did not wait; this breaks:", st.Broken)
		}
		if !wait || step.To == "retire" {
			return f.showCA(cmd, st)
		}
	}
}

func takeStep(ctx context.Context, admin *adminClient, step wire.CAStep) (wire.CAStatus, error) {
	var st wire.CAStatus
	err := admin.call(ctx, http.MethodPost, wire.AdminCA, step, &st)
	return st, err
}

func isConflict(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusConflict
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func caRollbackCmd(f *adminFlags) *cobra.Command {
	step := wire.CAStep{To: "rollback"}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Go back a step of a rotation; once the old root is retired there is no way back",
		Long: `rollback has the old root sign again, after activate, or drops the new root, before.
It is refused while a live certificate needs the new root.`,
		Example: "  rampart ca rollback",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.forced(cmd, step, "drop the new root and cut off who has a certificate of it"); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			st, err := takeStep(cmd.Context(), admin, step)
			if err != nil {
				return err
			}
			return f.showCA(cmd, st)
		},
	}
	f.addForce(cmd, &step)
	return cmd
}

func caIssuedCmd(f *adminFlags) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "issued",
		Short: "List the certificates that are not expired, and which of them are revoked",
		Long: `issued lists the certificates that are not expired. One that is void before its end
says since when, and what was revoked: its serial, its issuer, or the id of its holder.`,
		Example: `  rampart ca issued
  rampart ca issued --root KEY-ID      what would keep that root from being retired`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := knownRoot(cmd.Context(), admin, root); err != nil {
				return err
			}
			var all []wire.Issued
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminIssuing+"?"+url.Values{"root": {root}}.Encode(), nil, &all); err != nil {
				return err
			}
			return f.show(cmd, all, issuedTable(all), "no certificate is out")
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "only those below the root with this key id")
	cmd.RegisterFlagCompletionFunc("root", f.completeRoots)
	return cmd
}

func issuedTable(all []wire.Issued) table {
	t := table{head: []string{"HOLDER", "KIND", "ENDS", "REVOKED", "CERTIFICATE (ISSUER.SERIAL)"}}
	for _, c := range all {
		revoked := "-"
		if c.RevokedBy != "" {
			revoked = when(c.Revoked, "-") + " by " + c.RevokedBy
		}
		t.add(c.ID, c.Kind, when(c.NotAfter, "-"), revoked, c.Issuer+"."+c.Serial)
	}
	return t
}

// knownRoot refuses a key id that is no root's: of a misspelt one nothing is out,
// which would read as if it could be retired.
func knownRoot(ctx context.Context, admin *adminClient, keyID string) error {
	if keyID == "" {
		return nil
	}
	st, err := caStatus(ctx, admin)
	if err != nil || slices.ContainsFunc(st.Roots, func(c wire.Cert) bool { return c.KeyID == keyID }) {
		return err
	}
	return usageError("no root has the key id %s; rampart ca status shows them", keyID)
}

// completeRoots offers the key ids of the roots.
func (f *adminFlags) completeRoots(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return f.completeCA(cmd, func(st wire.CAStatus) []string {
		var out []string
		for _, c := range st.Roots {
			out = append(out, c.KeyID)
		}
		return out
	})
}

func (f *adminFlags) completeCA(cmd *cobra.Command, pick func(wire.CAStatus) []string) ([]string, cobra.ShellCompDirective) {
	admin, err := f.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	st, err := caStatus(cmd.Context(), admin)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return pick(st), cobra.ShellCompDirectiveNoFileComp
}

func caRevokeCmd(f *adminFlags) *cobra.Command {
	var id, serial, issuer string
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Void a service's certificates, one certificate, or all that an issuing certificate signed",
		Long: `revoke voids certificates before their end, in every plane, within a second, open
connections included. Renewal is refused too: who was voided joins anew, which
rampart up does by itself.

  --id       every certificate that a service has; rampart service disable also
             keeps it from coming back
  --serial   one certificate, as rampart ca issued shows it
  --issuer   all below an issuing certificate, whose key may be in other hands;
             another takes its place first`,
		Example: `  rampart ca revoke --id spiffe://shop.internal/service/orders
  rampart ca revoke --serial ISSUER.SERIAL
  rampart ca revoke --issuer KEY-ID`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			v, what, err := voided(id, serial, issuer)
			if err != nil {
				return err
			}
			if err := f.confirm(cmd, "%s", "void "+what); err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRevoke, v, nil); err != nil {
				return err
			}
			return f.tell(cmd, v, "%s is void", what)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&id, "id", "", "SPIFFE ID")
	fl.StringVar(&serial, "serial", "", "ISSUER.SERIAL, both in hex")
	fl.StringVar(&issuer, "issuer", "", "key id of an issuing certificate, in hex")
	f.addYes(cmd)
	cmd.RegisterFlagCompletionFunc("issuer", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return f.completeCA(cmd, func(st wire.CAStatus) []string { return []string{st.Issuing.KeyID} })
	})
	cmd.RegisterFlagCompletionFunc("id", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(f, cmd, nil, wire.AdminServices, func(s wire.ServiceState) string { return s.ID })
	})
	return cmd
}

// voided is the revocation that one of three flags asks for, and how to call it.
func voided(id, serial, issuer string) (wire.Revocation, string, error) {
	given := slices.DeleteFunc([]string{id, serial, issuer}, func(s string) bool { return s == "" })
	switch {
	case len(given) != 1:
		return wire.Revocation{}, "", usageError("say what to void with one of --id, --serial and --issuer")
	case id != "":
		return wire.Revocation{Kind: "svid", ID: id}, "every certificate of " + id, nil
	case serial != "":
		return wire.Revocation{Kind: wire.RevokedSerial, ID: strings.ToLower(serial)}, "the certificate " + serial, nil
	}
	return wire.Revocation{Kind: wire.RevokedIssuer, ID: strings.ToLower(issuer)}, "all that " + issuer + " signed", nil
}

func caTrustCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "trust",
		Short: "Print how to make this machine trust the local CA, and how to undo it",
		Long:  "trust changes nothing: it prints the commands, since trusting a CA is a decision about the whole machine.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := statedir.Open(f.stateDir, statedir.Options{})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			ca := state.Path("ca.pem")
			if _, err := os.Stat(ca); err != nil {
				return usageError("%s has no CA yet; start the system once with: rampart up --state %s", f.stateDir, f.stateDir)
			}
			return f.tell(cmd, map[string]string{"ca": ca}, `The local CA is %[1]s. Its key never leaves the state folder.

  curl             curl --cacert %[1]s https://localhost:8443/
  Debian, Ubuntu   sudo install -m644 %[1]s /usr/local/share/ca-certificates/rampart-local.crt && sudo update-ca-certificates
    undo           sudo rm /usr/local/share/ca-certificates/rampart-local.crt && sudo update-ca-certificates --fresh
  Fedora, RHEL     sudo trust anchor %[1]s
    undo           sudo trust anchor --remove %[1]s
  macOS            sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain %[1]s
    undo           sudo security remove-trusted-cert -d %[1]s
  Firefox, Chromium on Linux (own store)
                   certutil -A -d sql:$HOME/.pki/nssdb -t C,, -n rampart-local -i %[1]s
    undo           certutil -D -d sql:$HOME/.pki/nssdb -n rampart-local`, ca)
		},
	}
}
