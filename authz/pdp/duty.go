package pdp

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// obligations joins what rulings ask for, each duty once, in a fixed order.
func obligations(list []authz.Ruling) []rampart.Obligation {
	var out []rampart.Obligation
	for _, r := range list {
		for _, o := range r.Obligations {
			same := func(have rampart.Obligation) bool {
				return have.ID == o.ID && have.Type == o.Type && maps.Equal(have.Properties, o.Properties)
			}
			if !slices.ContainsFunc(out, same) {
				out = append(out, o)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b rampart.Obligation) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Type, b.Type))
	})
	return out
}

// fields joins what permits show: a member is seen when each permit shows it,
// and masked when one masks it. It is nil when no permit limits anything.
func fields(list []authz.Ruling) *rampart.Fields {
	var out *rampart.Fields
	for _, r := range list {
		if r.Fields == nil {
			continue
		}
		if out == nil {
			out = &rampart.Fields{}
		}
		out.Only = meet(out.Only, r.Fields.Only)
		out.Mask = sorted(append(out.Mask, r.Fields.Mask...))
	}
	return out
}

// meet returns the members that both lists show; nil shows all. "card" shows
// "card.last4" too.
func meet(a, b []string) []string {
	switch {
	case a == nil:
		return sorted(slices.Clone(b))
	case b == nil:
		return a
	}
	out := []string{}
	for _, list := range [][2][]string{{a, b}, {b, a}} {
		for _, name := range list[0] {
			if slices.ContainsFunc(list[1], func(other string) bool { return name == other || strings.HasPrefix(name, other+".") }) {
				out = append(out, name)
			}
		}
	}
	return sorted(out)
}

func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
