package rampart_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// Gross sizes only: a clear long switch beats a split made to please a
// counter. exempt holds justified exceptions, name -> why.
const (
	maxFunc   = 200
	maxFile   = 1500
	maxParams = 8
	maxFields = 45
)

var exempt = map[string]string{}

func TestConventions(t *testing.T) {
	docs := map[string]int{}
	seen := map[string]bool{}
	walkGo(t, ".", func(file string) {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file, "_test.go") {
			seen[path.Dir(file)] = true
			if f.Doc != nil {
				docs[path.Dir(file)]++
			}
		}
		if n := strings.Count(string(src), "\n"); n > maxFile && exempt[file] == "" {
			t.Errorf("%s has %d lines, more than %d", file, n, maxFile)
		}
		for _, decl := range f.Decls {
			conventionsOf(t, set, file, decl)
		}
	})
	for pkg := range seen {
		if docs[pkg] != 1 {
			t.Errorf("%s: %d files carry a package doc, want exactly one", pkg, docs[pkg])
		}
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "base", "misc", "pkg"}, path.Base(pkg)) {
			t.Errorf("%s: a folder is named for what it holds", pkg)
		}
	}
}

func conventionsOf(t *testing.T, set *token.FileSet, file string, decl ast.Decl) {
	t.Helper()
	switch d := decl.(type) {
	case *ast.FuncDecl:
		name := file + " " + d.Name.Name
		if d.Name.Name == "init" {
			t.Errorf("%s: no init functions", name)
		}
		lines := set.Position(d.End()).Line - set.Position(d.Pos()).Line
		if lines > maxFunc && exempt[name] == "" {
			t.Errorf("%s has %d lines, more than %d", name, lines, maxFunc)
		}
		if n := d.Type.Params.NumFields(); n > maxParams && exempt[name] == "" {
			t.Errorf("%s has %d parameters, more than %d", name, n, maxParams)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok {
				if st, ok := ts.Type.(*ast.StructType); ok && st.Fields.NumFields() > maxFields {
					t.Errorf("%s: %s has %d fields, more than %d", file, ts.Name.Name, st.Fields.NumFields(), maxFields)
				}
			}
		}
	}
}

// TestFoldersAreTold: a folder exists when ARCHITECTURE.md says in a sentence
// what it is for.
func TestFoldersAreTold(t *testing.T) {
	arch, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	walkGo(t, ".", func(file string) {
		dir := path.Dir(file)
		if dir == "." || told[dir] {
			return
		}
		told[dir] = true
		if !strings.Contains(string(arch), "`"+dir+"/`") {
			t.Errorf("ARCHITECTURE.md does not say what `%s/` is for", dir)
		}
	})
}
