package guide

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// flat is a JSON body as Coraza flattens it: names such as json.items.0.note, an
// array's length under the array's own name. It reads a body once and more strictly
// than gjson, which Coraza reads it with; what both take is the same to both. A
// fuzz test holds them together.
type flat struct {
	text   string
	pos    int
	depth  int
	name   []byte // of the value in hand
	names  []byte // of all leaves, each behind its length
	leaves []leaf
	used   int // bytes of names and values
	most   int // of them that Coraza flattens
}

// leaf is a value, and where its name stands in names.
type leaf struct {
	from, to int
	value    string
}

// Coraza refuses to flatten beyond this many bytes of names and values.
const (
	flatBytes  = 4096
	flatFactor = 8
)

// read reports whether s is an object or an array within the bounds.
func (f *flat) read(s string) bool {
	f.text, f.pos, f.depth, f.used, f.most = s, 0, 0, 0, max(flatBytes, len(s)*flatFactor)
	f.name, f.names, f.leaves = append(f.name[:0], "json"...), f.names[:0], f.leaves[:0]
	f.space()
	if c := f.peek(); c != '{' && c != '[' {
		return false
	}
	ok := f.value()
	f.space()
	return ok && f.pos == len(s)
}

func (f *flat) value() bool {
	switch c := f.peek(); c {
	case '{', '[':
		f.depth++
		f.pos++
		ok := f.depth <= maxDepth && (c == '{' && f.object() || c == '[' && f.array())
		f.depth--
		return ok
	case '"':
		s, ok := f.str()
		return ok && f.leaf(s)
	case 't':
		return f.word("true") && f.leaf("true")
	case 'f':
		return f.word("false") && f.leaf("false")
	case 'n':
		return f.word("null") && f.leaf("")
	}
	s, ok := f.number()
	return ok && f.leaf(s)
}

func (f *flat) object() bool {
	parent := len(f.name)
	for f.space(); !f.skip('}'); f.space() {
		if len(f.name) > parent && !f.skip(',') { // there was a member before
			return false
		}
		f.space()
		key, ok := f.str()
		f.space()
		if !ok || !f.skip(':') {
			return false
		}
		f.space()
		f.name = append(append(f.name[:parent], '.'), key...)
		if !f.value() {
			return false
		}
	}
	f.name = f.name[:parent]
	return true
}

func (f *flat) array() bool {
	parent, n := len(f.name), 0
	for f.space(); !f.skip(']'); f.space() {
		if n > 0 && !f.skip(',') {
			return false
		}
		f.space()
		f.name = strconv.AppendInt(append(f.name[:parent], '.'), int64(n), 10)
		if !f.value() {
			return false
		}
		n++
	}
	f.name = f.name[:parent]
	return n == 0 || f.leaf(strconv.Itoa(n))
}

// leaf notes a value under the name in hand.
func (f *flat) leaf(value string) bool {
	f.used += len(f.name) + len(value)
	if len(f.leaves) >= maxArguments || f.used > f.most {
		return false
	}
	f.names = binary.AppendUvarint(f.names, uint64(len(f.name)))
	f.leaves = append(f.leaves, leaf{len(f.names), len(f.names) + len(f.name), value})
	f.names = append(f.names, f.name...)
	return true
}

// str reads a text. gjson decodes the escapes.
func (f *flat) str() (string, bool) {
	if !f.skip('"') {
		return "", false
	}
	from, escaped := f.pos, false
	for ; f.pos < len(f.text); f.pos++ {
		switch c := f.text[f.pos]; {
		case c == '"':
			f.pos++
			if raw := f.text[from-1 : f.pos]; escaped {
				return gjson.Parse(raw).Str, gjson.Valid(raw)
			}
			return f.text[from : f.pos-1], true
		case c == '\\':
			escaped = true
			f.pos++
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

// number reads one as RFC 8259, section 6, has it.
func (f *flat) number() (string, bool) {
	from := f.pos
	f.skip('-')
	if !f.skip('0') && !f.digits() {
		return "", false
	}
	if f.skip('.') && !f.digits() {
		return "", false
	}
	if f.skip('e') || f.skip('E') {
		if !f.skip('-') {
			f.skip('+')
		}
		if !f.digits() {
			return "", false
		}
	}
	return f.text[from:f.pos], true
}

func (f *flat) digits() bool {
	from := f.pos
	for c := f.peek(); c >= '0' && c <= '9'; c = f.peek() {
		f.pos++
	}
	return f.pos > from
}

func (f *flat) space() {
	for f.pos < len(f.text) && (f.text[f.pos] == ' ' || f.text[f.pos] == '\n' || f.text[f.pos] == '\t' || f.text[f.pos] == '\r') {
		f.pos++
	}
}

// peek returns the next byte, or 0, which begins nothing, at the end.
func (f *flat) peek() byte {
	if f.pos < len(f.text) {
		return f.text[f.pos]
	}
	return 0
}

func (f *flat) skip(c byte) bool {
	if f.peek() != c {
		return false
	}
	f.pos++
	return true
}

func (f *flat) word(w string) bool {
	if !strings.HasPrefix(f.text[f.pos:], w) {
		return false
	}
	f.pos += len(w)
	return true
}

// cleanJSON walks a body as Coraza flattens it.
func (g *Guide) cleanJSON(v *view, st *scratch) bool {
	f := &st.flat
	if !f.read(string(v.Body)) {
		return false
	}
	st.args += len(f.leaves)
	if !g.cleanLeafNames(v, st) {
		return false
	}
	for _, l := range f.leaves {
		if !g.cleanLeaf(f.names[l.from:l.to], l.value, st) {
			return false
		}
	}
	return true
}

func (g *Guide) cleanLeaf(name []byte, value string, st *scratch) bool {
	if len(g.post.keyed) > 0 {
		return g.clean(g.post.class(string(name)), value, st)
	}
	return g.cleanValue(g.post.id, g.post.base, value, st)
}

// cleanLeafNames looks at the names of all leaves together, which are the same in
// many bodies. Where no name may come twice, those of the path belong to them, and
// those of a query, which are the caller's, are looked at each time.
func (g *Guide) cleanLeafNames(v *view, st *scratch) bool {
	if g.distinct && strings.Contains(v.Target, "?") {
		return g.eachLeafName(st)
	}
	st.key = binary.AppendUvarint(append(st.key[:0], 'n'), uint64(len(v.Path)))
	for _, a := range v.Path {
		st.key = appendText(st.key, a.Name)
	}
	st.key = append(st.key, st.flat.names...)
	if len(st.key) > maxKey {
		return g.eachLeafName(st)
	}
	return g.shapes.or(st.key, func() bool { return g.eachLeafName(st) })
}

// appendText appends s behind its length: two lists of texts are never one.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (g *Guide) eachLeafName(st *scratch) bool {
	for _, l := range st.flat.leaves {
		name := st.flat.names[l.from:l.to]
		if g.distinct && !st.names.add(name) {
			return false
		}
		if !g.memo.or(append(append(st.key[:0], g.postName.id), name...), func() bool {
			return g.clean(g.postName.class(string(name)), string(name), st)
		}) {
			return false
		}
	}
	return true
}
