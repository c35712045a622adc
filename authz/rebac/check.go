package rebac

import (
	"errors"
	"fmt"
	"math"

	"github.com/rampart-security/rampart/authz"
)

// Where "and" or "but not" lies between object and subject, the definitions are
// evaluated from the object down. A relation that needs itself adds nothing to
// itself (the least fixpoint); one that needs its own absence has no answer.

// errParadox: whether the relation holds depends on its not holding.
var errParadox = errors.New("the relation excludes itself")

// frame is a node that is being evaluated.
type frame struct {
	node  node
	level int // of "but not"
}

// settled means that an answer rests on no node that is still being evaluated.
const settled = math.MaxInt

// answer answers the question that was resolved.
func (a *question) answer() value {
	v, _ := a.eval(nodeOf(a.object, a.relation.id), 1)
	if a.abort != nil {
		return value{err: a.abort}
	}
	return v
}

// eval returns whether the subject has a relation, and the lowest place on the
// stack that the answer rests on.
func (a *question) eval(n node, depth int) (value, int) {
	if v, ok := a.remembered(n); ok {
		return v, settled
	}
	switch {
	case depth > MaxDepth:
		return value{err: authz.ErrTooComplex}, settled
	case n == a.who:
		return value{yes: true}, settled
	}
	mark := len(a.path)
	r := a.m.relations[n.relation()]
	v, low := value{}, settled
	if r.pure {
		v = a.pure(n, depth-1)
	} else {
		v, low = a.evalOnce(n, r, depth)
	}
	if low == settled {
		a.remember(n, v, mark)
	}
	return v, low
}

// pure answers for a pure relation, from the climb of a list if there was one.
func (a *question) pure(n node, above int) value {
	if !a.climbed || !has(a.relation.below, n.relation()) {
		return a.reach(n, above)
	}
	i, ok := a.above.seen.get(uint64(n))
	switch {
	case !ok:
		return value{}
	case int(a.above.items[i].depth) > MaxDepth-above:
		return value{err: authz.ErrTooComplex}
	}
	return value{yes: true}
}

func (a *question) evalOnce(n node, r *relationDef, depth int) (value, int) {
	for i, f := range a.stack {
		if f.node != n {
			continue
		}
		if f.level != a.level {
			return value{err: fmt.Errorf("%w: %s", errParadox, a.nodeText(n))}, i
		}
		return value{}, i
	}
	at := len(a.stack)
	a.stack = append(a.stack, frame{n, a.level})
	a.noteNode(n)
	v, low := a.rewrite(n.id(), r, r.rewrite, depth)
	a.stack = a.stack[:at]
	if low >= at {
		low = settled
	}
	return v, low
}

func (a *question) rewrite(id uint32, r *relationDef, w *rewrite, depth int) (value, int) {
	switch w.op {
	case opThis:
		return a.direct(id, r, depth)
	case opComputed:
		return a.eval(nodeOf(id, w.computed), depth+1)
	case opFrom:
		return a.from(id, w.from, depth)
	case opOr:
		return a.or(id, r, w.args, depth)
	case opAnd:
		return a.and(id, r, w.args, depth)
	}
	return a.butNot(id, r, w.args[0], w.args[1], depth)
}

func (a *question) or(id uint32, r *relationDef, args []*rewrite, depth int) (value, int) {
	out, low := value{}, settled
	for _, w := range args {
		v, l := a.rewrite(id, r, w, depth)
		low = min(low, l)
		if v.yes || a.abort != nil {
			return v, low
		}
		if v.err != nil {
			out = v
		}
	}
	return out, low
}

func (a *question) and(id uint32, r *relationDef, args []*rewrite, depth int) (value, int) {
	out, low, mark := value{yes: true}, settled, len(a.path)
	for _, w := range args {
		v, l := a.rewrite(id, r, w, depth)
		low = min(low, l)
		if !v.yes && v.err == nil || a.abort != nil {
			a.path = a.path[:mark]
			return v, low
		}
		if v.err != nil {
			out = v
		}
	}
	return out, low
}

func (a *question) butNot(id uint32, r *relationDef, base, subtract *rewrite, depth int) (value, int) {
	start := len(a.path)
	v, low := a.rewrite(id, r, base, depth)
	if !v.yes && v.err == nil || a.abort != nil {
		return v, low
	}
	mark := len(a.path)
	a.level++
	not, l := a.rewrite(id, r, subtract, depth)
	a.level--
	low = min(low, l)
	switch {
	case not.err != nil:
		return value{err: not.err}, low
	case not.yes:
		a.noteExclusion(start, mark)
		return value{}, low
	}
	return v, low
}

// direct looks at the tuples of the relation itself.
func (a *question) direct(id uint32, r *relationDef, depth int) (value, int) {
	k, out := a.grants(id, r.id)
	if out.yes {
		a.noteTuple(id, k)
		return out, settled
	}
	return a.any(id, a.usersets(id, r.id), out, depth, keyB)
}

func (a *question) from(id uint32, f fromStep, depth int) (value, int) {
	return a.any(id, a.named(id, f.tupleset), value{}, depth, func(k uint64) uint16 {
		return f.down[a.entity(keyID(k)).typ]
	})
}

// any is "or" over tuples: each leads to a relation of the object it names, 0
// for none.
func (a *question) any(id uint32, list edges, out value, depth int, to func(k uint64) uint16) (value, int) {
	low := settled
	for i := range list.len() {
		if !a.step() {
			return value{err: a.abort}, low
		}
		k := list.at(i)
		relation := to(k)
		if relation == 0 {
			continue
		}
		v, l := a.along(id, k, nodeOf(keyID(k), relation), depth)
		low = min(low, l)
		if v.yes {
			return v, low
		}
		if v.err != nil {
			out = v
		}
	}
	return out, low
}

// along is a tuple's condition "and" what lies behind it.
func (a *question) along(id uint32, k uint64, to node, depth int) (value, int) {
	holds, failed := a.holds(id, k)
	if !holds && failed == nil {
		return value{}, settled
	}
	mark := len(a.path)
	a.noteTuple(id, k)
	v, low := a.eval(to, depth+1)
	if v.yes && failed == nil {
		return v, low
	}
	a.path = a.path[:min(mark, len(a.path))]
	if v.yes {
		v = value{err: failed}
	}
	return v, low
}

func (a *question) remembered(n node) (value, bool) {
	i, ok := a.known.get(uint64(n))
	if !ok {
		return value{}, false
	}
	a.path = append(a.path, a.paths[n]...)
	return a.answers[i], true
}

// remember keeps an answer, but not that something was too deep: from elsewhere
// it may be near.
func (a *question) remember(n node, v value, mark int) {
	if errors.Is(v.err, authz.ErrTooComplex) || a.abort != nil {
		return
	}
	if a.known.add(uint64(n), int32(len(a.answers))) {
		a.answers = append(a.answers, v)
		a.notePathOf(n, v, mark)
	}
}

// forget makes the question ready for another subject.
func (a *question) forget() {
	clear(a.answers)
	a.known, a.answers = a.known.reset(), a.answers[:0]
}
