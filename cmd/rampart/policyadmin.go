package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/internal/wire"
)

// testPolicies runs the tests that policies bring for one service. It is what
// the control plane and the sidecars ask before they take policies over.
func testPolicies(ctx context.Context, set pap.Set, service string) error {
	report, err := policytest.Run(ctx, set, service)
	if err != nil {
		return err
	}
	failed := report.Failed()
	if len(failed) == 0 {
		return nil
	}
	f := failed[0]
	return fmt.Errorf("%d of %d policy tests fail, the first at %s:%d: %s: %s", len(failed), len(report.Results), f.File, f.Line, f.Name, f.Problem)
}

// policyAdminCommands are those that bring policies to a running system.
func policyAdminCommands() []*cobra.Command {
	return []*cobra.Command{policyPushCmd(), policyStatusCmd(), policySignCmd(), policyKeygenCmd()}
}

func policyPushCmd() *cobra.Command {
	var f adminFlags
	var file, signed string
	var push wire.PolicyPush
	var end bool
	cmd := &cobra.Command{
		Use:   "push",
		Short: "Bring new policies to a running system",
		Long: `push takes roles, types, the model and the policies of rampart.yaml, and their
tests, to every plane. The control plane signs them as the next version; where
authz.bundle.keys names others who sign, push a bundle of theirs. Each plane takes
them over when signature, version and dates are right, they load, their tests pass
and no more of the last decisions than authz.bundle.max_changed come out otherwise.
Until then, the last good ones decide. push waits up to 15 seconds for every plane
that lives, and its exit code is 1 when one refuses or does not answer. The model
of relations is not pushed: it changes with rampart.yaml and a restart.`,
		Example: `  rampart policy push -f rampart.yaml --shadow   # try them on live questions first
  rampart policy push -f rampart.yaml
  rampart policy push --bundle policies.tar.gz   # signed by: rampart policy sign
  rampart policy push --rollback 12              # the content of version 12, as a new version`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(alone(cmd, "bundle", "rollback", "end-shadow", "file"), alone(cmd, "shadow", "rollback", "end-shadow")); err != nil {
				return err
			}
			if err := fillPush(&push, file, signed, end); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			var st wire.PolicyStatus
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminPolicies, push, &st); err != nil {
				return err
			}
			a := arrival{st.Version, false}
			if push.Shadow {
				a = arrival{st.Shadow, true} // 0: the trial ends
			}
			if st, err = pushed(cmd, admin, a, st); err != nil {
				return err
			}
			return errors.Join(f.policyStatus(cmd.OutOrStdout(), st), a.verdict(st))
		},
	}
	f.add(cmd)
	fileFlag(cmd, &file)
	fl := cmd.Flags()
	fl.StringVar(&signed, "bundle", "", "push this signed bundle instead of rampart.yaml")
	fl.Uint64Var(&push.Rollback, "rollback", 0, "push the content of this version again")
	fl.BoolVar(&push.Shadow, "shadow", false, "decide nothing by them: compare and report only")
	fl.BoolVar(&end, "end-shadow", false, "end the trial")
	return cmd
}

func fillPush(push *wire.PolicyPush, file, signed string, end bool) error {
	var err error
	switch {
	case end:
		push.Shadow = true
	case push.Rollback != 0:
	case signed != "":
		push.Bundle, err = readUpTo(signed, bundle.MaxPacked)
	default:
		var set pap.Set
		if set, err = policySet(file); err == nil {
			push.Files = set.Files
			push.Set, err = json.Marshal(set)
		}
	}
	return err
}

func policySet(file string) (pap.Set, error) {
	sys, err := loadCompiled(file)
	if err != nil {
		return pap.Set{}, err
	}
	return pap.FromSystem(sys), nil
}

func readUpTo(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = usageError("%s is larger than %d bytes", name, limit)
	}
	return b, err
}

func policyStatusCmd() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which policies are shipped and which plane decides by which",
		Long: `status shows the version that is shipped, whose signature it has and which keys
count, which versions a rollback can go back to, and what each plane decides by.
What a plane refused stands below, with the reason.`,
		Example: `  rampart policy status
  rampart policy status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var st wire.PolicyStatus
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminPolicies, nil, &st); err != nil {
				return err
			}
			return f.policyStatus(cmd.OutOrStdout(), st)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *adminFlags) policyStatus(w io.Writer, st wire.PolicyStatus) error {
	if f.json {
		return json.NewEncoder(w).Encode(st)
	}
	if st.Version == 0 {
		fmt.Fprintln(w, "no policies: every plane denies. Sign a bundle with `rampart policy sign` and bring it with `rampart policy push --bundle FILE`")
	} else {
		fmt.Fprintf(w, "version %d from %s, signed %s, expires %s\nsigned by key %s\n", st.Version, st.From, when(st.Created, "-"), when(st.Expires, "-"), st.Key)
	}
	if len(st.Keys) > 0 {
		fmt.Fprintf(w, "keys that count: %s\n", strings.Join(st.Keys, ", "))
	}
	if len(st.Kept) > 0 {
		fmt.Fprintf(w, "a rollback can go to: %s\n", strings.Trim(fmt.Sprint(st.Kept), "[]"))
	}
	if st.Shadow != 0 {
		fmt.Fprintf(w, "version %d is on trial\n", st.Shadow)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PLANE\tDECIDES BY\tSEEN\tON TRIAL")
	for _, p := range st.Planes {
		fmt.Fprintf(t, "%s\t%s\t%.1fs ago\t%s\n", p.Plane, decidesBy(p, st.Version), p.SeenSeconds, trial(p, st.Shadow))
	}
	err := t.Flush()
	refusals(w, st)
	return err
}

func decidesBy(p wire.PlanePolicies, newest uint64) string {
	version := fmt.Sprintf("version %d", p.Version)
	if p.Version == newest && newest != 0 {
		return version
	}
	if p.Version == 0 {
		version = "NOTHING: it denies"
	}
	if r, refused := refusedBy(p, newest); refused {
		return fmt.Sprintf("%s, REFUSED %d: %s", version, newest, plainText(r.Code))
	}
	if p.Version == 0 {
		return version
	}
	return fmt.Sprintf("%s, NOT YET %d", version, newest)
}

func trial(p wire.PlanePolicies, version uint64) string {
	s := p.Shadow
	if r, refused := refusedBy(p, version); refused && version != 0 {
		return fmt.Sprintf("REFUSED %d: %s", version, plainText(r.Code))
	}
	if s.Version == 0 {
		return "-"
	}
	return fmt.Sprintf("version %d: of %d decisions %d would be denied, %d allowed instead", s.Version, s.Compared, s.Denies, s.Allows)
}

func policySignCmd() *cobra.Command {
	var file, key, out string
	var version uint64
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign the policies of rampart.yaml as a bundle",
		Long: `sign is for systems in which the control plane may not decide what is allowed:
authz.bundle.keys in rampart.yaml names the keys that may. The version must be
higher than that of any bundle before; by default it is the time, in seconds.`,
		Example: `  rampart policy keygen --out policy.key
  rampart policy sign --key policy.key --out policies.tar.gz
  rampart policy push --bundle policies.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sys, err := loadCompiled(file)
			if err != nil {
				return err
			}
			if key == "" {
				return usageError("--key is missing; name the file of the private key, or make one with: rampart policy keygen --out policy.key")
			}
			private, err := readPolicyKey(key)
			if err != nil {
				return err
			}
			now := time.Now()
			if version == 0 {
				version = uint64(now.Unix())
			}
			if expires == 0 {
				expires = time.Duration(sys.Authz.Bundle.Expires)
			}
			draft, err := bundle.Build(pap.FromSystem(sys), bundle.Stamp{System: sys.Info.TrustDomain, Version: version, Created: now, Expires: now.Add(expires)})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			raw, err := draft.Sign(private)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, raw, 0o644); err != nil {
				return err
			}
			public, _ := private.Public().(ed25519.PublicKey)
			fmt.Fprintf(cmd.OutOrStdout(), "%s: version %d of %s, %d bytes, good until %s, signed by key %s\n", out, version, sys.Info.TrustDomain, len(raw), when(draft.Manifest.Expires, "-"), bundle.KeyID(public))
			return nil
		},
	}
	fileFlag(cmd, &file)
	fl := cmd.Flags()
	fl.StringVar(&key, "key", "", "file of the private key, made by: rampart policy keygen")
	fl.StringVar(&out, "out", "policies.tar.gz", "file to write")
	fl.Uint64Var(&version, "version", 0, "version, higher than any before; 0 takes the time in seconds")
	fl.DurationVar(&expires, "expires", 0, "how long it is good; 0 takes authz.bundle.expires")
	return cmd
}

func readPolicyKey(name string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(name)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, usageError("%s is open to other users (mode %#o): run chmod 600 on it", name, info.Mode().Perm())
	}
	b, err := readUpTo(name, 16<<10)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	bad := usageError("%s holds no Ed25519 private key in PEM; make one with: rampart policy keygen", name)
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, bad
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, bad
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, bad
	}
	return private, nil
}

func policyKeygenCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that signs policies, and print its public half for authz.bundle.keys",
		Long: `keygen writes a private key and prints what rampart.yaml says of it. Several keys
count at once: to change keys, add the new one, sign with it, then remove the old.
Refusals and policy status call a key by its id, which stands behind it.`,
		Example: "  rampart policy keygen --out policy.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				return err
			}
			defer clear(der)
			f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return usageError("%s exists already, and a key is never overwritten; name another file with --out", out)
			}
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Close()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "authz:\n  bundle:\n    keys: [%s] # key id %s\n", bundle.FormatKey(public), bundle.KeyID(public))
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "policy.key", "file of the private key; it must not exist")
	return cmd
}
