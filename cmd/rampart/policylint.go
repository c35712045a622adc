package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/spec"
)

func policyLintCmd() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Name what loads and is hardly meant; exit code 1 when there is any",
		Long: `lint holds policies, roles, types and tests against each other and against the
routes of the services. Each finding is one line: file:line: rule: what; fix.`,
		Example: `  rampart policy lint
  rampart policy lint --service payments --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sys, set, err := f.load()
			if err != nil {
				return err
			}
			uses, err := usesOf(sys)
			if err != nil {
				return err
			}
			names := slices.Sorted(maps.Keys(sys.Services))
			if f.service != "" {
				names = []string{f.service}
			}
			found := policytest.Lint(cmd.Context(), set, names, uses)
			return tellFindings(cmd, found, f.json)
		},
	}
	f.add(cmd)
	return cmd
}

func tellFindings(cmd *cobra.Command, found []policytest.Problem, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		if found == nil {
			found = []policytest.Problem{}
		}
		if err := json.NewEncoder(w).Encode(found); err != nil {
			return err
		}
	}
	for _, p := range found {
		if !asJSON {
			fmt.Fprintln(w, p)
		}
	}
	if len(found) > 0 {
		return &exitError{exitFailed, nil}
	}
	if !asJSON {
		fmt.Fprintln(w, "ok: nothing to complain about")
	}
	return nil
}

// usesOf gathers what routes and flows ask for.
func usesOf(sys *spec.System) (policytest.Uses, error) {
	ops, asked, err := operations(sys)
	if err != nil {
		return policytest.Uses{}, err
	}
	for _, flow := range sys.Flows {
		for _, a := range flow.Allow {
			if p, ok := strings.CutPrefix(a, "permission:"); ok {
				asked[p] = true
			}
		}
		if flow.Authz.Require != "" {
			asked[flow.Authz.Require] = true
		}
	}
	uses := policytest.Uses{Permissions: asked, Routes: map[string]bool{}}
	for name, list := range ops {
		for _, op := range list {
			if strings.Contains(op.Path, "{") {
				uses.Routes[name] = true // a route of one object, not of a page
			}
		}
	}
	return uses, nil
}
