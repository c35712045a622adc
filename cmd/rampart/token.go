package main

import (
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func tokenCmd() *cobra.Command {
	var f adminFlags
	cmd := group("token", "Look after the keys that sign tokens")
	cmd.Example = `  rampart token keys
  rampart token rotate
  rampart token revoke KID`
	f.add(cmd)
	cmd.AddCommand(tokenKeysCmd(&f), tokenRotateCmd(&f), tokenRevokeCmd(&f))
	return cmd
}

func tokenKeysCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "keys",
		Short: "List signing keys, of each ring in the order in which they sign",
		Long: `keys lists the keys of the rings: internal signs tokens between services,
edge those of clients, id the ID tokens of people, policy the policies that planes
decide by, jwt-svid the JWT-SVIDs of services. A pending key is published
and does not sign yet; a retired one signs no more and is still verified with.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.signingKeys(cmd, http.MethodGet, wire.AdminSigning)
		},
	}
}

func tokenRotateCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Publish the next key of every ring; it signs ten minutes later and no token is refused for it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var before []wire.SigningKey
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminSigning, nil, &before); err != nil {
				return err
			}
			if k := slices.IndexFunc(before, pending); k >= 0 {
				cmd.PrintErrf("the next keys are pending already; they sign at %s\n", when(before[k].From, "-"))
				return f.signingKeys(cmd, http.MethodGet, wire.AdminSigning)
			}
			cmd.PrintErrln("the next keys are published; they sign at the time under SIGNS FROM, and no token is refused for it")
			return f.signingKeys(cmd, http.MethodPost, wire.AdminSigning+wire.SubRotate)
		},
	}
}

func pending(k wire.SigningKey) bool { return k.State == "pending" }

func (f *adminFlags) signingKeys(cmd *cobra.Command, method, path string) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	var all []wire.SigningKey
	if err := admin.call(cmd.Context(), method, path, nil, &all); err != nil {
		return err
	}
	t := table{head: []string{"RING", "STATE", "ALGORITHM", "PUBLISHED", "SIGNS FROM", "KID"}}
	for _, k := range all {
		t.add(k.Ring, k.State, k.Algorithm, when(k.Published, "-"), when(k.From, "-"), k.KID)
	}
	return f.show(cmd, all, t, "no signing keys")
}

func tokenRevokeCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke KID",
		Short: "Forget a signing key that may be in other hands; everything that it signed is refused",
		Args:  namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sureOf(f, cmd, listing[wire.SigningKey]{
				wire.AdminSigning, "signing key", "rampart token keys", func(k wire.SigningKey) string { return k.KID },
			}, args[0], "refuse every token that the key %s signed"); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, itemPath(wire.AdminSigning, args[0], wire.SubRevoke), nil, nil); err != nil {
				return err
			}
			return f.tell(cmd, map[string]string{"kid": args[0]}, "the key %s is void; its successor signs", args[0])
		},
	}
	dashedIDs(cmd)
	f.addYes(cmd)
	return cmd
}
