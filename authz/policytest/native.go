package policytest

import (
	"context"
	"path"
	"strings"

	"github.com/rampart-security/rampart/authz/rego"
)

// native runs the Rego tests of the service beside its Rego policies.
func (t *tester) native(ctx context.Context) error {
	svc, files := t.set.Services[t.service], map[string][]byte{}
	for _, name := range svc.Tests {
		if path.Ext(name) == ".rego" {
			files[name] = t.set.Files[name]
		}
	}
	if len(files) == 0 {
		return nil
	}
	for _, name := range svc.Policy {
		if path.Ext(name) == ".rego" {
			files[name] = t.set.Files[name]
		}
	}
	results, err := rego.RunTests(ctx, files, t.set.Schema)
	if err != nil {
		return err
	}
	for _, r := range results {
		if err := t.note(nativeResult(r)); err != nil {
			return err
		}
	}
	return nil
}

func nativeResult(r rego.TestResult) Result {
	out := Result{File: r.File, Line: r.Line, Name: r.Name, asks: r.Name}
	switch {
	case r.Skipped:
		out.Note = "skipped: its name begins with todo_"
	case r.Err != nil:
		out.Problem = "cannot be evaluated: " + r.Err.Error()
	case !r.Passed:
		out.Problem = "does not hold"
	}
	if printed := strings.TrimSpace(r.Output); printed != "" && out.Problem != "" {
		out.Problem += "; it printed: " + printed
	}
	return out
}
