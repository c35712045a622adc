package sdk_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

const module = "github.com/rampart-security/rampart"

var update = flag.Bool("update", false, "rewrite deps.txt")

// leaves are what a service imports. The packages that each of them brings
// along, std aside, are in deps.txt: a service with a guard compiles no policy
// engine, no parser of rampart.yaml and no driver, and a change of that shows in
// review. (Packages of other modules are named, not followed.)
var leaves = []string{"sdk", "sdk/authz", "sdk/client", "sdk/db", "sdk/db/relations", "sdk/httpguard", "sdk/pii", "sdk/rest", "sdk/sanitize", "sdk/secrets"}

func TestDependencies(t *testing.T) {
	var b strings.Builder
	for _, leaf := range leaves {
		fmt.Fprintf(&b, "%s\n", leaf)
		seen := map[string]bool{}
		follow(t, leaf, seen)
		delete(seen, leaf)
		for _, dep := range slices.Sorted(maps.Keys(seen)) {
			fmt.Fprintf(&b, "\t%s\n", dep)
		}
	}
	if *update {
		if err := os.WriteFile("deps.txt", []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(string(golden), b.String()); diff != "" {
		t.Errorf("dependencies changed; if that is wanted, run go test ./sdk -run Dependencies -update:\n%s", diff)
	}
}

// TestTheGuardIsThin says what the golden list alone would let slip in.
func TestTheGuardIsThin(t *testing.T) {
	for _, leaf := range []string{"sdk", "sdk/authz", "sdk/client", "sdk/httpguard", "sdk/pii", "sdk/rest", "sdk/secrets"} {
		seen := map[string]bool{}
		follow(t, leaf, seen)
		for dep := range seen {
			if dep != "." && strings.Contains(dep, ".") {
				t.Errorf("%s brings %s along", leaf, dep)
			}
		}
	}
}

// follow adds pkg, a folder of this module, and what it imports to seen.
func follow(t *testing.T, pkg string, seen map[string]bool) {
	t.Helper()
	if seen[pkg] {
		return
	}
	seen[pkg] = true
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pkg), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no Go files: %v", pkg, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(imp, "/")
			switch rel, inside := strings.CutPrefix(imp, module); {
			case inside:
				follow(t, cmp.Or(strings.TrimPrefix(rel, "/"), "."), seen)
			case strings.Contains(first, "."):
				seen[imp] = true
			}
		}
	}
}
