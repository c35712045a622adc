package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/authz/rego"
	"github.com/rampart-security/rampart/spec"
)

var errNoTypes = errors.New("authz.types declares nothing")

func policySchemaCmd() *cobra.Command {
	var f policyFlags
	var format string
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print what authz.types declares, for the tools of a language: cedar, rego or openfga",
		Example: `  rampart policy schema --format cedar > rampart.cedarschema   # for the editor
  rampart policy schema --format rego                          # JSON Schema of input
  rampart policy schema --format openfga > policy/model.fga    # to begin a model with`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, set, err := f.load()
			if err != nil {
				return err
			}
			if set.Schema == nil {
				return usageError("%w in %s; write authz: { types: { order: { actions: [\"orders:read\"], attrs: { owner: string } } } }", errNoTypes, f.file)
			}
			return printSchema(cmd.OutOrStdout(), set.Schema, format)
		},
	}
	fileFlag(cmd, &f.file)
	cmd.Flags().StringVar(&format, "format", "cedar", "cedar, rego or openfga")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"cedar", "rego", "openfga"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func printSchema(w io.Writer, s *authz.Schema, format string) error {
	var text []byte
	var err error
	switch format {
	case "cedar":
		text, err = cedar.CedarSchema(s)
	case "rego":
		text, err = json.MarshalIndent(rego.InputSchema(s), "", "  ")
	case "openfga":
		text = []byte(modelOf(s))
	default:
		return usageError("there is no schema %q; write cedar, rego or openfga", format)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.TrimRight(string(text), "\n"))
	return err
}

// modelOf is a model with the relations that types name, to be filled in.
func modelOf(s *authz.Schema) string {
	var b strings.Builder
	b.WriteString("model\n  schema 1.1\n\ntype user\n")
	for _, name := range slices.Sorted(maps.Keys(s.Types)) {
		t := s.Types[name]
		relations := map[string]bool{}
		for _, r := range slices.Concat(t.Relations, slices.Collect(maps.Values(t.Grants))) {
			relations[r] = true
		}
		if name == "user" {
			continue
		}
		fmt.Fprintf(&b, "\ntype %s\n", name)
		if len(relations) > 0 {
			b.WriteString("  relations\n")
		}
		for _, r := range slices.Sorted(maps.Keys(relations)) {
			fmt.Fprintf(&b, "    define %s: [user]\n", r)
		}
	}
	return b.String()
}

func policyRLSCmd() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "rls",
		Short: "Print the policies as row-level security of PostgreSQL, for types that have a table",
		Long: `rls prints, for each type with a table and each action that a statement stands for, the
statements that make PostgreSQL itself hold back what the policies deny. The
service must say who asks: sdk/db sets it at the start of each transaction. It
is a second line: permissions, scopes and separation of duty are judged before.
When there is something that a database cannot decide, nothing is printed but
that, and the exit code is 1.`,
		Example: `  rampart policy rls --service orders > migrations/0007_policies.sql`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sys, set, err := f.load()
			if err != nil {
				return err
			}
			if set.Schema == nil {
				return usageError("%w in %s", errNoTypes, f.file)
			}
			return f.printRLS(cmd.Context(), cmd.OutOrStdout(), sys, set)
		},
	}
	fileFlag(cmd, &f.file)
	cmd.Flags().StringVar(&f.service, "service", "", "this service alone")
	cmd.RegisterFlagCompletionFunc("service", f.completeServices)
	return cmd
}

// command of SQL that an action stands for, by its verb; "" for none.
func command(a rampart.Action) string {
	switch authz.Verb(a) {
	case "read", "list":
		return "SELECT"
	case "create":
		return "INSERT"
	case "update":
		return "UPDATE"
	case "delete":
		return "DELETE"
	}
	return ""
}

// printRLS prints what a database can decide, or nothing and what it cannot.
func (f *policyFlags) printRLS(ctx context.Context, w io.Writer, sys *spec.System, set pap.Set) error {
	var errs []error
	var whole bytes.Buffer // half of it would protect half of the tables
	for _, name := range slices.Sorted(maps.Keys(set.Schema.Types)) {
		t := set.Schema.Types[name]
		for _, a := range t.Actions {
			if t.Table == "" || command(a) == "" {
				continue
			}
			service, err := serviceOf(sys, set, a)
			if err != nil {
				return err
			}
			if f.service != "" && f.service != service {
				continue
			}
			errs = append(errs, printRLSOf(ctx, &whole, set.Options(service), name, t, a))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &exitError{exitFailed, err}
	}
	_, err := whole.WriteTo(w)
	return err
}

func printRLSOf(ctx context.Context, w io.Writer, o pdp.Options, name string, t authz.Type, a rampart.Action) error {
	decisions, err := pdp.New(o)
	if err != nil {
		return err
	}
	rows, relations, err := decisions.RLS(ctx, a, name)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", a, name, err)
	}
	text, err := filter.RLS(filter.TableOf(t), "rampart_"+strings.ReplaceAll(authz.Verb(a), "-", "_"), command(a), rows, relations...)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", a, name, err)
	}
	_, err = fmt.Fprintf(w, "-- %s of %s\n%s\n\n", a, name, strings.TrimSpace(text))
	return err
}

func policyFuzzCmd() *cobra.Command {
	var f policyFlags
	var n int
	var seed uint64
	cmd := &cobra.Command{
		Use:   "fuzz",
		Short: "Make up rows, and hold that a list shows each exactly when a check allows it; exit code 1 when not",
		Long: `fuzz makes up rows of the declared types, from values that policies and tests
name. Every row is asked for both ways. Equal seeds make equal rows.`,
		Example: `  rampart policy fuzz --rows 100000
  rampart policy fuzz --service orders --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, set, err := f.load()
			if err != nil {
				return err
			}
			out := map[string]policytest.Fuzzed{}
			for _, name := range f.services(set, func(s pap.Service) bool { return hasPolicy(s) && hasTests(s) }) {
				if out[name], err = policytest.Fuzz(cmd.Context(), set, name, n, seed); err != nil {
					return placed(err)
				}
			}
			return tellFuzzed(cmd, out, f.json)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&n, "rows", 10_000, "rows per service")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "where the rows come from")
	return cmd
}

func tellFuzzed(cmd *cobra.Command, all map[string]policytest.Fuzzed, asJSON bool) error {
	w, differ := cmd.OutOrStdout(), false
	if asJSON {
		if err := json.NewEncoder(w).Encode(all); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		differ = differ || len(all[name].Differences) > 0
		if !asJSON {
			printFuzzed(w, name, all[name])
		}
	}
	if differ {
		return &exitError{exitFailed, nil}
	}
	return nil
}

func printFuzzed(w io.Writer, name string, f policytest.Fuzzed) {
	for _, d := range f.Differences {
		fmt.Fprintf(w, "%s: %s\n", paint(w, red, "differs"), d)
	}
	for _, u := range f.Untranslatable {
		fmt.Fprintf(w, "%s: %s\n", paint(w, yellow, "no list"), u)
	}
	fmt.Fprintf(w, "%s: %d rows asked both ways, %d shown, %d differences\n", name, f.Asked, f.Shown, len(f.Differences))
}
