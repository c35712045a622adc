package rego

import (
	"encoding/json"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// key holds the names of members that every document has, so that a decision
// need not make them anew. Terms are never changed.
var key = struct {
	action, actionFull, user, resource, context, relation,
	id, kind, org, teamID, role, roles, organizations, managedTeams, typ, tenant *ast.Term
}{
	ast.StringTerm("action"), ast.StringTerm("action_full"), ast.StringTerm("user"), ast.StringTerm("resource"),
	ast.StringTerm("context"), ast.StringTerm("relation"),
	ast.StringTerm("id"), ast.StringTerm("kind"), ast.StringTerm("org"), ast.StringTerm("team_id"), ast.StringTerm("role"),
	ast.StringTerm("roles"), ast.StringTerm("organizations"), ast.StringTerm("managed_teams"),
	ast.StringTerm("type"), ast.StringTerm("tenant"),
}

// input builds the document that policies read. Building ast values directly
// costs half of what OPA's conversion of a Go map costs.
func input(r authz.Request) ast.Value {
	m := make(members, 0, 6)
	m.put(key.action, authz.Verb(r.Action))
	m.put(key.actionFull, string(r.Action))
	m.add(key.user, ast.NewTerm(user(r.Principal)))
	m.add(key.resource, ast.NewTerm(resource(r.Resource)))
	m.add(key.context, object(r.Context))
	m.add(key.relation, relations(r.Relations))
	return m.object()
}

// members are what an object is made of, each name once.
type members [][2]*ast.Term

func (m *members) add(name, value *ast.Term) { *m = append(*m, [2]*ast.Term{name, value}) }

// put leaves an unknown fact absent: two empty teams must not be equal.
func (m *members) put(name *ast.Term, value string) {
	if value != "" {
		m.add(name, ast.StringTerm(value))
	}
}

func (m members) object() ast.Object { return ast.NewObject(m...) }

func user(p rampart.Principal) ast.Object {
	m := make(members, 0, 8)
	m.put(key.id, p.Subject)
	m.put(key.kind, string(p.Kind))
	m.put(key.org, p.Tenant)
	m.put(key.teamID, p.Team)
	if len(p.Roles) > 0 {
		m.put(key.role, p.Roles[0])
	}
	m.add(key.roles, texts(p.Roles))
	m.add(key.organizations, texts(p.Organizations))
	m.add(key.managedTeams, texts(p.ManagedTeams))
	return m.object()
}

// resource lets what the request itself says win over an attribute of the same
// name, which a service might copy from stored data.
func resource(r rampart.Resource) ast.Object {
	m := make(members, 0, 3+len(r.Attrs))
	m.put(key.typ, r.Type)
	m.put(key.id, r.ID)
	m.put(key.tenant, r.Tenant)
	for name, v := range r.Attrs {
		if v != nil && !m.has(name) {
			m.add(ast.StringTerm(name), term(v))
		}
	}
	return m.object()
}

// has reports whether name is one of those that the request itself says.
func (m members) has(name string) bool {
	if name != "type" && name != "id" && name != "tenant" {
		return false
	}
	for _, pair := range m {
		if pair[0].Value.Compare(ast.String(name)) == 0 {
			return true
		}
	}
	return false
}

func relations(facts map[string]bool) *ast.Term {
	if len(facts) == 0 {
		return ast.InternedEmptyObject
	}
	m := make(members, 0, len(facts))
	for name, holds := range facts {
		m.add(ast.StringTerm(name), ast.InternedTerm(holds))
	}
	return ast.NewTerm(m.object())
}

func texts(list []string) *ast.Term {
	if len(list) == 0 {
		return ast.InternedEmptyArray
	}
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.StringTerm(s)
	}
	return ast.ArrayTerm(terms...)
}

func object(values map[string]any) *ast.Term {
	if len(values) == 0 {
		return ast.InternedEmptyObject
	}
	m := make(members, 0, len(values))
	for name, v := range values {
		if v != nil {
			m.add(ast.StringTerm(name), term(v))
		}
	}
	return ast.NewTerm(m.object())
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
