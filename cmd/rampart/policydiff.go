package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/policytest"
)

func policyDiffCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Say which answers to the tests' questions change between two files; exit code 1 when something opens",
		Long: `diff asks every question of the test files, those of both rampart.yaml files, of
both. It names each answer that changes. What the rows want does not count.`,
		Example: `  rampart policy diff main.yaml rampart.yaml`,
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, asked, altered, err := policyChanges(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(changes)
			} else {
				printChanges(cmd, changes, asked, altered)
			}
			if err == nil && slices.ContainsFunc(changes, policytest.Change.Opens) {
				return &exitError{exitFailed, nil}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// policyChanges returns the answers that change, how many questions there are,
// and what differs otherwise.
func policyChanges(cmd *cobra.Command, before, after string) (out []policytest.Change, asked int, altered []string, err error) {
	_, a, err := (&policyFlags{file: before}).load()
	if err != nil {
		return nil, 0, nil, err
	}
	_, b, err := (&policyFlags{file: after}).load()
	if err != nil {
		return nil, 0, nil, err
	}
	services := maps.Clone(a.Services)
	maps.Copy(services, b.Services)
	out = []policytest.Change{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		changes, err := policytest.Diff(cmd.Context(), a, b, name)
		if err != nil {
			return nil, 0, nil, placed(err)
		}
		n, err := policytest.Questions(a, b, name)
		if err != nil {
			return nil, 0, nil, placed(err)
		}
		out, asked = append(out, changes...), asked+n
	}
	return out, asked, policytest.Altered(a, b), nil
}

func printChanges(cmd *cobra.Command, changes []policytest.Change, asked int, altered []string) {
	w := cmd.OutOrStdout()
	for _, c := range changes {
		word := paint(w, yellow, "changes")
		switch {
		case c.Opens():
			word = paint(w, red, "opens")
		case c.Before.Allowed() && !c.After.Allowed():
			word = paint(w, green, "closes")
		}
		fmt.Fprintf(w, "%s: %s (%s:%d)\n    before: %s\n    after:  %s\n", word, c.Name, c.File, c.Line, inShort(c.Before), inShort(c.After))
	}
	if len(changes) > 0 {
		fmt.Fprintf(w, "%d of %s change\n", len(changes), plural(asked, "question"))
		return
	}
	fmt.Fprintf(w, "none of %s changes\n", plural(asked, "question"))
	for _, what := range altered {
		fmt.Fprintf(w, "%s: %s\n", paint(w, yellow, "differs, and no question notices"), what)
	}
}

// inShort is a decision on one line.
func inShort(d rampart.Decision) string {
	by := ""
	for _, p := range d.Policies {
		by += " " + p.String()
	}
	if d.Allowed() {
		return "allow by" + by
	}
	return fmt.Sprintf("deny at the %s layer (%s)%s", d.Layer, d.Code, by)
}
