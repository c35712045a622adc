package rego

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// TestOPACases runs the cases that OPA ships, of both dialects, under the
// capabilities of New. testdata/opa_except.txt names those that cannot pass and
// why; a case that passes must not be listed, so the list can only shrink.
func TestOPACases(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/open-policy-agent/opa").Output()
	if err != nil {
		t.Fatalf("the go command does not tell where OPA's cases are: %v", err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "v1", "test", "cases", "testdata")
	except := readExceptions(t)
	for _, dialect := range []struct {
		name    string
		version ast.RegoVersion
		least   int // shipped with the version in go.mod
	}{{"v0", ast.RegoV0, 2027}, {"v1", ast.RegoV1, 2400}} {
		set, err := cases.Load(filepath.Join(root, dialect.name))
		if err != nil {
			t.Fatal(err)
		}
		passed, listed := 0, 0
		for _, tc := range set.Sorted().Cases {
			name := dialect.name + "/" + tc.Note
			err := runCase(t, tc, dialect.version)
			reason, isListed := except[name]
			delete(except, name)
			switch {
			case err != nil && !isListed:
				t.Errorf("%s\t%s", name, strings.Join(strings.Fields(err.Error()), " "))
			case err == nil && isListed:
				t.Errorf("%s passes: take it off the list (%s)", name, reason)
			case isListed:
				listed++
			default:
				passed++
			}
		}
		t.Logf("%s: %d cases pass, %d are listed as exceptions", dialect.name, passed, listed)
		if passed+listed < dialect.least {
			t.Errorf("%s: only %d cases", dialect.name, passed+listed)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(except)) {
		t.Errorf("%s is listed, but there is no such case", name)
	}
}

// readExceptions reads lines of a name, a tab and a reason.
func readExceptions(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("testdata/opa_except.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, "\t")
		if !ok || reason == "" {
			t.Errorf("exception %q gives no reason", line)
		}
		needs, _ := strings.CutPrefix(reason, "needs ")
		for builtin := range strings.SplitSeq(needs, ", ") {
			if hasBuiltin(builtin) || !isBuiltin(builtin) {
				t.Errorf("%s: %q is no builtin that was left out", name, builtin)
			}
		}
		out[name] = reason
	}
	return out
}

func isBuiltin(name string) bool {
	_, ok := ast.BuiltinMap[name]
	return ok
}

func hasBuiltin(name string) bool {
	return slices.ContainsFunc(capabilities(ast.RegoV1).Builtins, func(b *ast.Builtin) bool { return b.Name == name })
}

func runCase(t *testing.T, tc cases.TestCase, v ast.RegoVersion) error {
	t.Helper()
	for name, value := range tc.Env {
		t.Setenv(name, value)
	}
	modules := map[string]*ast.Module{}
	for i, src := range tc.Modules {
		name := fmt.Sprintf("test-%d.rego", i)
		m, err := ast.ParseModuleWithOpts(name, src, options(v))
		if err != nil {
			return err
		}
		modules[name] = m
	}
	c, err := compileCase(modules)
	if err != nil {
		return err
	}
	body, err := ast.ParseBodyWithOpts(tc.Query, ast.ParserOptions{})
	if err != nil {
		return err
	}
	query, err := c.QueryCompiler().Compile(body)
	if err != nil {
		return err
	}
	return checkCase(tc, func() (topdown.QueryResultSet, error) { return evalCase(t, tc, c, query) })
}

// compileCase compiles as New does, but for the schema of input.
func compileCase(modules map[string]*ast.Module) (*ast.Compiler, error) {
	c := ast.NewCompiler().WithCapabilities(capabilities(ast.RegoV1))
	if c.Compile(modules); c.Failed() {
		return nil, c.Errors
	}
	return c, nil
}

func evalCase(t *testing.T, tc cases.TestCase, c *ast.Compiler, query ast.Body) (topdown.QueryResultSet, error) {
	store := inmem.New()
	if tc.Data != nil {
		store = inmem.NewFromObject(*tc.Data)
	}
	txn := storage.NewTransactionOrDie(t.Context(), store)
	defer store.Abort(t.Context(), txn)
	var doc *ast.Term
	if tc.InputTerm != nil {
		doc = ast.MustParseTerm(*tc.InputTerm)
	} else if tc.Input != nil {
		doc = ast.NewTerm(ast.MustInterfaceToValue(*tc.Input))
	}
	return topdown.NewQuery(query).
		WithCompiler(c).WithStore(store).WithTransaction(txn).WithInput(doc).
		WithStrictBuiltinErrors(tc.StrictError).
		WithCancel(topdown.NewCancel()).
		Run(t.Context())
}

func checkCase(tc cases.TestCase, eval func() (topdown.QueryResultSet, error)) error {
	got, err := eval()
	switch {
	case tc.WantError != nil && (err == nil || !strings.Contains(err.Error(), *tc.WantError)):
		return fmt.Errorf("got %v, want %s", err, *tc.WantError)
	case tc.WantErrorCode != nil:
		e, ok := errors.AsType[*topdown.Error](err)
		if !ok || e.Code != *tc.WantErrorCode {
			return fmt.Errorf("got %v, want %s", err, *tc.WantErrorCode)
		}
	case err != nil && tc.WantError == nil:
		return err
	}
	if tc.WantResult == nil {
		return nil
	}
	want := ast.NewSet()
	for _, bindings := range *tc.WantResult {
		want.Add(ast.NewTerm(ast.MustInterfaceToValue(bindings)))
	}
	if have := resultSet(tc, got); want.Compare(have) != 0 {
		return fmt.Errorf("got %v, want %v", have, want)
	}
	return nil
}

func resultSet(tc cases.TestCase, got topdown.QueryResultSet) ast.Set {
	out := ast.NewSet()
	for _, bindings := range got {
		o := ast.NewObject()
		for name, term := range bindings {
			if tc.IgnoreGeneratedVars && strings.HasPrefix(string(name), "__localq") {
				continue
			}
			v, err := ast.JSON(term.Value)
			if err != nil {
				return out
			}
			if list, ok := v.([]any); ok && tc.SortBindings {
				slices.SortFunc(list, util.Compare)
			}
			o.Insert(ast.StringTerm(string(name)), ast.NewTerm(ast.MustInterfaceToValue(v)))
		}
		out.Add(ast.NewTerm(o))
	}
	return out
}
