package rego

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart/authz"
)

// inputSchema is the JSON Schema of what policies read as input: it makes a misspelt
// member an error at load instead of a rule that never holds. A file may hold
// rules of several types, so input.resource has the attributes of all of them. A nil
// schema leaves input.resource and input.relation open.
func inputSchema(s *authz.Schema) map[string]any {
	text := map[string]any{"type": "string"}
	list := map[string]any{"type": "array", "items": text}
	open := map[string]any{"type": "object", "additionalProperties": true}
	return closed(map[string]any{
		"action": text, "action_full": text, "context": open,
		"resource": resourceSchema(s), "relation": relationSchema(s),
		"user": closed(map[string]any{
			"id": text, "kind": text, "role": text, "roles": list, "org": text,
			"team_id": text, "organizations": list, "managed_teams": list,
		}),
	})
}

func closed(properties map[string]any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

func resourceSchema(s *authz.Schema) map[string]any {
	if s == nil {
		return map[string]any{"type": "object", "additionalProperties": true}
	}
	kinds := map[string][]authz.AttrKind{}
	for _, name := range slices.Sorted(maps.Keys(s.Types)) {
		for attr, a := range s.Types[name].Attrs {
			if !slices.Contains(kinds[attr], a.Kind) {
				kinds[attr] = append(kinds[attr], a.Kind)
			}
		}
	}
	properties := map[string]any{}
	for attr, of := range kinds {
		properties[attr] = attrSchema(of)
	}
	for _, fixed := range []string{"type", "id", "tenant"} {
		properties[fixed] = kindSchema(authz.KindString)
	}
	return closed(properties)
}

// attrSchema: an attribute that types declare differently is any of the kinds.
func attrSchema(kinds []authz.AttrKind) any {
	if len(kinds) == 1 {
		return kindSchema(kinds[0])
	}
	var each []any
	for _, k := range kinds {
		each = append(each, kindSchema(k))
	}
	return map[string]any{"anyOf": each}
}

func kindSchema(k authz.AttrKind) map[string]any {
	switch k {
	case authz.KindString:
		return map[string]any{"type": "string"}
	case authz.KindBool:
		return map[string]any{"type": "boolean"}
	case authz.KindLong, authz.KindDecimal:
		return map[string]any{"type": "number"}
	case authz.KindStrings:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	}
	return map[string]any{}
}

func relationSchema(s *authz.Schema) map[string]any {
	if s == nil {
		return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "boolean"}}
	}
	properties := map[string]any{}
	for _, t := range s.Types {
		for _, name := range t.Relations {
			properties[name] = kindSchema(authz.KindBool)
		}
	}
	return closed(properties)
}

// checkGuards finds object.get with a misspelt member, which the type checker
// lets pass: the guard of a deny rule would then never hold. It looks at modules
// as they were written.
func checkGuards(modules map[string]*ast.Module, s *authz.Schema) error {
	properties := inputSchema(s)["properties"].(map[string]any)
	var err error
	check := func(call []*ast.Term) {
		if err == nil && len(call) > 2 && ast.ObjectGet.Ref().Equal(call[0].Value) {
			err = checkGuard(call[1], call[2], properties)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Expr:
				if x.IsCall() {
					check(x.Terms.([]*ast.Term))
				}
			case ast.Call:
				check(x)
			}
			return false
		}).Walk(modules[name])
	}
	return err
}

func checkGuard(from, key *ast.Term, properties map[string]any) error {
	of, ok := from.Value.(ast.Ref)
	if !ok || len(of) != 2 || !of.HasPrefix(ast.InputRootRef) {
		return nil
	}
	member, _ := of[1].Value.(ast.String)
	object, _ := properties[string(member)].(map[string]any)
	valid, isClosed := object["properties"].(map[string]any)
	name, isName := guarded(key)
	if !isClosed || !isName || valid[name] != nil {
		return nil
	}
	return fmt.Errorf("%s: %s has no %q; it has: %s", from.Location, of, name, strings.Join(slices.Sorted(maps.Keys(valid)), ", "))
}

// guarded returns the first member that the key of an object.get names.
func guarded(key *ast.Term) (string, bool) {
	if path, ok := key.Value.(*ast.Array); ok && path.Len() > 0 {
		key = path.Elem(0)
	}
	name, ok := key.Value.(ast.String)
	return string(name), ok
}
