package rebac

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// A list is a walk that goes on to the end. Where only "or" lies on the way it
// finds exactly the list; elsewhere it finds whoever may be on the list, and
// each is then checked. An error of one of them is an error of the list.

func (a *question) objects(q authz.RelationQuery) ([]string, error) {
	if err := a.setRelation(q); err != nil {
		return nil, err
	}
	if err := a.setSubject(q.Subject); err != nil {
		return nil, err
	}
	if err := a.setAlso(q.Also); err != nil {
		return nil, err
	}
	found, err := a.collect(a.relation.pure, a.climb)
	if err != nil {
		return nil, err
	}
	a.keepClimb()
	found, err = a.confirm(found, func(id uint32) node { return nodeOf(id, a.relation.id) })
	if err != nil {
		return nil, err
	}
	return a.names(found, func(x *entity) string { return x.name[len(q.Type)+1:] })
}

// collect runs a walk. If a condition fails on the way, the list is uncertain
// unless it would be the same had all of them held, or everyone is on it anyway.
func (a *question) collect(exact bool, walk func() ([]uint32, error)) ([]uint32, error) {
	a.lenient = !exact
	found, failed := walk()
	a.lenient = false
	if failed == nil || failed == authz.ErrTooComplex || a.abort != nil {
		return found, a.aborted(failed)
	}
	a.lenient = true
	more, err := walk()
	a.lenient = false
	if err = a.aborted(err); err != nil {
		return nil, err
	}
	everyone := slices.ContainsFunc(found, func(id uint32) bool { return isEveryone(a.entity(id).name) })
	if len(more) > len(found) && !everyone {
		return nil, failed
	}
	return found, nil
}

func (a *question) aborted(err error) error {
	if a.abort != nil {
		return a.abort
	}
	return err
}

// climb finds the objects above the subject.
func (a *question) climb() ([]uint32, error) {
	w := a.walk(a.relation)
	w.all = true
	w.upFrom(a.who)
	if a.everyone != 0 {
		w.upFrom(nodeOf(a.everyone, 0))
	}
	for i := 0; i < len(a.up.items) && a.abort == nil; i++ {
		w.stepUp(i)
	}
	var found []uint32
	for _, it := range a.up.items { // nearest first
		if it.node.relation() != a.relation.id {
			continue
		}
		if it.depth > MaxDepth && a.relation.pure {
			return nil, authz.ErrTooComplex
		}
		found = append(found, it.node.id())
	}
	return found, w.failed
}

// keepClimb keeps what a climb has found, so that the candidates need no search
// each: without conditions on the way, a pure relation holds exactly where the
// climb came by. A userset is not only above but may be the node itself, one
// relation nearer: its depth is left to the search.
func (a *question) keepClimb() {
	if a.relation.pure || a.asked || a.who.relation() != 0 {
		return
	}
	a.above, a.up, a.climbed = a.up, a.above, true
}

// confirm keeps the candidates of whom the question holds.
func (a *question) confirm(found []uint32, of func(id uint32) node) ([]uint32, error) {
	if a.relation.pure {
		return found, nil
	}
	kept := found[:0]
	for _, id := range found {
		v, _ := a.eval(of(id), 1)
		if err := a.aborted(v.err); err != nil {
			return nil, err
		}
		if v.yes {
			kept = append(kept, id)
		}
	}
	return kept, nil
}

func (a *question) names(found []uint32, name func(*entity) string) ([]string, error) {
	if len(found) > MaxResults {
		return nil, authz.ErrTooComplex
	}
	out := make([]string, len(found))
	for i, id := range found {
		out[i] = name(a.entity(id))
	}
	slices.Sort(out)
	return out, nil
}

// wanted is the kind of subject that Subjects lists.
type wanted struct {
	typ      uint16
	relation uint16
	suffix   string // "#member"
}

func (a *question) wanted(s string) (wanted, error) {
	typ, relation, userset := strings.Cut(s, "#")
	t := a.m.types[typ]
	if t == nil {
		return wanted{}, fmt.Errorf("type %s: %w", clip(typ), ErrUnknownType)
	}
	if !userset {
		return wanted{typ: t.id}, nil
	}
	r, err := a.m.relation(typ, relation)
	if err != nil {
		return wanted{}, err
	}
	return wanted{t.id, r.id, "#" + relation}, nil
}

func (a *question) subjects(q authz.RelationQuery) ([]string, error) {
	if err := a.setObject(q); err != nil {
		return nil, err
	}
	want, err := a.wanted(q.Subject)
	if err != nil {
		return nil, err
	}
	if err := a.setAlso(q.Also); err != nil {
		return nil, err
	}
	found, err := a.collect(a.relation.pure, func() ([]uint32, error) { return a.descend(want) })
	if err != nil {
		return nil, err
	}
	found, err = a.confirm(found, func(id uint32) node {
		a.turnTo(id, want)
		return nodeOf(a.object, a.relation.id)
	})
	if err != nil {
		return nil, err
	}
	return a.names(found, func(x *entity) string { return x.name + want.suffix })
}

// turnTo asks about another subject.
func (a *question) turnTo(id uint32, want wanted) {
	a.forget()
	a.who, a.everyone = nodeOf(id, want.relation), 0
	if want.relation == 0 && !isEveryone(a.entity(id).name) {
		a.everyone = a.everyoneOf(a.m.byID[want.typ])
	}
}

// descend finds the subjects below the object.
func (a *question) descend(want wanted) ([]uint32, error) {
	w := a.walk(a.relation)
	w.all = true
	w.down(nodeOf(a.object, a.relation.id), -1, 0, 1)
	var found []uint32
	for i := 0; i < len(a.down.items) && a.abort == nil; i++ {
		more := w.namedAt(a.down.items[i].node, want)
		if len(more) > 0 && a.down.items[i].depth > MaxDepth && a.relation.pure {
			return nil, authz.ErrTooComplex
		}
		found = append(found, more...)
		w.stepDown(i)
	}
	return found, w.failed
}

// namedAt returns the wanted subjects that a node names and that were not found
// before; the set of those is in the unused side.
func (w *walk) namedAt(n node, want wanted) []uint32 {
	var found []uint32
	add := func(id uint32) {
		if w.question.up.seen.add(uint64(id), 0) {
			found = append(found, id)
		}
	}
	r := w.m.relations[n.relation()]
	switch {
	case want.relation != 0:
		if n.relation() == want.relation {
			add(n.id())
		}
	case r.down.direct:
		w.eachDown(n.id(), w.named(n.id(), r.id), func(k uint64) {
			if w.entity(keyID(k)).typ == want.typ {
				add(keyID(k))
			}
		})
	}
	return found
}
