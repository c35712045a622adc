package rebac

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/authz"
)

// The graph is kept as arrays. Every name ("user:alice") has a number; a tuple
// is one uint64 at its object and one at its subject:
//
//	forward, at the object:  relation<<48 | via<<32 | subject
//	reverse, at the subject: via<<48 | relation<<32 | object
//
// where via is the relation of a userset subject, or 0. Sorted, so that all
// tuples of one kind are a range.
type entity struct {
	name       string
	typ        uint16
	forward    []uint64
	reverse    []uint64
	conditions map[uint64]*bound // by forward key; of conditional tuples only
}

func key(a, b uint16, id uint32) uint64 { return uint64(a)<<48 | uint64(b)<<32 | uint64(id) }

func keyID(k uint64) uint32 { return uint32(k) }
func keyB(k uint64) uint16  { return uint16(k >> 32) }
func keyA(k uint64) uint16  { return uint16(k >> 48) }

// between returns the part of a sorted list from lo up to, not including, hi.
func between(list []uint64, lo, hi uint64) []uint64 {
	i, _ := slices.BinarySearch(list, lo)
	n, _ := slices.BinarySearch(list[i:], hi)
	return list[i : i+n]
}

const (
	pageBits  = 9
	pageSize  = 1 << pageBits
	shardBits = 10
)

type page [pageSize]*entity

// shard is an open-addressing table of entity numbers, by name; 0 is free. It is
// never more than three quarters full.
type shard struct {
	slots []uint32
	used  int
}

// snapshot is one revision of the graph, never changed once published.
type snapshot struct {
	revision uint64
	loaded   bool
	tuples   int
	top      uint32 // the highest number in use
	pages    []*page
	shards   []*shard
	seed     maphash.Seed
	everyone []uint32               // by type: the entity "type:*", or 0
	misfits  map[string]authz.Tuple // tuples that the model does not allow, kept for the next model
	next     chan struct{}          // closed when a newer snapshot is published
}

func (s *snapshot) entity(id uint32) *entity { return s.pages[id>>pageBits][id&(pageSize-1)] }

// find returns the number of a name, or 0.
func (s *snapshot) find(name string) uint32 {
	h := maphash.String(s.seed, name)
	sh := s.shards[h>>(64-shardBits)]
	if sh == nil {
		return 0
	}
	mask := uint64(len(sh.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		id := sh.slots[i]
		if id == 0 || s.entity(id).name == name {
			return id
		}
	}
}

// findBytes is find for a name that is not a string yet.
func (s *snapshot) findBytes(name []byte) uint32 {
	h := maphash.Bytes(s.seed, name)
	sh := s.shards[h>>(64-shardBits)]
	if sh == nil {
		return 0
	}
	mask := uint64(len(sh.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		id := sh.slots[i]
		if id == 0 || s.entity(id).name == string(name) {
			return id
		}
	}
}

func emptySnapshot(m *Model) *snapshot {
	return &snapshot{
		top: 0, pages: []*page{{}}, shards: make([]*shard, 1<<shardBits), seed: maphash.MakeSeed(),
		everyone: make([]uint32, len(m.byID)), misfits: map[string]authz.Tuple{}, next: make(chan struct{}),
	}
}

// editor makes the next snapshot from a copy of the last; what it has copied it
// owns and may change.
type editor struct {
	*snapshot
	model     *Model
	fresh     bool // owns everything
	ownPages  map[*page]bool
	ownShards map[*shard]bool
	edits     map[uint32]*edit
	free      *[]uint32 // numbers that no entity has; of the index's writer
}

// edit collects the changes of one entity.
type edit struct {
	forward, reverse map[uint64]bool // true: there, false: gone
	conditions       map[uint64]*bound
}

func (s *snapshot) edit(m *Model, free *[]uint32) *editor {
	next := *s
	next.pages = slices.Clone(s.pages)
	next.shards = slices.Clone(s.shards)
	next.everyone = slices.Clone(s.everyone)
	next.misfits = maps.Clone(s.misfits)
	next.next = make(chan struct{})
	return &editor{snapshot: &next, model: m, ownPages: map[*page]bool{}, ownShards: map[*shard]bool{}, edits: map[uint32]*edit{}, free: free}
}

// intern returns the number of a name, giving it one if need be.
func (e *editor) intern(name string, typ uint16, everyone bool) (uint32, error) {
	if id := e.find(name); id != 0 {
		return id, nil
	}
	id, err := e.number()
	if err != nil {
		return 0, err
	}
	name = strings.Clone(name) // it may be part of something large
	e.put(id, &entity{name: name, typ: typ})
	e.enter(name, id)
	if everyone {
		e.everyone[typ] = id
	}
	return id, nil
}

func (e *editor) number() (uint32, error) {
	if n := len(*e.free); n > 0 {
		id := (*e.free)[n-1]
		*e.free = (*e.free)[:n-1]
		return id, nil
	}
	if e.top >= maxEntities {
		return 0, fmt.Errorf("an index holds at most %d objects and subjects", maxEntities)
	}
	e.top++
	if int(e.top>>pageBits) >= len(e.pages) {
		p := &page{}
		e.pages = append(e.pages, p)
		e.ownPages[p] = true
	}
	return e.top, nil
}

// maxEntities leaves numbers for names that only a question knows.
const maxEntities = 1<<31 - 1

func (e *editor) put(id uint32, x *entity) {
	p := e.pages[id>>pageBits]
	if !e.fresh && !e.ownPages[p] {
		c := *p
		p = &c
		e.ownPages[p] = true
		e.pages[id>>pageBits] = p
	}
	p[id&(pageSize-1)] = x
}

func (e *editor) enter(name string, id uint32) {
	h := maphash.String(e.seed, name)
	sh := e.shard(h, 1)
	insertSlot(sh.slots, h, id)
	sh.used++
}

func insertSlot(slots []uint32, h uint64, id uint32) {
	mask := uint64(len(slots) - 1)
	i := h & mask
	for slots[i] != 0 {
		i = (i + 1) & mask
	}
	slots[i] = id
}

// shard returns the shard of a hash, owned and with room for more names.
func (e *editor) shard(h uint64, more int) *shard {
	at := &e.shards[h>>(64-shardBits)]
	sh := *at
	switch {
	case sh == nil:
		sh = &shard{slots: make([]uint32, 8)}
	case 4*(sh.used+more) > 3*len(sh.slots):
		sh = e.rebuilt(sh, 2*len(sh.slots), 0)
	case !e.fresh && !e.ownShards[sh]:
		sh = &shard{slots: slices.Clone(sh.slots), used: sh.used}
	}
	if !e.fresh {
		e.ownShards[sh] = true
	}
	*at = sh
	return sh
}

// rebuilt copies a shard to another size, leaving one entity out.
func (e *editor) rebuilt(old *shard, size int, without uint32) *shard {
	sh := &shard{slots: make([]uint32, size)}
	for _, id := range old.slots {
		if id != 0 && id != without {
			insertSlot(sh.slots, maphash.String(e.seed, e.entity(id).name), id)
			sh.used++
		}
	}
	return sh
}

// drop forgets an entity without tuples.
func (e *editor) drop(id uint32) {
	x := e.entity(id)
	at := &e.shards[maphash.String(e.seed, x.name)>>(64-shardBits)]
	*at = e.rebuilt(*at, len((*at).slots), id)
	e.ownShards[*at] = true
	if e.everyone[x.typ] == id {
		e.everyone[x.typ] = 0
	}
	e.put(id, nil)
	*e.free = append(*e.free, id)
}

// numbers of the two ends of a tuple.
func (e *editor) ends(t authz.Tuple, x edge) (obj, sub uint32, err error) {
	if obj, err = e.intern(t.Object, x.objectType.id, false); err != nil {
		return 0, 0, err
	}
	sub, err = e.intern(x.subject, x.subjectType.id, isEveryone(x.subject))
	return obj, sub, err
}

func isEveryone(name string) bool { return len(name) > 2 && name[len(name)-2:] == ":*" }

// load adds a tuple of a fresh graph; finish sorts.
func (e *editor) load(t authz.Tuple) error {
	x, err := e.model.resolve(t)
	if err != nil {
		e.misfits[misfitKey(t)] = t
		return nil
	}
	obj, sub, err := e.ends(t, x)
	if err != nil {
		return err
	}
	o, s := e.entity(obj), e.entity(sub)
	k := key(x.relation.id, x.via, sub)
	o.forward = append(o.forward, k)
	s.reverse = append(s.reverse, key(x.via, x.relation.id, obj))
	if x.condition != nil || o.conditions != nil {
		setCondition(&o.conditions, k, x.condition)
	}
	return nil
}

func setCondition(m *map[uint64]*bound, k uint64, c *bound) {
	if c == nil {
		delete(*m, k)
		return
	}
	if *m == nil {
		*m = map[uint64]*bound{}
	}
	(*m)[k] = c
}

func (e *editor) finish() {
	for id := uint32(1); id <= e.top; id++ {
		x := e.entity(id)
		x.forward, x.reverse = tidy(x.forward), tidy(x.reverse)
		e.tuples += len(x.forward)
	}
}

// tidy sorts, drops doubles and gives back room that growing has left over.
func tidy(list []uint64) []uint64 {
	slices.Sort(list)
	return slices.Clip(slices.Clone(slices.Compact(list)))
}

func misfitKey(t authz.Tuple) string { return t.Object + "\x00" + t.Relation + "\x00" + t.Subject }

// change notes one change; commit carries them out.
func (e *editor) change(c Change) error {
	delete(e.misfits, misfitKey(c.Tuple))
	if c.Delete {
		c.Tuple.Condition, c.Tuple.Context = "", nil // a tuple is known by its ends
		return e.remove(c.Tuple)
	}
	x, err := e.model.resolve(c.Tuple)
	if err != nil {
		e.misfits[misfitKey(c.Tuple)] = c.Tuple
		return e.remove(c.Tuple)
	}
	obj, sub, err := e.ends(c.Tuple, x)
	if err != nil {
		return err
	}
	e.note(obj, sub, x.relation.id, x.via, true, x.condition)
	return nil
}

func (e *editor) remove(t authz.Tuple) error {
	typ, _, _ := object(t.Object)
	r, err := e.model.relation(typ, t.Relation)
	if err != nil {
		return nil // it was never in the graph
	}
	name, relation, _, _ := subject(t.Subject)
	obj, sub := e.find(t.Object), e.find(name)
	if obj == 0 || sub == 0 {
		return nil
	}
	via := uint16(0)
	if relation != "" {
		v := e.model.byID[e.entity(sub).typ].relations[relation]
		if v == nil {
			return nil
		}
		via = v.id
	}
	e.note(obj, sub, r.id, via, false, nil)
	return nil
}

func (e *editor) note(obj, sub uint32, relation, via uint16, there bool, c *bound) {
	k := key(relation, via, sub)
	o := e.editOf(obj)
	o.forward[k] = there
	o.conditions[k] = c
	e.editOf(sub).reverse[key(via, relation, obj)] = there
}

func (e *editor) editOf(id uint32) *edit {
	d := e.edits[id]
	if d == nil {
		d = &edit{forward: map[uint64]bool{}, reverse: map[uint64]bool{}, conditions: map[uint64]*bound{}}
		e.edits[id] = d
	}
	return d
}

func (e *editor) commit() {
	for _, id := range slices.Sorted(maps.Keys(e.edits)) {
		d, old := e.edits[id], e.entity(id)
		x := &entity{name: old.name, typ: old.typ, forward: merge(old.forward, d.forward), reverse: merge(old.reverse, d.reverse), conditions: old.conditions}
		e.tuples += len(x.forward) - len(old.forward)
		if len(d.conditions) > 0 {
			x.conditions = maps.Clone(old.conditions)
			for k, c := range d.conditions {
				setCondition(&x.conditions, k, c)
			}
		}
		e.put(id, x)
		if len(x.forward)+len(x.reverse) == 0 {
			e.drop(id)
		}
	}
}

// merge returns a new sorted list with the changes made.
func merge(old []uint64, changes map[uint64]bool) []uint64 {
	if len(changes) == 0 {
		return old
	}
	keys := slices.Sorted(maps.Keys(changes))
	out := make([]uint64, 0, len(old)+len(keys))
	for _, k := range keys {
		i, found := slices.BinarySearch(old, k)
		out = append(out, old[:i]...)
		old = old[i:]
		if found {
			old = old[1:]
		}
		if changes[k] {
			out = append(out, k)
		}
	}
	return append(out, old...)
}
