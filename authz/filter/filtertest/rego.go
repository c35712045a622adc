package filtertest

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// Rego is one file: rules for allow, often for deny, and two rules that they
// may ask.
func (p Policies) Rego() string {
	var b strings.Builder
	b.WriteString("package things\n")
	for _, helper := range []string{"one", "one", "two"} {
		fmt.Fprintf(&b, "%s if { %s }\n", helper, p.regoBody(false))
	}
	for range 1 + p.Rand.IntN(2) {
		fmt.Fprintf(&b, "allow if { %s }\n", p.regoBody(true))
	}
	for range p.Rand.IntN(3) {
		fmt.Fprintf(&b, "deny contains \"no\" if { %s }\n", p.regoBody(true))
	}
	return b.String()
}

func (p Policies) regoBody(helpers bool) string {
	var parts []string
	for range 1 + p.Rand.IntN(3) {
		c := p.regoAtom()
		if helpers && chance(p.Rand, 25) {
			c = pick(p.Rand, []string{"one", "two"})
		}
		if chance(p.Rand, 25) {
			c = "not " + c
		}
		parts = append(parts, c)
	}
	return strings.Join(parts, "; ")
}

func (p Policies) regoAttr(kind authz.AttrKind) string {
	return p.regoName(Conditions{World: p.World}.attr(p.Rand, kind))
}

func (p Policies) regoName(name string) string { return "input.resource[" + regoValue(name) + "]" }

func (p Policies) regoText() string {
	switch p.Rand.IntN(8) {
	case 0:
		return "input.user.team_id"
	case 1:
		return "input.user.id"
	case 2, 3:
		return regoValue(Value(p.Rand, authz.KindString))
	case 4:
		return fmt.Sprintf("object.get(input.resource, %s, %s)", regoValue(pick(p.Rand, names(authz.KindString))), regoValue(Value(p.Rand, authz.KindString)))
	}
	return p.regoAttr(authz.KindString)
}

func (p Policies) regoAtom() string {
	r := p.Rand
	op := pick(r, []string{" == ", " != ", " < ", " <= ", " > ", " >= "})
	number := func(kind authz.AttrKind) string {
		if chance(r, 50) {
			return p.regoAttr(kind)
		}
		return regoValue(literal(r, kind))
	}
	switch r.IntN(10) {
	case 0, 1, 2:
		return p.regoText() + op + p.regoText()
	case 3, 4:
		kind := pick(r, []authz.AttrKind{authz.KindLong, authz.KindDecimal})
		return p.regoAttr(kind) + op + number(kind)
	case 5:
		return p.regoAttr(authz.KindBool) + pick(r, []string{"", " == true", " == false", " != true"})
	case 6:
		return pick(r, []string{"startswith", "endswith", "contains"}) + "(" + p.regoAttr(authz.KindString) + ", " + p.regoText() + ")"
	case 7:
		return p.regoAttr(authz.KindString) + " in [" + regoValue(Value(r, authz.KindString)) + ", " + regoValue(Value(r, authz.KindString)) + "]"
	case 8:
		return p.regoText() + " in " + pick(r, []string{"input.user.roles", "input.user.organizations", "input.user.managed_teams", p.regoName("tags")})
	}
	return "input.relation.viewer"
}

// regoValue: Rego's texts and numbers are JSON's.
func regoValue(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
