package rego

import (
	"encoding/json"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// input builds the document that policies read. Building ast values directly
// costs half of what OPA's conversion of a Go map costs.
func input(r authz.Request) ast.Value {
	doc := ast.NewObject()
	put(doc, "action", authz.Verb(r.Action))
	put(doc, "action_full", string(r.Action))
	doc.Insert(ast.InternedTerm("user"), ast.NewTerm(user(r.Principal)))
	doc.Insert(ast.InternedTerm("resource"), ast.NewTerm(resource(r.Resource)))
	doc.Insert(ast.InternedTerm("context"), object(r.Context))
	doc.Insert(ast.InternedTerm("relation"), relations(r.Relations))
	return doc
}

func user(p rampart.Principal) ast.Object {
	o := ast.NewObject()
	put(o, "id", p.Subject)
	put(o, "kind", string(p.Kind))
	put(o, "org", p.Tenant)
	put(o, "team_id", p.Team)
	if len(p.Roles) > 0 {
		put(o, "role", p.Roles[0])
	}
	o.Insert(ast.InternedTerm("roles"), texts(p.Roles))
	o.Insert(ast.InternedTerm("organizations"), texts(p.Organizations))
	o.Insert(ast.InternedTerm("managed_teams"), texts(p.ManagedTeams))
	return o
}

// resource lets what the request itself says win over an attribute of the same
// name, which a service might copy from stored data.
func resource(r rampart.Resource) ast.Object {
	o := ast.NewObject()
	for name, v := range r.Attrs {
		if v != nil {
			o.Insert(ast.InternedTerm(name), term(v))
		}
	}
	put(o, "type", r.Type)
	put(o, "id", r.ID)
	put(o, "tenant", r.Tenant)
	return o
}

func relations(facts map[string]bool) *ast.Term {
	o := ast.NewObject()
	for name, holds := range facts {
		o.Insert(ast.InternedTerm(name), ast.InternedTerm(holds))
	}
	return ast.NewTerm(o)
}

// put leaves an unknown fact absent: two empty teams must not be equal.
func put(o ast.Object, name, value string) {
	if value == "" {
		return
	}
	o.Insert(ast.InternedTerm(name), ast.StringTerm(value))
}

func texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.StringTerm(s)
	}
	return ast.ArrayTerm(terms...)
}

func object(m map[string]any) *ast.Term {
	o := ast.NewObject()
	for name, v := range m {
		if v != nil {
			o.Insert(ast.InternedTerm(name), term(v))
		}
	}
	return ast.NewTerm(o)
}

// term converts what authz.Request.Validate accepts; it maps anything else to
// null, which equals nothing that a policy can compare it with but null.
func term(v any) *ast.Term {
	switch v := v.(type) {
	case bool:
		return ast.InternedTerm(v)
	case string:
		return ast.StringTerm(v)
	case int64:
		return ast.NumberTerm(json.Number(strconv.FormatInt(v, 10)))
	case float64:
		return ast.NumberTerm(json.Number(strconv.FormatFloat(v, 'g', -1, 64)))
	case []any:
		terms := make([]*ast.Term, len(v))
		for i, e := range v {
			terms[i] = term(e)
		}
		return ast.ArrayTerm(terms...)
	case map[string]any:
		return object(v)
	}
	return ast.NullTerm()
}
