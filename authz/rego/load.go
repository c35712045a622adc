package rego

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
)

// parse reads every file, v1 first.
func parse(files map[string][]byte) (map[string]*ast.Module, error) {
	modules := make(map[string]*ast.Module, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := authz.CheckSource(name, files[name]); err != nil {
			return nil, err
		}
		m, err := parseModule(name, string(files[name]))
		if err != nil {
			return nil, err
		}
		modules[name] = m
	}
	return modules, nil
}

// parseModule reads src as v1, or as v0 when nothing but the keywords that v1
// introduced is missing. A file is one version, and v1 if it is valid as both.
func parseModule(name, src string) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts(name, src, options(ast.RegoV1))
	if err == nil {
		return m, nil
	}
	if !onlyOldDialect(err) {
		return nil, err
	}
	old, errOld := ast.ParseModuleWithOpts(name, src, options(ast.RegoV0))
	if errOld != nil {
		return nil, err
	}
	return old, nil
}

func options(v ast.RegoVersion) ast.ParserOptions {
	return ast.ParserOptions{RegoVersion: v, Capabilities: capabilities(v)}
}

// onlyOldDialect reports whether every parse error is one that v0 text causes.
func onlyOldDialect(err error) bool {
	errs, ok := errors.AsType[ast.Errors](err)
	if !ok || len(errs) == 0 {
		return false
	}
	for _, e := range errs {
		if !strings.HasPrefix(e.Message, "`if` keyword is required") && !strings.HasPrefix(e.Message, "`contains` keyword is required") {
			return false
		}
	}
	return true
}

// capabilities leaves out what would make a decision depend on anything but
// its input, or reach outside: opa.runtime alone would hand the environment to
// a policy.
func capabilities(v ast.RegoVersion) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(v))
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		return b.Nondeterministic || b.Name == "trace" || b.Name == "rego.parse_module"
	})
	c.AllowNet = []string{} // empty, not nil: nil allows every host
	return c
}

func compile(modules map[string]*ast.Module, s *authz.Schema) (*ast.Compiler, error) {
	return compileWith(modules, s, func(c *ast.Compiler) *ast.Compiler { return c })
}

func compileWith(modules map[string]*ast.Module, s *authz.Schema, change func(*ast.Compiler) *ast.Compiler) (*ast.Compiler, error) {
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, inputSchema(s))
	c := change(ast.NewCompiler().
		WithCapabilities(capabilities(ast.RegoV1)).
		WithSchemas(schemas))
	c.Compile(modules)
	if c.Failed() {
		return nil, c.Errors
	}
	return c, nil
}
