package rebac

import (
	"math"

	"github.com/rampart-security/rampart/authz"
)

// Where only "or" lies between object and subject the answer is a path in a
// graph. It is sought from both ends at once. Each end keeps what it has reached
// but not looked behind yet by relation, and the cheapest node goes next: the
// one with the fewest tuples. So neither a team with a million documents nor a
// document shared with a thousand teams costs anything alone.
//
// The search is over when no relation that waits at the object's end can lead,
// by the model, to one that waits at the subject's end: folders have been
// followed up to the root and teams up to the largest, and there is no need to
// look at all members of all teams.

// item is a node that was reached, and how.
type item struct {
	node   node
	parent int32 // index in the list of reached nodes; -1 for the start
	next   int32 // that waits for the same relation; 0 for none (the first item is never a next)
	via    uint16
	depth  uint32
}

// side is the search from one end.
type side struct {
	items   []item
	seen    table
	classes []class // what waits, by relation
}

// class is a queue of nodes of one relation.
type class struct {
	relation   uint16
	head, tail int32
	cost       int // of the node at head; -1 when not counted yet
}

func (s *side) small() bool { return cap(s.items) <= 1<<14 && s.seen.small() }

func (s *side) reset() side {
	return side{items: s.items[:0], seen: s.seen.reset(), classes: s.classes[:0]}
}

// add appends a node that was not seen yet and returns its index, or -1.
func (s *side) add(n node, parent int, via uint16, depth uint32) int {
	i := int32(len(s.items))
	if !s.seen.add(uint64(n), i) {
		return -1
	}
	s.items = append(s.items, item{n, int32(parent), 0, via, depth})
	for c := range s.classes {
		if k := &s.classes[c]; k.relation == n.relation() {
			s.items[k.tail].next = i
			k.tail = i
			return int(i)
		}
	}
	s.classes = append(s.classes, class{n.relation(), i, i, -1})
	return int(i)
}

// take removes the head of a class and returns its index.
func (s *side) take(c int) int {
	k := &s.classes[c]
	i := k.head
	k.head, k.cost = s.items[i].next, -1
	if k.head == 0 {
		s.classes[c] = s.classes[len(s.classes)-1]
		s.classes = s.classes[:len(s.classes)-1]
	}
	return int(i)
}

// meeting is where the two ends have met: indexes in the queues, -1 for none.
type meeting struct {
	down, up int
	length   int    // relations on the way
	grant    uint64 // when up is -1: the tuple that names the subject, 0 if the node is the subject
}

// reach answers for a pure relation of an object, allowing for the relations
// above it.
func (a *question) reach(start node, above int) value {
	met, found, err := a.search(start, above)
	switch {
	case a.abort != nil:
		return value{err: a.abort}
	case found:
		a.notePath(met)
		return value{yes: true}
	case err == nil || err == authz.ErrTooComplex:
		a.noteFrontier()
		return value{err: err}
	}
	return value{err: a.despite(start, above, err)}
}

// despite keeps an error only if it matters: if there would be a path, had every
// condition held.
func (a *question) despite(start node, above int, err error) error {
	a.lenient = true
	_, found, tooLong := a.search(start, above)
	a.lenient = false
	switch {
	case a.abort != nil:
		return a.abort
	case found:
		return err
	}
	return tooLong
}

// search looks for a path of any length. If there is none, the error says why
// there may be one nevertheless; authz.ErrTooComplex says that there is none
// that is short enough.
func (a *question) search(start node, above int) (meeting, bool, error) {
	w := a.walk(a.m.relations[start.relation()])
	w.down(start, -1, 0, 1)
	w.upFrom(a.who)
	if a.everyone != 0 {
		w.upFrom(nodeOf(a.everyone, 0))
	}
	for !w.found && a.abort == nil && w.next() {
	}
	long := w.found && w.where.length > MaxDepth-above
	if long || a.explain && !w.found {
		w.inOrder(start, MaxDepth-above)
	}
	switch {
	case w.found:
		return w.where, true, nil
	case long:
		return meeting{}, false, authz.ErrTooComplex
	}
	return meeting{}, false, w.failed
}

// inOrder searches from the object alone, nearest first, and no further than the
// limit. The cheapest way is not the shortest, so only this can tell that a
// relation is too deep; and it is what an explanation of a no shows.
func (w *walk) inOrder(start node, limit int) {
	w.found = false
	w.question.down = w.question.down.reset()
	w.question.up = w.question.up.reset()
	w.down(start, -1, 0, 1)
	for i := 0; i < len(w.question.down.items) && !w.found && w.abort == nil; i++ {
		if int(w.question.down.items[i].depth) < limit {
			w.stepDown(i)
		}
	}
}

// next follows the cheapest node that may still lead to the other end; false if
// there is none.
func (w *walk) next() bool {
	best, from, class := math.MaxInt, &w.question.down, -1
	for c := range w.question.down.classes {
		if k := &w.question.down.classes[c]; w.leads(k.relation) && w.costDown(k) < best {
			best, class = k.cost, c
		}
	}
	for c := range w.question.up.classes {
		if k := &w.question.up.classes[c]; w.isLedTo(k.relation) && w.costUp(k) < best {
			best, from, class = k.cost, &w.question.up, c
		}
	}
	switch {
	case class < 0:
		return false
	case from == &w.question.down:
		w.stepDown(from.take(class))
	default:
		w.stepUp(from.take(class))
	}
	return true
}

// leads reports whether a relation can lead to what waits at the subject's end.
func (w *walk) leads(relation uint16) bool {
	below := w.m.relations[relation].below
	for _, k := range w.question.up.classes {
		if k.relation == 0 || has(below, k.relation) {
			return true
		}
	}
	return false
}

// isLedTo is the same from the other end.
func (w *walk) isLedTo(relation uint16) bool {
	for _, k := range w.question.down.classes {
		if relation == 0 || has(w.m.relations[k.relation].below, relation) {
			return true
		}
	}
	return false
}

// walk is one search.
type walk struct {
	*question
	target *relationDef // prunes the way up
	all    bool         // sees everything: nobody is sought
	found  bool
	where  meeting
	failed error
}

func (a *question) walk(target *relationDef) walk {
	a.down, a.up = a.down.reset(), a.up.reset()
	return walk{question: a, target: target}
}

// meet ends the walk.
func (w *walk) meet(down, up int, grant uint64, length uint32) {
	w.where, w.found = meeting{down, up, int(length), grant}, true
}

// down adds a node on the way down and looks whether it is the end.
func (w *walk) down(n node, parent int, via uint16, depth uint32) {
	i := w.question.down.add(n, parent, via, depth)
	if i < 0 || w.all {
		return
	}
	if n == w.who {
		w.meet(i, -1, 0, depth)
		return
	}
	if j, ok := w.question.up.seen.get(uint64(n)); ok {
		w.meet(i, int(j), 0, depth+w.question.up.items[j].depth-1)
		return
	}
	if !w.m.relations[n.relation()].down.direct {
		return
	}
	k, v := w.grants(n.id(), n.relation())
	if v.err != nil {
		w.failed = v.err
	}
	if v.yes {
		w.meet(i, -1, k, depth)
	}
}

// upFrom starts the way up.
func (w *walk) upFrom(n node) { w.question.up.add(n, -1, 0, 0) }

// upTo adds a node on the way up; relations that cannot lead to the target are
// left out before.
func (w *walk) upTo(n node, parent int, via uint16, depth uint32) {
	i := w.question.up.add(n, parent, via, depth)
	if i < 0 || w.all {
		return
	}
	if j, ok := w.question.down.seen.get(uint64(n)); ok {
		w.meet(int(j), i, 0, depth+w.question.down.items[j].depth-1)
	}
}

func (w *walk) costDown(k *class) int {
	if k.cost < 0 {
		n, r := w.question.down.items[k.head].node, w.m.relations[k.relation]
		k.cost = len(r.down.same)
		if r.down.direct {
			k.cost += w.usersets(n.id(), r.id).len()
		}
		for _, f := range r.down.from {
			k.cost += w.named(n.id(), f.tupleset).len()
		}
	}
	return k.cost
}

func (w *walk) costUp(k *class) int {
	if k.cost < 0 {
		cost := 0
		w.eachUp(w.question.up.items[k.head].node, func(_ uint16, _ uint16, list edges) bool {
			cost += max(list.len(), 1)
			return true
		})
		k.cost = cost
	}
	return k.cost
}

func (w *walk) stepDown(at int) {
	it := w.question.down.items[at]
	r, id, depth := w.m.relations[it.node.relation()], it.node.id(), it.depth+1
	for _, same := range r.down.same {
		if !w.found && w.step() {
			w.down(nodeOf(id, same), at, 0, depth)
		}
	}
	if r.down.direct {
		w.eachDown(id, w.usersets(id, r.id), func(k uint64) {
			w.down(nodeOf(keyID(k), keyB(k)), at, r.id, depth)
		})
	}
	for _, f := range r.down.from {
		w.eachDown(id, w.named(id, f.tupleset), func(k uint64) {
			if s := f.down[w.entity(keyID(k)).typ]; s != 0 {
				w.down(nodeOf(keyID(k), s), at, f.tupleset, depth)
			}
		})
	}
}

// eachDown calls f for tuples of an object whose conditions hold.
func (w *walk) eachDown(obj uint32, list edges, f func(k uint64)) {
	for i := range list.len() {
		if w.found || !w.step() {
			return
		}
		k := list.at(i)
		if w.follow(obj, k) {
			f(k)
		}
	}
}

func (w *walk) follow(obj uint32, forward uint64) bool {
	yes, err := w.holds(obj, forward)
	if err != nil {
		w.failed = err
	}
	return yes && err == nil
}

// eachUp calls f with the relations above a node and the tuples that lead there;
// none for "define a: b".
func (w *walk) eachUp(n node, f func(relation, tupleset uint16, list edges) bool) {
	if n.relation() == 0 {
		w.eachUpOf(n, f)
		return
	}
	r := w.m.relations[n.relation()]
	for _, t := range r.up.same {
		if has(w.target.below, t) && !f(t, 0, edges{}) {
			return
		}
	}
	for _, t := range r.up.userset {
		if has(w.target.below, t) && !f(t, t, w.reverse(n.id(), r.id, t)) {
			return
		}
	}
	for _, u := range r.up.from {
		if has(w.target.below, u.up) && !f(u.up, u.tupleset, w.reverse(n.id(), 0, u.tupleset)) {
			return
		}
	}
}

// eachUpOf is eachUp of a subject itself.
func (w *walk) eachUpOf(n node, f func(relation, tupleset uint16, list edges) bool) {
	x := w.entity(n.id())
	t := w.m.byID[x.typ]
	list := t.direct
	if isEveryone(x.name) {
		list = t.public
	}
	for _, r := range list {
		if has(w.target.below, r) && !f(r, r, w.reverse(n.id(), 0, r)) {
			return
		}
	}
}

func (w *walk) stepUp(at int) {
	it := w.question.up.items[at]
	id, depth := it.node.id(), it.depth+1
	w.eachUp(it.node, func(relation, tupleset uint16, list edges) bool {
		if tupleset == 0 && w.step() {
			w.upTo(nodeOf(id, relation), at, 0, depth)
		}
		for i := range list.len() {
			if w.found || !w.step() {
				return false
			}
			k := list.at(i)
			if w.follow(keyID(k), key(tupleset, keyA(k), id)) {
				w.upTo(nodeOf(keyID(k), relation), at, tupleset, depth)
			}
		}
		return !w.found && w.abort == nil
	})
}

// table maps nodes to numbers. Clearing it costs nothing.
type table struct {
	slots []slot
	used  int
	turn  uint32
}

type slot struct {
	key   uint64
	turn  uint32
	value int32
}

func (t *table) small() bool { return len(t.slots) <= 1<<15 }

func (t *table) reset() table {
	if t.turn == ^uint32(0) || len(t.slots) == 0 {
		return table{slots: make([]slot, 64), turn: 1}
	}
	return table{slots: t.slots, turn: t.turn + 1}
}

// hash spreads keys that differ in few bits (Fibonacci hashing, Knuth).
func (t *table) at(k uint64) int {
	mask := len(t.slots) - 1
	i := int((k*0x9e3779b97f4a7c15)>>32) & mask
	for t.slots[i].turn == t.turn && t.slots[i].key != k {
		i = (i + 1) & mask
	}
	return i
}

func (t *table) get(k uint64) (int32, bool) {
	if t.used == 0 {
		return 0, false
	}
	s := &t.slots[t.at(k)]
	return s.value, s.turn == t.turn
}

// add enters a key that is not there and reports whether it was not.
func (t *table) add(k uint64, v int32) bool {
	if 4*(t.used+1) > 3*len(t.slots) {
		t.grow()
	}
	s := &t.slots[t.at(k)]
	if s.turn == t.turn {
		return false
	}
	*s = slot{k, t.turn, v}
	t.used++
	return true
}

func (t *table) grow() {
	old := *t
	*t = table{slots: make([]slot, max(64, 2*len(old.slots))), turn: 1}
	for _, s := range old.slots {
		if s.turn == old.turn {
			t.add(s.key, s.value)
		}
	}
}
