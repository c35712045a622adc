package filter

import "slices"

// IDs returns the ids of all resources that f can keep, sorted, when f names
// them; false when it may keep others. Whoever lists by it asks about each once
// more: the rest of f is not looked at.
func (f Filter) IDs() ([]string, bool) {
	ids, ok := named(f.expr())
	slices.Sort(ids)
	return slices.Compact(ids), ok
}

// named returns the ids outside of which e cannot be true.
func named(e Expr) ([]string, bool) {
	switch e := e.(type) {
	case Const:
		return nil, !bool(e)
	case Undefined:
		return nil, true
	case Total:
		return named(e.X)
	case And:
		if ids, ok := named(e.L); ok {
			return ids, true
		}
		return named(e.R)
	case Or:
		left, ok := named(e.L)
		if !ok {
			return nil, false
		}
		right, ok := named(e.R)
		return slices.Concat(left, right), ok
	case Cmp:
		return equalTo(e)
	case In:
		return listed(e)
	}
	return nil, false
}

func equalTo(e Cmp) ([]string, bool) {
	value, other := e.L, e.R
	if _, isAttr := value.(Attr); isAttr {
		value, other = other, value
	}
	attr, isAttr := other.(Attr)
	lit, isLit := value.(Lit)
	id, isText := lit.Value.(string)
	if e.Op != Eq || !isAttr || attr.Name != "id" || !isLit || !isText {
		return nil, false
	}
	return []string{id}, true
}

func listed(e In) ([]string, bool) {
	attr, isAttr := e.X.(Attr)
	lit, isLit := e.List.(Lit)
	values, isList := lit.Value.([]any)
	if !isAttr || attr.Name != "id" || !isLit || !isList {
		return nil, false
	}
	var ids []string
	for _, v := range values {
		if id, ok := v.(string); ok { // an id is a string: nothing else equals one
			ids = append(ids, id)
		}
	}
	return ids, true
}
