package rego

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/rampart-security/rampart/authz"
)

// testTimeout bounds one native test.
const testTimeout = 5 * time.Second

// TestResult is the outcome of one native Rego test, a rule whose name begins
// with "test_".
type TestResult struct {
	File    string
	Line    int
	Name    string // "orders_test.test_owner_reads"
	Passed  bool
	Skipped bool   // a rule whose name begins with "todo_test_"
	Err     error  // of the evaluation; nil when the test just does not hold
	Output  string // what it printed
}

// RunTests runs the native tests in files, which hold policies and tests, with
// the builtins, the schema and the strictness of New. Results are in the order
// of the text. When ctx ends there are none.
func RunTests(ctx context.Context, files map[string][]byte, schema *authz.Schema) ([]TestResult, error) {
	modules, err := parse(files)
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	c, err := compile(modules, schema)
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	results, err := tester.NewRunner().
		SetCompiler(c).SetModules(modules).SetParallel(1).SetTimeout(testTimeout).
		RaiseBuiltinErrors(true).CapturePrintOutput(true).
		Run(ctx, modules)
	if err != nil {
		return nil, fmt.Errorf("rego: %v", err)
	}
	var out []TestResult
	for r := range results {
		out = append(out, testResult(r))
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("rego: the tests take too long: %w", err)
	}
	slices.SortFunc(out, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func testResult(r *tester.Result) TestResult {
	out := TestResult{
		Name:    strings.TrimPrefix(r.Package, "data.") + "." + r.Name,
		Passed:  r.Pass() && !r.Skip,
		Skipped: r.Skip,
		Err:     r.Error,
		Output:  string(r.Output),
	}
	if r.Location != nil {
		out.File, out.Line = r.Location.File, r.Location.Row
	}
	return out
}
