package cedar

import (
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// TestCorpusFilters: where a policy of the corpus can be said as a filter, the
// resource of each request is in the filter exactly when Cedar matches it.
func TestCorpusFilters(t *testing.T) {
	files := corpus(t)
	var count tally
	cases(t, files, func(name string, c corpusCase) {
		list, err := cedar.NewPolicyListFromBytes(name, files[c.Policies])
		if err != nil {
			t.Error(err)
			return
		}
		store, _ := entities(t, files, c)
		shapes := shapesOf(t, files[c.Schema])
		tree := (*ast.Policy)(list[0].AST())
		p := &policy{tree: tree, parts: parts(tree, source{}, nil)}
		if list[0].Effect() == cedar.Permit {
			p.ref.Effect = rampart.Allow
		}
		for i, r := range c.Requests {
			attrs, plain := shapes[r.Resource.Type]
			if !plain || readsOther(p, attrs) {
				count.add("of another shape")
				continue
			}
			tr := &translator{resource: cedar.NewEntityUID(r.Resource.Type, ""), attrs: attrs, env: eval.Env{
				Entities: store, Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context,
			}}
			cond, err := tr.policy(p)
			if err != nil {
				count.add("untranslatable")
				continue
			}
			want := len(r.Reason) > 0
			got := filter.Combine(filter.Residual{Permits: []filter.Expr{cond}}).Match(rowOf(store[r.Resource], r.Resource), nil)
			if p.ref.Effect == rampart.Deny {
				want = want || len(r.Errors) > 0
				all := filter.Residual{Permits: []filter.Expr{filter.Const(true)}, Forbids: []filter.Expr{cond}}
				got = !filter.Combine(all).Match(rowOf(store[r.Resource], r.Resource), nil)
			}
			if got != want {
				t.Errorf("%s %d: filter %v, Cedar %v\n%s\n%#v", name, i, got, want, files[c.Policies], cond)
			}
			if _, known := cond.(filter.Const); !known && cond != filter.Expr(filter.Undefined{}) {
				count.add("conditions")
			}
			count.add("agree")
		}
	})
	t.Logf("%d requests agree, %d of them by a condition on the resource; %d cannot be said as a filter, %d read what no filter knows",
		count.n["agree"], count.n["conditions"], count.n["untranslatable"], count.n["of another shape"])
	if count.n["agree"] < 10_000 {
		t.Error("too few are filters")
	}
}

// shapesOf lists the attributes of each type that a filter knows, and the
// others with no kind.
func shapesOf(t *testing.T, text []byte) map[types.EntityType]map[string]authz.Attr {
	var s schema.Schema
	if err := s.UnmarshalCedar(text); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	out := map[types.EntityType]map[string]authz.Attr{}
	for name, e := range r.Entities {
		attrs := map[string]authz.Attr{}
		for attr, a := range e.Shape {
			attrs[string(attr)] = authz.Attr{Kind: kindOf(a.Type)}
		}
		out[name] = attrs
	}
	return out
}

func kindOf(t resolved.IsType) authz.AttrKind {
	switch t := t.(type) {
	case resolved.StringType:
		return authz.KindString
	case resolved.BoolType:
		return authz.KindBool
	case resolved.LongType:
		return authz.KindLong
	case resolved.ExtensionType:
		if t == "decimal" {
			return authz.KindDecimal
		}
	case resolved.SetType:
		if kindOf(t.Element) == authz.KindString {
			return authz.KindStrings
		}
	}
	return ""
}

// readsOther reports whether a policy asks for ancestors, or for an attribute
// that has no kind or is the id or the tenant of ours.
func readsOther(p *policy, attrs map[string]authz.Attr) bool {
	other := false
	ast.Inspect(eval.PolicyToNode(p.tree), func(n ast.IsNode) bool {
		var attr cedar.String
		switch n := n.(type) {
		case ast.NodeTypeIn, ast.NodeTypeIsIn:
			other = true
		case ast.NodeTypeAccess:
			attr = n.Value
		case ast.NodeTypeHas:
			attr = n.Value
		}
		a, declared := attrs[string(attr)]
		other = other || declared && a.Kind == "" || slices.Contains([]cedar.String{"id", "tenant", relation}, attr)
		return !other
	})
	return other
}

func rowOf(e cedar.Entity, uid cedar.EntityUID) map[string]any {
	row := map[string]any{"id": string(uid.ID)}
	for name, v := range e.Attributes.All() {
		if lit, _, ok := literal(v); ok {
			row[string(name)] = lit.Value
		}
		if set, ok := v.(cedar.Set); ok {
			list := []any{}
			for s := range set.All() {
				lit, _, _ := literal(s)
				list = append(list, lit.Value)
			}
			row[string(name)] = list
		}
	}
	return row
}
