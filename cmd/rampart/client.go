package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func clientCmd() *cobra.Command {
	var f adminFlags
	cmd := group("client", "Look after applications that ask for tokens or hold API keys")
	cmd.Example = `  rampart client add shop --principal merchant
  rampart client add till --principal merchant --auth private_key_jwt --jwks till.jwks --grant client_credentials --role merchant
  rampart client show till`
	f.add(cmd)
	cmd.AddCommand(clientListCmd(&f), clientShowCmd(&f), clientAddCmd(&f), clientSetCmd(&f), clientDisableCmd(&f), clientEnableCmd(&f), clientDeleteCmd(&f))
	return cmd
}

func clientListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List clients",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var all []wire.Client
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminClients, nil, &all); err != nil {
				return err
			}
			t := table{head: []string{"CLIENT", "STATE", "PRINCIPAL", "PROOF", "GRANTS", "SCOPES", "ROLES"}}
			for _, c := range all {
				t.add(c.ID, stateOf(c.Disabled, c.Tag), c.Principal, firstText(c.Auth, "none"), words(c.Grants, usualGrants), words(c.Scopes, "all"), words(c.Roles, "-"))
			}
			return f.show(cmd, all, t, "no clients yet; make one with: rampart client add ID --principal NAME")
		},
	}
}

// usualGrants is what a client gets that names none.
const usualGrants = "authorization_code refresh_token"

func clientShowCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show one client",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var c wire.Client
			if err := admin.call(cmd.Context(), http.MethodGet, itemPath(wire.AdminClients, args[0]), nil, &c); err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(c)
			}
			return printClient(cmd.OutOrStdout(), c)
		},
	}
}

func printClient(w io.Writer, c wire.Client) error {
	t := table{head: []string{"client", c.ID}}
	t.add("name", firstText(c.Name, c.ID))
	t.add("state", stateOf(c.Disabled, c.Tag))
	t.add("principal", c.Principal)
	t.add("proof", firstText(c.Auth, "none (public, PKCE)"))
	if c.Identity != "" {
		t.add("identity", c.Identity)
	}
	t.add("grants", words(c.Grants, usualGrants))
	t.add("scopes", words(c.Scopes, "all that its user has"))
	t.add("roles", words(c.Roles, "none (by itself it opens nothing that asks for a right)"))
	t.add("organizations", words(c.Orgs, "none"))
	if c.DPoP {
		t.add("tokens", "bound to a key of the client (DPoP)")
	}
	for _, r := range c.Redirects {
		t.add("redirect", r)
	}
	return t.print(w)
}

// clientFlags are the flags of what a client is.
type clientFlags struct {
	c    wire.Client
	jwks string
}

func (cf *clientFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&cf.c.Principal, "principal", "", "key of principals in rampart.yaml")
	fl.StringVar(&cf.c.Name, "name", "", "name for people (default: the id)")
	fl.StringArrayVar(&cf.c.Redirects, "redirect", nil, "exact address to send people back to, may be repeated")
	fl.StringVar(&cf.c.Auth, "auth", "", "how it proves itself: none (public, PKCE), private_key_jwt or tls_client_auth")
	fl.StringVar(&cf.jwks, "jwks", "", "private_key_jwt: file of its public keys, a JWK set")
	fl.StringVar(&cf.c.Identity, "identity", "", "tls_client_auth: its SPIFFE ID")
	fl.StringArrayVar(&cf.c.Grants, "grant", nil, "authorization_code, refresh_token or client_credentials, may be repeated")
	fl.StringArrayVar(&cf.c.Scopes, "scope", nil, `permission "type:verb" that it may ask for, openid (ID tokens) or offline_access (outlive the browser session), may be repeated (default: all)`)
	fl.StringArrayVar(&cf.c.Roles, "role", nil, "role of the client itself, or role@organization, for client_credentials and API keys used alone; may be repeated")
	fl.StringArrayVar(&cf.c.Orgs, "org", nil, "organization of the client itself, may be repeated; the first is its tenant")
	fl.BoolVar(&cf.c.DPoP, "dpop", false, "give it tokens alone that are bound to a key of its own")
	fl.StringVar(&cf.c.IDAlg, "id-alg", "", "how its ID tokens are signed: RS256 (default) or ES256")
	cmd.RegisterFlagCompletionFunc("role", completeRoles)
	cmd.RegisterFlagCompletionFunc("auth", cobra.FixedCompletions([]string{"none", "private_key_jwt", "tls_client_auth"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("grant", cobra.FixedCompletions([]string{"authorization_code", "refresh_token", "client_credentials"}, cobra.ShellCompDirectiveNoFileComp))
}

// keys reads the file of --jwks.
func (cf *clientFlags) keys() error {
	if cf.jwks == "" {
		return nil
	}
	b, err := os.ReadFile(cf.jwks)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if !json.Valid(b) {
		return usageError("%s is no JSON; it must be a JWK set: {\"keys\":[...]}", cf.jwks)
	}
	cf.c.JWKS = b
	return nil
}

func clientAddCmd(f *adminFlags) *cobra.Command {
	var cf clientFlags
	cmd := &cobra.Command{
		Use:   "add ID",
		Short: "Register a client",
		Example: `  rampart client add app --principal customer --redirect https://app.example/callback
  rampart client add till --principal merchant --auth private_key_jwt --jwks till.jwks --grant client_credentials --role merchant --scope orders:read`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			cf.c.ID = args[0]
			err = admin.call(cmd.Context(), http.MethodGet, itemPath(wire.AdminClients, cf.c.ID), nil, nil)
			if err == nil {
				return usageError("there is a client %s already; change it with: rampart client set %s --role ROLE, or another of its flags", args[0], args[0])
			}
			if !isNotFound(err) {
				return err
			}
			if err := cf.keys(); err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminClients, cf.c, nil); err != nil {
				return err
			}
			warnPowerless(cmd, cf.c)
			return f.tell(cmd, cf.c, "client %s is registered; an API key for it: rampart key create %s", args[0], args[0])
		},
	}
	cf.add(cmd)
	cmd.MarkFlagRequired("principal")
	return cmd
}

// warnPowerless says that tokens which a client gets for itself would open
// nothing.
func warnPowerless(cmd *cobra.Command, c wire.Client) {
	if len(c.Roles) == 0 && slices.Contains(c.Grants, "client_credentials") {
		cmd.PrintErrf("warning: client %s has no role, so its client_credentials tokens open nothing that asks for a right; give it one: rampart client set %s --role ROLE\n", c.ID, c.ID)
	}
}

func clientSetCmd(f *adminFlags) *cobra.Command {
	var cf clientFlags
	cmd := &cobra.Command{
		Use:               "set ID",
		Short:             "Change a client; what a flag names is replaced, all else stays",
		Example:           "  rampart client set app --redirect https://app.example/callback --redirect https://beta.app.example/callback",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var c wire.Client
			if err := admin.call(cmd.Context(), http.MethodGet, itemPath(wire.AdminClients, args[0]), nil, &c); err != nil {
				return err
			}
			if err := cf.keys(); err != nil {
				return err
			}
			if !cf.merge(cmd, &c) {
				return usageError("nothing to set; say what with the flags of: rampart client set --help")
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminClients, c, nil); err != nil {
				return err
			}
			warnPowerless(cmd, c)
			return f.tell(cmd, c, "client %s is set", args[0])
		},
	}
	cf.add(cmd)
	return cmd
}

// merge takes over what flags name, and reports whether any did. Another way of
// proof drops what the way before needed.
func (cf *clientFlags) merge(cmd *cobra.Command, c *wire.Client) bool {
	changed := false
	take := func(flag string, do func()) {
		if cmd.Flags().Changed(flag) {
			do()
			changed = true
		}
	}
	take("principal", func() { c.Principal = cf.c.Principal })
	take("name", func() { c.Name = cf.c.Name })
	take("redirect", func() { c.Redirects = nonEmpty(cf.c.Redirects) })
	take("auth", func() { c.Auth, c.JWKS, c.Identity = cf.c.Auth, nil, "" })
	take("jwks", func() { c.JWKS = cf.c.JWKS })
	take("identity", func() { c.Identity = cf.c.Identity })
	take("grant", func() { c.Grants = nonEmpty(cf.c.Grants) })
	take("scope", func() { c.Scopes = nonEmpty(cf.c.Scopes) })
	take("role", func() { c.Roles = nonEmpty(cf.c.Roles) })
	take("org", func() { c.Orgs = nonEmpty(cf.c.Orgs) })
	take("dpop", func() { c.DPoP = cf.c.DPoP })
	take("id-alg", func() { c.IDAlg = cf.c.IDAlg })
	return changed
}

func clientDisableCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "disable ID",
		Short:             "Keep a client from doing anything; voids its API keys, tokens and its users' logins",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := itemPath(wire.AdminClients, args[0])
			if err := f.sure(cmd, path, "void the API keys of client %s for good, and all its tokens", args[0]); err != nil {
				return err
			}
			was, err := f.disabled(cmd, path)
			if err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodPost, path+wire.SubDisable)
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "client %s %s; %s", args[0], pick(was, "was disabled already", "is disabled"), ended(v))
		},
	}
	f.addYes(cmd)
	return cmd
}

func clientEnableCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "enable ID",
		Short:             "Let a disabled client work again; its old API keys stay void",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, itemPath(wire.AdminClients, args[0], wire.SubEnable), nil, nil); err != nil {
				return err
			}
			return f.tell(cmd, map[string]string{"client": args[0]}, "client %s may work again; give it a key with: rampart key create %s", args[0], args[0])
		},
	}
}

func clientDeleteCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete ID",
		Short:             "Delete a client with its API keys, tokens and its users' logins",
		Args:              namedArgs,
		ValidArgsFunction: f.completeClients,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := itemPath(wire.AdminClients, args[0])
			if err := f.sure(cmd, path, "delete the client %s with its API keys and logins", args[0]); err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodDelete, path)
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "client %s is deleted; %s", args[0], ended(v))
		},
	}
	f.addYes(cmd)
	return cmd
}
