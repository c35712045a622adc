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
}

// class are the checks of values that stand in one place. Plans for alphabets
// are made when first needed and kept in a table of fixed size. Making one takes
// as long as all else that a request costs, so values of one request must not
// drive out each other's: each alphabet has some slots to choose from.
type class struct {
	checks []*check
	plans  [128][4]atomic.Pointer[plan]
	turn   atomic.Uint32 // which of full slots goes next
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
	checks []*check
	gated  bool // some check has words
	least  int  // shorter values have none of the words that all checks want
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
			p.steps[i].checks = append(p.steps[i].checks, k)
			p.steps[i].gated = p.steps[i].gated || k.op.gate != nil
		})
	}
	for i := range p.steps {
		p.steps[i].least = p.steps[i].shortest(a)
	}
	return p
}

// shortest is the length of the shortest word, where all checks have words and
// no transformation can make a value longer.
func (p *planStep) shortest(a alphabet) int {
	if a.wide || slices.ContainsFunc(p.trans, func(t transform) bool { return longer[t.name] }) {
		return 0
	}
	least := maxBody
	for _, k := range p.checks {
		if k.op.gate == nil {
			return 0
		}
		for _, w := range k.op.gate {
			least = min(least, len(w))
		}
	}
	return least
}

// longer are the transformations that can make a value longer than a word is: an
// entity stands for up to two runes, and what was decoded to bytes beyond ASCII
// is spelled out again.
var longer = map[string]bool{"htmlentitydecode": true, "utf8tounicode": true}

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
	budget int
	key    []byte
	args   int
	used   int
	names  *nameSet // where names are counted
}

// clean reports whether no check of c matches s for sure.
func (g *Guide) clean(c *class, s string, st *scratch) bool {
	if len(c.checks) == 0 {
		return true
	}
	a := alphabetOf(s).coarse()
	p := c.plan(a)
	var base bitset // the words of s itself
	based := false
	for i := range p.steps {
		step := &p.steps[i]
		if len(s) < step.least {
			continue
		}
		text, ok := step.text(s)
		if !ok {
			return false
		}
		var found *bitset
		if step.gated && (text == s || !a.wide && step.lowers()) {
			if !based {
				g.words.find(s, &base)
				based = true
			}
			found = &base
		} else if step.gated {
			found = new(bitset)
			g.words.find(text, found)
		}
		if !step.clean(text, found, st) {
			return false
		}
	}
	return true
}

// lowers: the words are found without regard to case.
func (p *planStep) lowers() bool { return len(p.trans) == 1 && p.trans[0].name == "lowercase" }

func (p *planStep) text(s string) (string, bool) {
	ok := true
	for _, t := range p.trans {
		if s, ok = t.apply(s); !ok {
			return "", false
		}
	}
	return s, true
}

func (p *planStep) clean(text string, found *bitset, st *scratch) bool {
	folds := !isASCII(text) && (strings.Contains(text, "\u017f") || strings.Contains(text, "\u212a"))
	for _, k := range p.checks {
		if k.op.gate != nil && !found.has(k.number) && !(k.op.folds && folds) {
			continue
		}
		if k.op.only {
			return false
		}
		if matched, sure := k.op.matches(text, &st.budget); matched || !sure {
			return false
		}
	}
	return true
}
