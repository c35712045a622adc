package filter

import (
	"encoding/json"
	"errors"
	"fmt"
)

// UCAST renders f as a universal condition tree, the form of filters that
// mappers of several languages read: {"type":"field","operator":"eq",
// "field":"owner","value":"alice"} and {"type":"compound","operator":"and",
// "value":[...]}. Fields are named as attributes are. Field operators are eq,
// ne, lt, le, gt, ge, in, nin, startswith, endswith and contains; compound ones
// are and, or and not, the last never above a condition that may be undefined.
// A field that is there is ne null. All rows are an empty "and", no rows an
// empty "or".
//
// It fails for what this form cannot say: comparisons of two attributes, lists
// in columns, and relations. It knows no kinds of columns, so f should have
// passed Validate; readers differ in how they order values of two kinds.
func (f Filter) UCAST() ([]byte, error) {
	n := node(fixed(f.keep == all))
	if f.keep == some {
		if err := checkBounds(f.cond); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
		var ok bool
		if n, ok = lower(f.cond, func(Expr) bool { return false }); !ok {
			return nil, fmt.Errorf("filter: %w", errTooLarge)
		}
	}
	u, err := ucast(n)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return json.Marshal(u)
}

// condition of UCAST.
type ucastNode struct {
	Type     string `json:"type"`
	Operator string `json:"operator"`
	Field    string `json:"field,omitzero"`
	Value    any    `json:"value"`
}

func compound(op string, parts ...ucastNode) ucastNode {
	list := make([]any, len(parts))
	for i, p := range parts {
		list[i] = p
	}
	return ucastNode{Type: "compound", Operator: op, Value: list}
}

func field(op, name string, v any) ucastNode {
	return ucastNode{Type: "field", Operator: op, Field: name, Value: v}
}

func ucast(n node) (ucastNode, error) {
	switch n := n.(type) {
	case fixed:
		if n {
			return compound("and"), nil
		}
		return compound("or"), nil
	case both:
		return ucastPair("and", n.l, n.r)
	case either:
		return ucastPair("or", n.l, n.r)
	case leaf:
		return ucastLeaf(n)
	}
	return ucastNode{}, errors.New("a condition is missing")
}

func ucastPair(op string, l, r node) (ucastNode, error) {
	left, err := ucast(l)
	if err != nil {
		return ucastNode{}, err
	}
	right, err := ucast(r)
	return compound(op, left, right), err
}

func ucastLeaf(n leaf) (ucastNode, error) {
	name, u, err := ucastAtom(n.atom)
	if err != nil {
		return ucastNode{}, err
	}
	there, gone := field("ne", name, nil), field("eq", name, nil)
	if name == "tenant" { // the empty tenant is none
		there, gone = compound("and", there, field("ne", name, "")), compound("or", gone, field("eq", name, ""))
	}
	if _, ok := n.atom.(Has); ok {
		if n.want == wantTrue || n.want == notFalse {
			return there, nil
		}
		return gone, nil
	}
	// Readers differ in what a comparison with null is, so it is kept from
	// them; then "not" has one meaning.
	switch n.want {
	case wantTrue:
		return compound("and", there, u), nil
	case wantFalse:
		return compound("and", there, opposite(u)), nil
	case notTrue:
		return compound("or", gone, opposite(u)), nil
	default:
		return compound("or", gone, u), nil
	}
}

// opposite needs a field that is there.
func opposite(u ucastNode) ucastNode {
	if op := map[string]string{"eq": "ne", "ne": "eq", "in": "nin", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}[u.Operator]; op != "" {
		return field(op, u.Field, u.Value)
	}
	return compound("not", u)
}

var errUCAST = errors.New("UCAST compares one attribute with known values only")

// ucastAtom renders an atom for rows that have its one attribute.
func ucastAtom(e Expr) (name string, u ucastNode, err error) {
	switch e := e.(type) {
	case Has:
		return e.Attr, ucastNode{}, nil
	case Bool:
		return attrAndLit("eq", e.X, Lit{true})
	case Cmp:
		if _, ok := e.L.(Lit); ok {
			e = Cmp{flip(e.Op), e.R, e.L}
		}
		return attrAndLit(map[Op]string{Eq: "eq", Ne: "ne", Lt: "lt", Le: "le", Gt: "gt", Ge: "ge"}[e.Op], e.L, e.R)
	case In:
		return attrAndLit("in", e.X, e.List)
	case Text:
		return attrAndLit(map[TextOp]string{Prefix: "startswith", Suffix: "endswith", Contains: "contains"}[e.Op], e.X, e.Part)
	}
	return "", ucastNode{}, errRelation
}

func attrAndLit(op string, x, v Operand) (string, ucastNode, error) {
	attr, ok := x.(Attr)
	lit, known := v.(Lit)
	if !ok || !known || !suits(op, lit.Value) {
		return "", ucastNode{}, errUCAST
	}
	return attr.Name, field(op, attr.Name, lit.Value), nil
}

// suits reports whether a field operator takes v.
func suits(op string, v any) bool {
	_, isText := v.(string)
	_, isBool := v.(bool)
	_, isList := v.([]any)
	switch op {
	case "eq", "ne":
		return !isList
	case "lt", "le", "gt", "ge":
		return !isList && !isBool
	case "in":
		return isList
	}
	return op != "" && isText
}
