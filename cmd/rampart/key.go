package main

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

func keyCmd() *cobra.Command {
	var f adminFlags
	cmd := group("key", "Look after the API keys of clients; a key is shown once, when it is made")
	cmd.Example = `  rampart key create shop --label till-3 --scope orders:read --ip 192.0.2.0/24 --expires 90d
  rampart key rotate shop --overlap 7d
  rampart key list shop`
	f.add(cmd)
	cmd.AddCommand(keyListCmd(&f), keyCreateCmd(&f), keyRotateCmd(&f), keyDisableCmd(&f))
	return cmd
}

func keyListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "list [CLIENT]",
		Short:             "List API keys: what they may do, from where, and when they were last used",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			path := wire.AdminAPIKeys
			if len(args) == 1 {
				path += "?" + url.Values{"client": args}.Encode()
			}
			var all []wire.APIKeyInfo
			if err := admin.call(cmd.Context(), http.MethodGet, path, nil, &all); err != nil {
				return err
			}
			t := table{head: []string{"KEY", "CLIENT", "STATE", "LABEL", "SCOPES", "FROM", "EXPIRES", "LAST USED"}}
			for _, k := range all {
				t.add(k.ID, k.Client, k.State, firstText(k.Label, "-"), words(k.Scopes, "all"), words(k.IPs, "anywhere"), when(k.Expires, "never"), when(k.LastUsed, "never"))
			}
			return f.show(cmd, all, t, "no API keys yet; make one with: rampart key create CLIENT")
		},
	}
}

func keyCreateCmd(f *adminFlags) *cobra.Command {
	var q wire.APIKeyRequest
	var expires string
	cmd := &cobra.Command{
		Use:   "create CLIENT",
		Short: "Make an API key and print it, this once",
		Long: `create makes an API key and prints it. Only a keyed hash of it is stored: who
loses it makes another. A client has two live keys at most, one in use and one
to change over to; rotate does that in one step.`,
		Example: `  rampart key create shop > key.txt
  rampart key create shop --label till-3 --scope orders:read --ip 192.0.2.0/24 --expires 90d`,
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Client = args[0]
			if expires != "" {
				d, err := spec.ParseDuration(expires)
				if err != nil {
					return usageError("--expires: %v", err)
				}
				q.Expires = time.Now().Add(time.Duration(d))
			}
			return f.printKey(cmd, wire.AdminAPIKeys, q, "")
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&q.Label, "label", "", "what it is for")
	fl.StringArrayVar(&q.Scopes, "scope", nil, `permission "type:verb" that it is limited to, may be repeated (default: all that the client is registered for)`)
	fl.StringArrayVar(&q.IPs, "ip", nil, "address or CIDR range that it may be used from, may be repeated (default: anywhere)")
	fl.StringVar(&expires, "expires", "", "when it ends, such as 90d (default: never)")
	return cmd
}

func keyRotateCmd(f *adminFlags) *cobra.Command {
	var overlap string
	cmd := &cobra.Command{
		Use:   "rotate CLIENT",
		Short: "Make the successor of a client's key and print it; the old one works on for a while",
		Long: `rotate makes a key with the limits of the client's live key and prints it. The
old key works on for --overlap, so that whoever uses it can change over; with
0 it ends now.`,
		Example:           "  rampart key rotate shop --overlap 7d > key.txt",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			var d spec.Duration
			if overlap != "0" {
				var err error
				if d, err = spec.ParseDuration(overlap); err != nil {
					return usageError("--overlap: %v, or 0", err)
				}
			}
			note := "the old key works for " + d.String() + " more"
			if d == 0 {
				note = "the old key is void"
			}
			return f.printKey(cmd, itemPath(wire.AdminClients, args[0], wire.SubRotate), wire.RotateKey{Overlap: time.Duration(d).Seconds()}, note)
		},
	}
	cmd.Flags().StringVar(&overlap, "overlap", "7d", "how long the old key works on")
	return cmd
}

// printKey makes a key. The key alone goes to standard output, so that it can
// be piped where it belongs.
func (f *adminFlags) printKey(cmd *cobra.Command, path string, in any, note string) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	var k wire.APIKey
	if err := admin.call(cmd.Context(), http.MethodPost, path, in, &k); err != nil {
		return err
	}
	if !f.json {
		cmd.PrintErrf("API key %s; it is shown this once%s\n", k.ID, prefixed("; ", note))
	}
	return f.tell(cmd, k, "%s", k.Key)
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func keyDisableCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "disable KEY-ID",
		Short:             "Void an API key for good, in every plane, within a second",
		Args:              namedArgs,
		ValidArgsFunction: f.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sureOf(f, cmd, listing[wire.APIKeyInfo]{
				wire.AdminAPIKeys, "API key", "rampart key list", func(k wire.APIKeyInfo) string { return k.ID },
			}, args[0], "void the API key %s for good"); err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodPost, itemPath(wire.AdminAPIKeys, args[0], wire.SubDisable))
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "API key %s is void", args[0])
		},
	}
	f.addYes(cmd)
	return cmd
}
