package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func userCmd() *cobra.Command {
	var f adminFlags
	cmd := group("user", "Look after local accounts: people, their passwords, factors and rights")
	cmd.Example = `  rampart user add frank --role customer --org acme
  rampart user show frank
  rampart user disable frank
  rampart user import users.jsonl`
	f.add(cmd)
	cmd.AddCommand(userListCmd(&f), userShowCmd(&f), userAddCmd(&f), userSetCmd(&f), userPasswordCmd(&f), userImportCmd(&f),
		userDisableCmd(&f), userEnableCmd(&f), userDeleteCmd(&f), userRevokeCmd(&f), userFactorsCmd(&f), userUnlinkCmd(&f))
	return cmd
}

// userPath is the path of one account or of a part of it.
func userPath(name string, sub ...string) string { return itemPath(wire.AdminUsers, name, sub...) }

// itemPath names one thing of a collection on the admin socket, or a part of it.
func itemPath(collection, name string, sub ...string) string {
	path := collection + "/" + url.PathEscape(name)
	for _, s := range sub {
		path += s
	}
	return path
}

func userListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List accounts with their roles and organizations",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var all []wire.User
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminUsers, nil, &all); err != nil {
				return err
			}
			t := table{head: []string{"NAME", "STATE", "ROLES", "ORGANIZATIONS", "TEAM", "CHANGED"}}
			for _, u := range all {
				t.add(u.Name, stateOf(u.Disabled, u.Tag), words(u.Facts.Roles, "-"), words(u.Facts.Organizations, "-"), firstText(u.Facts.Team, "-"), when(u.Changed, "-"))
			}
			return f.show(cmd, all, t, "no accounts yet; make one with: rampart user add NAME --role ROLE")
		},
	}
}

// stateOf is the state of an account or client in a word.
func stateOf(disabled bool, tag string) string {
	switch {
	case disabled:
		return "disabled"
	case tag == "verify":
		return "probe" // rampart verify made it
	}
	return "active"
}

func userShowCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one account: rights, factors, links to identity providers",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var u wire.User
			if err := admin.call(cmd.Context(), http.MethodGet, userPath(args[0]), nil, &u); err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(u)
			}
			return printUser(cmd.OutOrStdout(), u)
		},
	}
}

func printUser(w io.Writer, u wire.User) error {
	t := table{head: []string{"user", u.Name}}
	t.add("state", stateOf(u.Disabled, u.Tag))
	t.add("roles", words(u.Facts.Roles, "none"))
	t.add("organizations", words(u.Facts.Organizations, "none"))
	t.add("team", firstText(u.Facts.Team, "none"))
	t.add("manages", words(u.Facts.ManagedTeams, "none"))
	t.add("changed", when(u.Changed, "never"))
	for _, x := range u.Factors {
		t.add("factor", fmt.Sprintf("%s %s %s, since %s, last used %s", x.ID, x.Kind, x.Label, when(x.Created, "-"), when(x.LastUsed, "never")))
	}
	for _, l := range u.Links {
		t.add("link", fmt.Sprintf("%s at %s, last login %s", l.Upstream, l.Issuer, when(l.LastLogin, "never")))
	}
	return t.print(w)
}

// factFlags are the flags of an account's rights.
func factFlags(cmd *cobra.Command, u *wire.User) {
	fl := cmd.Flags()
	fl.StringArrayVar(&u.Facts.Roles, "role", nil, "role, or role@organization for one organization only; may be repeated")
	fl.StringArrayVar(&u.Facts.Organizations, "org", nil, "organization, may be repeated; the first is the home tenant")
	fl.StringVar(&u.Facts.Team, "team", "", "team")
	fl.StringArrayVar(&u.Facts.ManagedTeams, "manages", nil, "team that the user manages, may be repeated")
	cmd.RegisterFlagCompletionFunc("role", completeRoles)
}

func passwordFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "password-file", "", `file that holds the password; "-" is standard input (default: the terminal, without echo, else standard input)`)
}

func userAddCmd(f *adminFlags) *cobra.Command {
	var u wire.User
	var file string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Create an account; the password is read without echo or from standard input",
		Example: `  rampart user add frank --role customer --org acme
  rampart user add frank --role customer --org acme < password.txt`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			u.Name = args[0]
			if err := refuseKnown(cmd.Context(), admin, u.Name); err != nil {
				return err
			}
			if u.Password, err = newPassword(cmd, file); err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminUsers, u, nil); err != nil {
				return err
			}
			return f.tell(cmd, map[string]string{"user": u.Name}, "user %s is added", u.Name)
		},
	}
	factFlags(cmd, &u)
	passwordFlag(cmd, &file)
	return cmd
}

// refuseKnown keeps add from overwriting an account.
func refuseKnown(ctx context.Context, admin *adminClient, name string) error {
	err := admin.call(ctx, http.MethodGet, userPath(name), nil, nil)
	if err == nil {
		return usageError("there is a user %s already; change it with: rampart user set %s --role ROLE, or rampart user password %s", name, name, name)
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

func userSetCmd(f *adminFlags) *cobra.Command {
	var want wire.User
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the rights of an account; what a flag names is replaced, all else stays",
		Long: `set replaces what a flag names and leaves the rest. --role "" takes all roles
away. A change of rights ends every session and token that was issued before it.`,
		Example: `  rampart user set frank --role customer --role admin
  rampart user set frank --org acme --team red`,
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var u wire.User
			if err := admin.call(cmd.Context(), http.MethodGet, userPath(args[0]), nil, &u); err != nil {
				return err
			}
			u.Factors, u.Links = nil, nil
			before := u.Facts
			if !mergeFacts(cmd, &u, want) {
				return usageError("nothing to set; say what with --role, --org, --team or --manages")
			}
			if reflect.DeepEqual(before, u.Facts) {
				return f.tell(cmd, u, "user %s had that already; nothing was changed", u.Name)
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminUsers, u, nil); err != nil {
				return err
			}
			return f.tell(cmd, u, "user %s is set; sessions from before the change are over", u.Name)
		},
	}
	factFlags(cmd, &want)
	return cmd
}

// mergeFacts takes over what flags name, and reports whether any did.
func mergeFacts(cmd *cobra.Command, u *wire.User, want wire.User) bool {
	changed := false
	for name, take := range map[string]func(){
		"role":    func() { u.Facts.Roles = nonEmpty(want.Facts.Roles) },
		"org":     func() { u.Facts.Organizations = nonEmpty(want.Facts.Organizations) },
		"team":    func() { u.Facts.Team = want.Facts.Team },
		"manages": func() { u.Facts.ManagedTeams = nonEmpty(want.Facts.ManagedTeams) },
	} {
		if cmd.Flags().Changed(name) {
			take()
			changed = true
		}
	}
	return changed
}

// nonEmpty leaves empty words out, so that --role "" says none.
func nonEmpty(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func userPasswordCmd(f *adminFlags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:               "password NAME",
		Short:             "Set a new password; ends every session and token of the account",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodGet, userPath(args[0]), nil, nil); err != nil {
				return err // before anybody types a password for nobody
			}
			password, err := newPassword(cmd, file)
			if err != nil {
				return err
			}
			var v wire.Ended
			if err := admin.call(cmd.Context(), http.MethodPost, userPath(args[0], wire.SubPassword), wire.SetPassword{Password: password}, &v); err != nil {
				return err
			}
			return f.tell(cmd, v, "user %s has a new password; %s", args[0], ended(v))
		},
	}
	passwordFlag(cmd, &file)
	return cmd
}
