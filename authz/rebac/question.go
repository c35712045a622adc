package rebac

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// node is a relation of an object: entity<<16 | relation. "alice herself" is
// her entity with relation 0.
type node uint64

func nodeOf(id uint32, relation uint16) node { return node(id)<<16 | node(relation) }

func (n node) id() uint32       { return uint32(n >> 16) }
func (n node) relation() uint16 { return uint16(n) }

// value is an answer: yes, no or, when err is set, unknown.
type value struct {
	yes bool
	err error
}

// question is the working memory of one question. It is reused, so that a check
// allocates nothing.
type question struct {
	ctx    context.Context
	m      *Model
	s      *snapshot
	params map[string]any
	also   overlay
	extra  []entity // names that only this question knows; numbered from s.top+1

	who      node // the subject
	everyone uint32
	object   uint32
	relation *relationDef

	left     int // steps
	abort    error
	down, up side
	above    side // of a list: what the climb from the subject has reached
	climbed  bool // above is all there is, and holds for certain
	lenient  bool // a condition that fails counts as one that holds
	asked    bool // some tuple had a condition

	known   table // answers by node
	answers []value
	stack   []frame
	level   int // of "but not" around

	explain  bool
	path     []string
	paths    map[node][]string
	excluded []string
	frontier []node
}

func (a *question) start(ctx context.Context, m *Model, s *snapshot, q authz.RelationQuery, steps int) {
	a.ctx, a.m, a.s, a.params, a.left = ctx, m, s, q.Context, steps
}

// release forgets the question; it reports whether the memory is small enough
// to keep.
func (a *question) release() bool {
	clear(a.extra)
	clear(a.answers)
	keep := a.down.small() && a.up.small() && a.above.small() && a.known.small() && cap(a.extra) <= 64
	*a = question{
		down: a.down.reset(), up: a.up.reset(), above: a.above.reset(), known: a.known.reset(),
		extra: a.extra[:0], answers: a.answers[:0], stack: a.stack[:0],
	}
	return keep
}

// step counts one look at a tuple.
func (a *question) step() bool {
	a.left--
	if a.left < 0 {
		a.abort = authz.ErrTooComplex
	}
	if a.left&0xff == 0 && a.abort == nil && a.ctx.Err() != nil {
		a.abort = a.ctx.Err()
	}
	return a.abort == nil
}

// entity returns an entity of the graph or of the question.
func (a *question) entity(id uint32) *entity {
	if id <= a.s.top {
		return a.s.entity(id)
	}
	return &a.extra[id-a.s.top-1]
}

// find returns the number of a name, giving it one for this question if the
// graph does not know it.
func (a *question) find(name string, typ uint16) uint32 {
	if id := a.s.find(name); id != 0 {
		return id
	}
	for i := range a.extra {
		if a.extra[i].name == name {
			return a.s.top + 1 + uint32(i)
		}
	}
	a.extra = append(a.extra, entity{name: name, typ: typ})
	return a.s.top + uint32(len(a.extra))
}

// resolve checks the question of Related and looks its names up.
func (a *question) resolve(q authz.RelationQuery) error {
	if err := a.setObject(q); err != nil {
		return err
	}
	if err := a.setSubject(q.Subject); err != nil {
		return err
	}
	return a.setAlso(q.Also)
}

func (a *question) setObject(q authz.RelationQuery) error {
	if err := a.setRelation(q); err != nil {
		return err
	}
	if q.ID == "" || q.ID == "*" || !cleanID(q.ID) || len(q.Type)+1+len(q.ID) > maxObjectBytes {
		return fmt.Errorf("%w: the object's id %s", ErrInvalid, clip(q.ID))
	}
	a.object = a.findObject(q.Type, q.ID)
	return nil
}

// findObject avoids joining the name of an object that the graph knows.
func (a *question) findObject(typ, id string) uint32 {
	var buf [maxObjectBytes]byte
	name := append(append(append(buf[:0], typ...), ':'), id...)
	if n := a.s.findBytes(name); n != 0 {
		return n
	}
	return a.find(string(name), a.m.types[typ].id)
}

func (a *question) setRelation(q authz.RelationQuery) error {
	r, err := a.m.relation(q.Type, q.Relation)
	a.relation = r
	return err
}

func (a *question) setSubject(s string) error {
	obj, relation, everyone, ok := subject(s)
	if !ok {
		return fmt.Errorf("%w: the subject %s", ErrInvalid, clip(s))
	}
	typ, _, _ := strings.Cut(obj, ":")
	t := a.m.types[typ]
	if t == nil {
		return fmt.Errorf("%w: the model has no type %s", ErrInvalid, clip(typ))
	}
	via := uint16(0)
	if relation != "" {
		r := t.relations[relation]
		if r == nil {
			return fmt.Errorf("%w: the type %s has no relation %s", ErrInvalid, typ, clip(relation))
		}
		via = r.id
	}
	a.who, a.everyone = nodeOf(a.find(obj, t.id), via), 0
	if via == 0 && !everyone {
		a.everyone = a.everyoneOf(t)
	}
	return nil
}

// everyoneOf returns the entity "type:*" if any tuple has it.
func (a *question) everyoneOf(t *typeDef) uint32 {
	if id := a.s.everyone[t.id]; id != 0 {
		return id
	}
	for i := range a.extra {
		if x := &a.extra[i]; x.typ == t.id && isEveryone(x.name) {
			return a.s.top + 1 + uint32(i)
		}
	}
	return 0
}

// overlay holds the tuples of a question, in the graph's form: keys sorted by
// their entity, then by key.
type overlay struct {
	forward, reverse extraEdges
	conditions       map[edgeKey]*bound
}

type extraEdges []edgeKey

type edgeKey struct {
	id  uint32
	key uint64
}

func (e edgeKey) compare(f edgeKey) int {
	return cmp.Or(cmp.Compare(e.id, f.id), cmp.Compare(e.key, f.key))
}

func (a *question) setAlso(also []authz.Tuple) error {
	if len(also) == 0 {
		return nil
	}
	if len(also) > MaxAlso {
		return fmt.Errorf("%w: a question brings at most %d tuples", ErrInvalid, MaxAlso)
	}
	a.also.conditions = map[edgeKey]*bound{}
	for _, t := range also {
		x, err := a.m.resolve(t)
		if err != nil {
			return err
		}
		obj, sub := a.find(t.Object, x.objectType.id), a.find(x.subject, x.subjectType.id)
		f := edgeKey{obj, key(x.relation.id, x.via, sub)}
		a.also.forward = append(a.also.forward, f)
		a.also.reverse = append(a.also.reverse, edgeKey{sub, key(x.via, x.relation.id, obj)})
		a.also.conditions[f] = x.condition
	}
	slices.SortFunc(a.also.forward, edgeKey.compare)
	slices.SortFunc(a.also.reverse, edgeKey.compare)
	if a.everyone == 0 && a.who != 0 && a.who.relation() == 0 && !isEveryone(a.entity(a.who.id()).name) {
		a.everyone = a.everyoneOf(a.m.byID[a.entity(a.who.id()).typ])
	}
	return nil
}

// between returns the edges of an entity from lo up to, not including, hi.
func (e extraEdges) between(id uint32, lo, hi uint64) extraEdges {
	if len(e) == 0 {
		return nil
	}
	i, _ := slices.BinarySearchFunc(e, edgeKey{id, lo}, edgeKey.compare)
	n, _ := slices.BinarySearchFunc(e[i:], edgeKey{id, hi}, edgeKey.compare)
	return e[i : i+n]
}

// edges is a range of tuples: those of the graph and those of the question.
type edges struct {
	graph []uint64
	also  extraEdges
}

func (e edges) len() int { return len(e.graph) + len(e.also) }

func (e edges) at(i int) uint64 {
	if i < len(e.graph) {
		return e.graph[i]
	}
	return e.also[i-len(e.graph)].key
}

// tuples of an object: all of a relation whose subjects come via from..to.
func (a *question) forward(id uint32, relation, from, to uint16) edges {
	lo, hi := key(relation, from, 0), key(relation, to, 0)
	return edges{between(a.entity(id).forward, lo, hi), a.also.forward.between(id, lo, hi)}
}

// objects reads the subjects of one relation that are no usersets.
func (a *question) named(id uint32, relation uint16) edges { return a.forward(id, relation, 0, 1) }

// usersets reads the subjects of one relation that are usersets.
func (a *question) usersets(id uint32, relation uint16) edges {
	lo, hi := key(relation, 1, 0), key(relation+1, 0, 0)
	return edges{between(a.entity(id).forward, lo, hi), a.also.forward.between(id, lo, hi)}
}

// reverse reads the objects to which a subject stands in a relation.
func (a *question) reverse(id uint32, via, relation uint16) edges {
	lo, hi := key(via, relation, 0), key(via, relation+1, 0)
	return edges{between(a.entity(id).reverse, lo, hi), a.also.reverse.between(id, lo, hi)}
}

// holds evaluates the condition of a tuple. In lenient mode a failure holds.
func (a *question) holds(obj uint32, k uint64) (bool, error) {
	if !a.m.relations[keyA(k)].conditional {
		return true, nil
	}
	c, here := a.also.conditions[edgeKey{obj, k}]
	if !here {
		c = a.entity(obj).conditions[k]
	}
	if c == nil {
		return true, nil
	}
	a.asked = true
	yes, err := c.holds(a.ctx, a.params)
	if a.ctx.Err() != nil { // one condition may cost as much as hundreds of steps
		a.abort = a.ctx.Err()
		return false, a.abort
	}
	if err != nil && a.lenient {
		return true, nil
	}
	return yes, err
}

// grants looks for tuples that name the subject itself, or everyone.
func (a *question) grants(obj uint32, relation uint16) (uint64, value) {
	k := key(relation, a.who.relation(), a.who.id())
	v := a.tuple(obj, k)
	if v.yes || a.everyone == 0 {
		return k, v
	}
	k2 := key(relation, 0, a.everyone)
	if w := a.tuple(obj, k2); w.yes || v.err == nil {
		return k2, w
	}
	return k, v
}

func (a *question) tuple(obj uint32, k uint64) value {
	if _, found := slices.BinarySearch(a.entity(obj).forward, k); !found && len(a.also.forward.between(obj, k, k+1)) == 0 {
		return value{}
	}
	yes, err := a.holds(obj, k)
	return value{yes && err == nil, err}
}
