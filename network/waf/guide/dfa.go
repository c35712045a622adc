package guide

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Limits of one automaton. Beyond maxCache bytes of states it starts anew;
// beyond maxProgram instructions the rule is left to the engine.
const (
	maxCache   = 192 << 10
	maxProgram = 20_000
)

// The symbols of an automaton: bytes of ASCII, one for all runes beyond it,
// and the end of the text. A latin automaton reads each byte as a rune.
const (
	symWide = 256
	symEnd  = 257
	symbols = 258
)

// dfa decides whether an expression matches somewhere in a text. States are
// built when a text first needs them, from the program of regexp/syntax, so it
// answers as package regexp does; a fuzz test holds them together. It is safe
// for concurrent use.
type dfa struct {
	re      *syntax.Regexp // that prog was compiled from
	prog    *syntax.Prog
	latin   bool
	class   [symbols]uint8
	sample  []int // a symbol of each class
	current atomic.Pointer[stateCache]
	room    int // bytes of states

	mu    sync.Mutex // guards what follows
	seen  []uint32   // instruction -> generation in which closure met it
	gen   uint32
	stack []uint32
	found []uint32
}

type stateCache struct {
	start  *dfaState
	states map[string]*dfaState
	size   int
}

// dfaState is what was consumed: the instructions that go on from here, and
// what the assertions need to know of the last rune.
type dfaState struct {
	next   []atomic.Pointer[dfaState]
	kernel []uint32
	before int // a symbol, or -1 at the beginning
}

// newDFA compiles re, which must be simplified. It returns nil for programs
// that are too large or that tell runes beyond ASCII apart.
func newDFA(re *syntax.Regexp, latin bool) *dfa {
	prog, err := syntax.Compile(re)
	if err != nil || len(prog.Inst) > maxProgram || !latin && !uniform(prog) {
		return nil
	}
	d := &dfa{re: re, prog: prog, latin: latin, room: maxCache, seen: make([]uint32, len(prog.Inst))}
	d.classify()
	d.current.Store(d.fresh())
	return d
}

// newUnion compiles one that matches where one of list does, none of which is
// latin. Its instructions that look at symbols are theirs, so symbols that none
// of them tells apart, and runes beyond ASCII, it does not tell apart either.
func newUnion(list []*dfa) *dfa {
	either := &syntax.Regexp{Op: syntax.OpAlternate}
	for _, d := range list {
		either.Sub = append(either.Sub, d.re)
	}
	prog, err := syntax.Compile(either)
	if err != nil || len(prog.Inst) > maxProgram {
		return nil
	}
	u := &dfa{re: either, prog: prog, room: maxCache * len(list), seen: make([]uint32, len(prog.Inst))}
	u.group(func(key []byte, s int) []byte {
		for _, d := range list {
			key = append(key, d.class[s])
		}
		return key
	})
	u.current.Store(u.fresh())
	return u
}

// uniform reports whether prog treats all runes beyond ASCII alike, but for
// those two that fold to ASCII letters, which match refuses.
func uniform(prog *syntax.Prog) bool {
	for i := range prog.Inst {
		in := &prog.Inst[i]
		if in.Op != syntax.InstRune && in.Op != syntax.InstRune1 {
			continue
		}
		some := in.MatchRune(high)
		for j := 0; j < len(in.Rune); j++ {
			for _, r := range [...]rune{in.Rune[j] - 1, in.Rune[j], in.Rune[j] + 1} {
				if r >= high && r <= utf8.MaxRune && !foldsToASCII(r) && in.MatchRune(r) != some {
					return false
				}
			}
		}
	}
	return true
}

func foldsToASCII(r rune) bool { return r == '\u017f' || r == '\u212a' }

// classify puts together the symbols that no instruction tells apart.
func (d *dfa) classify() {
	d.group(func(key []byte, s int) []byte {
		key = append(key, d.kind(s))
		for i := range d.prog.Inst {
			if d.prog.Inst[i].Op >= syntax.InstRune {
				key = append(key, boolByte(d.consumes(uint32(i), s)))
			}
		}
		return key
	})
}

// group makes a class of the symbols that have one key.
func (d *dfa) group(appendKey func(key []byte, s int) []byte) {
	keys, key := map[string]uint8{}, []byte(nil)
	for s := range symbols {
		key = appendKey(key[:0], s)
		c, known := keys[string(key)]
		if !known {
			c = uint8(len(d.sample))
			keys[string(key)] = c
			d.sample = append(d.sample, s)
		}
		d.class[s] = c
	}
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// kind is what assertions see in a symbol.
func (d *dfa) kind(s int) byte {
	switch {
	case s == symEnd:
		return 'e'
	case s == '\n':
		return 'n'
	case s < 0x80 && syntax.IsWordChar(rune(s)):
		return 'w'
	}
	return 'o'
}

func (d *dfa) consumes(pc uint32, s int) bool {
	r := rune(s)
	switch {
	case s == symEnd:
		return false
	case s == symWide:
		r = high
	}
	in := &d.prog.Inst[pc]
	switch in.Op {
	case syntax.InstRune, syntax.InstRune1:
		return in.MatchRune(r)
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return r != '\n'
	}
	return false
}

func (d *dfa) fresh() *stateCache {
	c := &stateCache{states: map[string]*dfaState{}}
	c.start = d.state(c, []uint32{uint32(d.prog.Start)}, -1)
	return c
}

// accepted is where a match leads.
var accepted = &dfaState{}

// match reports whether the expression matches in s. It takes a step off the
// budget for each transition that is not known yet, and reports false for sure
// if the budget is spent or s is not for it.
func (d *dfa) match(s string, budget *int) (matched, sure bool) {
	at := d.current.Load().start
	for i := 0; i < len(s); {
		sym, n := int(s[i]), 1
		if sym >= utf8.RuneSelf && !d.latin {
			r, size := utf8.DecodeRuneInString(s[i:])
			if foldsToASCII(r) {
				return false, false
			}
			sym, n = symWide, size
		}
		next := at.next[d.class[sym]].Load() // as step does, which is too large for a loop
		if next == nil {
			next = d.step(at, sym, budget)
		}
		if next == nil || next == accepted {
			return next == accepted, next == accepted
		}
		at = next
		i += n
	}
	at = d.step(at, symEnd, budget)
	return at == accepted, at != nil
}

func (d *dfa) step(at *dfaState, sym int, budget *int) *dfaState {
	c := d.class[sym]
	if next := at.next[c].Load(); next != nil {
		return next
	}
	if *budget <= 0 {
		return nil
	}
	*budget--
	return d.build(at, c)
}

// build computes where class c leads from at.
func (d *dfa) build(at *dfaState, c uint8) *dfaState {
	d.mu.Lock()
	defer d.mu.Unlock()
	sym := d.sample[c]
	next := accepted
	if !d.close(at, sym) {
		next = d.after(sym)
	}
	at.next[c].Store(next)
	return next
}

// close follows what consumes nothing, from the state to before sym. It
// reports a match; what can consume is left in found.
func (d *dfa) close(at *dfaState, sym int) bool {
	if d.gen++; d.gen == 0 { // all around: what was met long ago must not count as met
		clear(d.seen)
		d.gen = 1
	}
	d.found = d.found[:0]
	d.stack = append(d.stack[:0], at.kernel...)
	holds := assertions(d.kindBefore(at.before), d.kind(sym))
	for len(d.stack) > 0 {
		pc := d.stack[len(d.stack)-1]
		d.stack = d.stack[:len(d.stack)-1]
		if d.seen[pc] == d.gen {
			continue
		}
		d.seen[pc] = d.gen
		switch in := &d.prog.Inst[pc]; in.Op {
		case syntax.InstMatch:
			return true
		case syntax.InstAlt, syntax.InstAltMatch:
			d.stack = append(d.stack, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			d.stack = append(d.stack, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^holds == 0 {
				d.stack = append(d.stack, in.Out)
			}
		case syntax.InstFail:
		default:
			d.found = append(d.found, pc)
		}
	}
	return false
}

func (d *dfa) kindBefore(s int) byte {
	if s < 0 {
		return 'b'
	}
	return d.kind(s)
}

// assertions are those that hold between two runes.
func assertions(before, next byte) syntax.EmptyOp {
	var ops syntax.EmptyOp
	if before == 'b' {
		ops |= syntax.EmptyBeginText | syntax.EmptyBeginLine
	}
	if before == 'n' {
		ops |= syntax.EmptyBeginLine
	}
	if next == 'e' {
		ops |= syntax.EmptyEndText | syntax.EmptyEndLine
	}
	if next == 'n' {
		ops |= syntax.EmptyEndLine
	}
	if (before == 'w') != (next == 'w') {
		return ops | syntax.EmptyWordBoundary
	}
	return ops | syntax.EmptyNoWordBoundary
}

// after is the state behind sym: what consumed it goes on, and a match may
// begin anew.
func (d *dfa) after(sym int) *dfaState {
	kernel := []uint32{uint32(d.prog.Start)}
	for _, pc := range d.found {
		if d.consumes(pc, sym) {
			kernel = append(kernel, d.prog.Inst[pc].Out)
		}
	}
	slices.Sort(kernel)
	c := d.current.Load()
	if c.size > d.room {
		c = d.fresh()
		d.current.Store(c)
	}
	return d.state(c, slices.Compact(kernel), sym)
}

func (d *dfa) state(c *stateCache, kernel []uint32, before int) *dfaState {
	key := []byte{d.kindBefore(before)}
	for _, pc := range kernel {
		key = binary.LittleEndian.AppendUint32(key, pc)
	}
	if s, ok := c.states[string(key)]; ok {
		return s
	}
	s := &dfaState{make([]atomic.Pointer[dfaState], len(d.sample)), kernel, before}
	c.states[string(key)] = s
	c.size += 2*len(key) + 8*len(d.sample) + 120
	return s
}
