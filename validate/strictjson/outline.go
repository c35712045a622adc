package strictjson

import "strings"

// Kind is what a value of an Outline is.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	False
	True
	Number
	String
	Array
	Object
)

// Bounds of an Outline; what is beyond them is Decode's.
const (
	maxOutline = 64 << 10 // bytes
	maxNodes   = 512
	maxMembers = 32 // of one object: its names are held against each other
)

// Outline is a JSON text that Decode takes, read without making its values: one
// piece of memory for the text, and none for all else where the Outline was used
// before. Values are numbered in the order of the text, the whole is 0. The zero
// Outline is ready for Read. It is not safe for concurrent use, and one that is used
// again must Forget first whatever must not be held.
type Outline struct {
	decoder
	nodes []node
	own   []string // strings that were written with escapes
}

// node is a value. Its members or elements follow it.
type node struct {
	kind     Kind
	size     int32 // members or elements
	name, of int32 // where the name of a member begins and ends
	from, to int32 // the text, without quotes
	own      int32 // number of its text in own, from 1; 0: what is written is meant
	next     int32 // the value after this one and all that is in it
	first    int32 // of an object: the member whose name sorts first; -1: none
	after    int32 // of a member: the one whose name sorts next; -1: none
}

// Read reports whether data is a text that Decode takes and an Outline can hold.
// Where it is not, Decode says which. After false nothing can be asked.
func (o *Outline) Read(data []byte) bool {
	o.Forget()
	if len(data) > maxOutline {
		return false
	}
	o.decoder = decoder{data: string(data), depth: MaxDepth, values: maxNodes}
	o.space()
	if !o.read(0, 0) {
		return false
	}
	o.space()
	return o.pos == len(o.data)
}

// Forget lets go of the text.
func (o *Outline) Forget() {
	clear(o.own)
	o.decoder, o.nodes, o.own = decoder{}, o.nodes[:0], o.own[:0]
}

// Kind returns what value i is.
func (o *Outline) Kind(i int) Kind { return o.nodes[i].kind }

// Text returns the text of value i, a string or a number, as Decode has it.
func (o *Outline) Text(i int) string {
	n := &o.nodes[i]
	if n.own > 0 {
		return o.own[n.own-1]
	}
	return o.data[n.from:n.to]
}

// Name returns the name of value i, a member of an object.
func (o *Outline) Name(i int) string { return o.data[o.nodes[i].name:o.nodes[i].of] }

// Len returns how many members or elements value i has. The first is i+1.
func (o *Outline) Len(i int) int { return int(o.nodes[i].size) }

// Next returns the value that comes after i and all that is in it.
func (o *Outline) Next(i int) int { return int(o.nodes[i].next) }

// AppendTo appends what Encode makes of the text. That is no longer than the text
// unless IsLonger.
func (o *Outline) AppendTo(b []byte) []byte { return o.append(b, 0) }

// IsLonger reports whether what AppendTo appends may be longer than the text: a line's
// end is two bytes in some spellings, and six in ours.
func (o *Outline) IsLonger() bool { return len(o.own) > 0 }

func (o *Outline) append(b []byte, i int32) []byte {
	n := &o.nodes[i]
	switch n.kind {
	case Object:
		b = append(b, '{')
		for m := n.first; m >= 0; m = o.nodes[m].after {
			if m != n.first {
				b = append(b, ',')
			}
			b = append(append(append(b, '"'), o.Name(int(m))...), '"', ':')
			b = o.append(b, m)
		}
		return append(b, '}')
	case Array:
		b = append(b, '[')
		for m := i + 1; m < n.next; m = o.nodes[m].next {
			if m != i+1 {
				b = append(b, ',')
			}
			b = o.append(b, m)
		}
		return append(b, ']')
	case String:
		if n.own > 0 {
			b, _ = appendString(b, o.Text(int(i))) // UTF-8: the decoder wrote it
			return b
		}
		return append(append(append(b, '"'), o.data[n.from:n.to]...), '"')
	}
	return append(b, o.data[n.from:n.to]...)
}

// read reads one value, a member whose name stands there or none.
func (o *Outline) read(name, of int) bool {
	if o.values--; o.values < 0 {
		return false
	}
	i := len(o.nodes)
	o.nodes = append(o.nodes, node{name: int32(name), of: int32(of), first: -1, after: -1})
	from, kind, ok := o.pos, Null, true
	switch c := o.peek(); {
	case c == '{':
		kind, ok = Object, o.inside(i, '}')
	case c == '[':
		kind, ok = Array, o.inside(i, ']')
	case c == '"':
		return o.string(i)
	case c == '-' || isDigit(c):
		_, err := o.digitsOf()
		kind, ok = Number, err == nil
	case o.word("true"):
		kind = True
	case o.word("false"):
		kind = False
	default:
		ok = o.word("null")
	}
	n := &o.nodes[i]
	n.kind, n.from, n.to, n.next = kind, int32(from), int32(o.pos), int32(len(o.nodes))
	return ok
}

func (o *Outline) string(i int) bool {
	from := o.pos + 1
	text, err := o.text()
	if err != nil {
		return false
	}
	n := &o.nodes[i]
	n.kind, n.from, n.to, n.next = String, int32(from), int32(o.pos-1), int32(i+1)
	if len(text) != o.pos-1-from { // an escape is longer than what it stands for
		o.own = append(o.own, text)
		n.own = int32(len(o.own))
	}
	return true
}

// inside reads the members or elements of the value i, up to the bracket.
func (o *Outline) inside(i int, end byte) bool {
	if o.depth == 0 {
		return false
	}
	o.depth--
	o.pos++
	ok := o.parts(i, end)
	o.depth++
	return ok
}

// names are those of an object in hand.
type names struct {
	last  int32 // of the members: the one whose name sorts last; -1: none
	folds bool  // one has a capital
}

func (o *Outline) parts(i int, end byte) bool {
	o.space()
	if o.skip(end) {
		return true
	}
	for seen := (names{last: -1}); ; {
		o.space()
		if end == '}' && !o.member(i, &seen) || end == ']' && !o.read(0, 0) {
			return false
		}
		o.nodes[i].size++
		o.space()
		if o.skip(end) {
			return !seen.folds || !o.clashes(i)
		}
		if !o.skip(',') {
			return false
		}
	}
}

func (o *Outline) member(i int, seen *names) bool {
	from, to, ok := o.name()
	if !ok || o.nodes[i].size == maxMembers {
		return false
	}
	seen.folds = seen.folds || !isLower(o.data[from:to])
	m := len(o.nodes)
	if !o.read(from, to) {
		return false
	}
	seen.last = o.link(i, m, seen.last)
	return seen.last >= 0
}

// name reads a name of ASCII without escapes, and the colon behind it.
func (o *Outline) name() (from, to int, ok bool) {
	if o.peek() != '"' {
		return 0, 0, false
	}
	o.pos++
	from = o.pos
	o.plain()
	to = o.pos
	if !o.skip('"') {
		return 0, 0, false
	}
	o.space()
	if !o.skip(':') {
		return 0, 0, false
	}
	o.space()
	return from, to, true
}

// link puts member m among those of the object i, by name, and returns the last of
// them; -1: the name is there already.
func (o *Outline) link(i, m int, last int32) int32 {
	name, at := o.Name(m), &o.nodes[i].first
	if last >= 0 && o.Name(int(last)) < name { // most of what is sent once more comes in order
		at = &o.nodes[last].after
	}
	for *at >= 0 && o.Name(int(*at)) < name {
		at = &o.nodes[*at].after
	}
	if *at >= 0 && o.Name(int(*at)) == name {
		return -1
	}
	o.nodes[m].after = *at
	*at = int32(m)
	if o.nodes[m].after < 0 {
		return int32(m)
	}
	return last
}

// clashes reports whether two names of the object i differ only by case.
func (o *Outline) clashes(i int) bool {
	for a := o.nodes[i].first; a >= 0; a = o.nodes[a].after {
		name := o.Name(int(a))
		for b := o.nodes[a].after; b >= 0; b = o.nodes[b].after {
			if other := o.Name(int(b)); len(other) == len(name) && strings.EqualFold(name, other) {
				return true
			}
		}
	}
	return false
}
