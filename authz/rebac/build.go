package rebac

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	openfga "github.com/openfga/api/proto/openfga/v1"
)

// builder turns the parser's messages into a Model.
type builder struct {
	m     *Model
	lines sourceLines
}

func (b *builder) build(p *openfga.AuthorizationModel) error {
	if err := b.conditions(p); err != nil {
		return err
	}
	if err := b.declare(p); err != nil {
		return err
	}
	for _, t := range p.GetTypeDefinitions() {
		if err := b.define(t); err != nil {
			return err
		}
	}
	if err := b.tuplesets(); err != nil {
		return err
	}
	if err := b.grounded(); err != nil {
		return err
	}
	b.connect()
	return nil
}

func (b *builder) conditions(p *openfga.AuthorizationModel) error {
	if n := len(p.GetConditions()); n > maxConditions {
		return fmt.Errorf("1: a model has at most %d conditions, not %d", maxConditions, n)
	}
	for _, name := range slices.Sorted(maps.Keys(p.GetConditions())) {
		c, err := compileCondition(p.GetConditions()[name])
		if err != nil {
			return fmt.Errorf("%d: condition %s: %w", b.lines.conditions[name], name, err)
		}
		b.m.conditions[name] = c
	}
	return nil
}

// declare gives every type and relation its id, in the order of names, so that
// the same model always gets the same ids.
func (b *builder) declare(p *openfga.AuthorizationModel) error {
	m := b.m
	m.byID = []*typeDef{nil}
	m.relations = []*relationDef{{name: "(itself)", pure: true}}
	for _, t := range p.GetTypeDefinitions() {
		line := b.lines.types[t.GetType()]
		if t.GetType() == "" || len(t.GetType()) > maxTypeBytes || !cleanName(t.GetType()) {
			return fmt.Errorf("%d: %s is not a name for a type", line, clip(t.GetType()))
		}
		if m.types[t.GetType()] != nil {
			return fmt.Errorf("%d: the type %s is defined twice", line, t.GetType())
		}
		d := &typeDef{id: uint16(len(m.byID)), name: t.GetType(), line: line, relations: map[string]*relationDef{}}
		m.types[d.name] = d
		m.byID = append(m.byID, d)
		for _, name := range slices.Sorted(maps.Keys(t.GetRelations())) {
			if err := b.declareRelation(d, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) declareRelation(d *typeDef, name string) error {
	line := b.lines.relations[d.name+"#"+name]
	if !cleanRelation(name) || name == "self" || name == "this" {
		return fmt.Errorf("%d: %s is not a name for a relation", line, clip(name))
	}
	if len(b.m.relations) > MaxRelations {
		return fmt.Errorf("%d: a model has at most %d relations", line, MaxRelations)
	}
	r := &relationDef{id: uint16(len(b.m.relations)), typ: d, name: name, line: line}
	d.relations[name] = r
	b.m.relations = append(b.m.relations, r)
	return nil
}

func (b *builder) define(t *openfga.TypeDefinition) error {
	d := b.m.types[t.GetType()]
	for _, name := range slices.Sorted(maps.Keys(d.relations)) {
		r := d.relations[name]
		for _, ref := range t.GetMetadata().GetRelations()[name].GetDirectlyRelatedUserTypes() {
			if err := b.allow(r, ref); err != nil {
				return fmt.Errorf("%d: %s: %w", r.line, name, err)
			}
		}
		var err error
		if r.rewrite, err = b.rewrite(r, t.GetRelations()[name]); err != nil {
			return fmt.Errorf("%d: %s: %w", r.line, name, err)
		}
	}
	return nil
}

func (b *builder) allow(r *relationDef, ref *openfga.RelationReference) error {
	t := b.m.types[ref.GetType()]
	if t == nil {
		return fmt.Errorf("there is no type %s", clip(ref.GetType()))
	}
	x := restriction{typ: t.id, wildcard: ref.GetWildcard() != nil, condition: ref.GetCondition()}
	if name := ref.GetRelation(); name != "" {
		s := t.relations[name]
		if s == nil {
			return fmt.Errorf("the type %s has no relation %s", t.name, clip(name))
		}
		x.relation = s.id
	}
	if x.condition == "$expression" {
		return fmt.Errorf("conditions inside tuples ($expression) are not supported: name the condition in the model")
	}
	if x.condition != "" {
		if b.m.conditions[x.condition] == nil {
			return fmt.Errorf("there is no condition %s", clip(x.condition))
		}
		r.conditional = true
	}
	r.allowed = append(r.allowed, x)
	return nil
}

func (b *builder) rewrite(r *relationDef, u *openfga.Userset) (*rewrite, error) {
	switch u := u.GetUserset().(type) {
	case *openfga.Userset_This:
		if len(r.allowed) == 0 {
			return nil, fmt.Errorf("[] allows nobody")
		}
		return &rewrite{op: opThis}, nil
	case *openfga.Userset_ComputedUserset:
		s := r.typ.relations[u.ComputedUserset.GetRelation()]
		if s == nil {
			return nil, fmt.Errorf("the type %s has no relation %s", r.typ.name, clip(u.ComputedUserset.GetRelation()))
		}
		return &rewrite{op: opComputed, computed: s.id}, nil
	case *openfga.Userset_TupleToUserset:
		return b.from(r, u.TupleToUserset.GetTupleset().GetRelation(), u.TupleToUserset.GetComputedUserset().GetRelation())
	case *openfga.Userset_Union:
		return b.branches(r, opOr, u.Union.GetChild()...)
	case *openfga.Userset_Intersection:
		return b.branches(r, opAnd, u.Intersection.GetChild()...)
	case *openfga.Userset_Difference:
		return b.branches(r, opNot, u.Difference.GetBase(), u.Difference.GetSubtract())
	}
	return nil, fmt.Errorf("there is no definition")
}

func (b *builder) branches(r *relationDef, o op, children ...*openfga.Userset) (*rewrite, error) {
	out := &rewrite{op: o}
	for _, c := range children {
		arg, err := b.rewrite(r, c)
		if err != nil {
			return nil, err
		}
		out.args = append(out.args, arg)
	}
	return out, nil
}

// from compiles "computed from tupleset". The types that the tupleset names are
// filled in by tuplesets, when all definitions are known.
func (b *builder) from(r *relationDef, tupleset, computed string) (*rewrite, error) {
	p := r.typ.relations[tupleset]
	if p == nil {
		return nil, fmt.Errorf("the type %s has no relation %s", r.typ.name, clip(tupleset))
	}
	p.tupleset = true
	down := map[uint16]uint16{}
	for _, t := range b.m.byID[1:] {
		if s := t.relations[computed]; s != nil {
			down[t.id] = s.id
		}
	}
	if len(down) == 0 {
		return nil, fmt.Errorf("no type has the relation %s", clip(computed))
	}
	return &rewrite{op: opFrom, from: fromStep{tupleset: p.id, down: down}}, nil
}

// tuplesets checks that the right side of every "from" names objects only, and
// narrows each "from" to the types that it names.
func (b *builder) tuplesets() error {
	for _, r := range b.m.relations[1:] {
		if r.tupleset && !r.namesObjects() {
			return fmt.Errorf("%d: %s is used after \"from\", so it must be defined as [type, ...] only", r.line, r.name)
		}
	}
	for _, r := range b.m.relations[1:] {
		for w := range r.rewrite.leaves(true) {
			if w.op != opFrom {
				continue
			}
			w.from.narrow(b.m.relations[w.from.tupleset])
			if len(w.from.down) == 0 {
				return fmt.Errorf("%d: %s: no type that %s names has the relation", r.line, r.name, b.m.relations[w.from.tupleset].name)
			}
		}
	}
	return nil
}

func (r *relationDef) namesObjects() bool {
	for _, x := range r.allowed {
		if x.relation != 0 || x.wildcard {
			return false
		}
	}
	return r.rewrite.op == opThis
}

func (f *fromStep) narrow(tupleset *relationDef) {
	maps.DeleteFunc(f.down, func(typ, _ uint16) bool {
		return !slices.ContainsFunc(tupleset.allowed, func(x restriction) bool { return x.typ == typ })
	})
}

// leaves yields the leaves of the tree; those that only take away are left out
// unless all is set.
func (w *rewrite) leaves(all bool) func(yield func(*rewrite) bool) {
	return func(yield func(*rewrite) bool) { w.walk(all, yield) }
}

func (w *rewrite) walk(all bool, yield func(*rewrite) bool) bool {
	if len(w.args) == 0 {
		return yield(w)
	}
	for i, a := range w.args {
		if w.op == opNot && i == 1 && !all {
			break
		}
		if !a.walk(all, yield) {
			return false
		}
	}
	return true
}

// grounded refuses relations that no tuple can ever satisfy, such as
// "define a: b" with "define b: a".
func (b *builder) grounded() error {
	can := make([]bool, len(b.m.relations))
	for changed := true; changed; {
		changed = false
		for _, r := range b.m.relations[1:] {
			if !can[r.id] && b.canHold(r, r.rewrite, can) {
				can[r.id], changed = true, true
			}
		}
	}
	var bad []string
	line := 0
	for _, r := range b.m.relations[1:] {
		if !can[r.id] {
			bad, line = append(bad, r.typ.name+"#"+r.name), max(line, r.line)
		}
	}
	if bad == nil {
		return nil
	}
	return fmt.Errorf("%d: nobody can ever have %s", line, clipText(strings.Join(bad, ", "), 200))
}

func (b *builder) canHold(r *relationDef, w *rewrite, can []bool) bool {
	holds := func(a *rewrite) bool { return b.canHold(r, a, can) }
	switch w.op {
	case opThis:
		return slices.ContainsFunc(r.allowed, func(x restriction) bool { return x.relation == 0 || can[x.relation] })
	case opComputed:
		return can[w.computed]
	case opFrom:
		for _, s := range w.from.down {
			if can[s] {
				return true
			}
		}
		return false
	case opOr:
		return slices.ContainsFunc(w.args, holds)
	case opNot:
		return holds(w.args[0])
	}
	return !slices.ContainsFunc(w.args, func(a *rewrite) bool { return !holds(a) })
}

// connect computes the steps between relations, what lies below each, and which
// are pure.
func (b *builder) connect() {
	for _, r := range b.m.relations[1:] {
		b.connectDown(r)
		b.connectUp(r)
	}
	for _, r := range b.m.relations[1:] {
		slices.SortFunc(r.up.from, func(x, y fromStep) int { return int(x.up) - int(y.up) })
		r.below = b.below(r)
	}
	for _, r := range b.m.relations[1:] {
		r.pure = true
		for _, s := range b.m.relations[1:] {
			if has(r.below, s.id) && !s.rewrite.onlyOr() {
				r.pure = false
			}
		}
	}
}

func (b *builder) connectDown(r *relationDef) {
	for w := range r.rewrite.leaves(true) {
		switch w.op {
		case opThis:
			r.down.direct = true
		case opComputed:
			r.down.same = append(r.down.same, w.computed)
		case opFrom:
			r.down.from = append(r.down.from, w.from)
		}
	}
}

// connectUp leaves out what only takes away: nothing is reached through it.
func (b *builder) connectUp(r *relationDef) {
	for w := range r.rewrite.leaves(false) {
		switch w.op {
		case opThis:
			b.connectSubjects(r)
		case opComputed:
			s := b.m.relations[w.computed]
			s.up.same = append(s.up.same, r.id)
		case opFrom:
			for _, s := range w.from.down {
				up := &b.m.relations[s].up
				up.from = append(up.from, fromStep{tupleset: w.from.tupleset, up: r.id})
			}
		}
	}
}

func (b *builder) connectSubjects(r *relationDef) {
	for _, x := range r.allowed {
		list := &b.m.byID[x.typ].direct
		switch {
		case x.relation != 0:
			list = &b.m.relations[x.relation].up.userset
		case x.wildcard:
			list = &b.m.byID[x.typ].public
		}
		if !slices.Contains(*list, r.id) {
			*list = append(*list, r.id)
		}
	}
}

func (b *builder) below(r *relationDef) []uint64 {
	set := make([]uint64, len(b.m.relations)/64+1)
	todo := []uint16{r.id}
	add := func(id uint16) {
		if !has(set, id) {
			set[id/64] |= 1 << (id % 64)
			todo = append(todo, id)
		}
	}
	add(r.id)
	for len(todo) > 0 {
		s := b.m.relations[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for _, id := range s.down.same {
			add(id)
		}
		for _, f := range s.down.from {
			for _, id := range f.down {
				add(id)
			}
		}
		if s.down.direct {
			for _, x := range s.allowed {
				if x.relation != 0 {
					add(x.relation)
				}
			}
		}
	}
	return set
}

func has(set []uint64, id uint16) bool { return set[id/64]&(1<<(id%64)) != 0 }

func (w *rewrite) onlyOr() bool {
	if w.op == opAnd || w.op == opNot {
		return false
	}
	for _, a := range w.args {
		if !a.onlyOr() {
			return false
		}
	}
	return true
}
