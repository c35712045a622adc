package filtertest

import (
	"fmt"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// Policies generates the text of policies over a world. Most are of the right
// types, so that they load.
type Policies struct {
	World *World
	Rand  Rand
}

// Cedar is one to three policies.
func (p Policies) Cedar() string {
	var b strings.Builder
	for i := range 1 + p.Rand.IntN(3) {
		effect := pick(p.Rand, []string{"permit", "permit", "forbid"})
		if i == 0 {
			effect = "permit"
		}
		fmt.Fprintf(&b, "@id(\"p%d\")\n%s (%s, action == Action::\"%s\", resource is Thing)", i, effect, pick(p.Rand, []string{"principal", "principal", "principal is User"}), Action)
		for range p.Rand.IntN(3) {
			fmt.Fprintf(&b, "\n%s { %s }", pick(p.Rand, []string{"when", "when", "unless"}), p.cedar(p.Rand.IntN(4)))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// cedar is a condition of up to depth connectives above one another.
func (p Policies) cedar(depth int) string {
	if depth == 0 {
		return p.cedarAtom()
	}
	switch p.Rand.IntN(10) {
	case 0, 1, 2:
		return "(" + p.cedar(depth-1) + " && " + p.cedar(depth-1) + ")"
	case 3, 4, 5:
		return "(" + p.cedar(depth-1) + " || " + p.cedar(depth-1) + ")"
	case 6, 7:
		return "!(" + p.cedar(depth-1) + ")"
	case 8:
		return "(if " + p.cedar(depth-1) + " then " + p.cedar(depth-1) + " else " + p.cedar(depth-1) + ")"
	}
	return p.cedarAtom()
}

// guarded puts the guards of what may be absent before an atom; the type check
// demands them.
type guarded struct {
	p      Policies
	guards []string
}

func (g *guarded) attr(name string) string {
	if name == "id" || name == "tenant" || g.p.World.Type.Attrs[name].Optional {
		g.guards = append(g.guards, "resource has "+cedarText(name))
	}
	return "resource[" + cedarText(name) + "]"
}

func (g *guarded) ofKind(kind authz.AttrKind) string {
	return g.attr(Conditions{World: g.p.World}.attr(g.p.Rand, kind))
}

func (g *guarded) text() string {
	switch r := g.p.Rand; r.IntN(8) {
	case 0:
		g.guards = append(g.guards, "principal has team")
		return "principal.team"
	case 1:
		return "principal.id"
	case 2, 3:
		return cedarValue(Value(r, authz.KindString))
	}
	return g.ofKind(authz.KindString)
}

// value is an attribute of a kind or, less often, a known value.
func (g *guarded) value(kind authz.AttrKind) string {
	if chance(g.p.Rand, 60) {
		return g.ofKind(kind)
	}
	return cedarValue(literal(g.p.Rand, kind))
}

func (p Policies) cedarAtom() string {
	g := &guarded{p: p}
	text := g.atom(p.Rand)
	return "(" + strings.Join(append(g.guards, text), " && ") + ")"
}

func (g *guarded) atom(r Rand) string {
	long := func() string { return g.value(authz.KindLong) }
	decimal := func() string { return g.value(authz.KindDecimal) }
	switch r.IntN(12) {
	case 0, 1, 2:
		return g.text() + pick(r, []string{" == ", " != "}) + g.text()
	case 3, 4:
		return long() + pick(r, []string{" < ", " <= ", " > ", " >= ", " == ", " != "}) + long()
	case 5:
		return decimal() + pick(r, []string{".lessThan(", ".lessThanOrEqual(", ".greaterThan(", ".greaterThanOrEqual("}) + decimal() + ")"
	case 6:
		return "resource has " + cedarText(Conditions{}.anyAttr(r))
	case 7:
		return g.ofKind(authz.KindBool)
	case 8:
		return g.ofKind(authz.KindString) + " like " + cedarPattern(r)
	case 9:
		list := []string{cedarValue(Value(r, authz.KindString)), cedarValue(Value(r, authz.KindString))}
		return "[" + strings.Join(list, ", ") + "].contains(" + g.ofKind(authz.KindString) + ")"
	case 10:
		return pick(r, []string{"principal.roles", "principal.organizations", "principal.managedTeams", g.attr("tags")}) + ".contains(" + g.text() + ")"
	}
	return "context.relation.viewer"
}

func cedarPattern(r Rand) string {
	part := strings.ReplaceAll(cedarText(Value(r, authz.KindString).(string)), "*", `\*`)
	part = strings.Trim(part, `"`)
	return `"` + pick(r, []string{part + "*", "*" + part, "*" + part + "*"}) + `"`
}

func cedarValue(v any) string {
	switch v := v.(type) {
	case string:
		return cedarText(v)
	case float64:
		return fmt.Sprintf("decimal(\"%.4f\")", v)
	}
	return fmt.Sprint(v)
}

// cedarText quotes a string.
func cedarText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\u{%x}`, c)
			continue
		}
		b.WriteRune(c)
	}
	b.WriteByte('"')
	return b.String()
}
