package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/spec"
)

// policyFlags are what every command about the policies of a file has.
type policyFlags struct {
	file    string
	service string
	json    bool
}

func (f *policyFlags) add(cmd *cobra.Command) {
	fileFlag(cmd, &f.file)
	cmd.Flags().StringVar(&f.service, "service", "", "this service alone")
	cmd.Flags().BoolVar(&f.json, "json", false, "print as JSON")
	cmd.RegisterFlagCompletionFunc("service", f.completeServices)
}

func (f *policyFlags) completeServices(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	sys, err := spec.Load(f.file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(sys.Services)), cobra.ShellCompDirectiveNoFileComp
}

// load reads the file and gathers what decisions rest on.
func (f *policyFlags) load() (*spec.System, pap.Set, error) {
	sys, err := spec.Load(f.file)
	if err != nil {
		return nil, pap.Set{}, err
	}
	if _, ok := sys.Services[f.service]; f.service != "" && !ok {
		return nil, pap.Set{}, usageError("no service %q in %s; %s", f.service, f.file, meantService(f.service, sys))
	}
	return sys, pap.FromSystem(sys), nil
}

func meantService(name string, sys *spec.System) string {
	known := slices.Sorted(maps.Keys(sys.Services))
	if near, ok := spec.Nearest(name, known); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "the services are: " + strings.Join(known, ", ")
}

// services are those that the flags mean, of the ones that satisfy has.
func (f *policyFlags) services(s pap.Set, has func(pap.Service) bool) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		if has(s.Services[name]) && (f.service == "" || f.service == name) {
			out = append(out, name)
		}
	}
	return out
}

func hasTests(s pap.Service) bool  { return len(s.Tests) > 0 }
func hasPolicy(s pap.Service) bool { return len(s.Policy) > 0 }

// tested is the JSON form of what policy test found.
type tested struct {
	Passed   int                  `json:"passed"`
	Failed   int                  `json:"failed"`
	Services []policytest.Report  `json:"services"`
	Mutation *policytest.Mutation `json:"mutation,omitzero"`
	Score    *float64             `json:"mutation_score,omitzero"`
}

func policyTestCmd() *cobra.Command {
	var f policyFlags
	var cover, mutate bool
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Ask the questions of *_test.yaml and *_test.rego; exit code 1 when an answer is not the one wanted",
		Long: `test asks every row of the files under policy_tests: of rampart.yaml of the real
decision point: gateway, service and domain layer in turn, as a request meets
them. A row may be a sentence:

  tests:
    - alice may orders:read own by orders.allow
    - bob may not orders:read own because no_permit

--cover names conditions that no row saw hold, or none saw fail. --mutate changes
one operator, rule or permission at a time, in policies, model and roles, and
names each change that no row notices; exit code 1 when there is one.`,
		Example: `  rampart policy test
  rampart policy test --service orders --cover
  rampart policy test --mutate --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, set, err := f.load()
			if err != nil {
				return err
			}
			names := f.services(set, hasTests)
			if len(names) == 0 {
				return usageError("nothing to test: name a file such as policy/orders_test.yaml under policy_tests: of the service in %s", f.file)
			}
			out, err := runTests(cmd.Context(), set, names, cover)
			if err != nil {
				return placed(err)
			}
			if mutate && out.Failed == 0 {
				if err := out.mutate(cmd, set, names); err != nil {
					return placed(err)
				}
			}
			return out.tell(cmd, f.json, cover)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&cover, "cover", false, "name the conditions that no row is about")
	cmd.Flags().BoolVar(&mutate, "mutate", false, "name the changes that no row notices")
	return cmd
}

// placed turns the problems of a test file into those of any file.
func placed(err error) error {
	bad, ok := errors.AsType[policytest.Problems](err)
	if !ok {
		return &exitError{exitUsage, unwrapped{err}}
	}
	var out spec.Problems
	for _, p := range bad {
		out = append(out, spec.Problem(p))
	}
	return &exitError{exitUsage, out}
}

// unwrapped says an error without the packages that it came through: the file
// and the line are what counts.
type unwrapped struct{ err error }

func (u unwrapped) Error() string {
	text := u.err.Error()
	for _, prefix := range []string{"policytest: ", "pdp: ", "cedar: ", "rego: ", "rebac: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

func (u unwrapped) Unwrap() error { return u.err }

func runTests(ctx context.Context, set pap.Set, names []string, cover bool) (tested, error) {
	var out tested
	run := policytest.Run
	if cover {
		run = policytest.Cover
	}
	for _, name := range names {
		report, err := run(ctx, set, name)
		if err != nil {
			return tested{}, err
		}
		failed := len(report.Failed())
		out.Failed += failed
		out.Passed += len(report.Results) - failed
		out.Services = append(out.Services, report)
	}
	return out, nil
}

func (t *tested) mutate(cmd *cobra.Command, set pap.Set, names []string) error {
	m, err := policytest.Mutate(cmd.Context(), set, names, progressOn(cmd.ErrOrStderr(), "changes tried"))
	if err != nil {
		return err
	}
	score := m.Score()
	t.Mutation, t.Score = &m, &score
	return nil
}

// progressOn counts on a terminal, and is nil elsewhere.
func progressOn(w io.Writer, what string) func(done, total int) {
	if !colourful(w) {
		return nil
	}
	var mu sync.Mutex
	return func(done, total int) {
		mu.Lock()
		defer mu.Unlock()
		end := ""
		if done == total {
			end = "\r\x1b[K"
		}
		fmt.Fprintf(w, "\r%d of %d %s%s", done, total, what, end)
	}
}

func (t *tested) tell(cmd *cobra.Command, asJSON, cover bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		if err := json.NewEncoder(w).Encode(t); err != nil {
			return err
		}
		return t.verdict()
	}
	for _, report := range t.Services {
		printTested(w, report, cover)
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", t.Passed, t.Failed)
	if t.Mutation != nil {
		printMutation(w, *t.Mutation)
	}
	return t.verdict()
}

// verdict is the exit code.
func (t *tested) verdict() error {
	if t.Failed > 0 || t.Mutation != nil && len(t.Mutation.Survivors) > 0 {
		return &exitError{exitFailed, nil}
	}
	return nil
}

func printTested(w io.Writer, report policytest.Report, cover bool) {
	for _, g := range report.Grids {
		printGrid(w, g)
	}
	for _, res := range report.Failed() {
		fmt.Fprintf(w, "%s:%d: %s: %s\n", res.File, res.Line, paint(w, red, "FAIL"), res.Name)
		fmt.Fprintf(w, "    %s\n", res.Problem)
		for _, line := range explained(res.Decision) {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	if cover {
		printCoverage(w, report)
	}
	fmt.Fprintf(w, "%s: %d of %d rows pass\n", report.Service, len(report.Results)-len(report.Failed()), len(report.Results))
}

// Colours of what passes, fails and deserves a look.
const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
)

func paint(w io.Writer, colour, text string) string {
	if !colourful(w) {
		return text
	}
	return colour + text + "\x1b[0m"
}

// printGrid shows who may do what; an answer that was not wanted has a "!".
func printGrid(w io.Writer, g policytest.Grid) {
	width := 0
	for _, name := range g.Rows {
		width = max(width, utf8.RuneCountInString(name))
	}
	fmt.Fprintf(w, "%s:%d %s\n  %s", g.File, g.Line, g.Name, strings.Repeat(" ", width))
	for _, c := range g.Columns {
		fmt.Fprintf(w, "  %s", c)
	}
	fmt.Fprintln(w)
	for i, name := range g.Rows {
		line := "  " + name + strings.Repeat(" ", width-utf8.RuneCountInString(name))
		for j, c := range g.Cells[i] {
			line += "  " + cellText(w, c) + strings.Repeat(" ", max(0, utf8.RuneCountInString(g.Columns[j])-cellWidth(c)))
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

func cellText(w io.Writer, c policytest.Cell) string {
	text, colour := "-", ""
	if c.Allowed {
		text, colour = "yes", green
	}
	if c.Allowed != c.Wanted {
		text, colour = text+"!", red
	}
	if colour == "" {
		return text
	}
	return paint(w, colour, text)
}

func cellWidth(c policytest.Cell) int {
	n := 1
	if c.Allowed {
		n = 3
	}
	if c.Allowed != c.Wanted {
		n++
	}
	return n
}

// explained says a decision in lines: what decided, and what came close.
func explained(d rampart.Decision) []string {
	var out []string
	for _, p := range d.Policies {
		out = append(out, fmt.Sprintf("%s by %s", p.Effect, p))
	}
	for _, m := range d.Missing {
		out = append(out, nearMiss(m))
	}
	for _, step := range d.Path {
		out = append(out, "relations lead over "+step)
	}
	return out
}

func nearMiss(m rampart.NearMiss) string {
	at := m.Policy.File
	if line := max(m.Line, 0); line > 0 {
		at = fmt.Sprintf("%s:%d", at, line)
	}
	return fmt.Sprintf("%s: %s: condition %d, %s, %s", at, m.Policy.ID, m.Held+1, m.Condition, m.Problem)
}

func printCoverage(w io.Writer, report policytest.Report) {
	seen := 0
	for _, c := range report.Coverage {
		if c.Covered() {
			seen++
			continue
		}
		fmt.Fprintf(w, "%s:%d: %s: %s\n", c.File, c.Line, c.Text, unseen(c))
	}
	fmt.Fprintf(w, "%s: %d of %d conditions were seen to hold and to fail\n", report.Service, seen, len(report.Coverage))
}

func unseen(c policytest.Condition) string {
	switch {
	case c.Held+c.Failed == 0:
		return "no row reaches it"
	case c.Held == 0:
		return "no row sees it hold"
	}
	return "no row sees it fail"
}

func printMutation(w io.Writer, m policytest.Mutation) {
	for _, s := range m.Survivors {
		fmt.Fprintf(w, "%s: %s\n", paint(w, yellow, "no row notices"), s)
	}
	fmt.Fprintf(w, "mutation score %.1f %%: %d of %d changes are noticed", 100*m.Score(), m.Killed, m.Killed+len(m.Survivors))
	if m.Refused > 0 {
		fmt.Fprintf(w, "; %d more do not load", m.Refused)
	}
	fmt.Fprintln(w)
}
