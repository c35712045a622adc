package pdp

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// declared is one type of the schema, prepared.
type declared struct {
	authz.Type
	required []string            // sorted
	sources  map[string][]string // provider -> the attributes that it supplies, sorted
}

func (d *PDP) declare(s *authz.Schema) map[string]*declared {
	if s == nil {
		return nil
	}
	out := make(map[string]*declared, len(s.Types))
	for name, t := range s.Types {
		typ := &declared{Type: t, sources: map[string][]string{}}
		for _, attr := range slices.Sorted(maps.Keys(t.Attrs)) {
			a := t.Attrs[attr]
			if !a.Optional {
				typ.required = append(typ.required, attr)
			}
			if a.Provider != "" {
				typ.sources[a.Provider] = append(typ.sources[a.Provider], attr)
			}
		}
		out[name] = typ
	}
	return out
}

// related holds the schema against the model: a relation that nobody can stand
// in would permit or forbid nothing, in silence.
func (d *PDP) related() error {
	if d.model == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.types)) {
		t := d.types[name]
		for _, relation := range append(slices.Sorted(maps.Values(t.Grants)), t.Relations...) {
			if !d.model.Has(name, relation) {
				return fmt.Errorf("type %q uses the relation %q, which %s does not define; it has: %q", name, relation, d.model.Name(), d.model.Relations(name))
			}
		}
	}
	return nil
}

// grant returns the relation that permits action, without any policy text.
func (d *PDP) grant(action rampart.Action, typ string) string {
	if t := d.types[typ]; t != nil {
		return t.Grants[action]
	}
	return ""
}

// check is what every request must pass before an engine sees it. A missing
// attribute denies here, because no language treats it alike: to Rego what is
// undefined is silently false.
func (d *PDP) check(r *authz.Request) *rampart.Decision {
	if err := r.Validate(); err != nil {
		return refuse(rampart.LayerDomain, rampart.CodeError, "the request is out of bounds: "+err.Error())
	}
	return d.conform(r)
}

// conform denies a resource that differs from what is declared.
func (d *PDP) conform(r *authz.Request) *rampart.Decision {
	if d.types == nil {
		return nil
	}
	if err := d.differs(&r.Resource); err != nil {
		return refuse(rampart.LayerDomain, rampart.CodeError, err.Error(), d.cite("schema", r.Resource.Type, "type "+r.Resource.Type))
	}
	return nil
}

// differs reports how a resource differs from what is declared. A nil value is
// an absent one.
func (d *PDP) differs(res *rampart.Resource) error {
	t := d.types[res.Type]
	if t == nil {
		return fmt.Errorf("the type %q is not declared under authz.types of rampart.yaml", res.Type)
	}
	for name, v := range res.Attrs {
		if v == nil || name == "id" && v == res.ID || name == "tenant" && v == res.Tenant {
			continue
		}
		a, ok := t.Attrs[name]
		if !ok {
			return fmt.Errorf("the type %q has no attribute %q; it has: %q", res.Type, clip(name), slices.Sorted(maps.Keys(t.Attrs)))
		}
		if err := fits(a.Kind, v); err != nil {
			return fmt.Errorf("attribute %q of %q: %v", name, res.Type, err)
		}
	}
	for _, name := range t.required {
		if res.Attrs[name] == nil {
			return fmt.Errorf("the attribute %q of %q is missing; only one that is declared with \"?\" may be absent", name, res.Type)
		}
	}
	return nil
}

// fits reports a value that is not of the kind.
func fits(kind authz.AttrKind, v any) error {
	ok := false
	switch kind {
	case authz.KindString:
		_, ok = v.(string)
	case authz.KindBool:
		_, ok = v.(bool)
	case authz.KindLong:
		ok = whole(v)
	case authz.KindDecimal:
		ok = exact(v)
	case authz.KindStrings:
		list, isList := v.([]any)
		ok = isList && !slices.ContainsFunc(list, func(e any) bool { _, text := e.(string); return !text })
	default:
		return fmt.Errorf("the kind %q is unknown", clip(string(kind)))
	}
	if ok {
		return nil
	}
	switch v.(type) {
	case int64, float64:
		if kind == authz.KindDecimal {
			return errors.New("want a decimal of at most four digits after the point")
		}
	}
	return fmt.Errorf("want %s, got %s", kind, nameOf(v))
}

// maxExact is the magnitude up to which float64 holds every whole number.
const maxExact = 1 << 53

// whole accepts a float without a fraction: JSON does not tell the two apart.
func whole(v any) bool {
	f, isFloat := v.(float64)
	_, isInt := v.(int64)
	return isInt || isFloat && f == math.Trunc(f) && math.Abs(f) <= maxExact
}

// exact accepts what four decimals hold.
func exact(v any) bool {
	switch v := v.(type) {
	case int64:
		return v > -maxExact && v < maxExact
	case float64:
		scaled := math.Round(v * 1e4)
		return math.Abs(scaled) < maxExact && scaled/1e4 == v
	}
	return false
}

func nameOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a truth value"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return fmt.Sprintf("a %T", v)
}

// clip keeps untrusted text short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:64] + "..."
}
