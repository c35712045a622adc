package rebac

import (
	"github.com/rampart-security/rampart/authz"
)

// Where only "or" lies between object and subject the answer is a path in a
// graph. It is sought from both ends at once; each time the end that has fewer
// tuples to look at goes one node further. So neither a team with a million
// documents nor a document shared with a thousand teams costs anything alone.

// item is a node that was reached, and how.
type item struct {
	node   node
	parent int32 // index in the queue; -1 for the start
	via    uint16
	depth  uint16
}

// side is the search from one end.
type side struct {
	queue []item
	head  int
	seen  table
	cut   bool // something lies beyond MaxDepth
	cost  int  // of the node at head; -1 when not counted yet
}

func (s *side) small() bool { return cap(s.queue) <= 1<<14 && s.seen.small() }

func (s *side) reset() side { return side{queue: s.queue[:0], seen: s.seen.reset(), cost: -1} }

func (s *side) begin() {
	s.queue, s.head, s.cut, s.cost = s.queue[:0], 0, false, -1
	s.seen = s.seen.reset()
}

func (s *side) done() bool { return s.head >= len(s.queue) }

// add appends a node that was not seen yet and returns its index, or -1.
func (s *side) add(n node, parent int, via uint16, depth uint16) int {
	if !s.seen.add(uint64(n), int32(len(s.queue))) {
		return -1
	}
	s.queue = append(s.queue, item{n, int32(parent), via, depth})
	return len(s.queue) - 1
}

// meeting is where the two ends have met: indexes in the queues, -1 for none.
type meeting struct {
	down, up int
	grant    uint64 // the tuple that names the subject, when up is -1
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
	_, found, cut := a.search(start, above)
	a.lenient = false
	switch {
	case a.abort != nil:
		return a.abort
	case found:
		return err
	}
	return cut
}

// search looks for a path. Without one the error says why there may be one
// nevertheless.
func (a *question) search(start node, above int) (meeting, bool, error) {
	w := a.walk(a.m.relations[start.relation()], MaxDepth-above)
	w.down(start, -1, 0, 1)
	w.upFrom(a.who)
	if a.everyone != 0 {
		w.upFrom(nodeOf(a.everyone, 0))
	}
	for !w.found && a.abort == nil && !a.down.done() && !a.up.done() {
		if w.costDown() <= w.costUp() {
			w.stepDown()
		} else {
			w.stepUp()
		}
	}
	return w.end()
}

// end says how the walk has ended.
func (w *walk) end() (meeting, bool, error) {
	a := w.question
	seen := a.down.done() && !a.down.cut || a.up.done() && !a.up.cut // one end has seen everything
	for a.explain && !w.found && !a.down.done() && len(a.down.queue) < maxFrontier && a.abort == nil {
		w.stepDown() // for the explanation only
	}
	switch {
	case w.found:
		return w.where, true, nil
	case w.failed != nil:
		return meeting{}, false, w.failed
	case seen:
		return meeting{}, false, nil
	}
	return meeting{}, false, authz.ErrTooComplex
}

// walk is one search.
type walk struct {
	*question
	target *relationDef // prunes the way up
	all    bool         // sees everything: nobody is sought
	depth  int
	found  bool
	where  meeting
	failed error
}

func (a *question) walk(target *relationDef, depth int) walk {
	a.down.begin()
	a.up.begin()
	return walk{question: a, target: target, depth: depth}
}

// meet ends the walk, unless the ends are too far apart: then the end that sees
// everything is cut too.
func (w *walk) meet(down, up int, grant uint64, depth int) {
	if depth <= w.depth {
		w.where, w.found = meeting{down, up, grant}, true
	}
}

// down adds a node on the way down and looks whether it is the end.
func (w *walk) down(n node, parent int, via uint16, depth uint16) {
	if int(depth) > w.depth {
		w.question.down.cut = true
		return
	}
	i := w.question.down.add(n, parent, via, depth)
	if i < 0 || w.all {
		return
	}
	if n == w.who {
		w.meet(i, 0, 0, int(depth))
		return
	}
	if j, ok := w.question.up.seen.get(uint64(n)); ok {
		w.meet(i, int(j), 0, int(depth)+int(w.question.up.queue[j].depth)-1)
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
		w.meet(i, -1, k, int(depth))
	}
}

// upFrom starts the way up.
func (w *walk) upFrom(n node) { w.question.up.add(n, -1, 0, 0) }

// upTo adds a node on the way up; relations that cannot lead to the target are
// left out before.
func (w *walk) upTo(n node, parent int, via uint16, depth uint16) {
	if int(depth) > w.depth {
		w.question.up.cut = true
		return
	}
	i := w.question.up.add(n, parent, via, depth)
	if i < 0 || w.all {
		return
	}
	if j, ok := w.question.down.seen.get(uint64(n)); ok {
		w.meet(int(j), i, 0, int(depth)+int(w.question.down.queue[j].depth)-1)
	}
}

func (w *walk) costDown() int {
	s := &w.question.down
	if s.cost < 0 {
		n := s.queue[s.head].node
		r := w.m.relations[n.relation()]
		s.cost = len(r.down.same)
		if r.down.direct {
			s.cost += w.usersets(n.id(), r.id).len()
		}
		for _, f := range r.down.from {
			s.cost += w.named(n.id(), f.tupleset).len()
		}
	}
	return s.cost
}

func (w *walk) costUp() int {
	s := &w.question.up
	if s.cost < 0 {
		s.cost = 0
		w.eachUp(s.queue[s.head].node, func(_ uint16, _ uint16, list edges) bool { s.cost += max(list.len(), 1); return true })
	}
	return s.cost
}

func (w *walk) stepDown() {
	s := &w.question.down
	at, it := s.head, s.queue[s.head]
	s.head, s.cost = s.head+1, -1
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

func (w *walk) stepUp() {
	s := &w.question.up
	at, it := s.head, s.queue[s.head]
	s.head, s.cost = s.head+1, -1
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
