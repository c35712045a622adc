package guide

import (
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
)

// check is one operator that must not match, with the transformations of the
// values that it sees.
type check struct {
	rule    int
	number  int // in the bitset of the words found
	op      operator
	trans   []transform
	multi   bool
	targets []target
	joint   *joint // with others that see values as they come; nil: none
}

// class are the checks of values that stand in one place. Plans for alphabets
// are made when first needed and kept in a table of fixed size. Making one takes
// as long as all else that a request costs, so values of one request must not
// drive out each other's: each alphabet has some slots to choose from.
type class struct {
	checks []*check
	plans  [128][4]atomic.Pointer[plan]
	turn   atomic.Uint32 // which of full slots goes next
	short  shorts        // values that are clean
}

// plan is what is left to do for values over an alphabet: the residual.
type plan struct {
	over  alphabet
	steps []planStep
}

// planStep are the checks that see the value after the same transformations,
// those left out that change nothing of such a value.
type planStep struct {
	trans  []transform
	from   int         // an earlier step that begins with some of these; -1: none
	rest   []transform // those that come after
	gated  []*check    // which want words
	gates  bitset      // their numbers
	folds  bool        // some of them fold
	joined []joined    // which are looked for together
	open   []*check    // the others
	least  int         // shorter values have none of the words that all checks want
}

func (c *class) plan(a alphabet) *plan {
	slots := &c.plans[a.hash()%uint64(len(c.plans))]
	for i := range slots {
		p := slots[i].Load()
		if p != nil && p.over == a {
			return p
		}
		if p == nil {
			return c.keep(&slots[i], a)
		}
	}
	return c.keep(&slots[c.turn.Add(1)%uint32(len(slots))], a)
}

func (c *class) keep(slot *atomic.Pointer[plan], a alphabet) *plan {
	p := c.newPlan(a)
	slot.Store(p)
	return p
}

// hash is the finish of MurmurHash3 over both halves: coarse alphabets differ in
// few bits, and those are high ones.
func (a alphabet) hash() uint64 {
	h := a.ascii[0]*0x9e3779b97f4a7c15 ^ bits.RotateLeft64(a.ascii[1]*0xc2b2ae3d27d4eb4f, 32)
	if a.wide {
		h = ^h
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func (c *class) newPlan(a alphabet) *plan {
	p := &plan{over: a}
	index := map[string]int{}
	for _, k := range c.checks {
		k.eachStep(a, func(trans []transform, name string, seen alphabet) {
			if !k.op.possible(seen) {
				return
			}
			i, ok := index[name]
			if !ok {
				i = len(p.steps)
				index[name] = i
				p.steps = append(p.steps, planStep{trans: trans})
			}
			p.steps[i].add(k)
		})
	}
	for i := range p.steps {
		p.steps[i].least = p.steps[i].shortest(a)
		p.begin(i)
	}
	return p
}

func (p *planStep) add(k *check) {
	switch {
	case k.op.gate != nil:
	case k.joint != nil:
		p.joined = addJoined(p.joined, k)
		return
	default:
		p.open = append(p.open, k)
		return
	}
	p.gated = append(p.gated, k)
	p.gates.set(k.number)
	p.folds = p.folds || k.op.folds
}

// begin finds what step i can go on from: of the earlier steps the one whose
// transformations are the most of its first ones.
func (p *plan) begin(i int) {
	step := &p.steps[i]
	step.from, step.rest = -1, step.trans
	for j := range i {
		done := p.steps[j].trans
		if len(done) > len(step.trans)-len(step.rest) && len(done) <= len(step.trans) && startsWith(step.trans, done) {
			step.from, step.rest = j, step.trans[len(done):]
		}
	}
}

func startsWith(list, first []transform) bool {
	for i, t := range first {
		if list[i].name != t.name {
			return false
		}
	}
	return true
}

// shortest is the length of the shortest word, where all checks have words and
// no transformation can make a value longer.
func (p *planStep) shortest(a alphabet) int {
	if a.wide || slices.ContainsFunc(p.trans, func(t transform) bool { return longer[t.name] }) {
		return 0
	}
	if !p.needsWord() {
		return 0
	}
	least := maxBody
	for _, k := range p.gated {
		for _, w := range k.op.gate {
			least = min(least, len(w))
		}
	}
	return least
}

// longer are the transformations that can make a value longer than a word is: an
// entity stands for up to two runes, what was decoded to bytes beyond ASCII is
// spelled out again, and nothing has a length of one digit.
var longer = map[string]bool{"htmlentitydecode": true, "utf8tounicode": true, "length": true}

// eachStep calls fn for what the operator sees of values over a: the end of the
// transformations, or each step of them where the rule says so.
func (k *check) eachStep(a alphabet, fn func(trans []transform, name string, seen alphabet)) {
	var trans []transform
	name := ""
	for _, t := range k.trans {
		out, same := t.alphabet(a)
		if same {
			continue
		}
		if k.multi {
			fn(trans, name, a)
		}
		a = out
		trans = append(trans[:len(trans):len(trans)], t)
		name += " " + t.name
	}
	fn(trans, name, a)
}

// scratch is the state of one Clean.
type scratch struct {
	budget int // transitions that the request may have built yet
	joints int // the same, of joints
	key    []byte
	args   int
	names  *nameSet // where names are counted
	flat   flat
	whole  seen   // the value in hand
	seen   []seen // by step of its plan
}

// newScratch is that of a request that begins.
func newScratch() *scratch { return &scratch{budget: maxSteps, joints: maxSteps} }

// seen is what a step made of the value.
type seen struct {
	known bool
	text  string
	words *bitset // that are in text; nil: nobody looked
	own   bitset
}

// forget lets go of the request's texts.
func (st *scratch) forget() {
	clear(st.seen[:cap(st.seen)]) // of longer plans, too
	st.whole.text = ""
	clear(st.flat.leaves)
	st.flat.text = ""
	if cap(st.flat.names) > maxKept {
		st.flat = flat{}
	}
}

// maxKept is how many bytes of names a scratch keeps room for.
const maxKept = 64 << 10

// clean reports whether no check of c matches s for sure.
func (g *Guide) clean(c *class, s string, st *scratch) bool {
	if len(c.checks) == 0 || c.short.has(s) {
		return true
	}
	if !g.cleanBy(c.plan(alphabetOf(s).coarse()), s, st) {
		return false
	}
	c.short.add(s)
	return true
}

func (g *Guide) cleanBy(p *plan, s string, st *scratch) bool {
	st.seen = slices.Grow(st.seen[:0], len(p.steps))[:len(p.steps)]
	whole := &st.whole
	whole.text, whole.words = s, nil
	for i := range p.steps {
		step, at := &p.steps[i], &st.seen[i]
		at.known, at.words = false, nil
		if len(s) < step.least || !p.over.wide && step.lowers() && step.needsWord() && !g.wordsOf(whole).meets(&step.gates) {
			continue
		}
		before := whole
		if step.from >= 0 && st.seen[step.from].known {
			before = &st.seen[step.from]
		}
		if !step.see(at, before, whole) {
			return false
		}
		if len(step.gated) > 0 {
			g.look(step, at, before, whole, p.over.wide)
		}
		if !step.clean(at, st) {
			return false
		}
	}
	return true
}

// see transforms the value, from where another step has come to.
func (p *planStep) see(at, before, whole *seen) bool {
	rest := p.trans
	if before != whole {
		rest = p.rest
	}
	at.text = before.text
	for _, t := range rest {
		if at.text, at.known = t.apply(at.text); !at.known {
			return false
		}
	}
	at.known = true
	return true
}

// look finds the words in the step's text, unless the text is one that was looked
// at. Case makes no difference to words.
func (g *Guide) look(p *planStep, at, before, whole *seen, wide bool) {
	same := before
	if at.text == whole.text || !wide && p.lowers() {
		same = whole
	} else if at.text != before.text {
		same = at
	}
	at.words = g.wordsOf(same)
}

// wordsOf finds the words of a text once.
func (g *Guide) wordsOf(at *seen) *bitset {
	if at.words == nil {
		at.own = bitset{}
		g.words.find(at.text, &at.own)
		at.words = &at.own
	}
	return at.words
}

// all are the checks of the step.
func (p *planStep) all() []*check {
	list := slices.Concat(p.gated, p.open)
	for _, j := range p.joined {
		list = append(list, j.checks...)
	}
	return list
}

// needsWord: every check of the step wants a word.
func (p *planStep) needsWord() bool { return len(p.open)+len(p.joined) == 0 }

// lowers: the words are found without regard to case.
func (p *planStep) lowers() bool { return len(p.trans) == 1 && p.trans[0].name == "lowercase" }

func (p *planStep) clean(at *seen, st *scratch) bool {
	folds := p.folds && !isASCII(at.text) && (strings.Contains(at.text, "\u017f") || strings.Contains(at.text, "\u212a"))
	if folds || len(p.gated) > 0 && at.words.meets(&p.gates) {
		for _, k := range p.gated {
			if (at.words.has(k.number) || k.op.folds && folds) && !k.misses(at.text, st) {
				return false
			}
		}
	}
	for i := range p.joined {
		if !p.joined[i].miss(at.text, st) {
			return false
		}
	}
	return allMiss(p.open, at.text, st)
}

func allMiss(list []*check, text string, st *scratch) bool {
	for _, k := range list {
		if !k.misses(text, st) {
			return false
		}
	}
	return true
}

// misses reports whether k does not match for sure. For one that has only words
// they have been found.
func (k *check) misses(text string, st *scratch) bool {
	if k.op.only {
		return false
	}
	matched, sure := k.op.matches(text, &st.budget)
	return !matched && sure
}
