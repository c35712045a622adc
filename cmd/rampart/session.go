package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func sessionCmd() *cobra.Command {
	var f adminFlags
	cmd := group("session", "See where people are signed in, and sign them out")
	cmd.Example = `  rampart session list frank
  rampart session revoke frank SID
  rampart session revoke frank --all`
	f.add(cmd)
	cmd.AddCommand(sessionListCmd(&f), sessionRevokeCmd(&f))
	return cmd
}

// logins is what session list prints as JSON.
type logins struct {
	Sessions []wire.Session `json:"sessions"`
	Apps     []wire.App     `json:"apps"`
}

func sessionListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:               "list USER",
		Short:             "List a person's live sessions, and the apps that hold tokens of theirs",
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var v logins
			if err := admin.call(cmd.Context(), http.MethodGet, userPath(args[0], wire.SubSessions), nil, &v.Sessions); err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodGet, userPath(args[0], wire.SubApps), nil, &v.Apps); err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			return printLogins(f, cmd, args[0], v)
		},
	}
}

func printLogins(f *adminFlags, cmd *cobra.Command, user string, v logins) error {
	t := table{head: []string{"SESSION", "DEVICE", "IP", "SINCE", "LAST SEEN", "ASSURANCE", "FACTORS"}}
	for _, s := range v.Sessions {
		t.add(s.SID, s.Device, s.IP, when(s.Created, "-"), when(s.LastSeen, "-"), firstText(s.ACR, "-"), words(s.AMR, "-"))
	}
	if err := f.show(cmd, v, t, user+" is signed in nowhere"); err != nil || len(v.Apps) == 0 {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout())
	a := table{head: []string{"APP", "CLIENT", "SINCE", "LAST USED", "SCOPES"}}
	for _, x := range v.Apps {
		a.add(x.ID, x.Client, when(x.Since, "-"), when(x.Used, "-"), words(x.Scope, "all"))
	}
	return a.print(cmd.OutOrStdout())
}

func sessionRevokeCmd(f *adminFlags) *cobra.Command {
	var others, all, app bool
	cmd := &cobra.Command{
		Use:   "revoke USER [ID]",
		Short: "End one session, all others, or all; every plane refuses it within a second",
		Example: `  rampart session revoke frank SID
  rampart session revoke frank SID --others    all but this one
  rampart session revoke frank APP-ID --app    one app's login
  rampart session revoke frank --all           all sessions and apps`,
		Args:              namedArgs,
		ValidArgsFunction: f.completeUsers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (others || app) && len(args) == 1 {
				return usageError("--%s needs an id: rampart session revoke %s %s; rampart session list %s shows the ids", pick(others, "others", "app"), args[0], pick(others, "SID --others, where SID stays", "APP-ID --app"), args[0])
			}
			if all == (len(args) == 2) {
				return usageError("say which: rampart session revoke %s SID (rampart session list %s shows them), or --all", args[0], args[0])
			}
			path, what := revokePath(args, others, app)
			if all || others {
				if err := f.sure(cmd, userPath(args[0]), "end %s of %s", what, args[0]); err != nil {
					return err
				}
			}
			v, err := f.end(cmd, http.MethodDelete, path)
			if err != nil {
				return err
			}
			return f.tell(cmd, v, "%s of %s: %s", what, args[0], ended(v))
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&others, "others", false, "end all sessions and apps but this one and its own")
	fl.BoolVar(&all, "all", false, "end all sessions and apps")
	fl.BoolVar(&app, "app", false, "the id is an app's")
	dashedIDs(cmd)
	cmd.MarkFlagsMutuallyExclusive("others", "all", "app")
	f.addYes(cmd)
	return cmd
}

// pick is a if yes, else b.
func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func revokePath(args []string, others, app bool) (path, what string) {
	if len(args) == 1 {
		return userPath(args[0], wire.SubSessions), "every session and app"
	}
	id := strings.TrimSpace(args[1])
	switch {
	case others:
		return userPath(args[0], wire.SubSessions, "?"+url.Values{"except": {id}}.Encode()), "every other session and app"
	case app:
		return userPath(args[0], wire.SubApps, "/"+url.PathEscape(id)), "the app"
	}
	return userPath(args[0], wire.SubSessions, "/"+url.PathEscape(id)), "the session"
}
