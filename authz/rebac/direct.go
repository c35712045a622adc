package rebac

import (
	"fmt"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
)

// Bounds of what Direct says.
const (
	maxDirectDepth = 3   // members of members
	maxDirectWays  = 100 // into all relations together
)

// Direct says a relation in tuples and in facts of a token alone, for
// row-level security; stated are the rules of FromToken. It can when the
// relation is a union ("or") of subjects, of everyone of a type, of usersets of
// which the same is true, and of relations of the same object. Anything else
// ("and", "but not", "from", a condition, a userset that contains itself) is a
// *filter.Untranslatable that names the line.
func (m *Model) Direct(typ, relation string, stated map[string]string) (filter.Relation, error) {
	r, err := m.relation(typ, relation)
	if err != nil {
		return filter.Relation{}, fmt.Errorf("rebac: %w", err)
	}
	d := direct{m: m, stated: stated, left: maxDirectWays}
	return d.relation(r, 1)
}

type direct struct {
	m      *Model
	stated map[string]string
	left   int // ways
}

func (d *direct) relation(r *relationDef, depth int) (filter.Relation, error) {
	out := filter.Relation{Type: r.typ.name, Name: r.name}
	err := d.add(&out, r, r.rewrite, depth, map[uint16]bool{r.id: true})
	return out, err
}

// add adds the ways of a definition; seen are the relations of the same object
// that were added before.
func (d *direct) add(out *filter.Relation, r *relationDef, w *rewrite, depth int, seen map[uint16]bool) error {
	switch w.op {
	case opThis:
		return d.subjects(out, r, depth)
	case opComputed:
		s := d.m.relations[w.computed]
		if seen[s.id] {
			return nil
		}
		seen[s.id] = true
		return d.add(out, s, s.rewrite, depth, seen)
	case opOr:
		for _, arg := range w.args {
			if err := d.add(out, r, arg, depth, seen); err != nil {
				return err
			}
		}
		return nil
	case opFrom:
		return d.refuse(r, `"from"`)
	case opAnd:
		return d.refuse(r, `"and"`)
	}
	return d.refuse(r, `"but not"`)
}

func (d *direct) refuse(r *relationDef, what string) error {
	return &filter.Untranslatable{
		Policy: rampart.PolicyRef{Engine: "rebac", ID: r.typ.name + "#" + r.name, File: d.m.name, Line: r.line, Effect: rampart.Allow},
		What:   "row-level security has no " + what + " of relations",
	}
}

func (d *direct) subjects(out *filter.Relation, r *relationDef, depth int) error {
	fact := factName(d.stated[r.typ.name+"#"+r.name])
	if r.conditional {
		return d.refuse(r, "condition")
	}
	for _, x := range r.allowed {
		if d.left--; d.left < 0 {
			return d.refuse(r, fmt.Sprintf("more than %d subjects", maxDirectWays))
		}
		w := filter.Way{Relation: r.name, Subject: d.m.byID[x.typ].name, Everyone: x.wildcard, Fact: fact}
		switch {
		case fact != "" && (x.wildcard || x.relation != 0):
			continue // a token names the subject itself, and what it states no tuple says
		case x.relation != 0 && depth == maxDirectDepth:
			return d.refuse(r, fmt.Sprintf("usersets within usersets more than %d deep", maxDirectDepth))
		case x.relation != 0:
			members, err := d.relation(d.m.relations[x.relation], depth+1)
			if err != nil {
				return err
			}
			w.Members = &members
		}
		out.Ways = append(out.Ways, w)
	}
	return nil
}

// factName is how row-level security names a list of FromToken.
func factName(list string) string {
	if list == "tenant" {
		return "org"
	}
	return list
}
