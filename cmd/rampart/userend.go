package main

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// The commands that take something away from an account.

func userDisableCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "disable NAME",
		Short:             "Keep an account from doing anything, until it is enabled; ends its sessions and tokens now",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			was, err := f.disabled(cmd, userPath(args[0]))
			if err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodPost, userPath(args[0], wire.SubDisable))
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "user %s %s; %s", args[0], pick(was, "was disabled already", "is disabled"), ended(v))
		},
	}
}

func userEnableCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "enable NAME",
		Short:             "Let a disabled account sign in again",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			was, err := f.disabled(cmd, userPath(args[0]))
			if err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, userPath(args[0], wire.SubEnable), nil, nil); err != nil {
				return err
			}
			return f.tell(cmd, map[string]string{"user": args[0]}, "user %s may sign in%s", args[0], pick(was, "", ", as before"))
		},
	}
}

func userDeleteCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete NAME",
		Short:             "Delete an account with its sessions, apps, factors and links",
		Example:           "  rampart user delete frank --yes",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.sure(cmd, userPath(args[0]), "delete the account %s with all that hangs on it", args[0]); err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodDelete, userPath(args[0]))
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "user %s is deleted; %s", args[0], ended(v))
		},
	}
	f.addYes(cmd)
	return cmd
}

func userRevokeCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "revoke NAME",
		Short:             "End every session and token of the account, in every plane, within a second",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := f.end(cmd, http.MethodDelete, userPath(args[0], wire.SubSessions))
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "everything that user:%s held is void", args[0])
		},
	}
}

func userFactorsCmd(f *adminFlags) *cobra.Command {
	cmd := group("factors", "Look after the second factors and passkeys of accounts; rampart user show lists them")
	var id string
	reset := &cobra.Command{
		Use:   "reset NAME",
		Short: "Remove the factors of whoever lost them; ends the account's sessions",
		Long: `reset removes all factors of an account, or one with --factor. Make sure who asks:
this is the way around the second factor that an impostor would choose.`,
		Example:           "  rampart user factors reset frank\n  rampart user factors reset frank --factor ID",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, what := userPath(args[0], wire.SubFactors), "all factors"
			if id != "" {
				path, what = path+"/"+url.PathEscape(id), "the factor "+id
			}
			if err := f.sure(cmd, userPath(args[0]), "remove %s of %s and end the account's sessions", what, args[0]); err != nil {
				return err
			}
			v, err := f.end(cmd, http.MethodDelete, path)
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "%s of %s removed; %s", what, args[0], ended(v))
		},
	}
	reset.Flags().StringVar(&id, "factor", "", "id of one factor (default: all)")
	f.addYes(reset)
	cmd.AddCommand(reset)
	return cmd
}

func userUnlinkCmd(f *adminFlags) *cobra.Command {
	var issuer, upstream string
	cmd := &cobra.Command{
		Use:               "unlink NAME",
		Short:             "Take an account's ties to identity providers away; ends its sessions",
		Example:           "  rampart user unlink frank --issuer https://login.example",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.sure(cmd, userPath(args[0]), "unlink %s from %s", args[0], firstText(issuer, "every identity provider")); err != nil {
				return err
			}
			query := url.Values{}
			for name, value := range map[string]string{"issuer": issuer, "upstream": upstream} {
				if value != "" {
					query.Set(name, value)
				}
			}
			v, err := f.end(cmd, http.MethodDelete, userPath(args[0], wire.SubLinks, "?"+query.Encode()))
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "user %s is unlinked; %s", args[0], ended(v))
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "identity provider (default: all)")
	cmd.Flags().StringVar(&upstream, "upstream", "", "the provider's name of the person (default: all)")
	f.addYes(cmd)
	return cmd
}

// sure asks before something goes, once it is known to be there: a question
// about a mistyped name would be answered for the right one.
func (f *adminFlags) sure(cmd *cobra.Command, path, format string, args ...any) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	if err := admin.call(cmd.Context(), http.MethodGet, path, nil, nil); err != nil {
		return err
	}
	return f.confirm(cmd, format, args...)
}

// disabled reports whether an account or client is disabled already.
func (f *adminFlags) disabled(cmd *cobra.Command, path string) (bool, error) {
	admin, err := f.open()
	if err != nil {
		return false, err
	}
	var v struct{ Disabled bool }
	return v.Disabled, admin.call(cmd.Context(), http.MethodGet, path, nil, &v)
}

// sureOf asks before something of a list goes, once it is known to be in it.
func sureOf[T any](f *adminFlags, cmd *cobra.Command, list listing[T], id, question string) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	var all []T
	if err := admin.call(cmd.Context(), http.MethodGet, list.path, nil, &all); err != nil {
		return err
	}
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = list.name(v)
	}
	if slices.Contains(names, id) {
		return f.confirm(cmd, question, id)
	}
	if near, ok := spec.Nearest(id, names); ok {
		return usageError("there is no %s %q; did you mean %q?", list.what, id, near)
	}
	return usageError("there is no %s %q; %s shows their ids", list.what, id, list.command)
}

// listing is what the control plane lists and does not show one by one.
type listing[T any] struct {
	path    string // on the admin socket
	what    string // one of them, in words
	command string // that shows them
	name    func(T) string
}

// end makes a call that ends something and says what.
func (f *adminFlags) end(cmd *cobra.Command, method, path string) (wire.Ended, error) {
	admin, err := f.open()
	if err != nil {
		return wire.Ended{}, err
	}
	var v wire.Ended
	return v, admin.call(cmd.Context(), method, path, nil, &v)
}
