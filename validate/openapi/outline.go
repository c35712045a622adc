package openapi

import (
	"encoding/json"
	"sync"

	"github.com/rampart-security/rampart/validate/strictjson"
)

// outlines spare the memory of what is read. Nothing of one leaves this package, and
// none is put back before it was made to forget the text.
var outlines = sync.Pool{New: func() any { return new(strictjson.Outline) }}

// withOutline calls f with the outline of a text, if there is one, and reports what f
// said. f keeps nothing of it.
func withOutline(text []byte, f func(o *strictjson.Outline) bool) bool {
	o, _ := outlines.Get().(*strictjson.Outline)
	if o == nil {
		o = new(strictjson.Outline)
	}
	ok := o.Read(text) && f(o)
	o.Forget()
	outlines.Put(o)
	return ok
}

// checked is the Doc of a body that was found to be what this media type's schema
// says, as it was read.
type checked struct{ by *media }

// recognized reads and checks a body at once, without making its values. It
// refuses nothing: what it does not know is for the slower way, which says why. The
// body that is forwarded takes the place of raw.
func (m *media) recognized(raw []byte) (b Body, ok bool) {
	if m.schema == nil || m.schema.known == nil {
		return Body{}, false
	}
	ok = withOutline(raw, func(o *strictjson.Outline) bool {
		if o.Kind(0) == strictjson.Null || !m.schema.known.knowsOutline(o) { // null counts as no body
			return false
		}
		to := raw[:0]
		if o.IsLonger() {
			to = nil
		}
		b = Body{Doc: checked{m}, Raw: o.AppendTo(to), Type: m.kind} // o has a copy of raw
		return true
	})
	return b, ok
}

// knowsOutline is knows for the value that o is the outline of.
func (r *recognizer) knowsOutline(o *strictjson.Outline) bool { return r.at(o, 0, maxNesting) }

// at is in for value i of o.
func (r *recognizer) at(o *strictjson.Outline, i, depth int) bool {
	if r.any {
		return true
	}
	if r.never || depth == 0 {
		return false
	}
	if r.among != nil && !isAmongAt(o, i, r.among) {
		return false
	}
	for _, sub := range r.all {
		if !sub.at(o, i, depth-1) {
			return false
		}
	}
	if r.check != nil && !r.passes(o, i) {
		return false
	}
	switch o.Kind(i) {
	case strictjson.String:
		return r.takes(kindString) && r.text(o.Text(i))
	case strictjson.Number:
		return r.number(o.Text(i))
	case strictjson.Object:
		return r.takes(kindObject) && r.objectAt(o, i, depth)
	case strictjson.Array:
		return r.takes(kindArray) && r.arrayAt(o, i, depth)
	case strictjson.True, strictjson.False:
		return r.takes(kindBool)
	case strictjson.Null:
		return r.takes(kindNull)
	}
	return false
}

// passes asks a format about value i of o.
func (r *recognizer) passes(o *strictjson.Outline, i int) bool {
	switch o.Kind(i) {
	case strictjson.String:
		text := o.Text(i)
		return r.sure != nil && r.sure(text) || r.check(text) == nil
	case strictjson.Number:
		return r.check(json.Number(o.Text(i))) == nil
	case strictjson.True, strictjson.False:
		return r.check(o.Kind(i) == strictjson.True) == nil
	case strictjson.Null:
		return r.check(nil) == nil
	}
	return false // formats are asked about values, and of these there is none
}

// isAmongAt is isAmong for value i of o.
func isAmongAt(o *strictjson.Outline, i int, list []any) bool {
	for _, item := range list {
		same := false
		switch item := item.(type) {
		case string:
			same = o.Kind(i) == strictjson.String && o.Text(i) == item
		case json.Number:
			same = o.Kind(i) == strictjson.Number && o.Text(i) == string(item)
		case bool:
			same = o.Kind(i) == strictjson.True && item || o.Kind(i) == strictjson.False && !item
		case nil:
			same = o.Kind(i) == strictjson.Null
		}
		if same {
			return true
		}
	}
	return false
}

func (r *recognizer) objectAt(o *strictjson.Outline, i, depth int) bool {
	if n := o.Len(i); n < r.least || n > r.most {
		return false
	}
	for _, name := range r.required {
		if !hasMember(o, i, name) {
			return false
		}
	}
	for m := i + 1; m < o.Next(i); m = o.Next(m) {
		sub, ok := r.properties[o.Name(m)]
		if !ok {
			sub = r.more
		}
		if !sub.at(o, m, depth-1) {
			return false
		}
	}
	return true
}

func hasMember(o *strictjson.Outline, i int, name string) bool {
	for m := i + 1; m < o.Next(i); m = o.Next(m) {
		if o.Name(m) == name {
			return true
		}
	}
	return false
}

func (r *recognizer) arrayAt(o *strictjson.Outline, i, depth int) bool {
	if n := o.Len(i); n < r.minItems || n > r.maxItems || r.unique && n > 1 {
		return false
	}
	for m := i + 1; m < o.Next(i); m = o.Next(m) {
		if !r.items.at(o, m, depth-1) {
			return false
		}
	}
	return true
}
