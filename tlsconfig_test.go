package rampart_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// mayBuildTLS holds the folders that may build a tls.Config: one place with all
// the checks, the judge, who attacks, and the stand-ins of tests and examples for
// what is not ours.
var mayBuildTLS = []string{"tls/profile", "verify", "test", "examples/payments/processor", "secrets/vault/vaulttest"}

// TestTLSConfigs: nobody else builds a configuration, for one forgotten callback is
// no authentication at all; and nobody writes session keys to a file.
func TestTLSConfigs(t *testing.T) {
	walkGo(t, ".", func(file string) {
		if !strings.HasSuffix(file, "_test.go") {
			for _, v := range tlsViolations(t, file, nil) {
				t.Error(v)
			}
		}
	})
}

// TestTLSConfigsCanFail plants each violation.
func TestTLSConfigsCanFail(t *testing.T) {
	for name, src := range map[string]string{
		"a literal":       `package a; import "crypto/tls"; var c = tls.Config{}`,
		"by new":          `package a; import "crypto/tls"; var c = new(tls.Config)`,
		"a variable":      `package a; import "crypto/tls"; var c tls.Config`,
		"another name":    `package a; import x "crypto/tls"; var c = &x.Config{}`,
		"a key log":       `package a; func f(c *T) { c.KeyLogWriter = nil }`,
		"a key log field": `package a; var c = T{KeyLogWriter: nil}`,
	} {
		if len(tlsViolations(t, "a/a.go", src)) != 1 {
			t.Errorf("%s: not seen", name)
		}
	}
	if v := tlsViolations(t, "a/a.go", `package a; import "crypto/tls"; func f(c *tls.Config) *tls.Config { return c.Clone() }`); len(v) != 0 {
		t.Errorf("a caller's configuration: %v", v)
	}
}

// tlsViolations parses file, or src in its place.
func tlsViolations(t *testing.T, file string, src any) (out []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	name := "\x00"
	for _, imp := range f.Imports {
		if imp.Path.Value == `"crypto/tls"` {
			name = "tls"
			if imp.Name != nil {
				name = imp.Name.Name
			}
		}
	}
	isConfig := func(e ast.Expr) bool {
		s, ok := e.(*ast.SelectorExpr)
		if !ok || s.Sel.Name != "Config" {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && x.Name == name
	}
	found := func(n ast.Node, what string) {
		out = append(out, set.Position(n.Pos()).String()+": "+what)
	}
	ours := false
	for _, dir := range mayBuildTLS {
		ours = ours || within(file, dir)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			if n.Name == "KeyLogWriter" {
				found(n, "session keys are not written anywhere")
			}
		case *ast.CompositeLit:
			if isConfig(n.Type) && !ours {
				found(n, "only tls/profile builds a tls.Config")
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "new" && len(n.Args) == 1 && isConfig(n.Args[0]) && !ours {
				found(n, "only tls/profile builds a tls.Config")
			}
		case *ast.ValueSpec:
			if isConfig(n.Type) && !ours {
				found(n, "only tls/profile builds a tls.Config")
			}
		case *ast.Field:
			if isConfig(n.Type) && !ours {
				found(n, "only tls/profile builds a tls.Config")
			}
		}
		return true
	})
	return out
}
