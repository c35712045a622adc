package waf

import (
	"strconv"
	"strings"

	"github.com/corazawaf/coraza/v3/types"
	"github.com/tidwall/gjson"
)

// Coraza remembers what a transformation made of a value by the address of the
// value's name. Values that share a name share the address, and since Coraza
// walks names in random order, a rule may be shown one of them twice and the
// other never: an attack then passes in some of its repetitions. In forms, names
// that differ in case only overwrite each other besides. So every value of such
// a name is handed over a second time, where its name has memory of its own:
// arguments as path arguments, which rules find among ARGS, and cookies in a
// header field of their own. What a rule finds in it then counts twice.

// unnamed stands for an empty name: all of these share one address.
const unnamed = "unnamed"

// again hands over what names hide.
func again(tx types.Transaction, r *Request) {
	for _, a := range repeatedArgs(r) {
		tx.AddPathRequestArgument(strings.Clone(a.Name), a.Value)
	}
	for _, v := range r.Header["Cookie"] {
		for _, pair := range RepeatedCookies(v) {
			tx.AddRequestHeader(strings.Clone("Cookie"), strings.Clone(pair))
		}
	}
}

// named are arguments by what Coraza keeps of their names.
type named map[string][]Arg

func (n named) add(key, name, value string) { n[key] = append(n[key], Arg{name, value}) }

func repeatedArgs(r *Request) []Arg {
	var out []Arg
	for _, list := range argNames(r) {
		if len(list) > 1 {
			out = append(out, list...)
		}
	}
	return out
}

// argNames gathers the arguments whose names may meet. Names of a query may
// not, but for empty ones.
func argNames(r *Request) named {
	n := named{}
	_, query, _ := strings.Cut(r.Target, "?")
	eachPair(query, func(name, value string) {
		if name == "" {
			n.add("", unnamed, value)
		}
	})
	switch r.BodyKind {
	case FormBody:
		eachPair(string(r.Body), func(name, value string) {
			if name == "" {
				n.add("", unnamed, value)
				return
			}
			n.add(strings.ToLower(name), name, value)
		})
	case JSONBody:
		f := flattener{n: n, left: maxArguments + 1, room: max(flatBytes, len(r.Body)*flatFactor)}
		f.items(gjson.ParseBytes(r.Body), []byte("json"), maxJSON)
	}
	return n
}

// Beyond this depth, and this many bytes of names and values, Coraza refuses JSON.
const (
	maxJSON    = 64
	flatBytes  = 4096
	flatFactor = 8
)

// flattener names the values of JSON as Coraza does. Two have one name if a
// member's name holds a dot, or comes twice. What is beyond its limits is
// refused by a rule of ours.
type flattener struct {
	n    named
	left int // arguments
	room int // bytes
}

func (f *flattener) items(v gjson.Result, name []byte, depth int) {
	parent, elements := len(name), 0
	if depth <= 0 {
		return
	}
	v.ForEach(func(key, item gjson.Result) bool {
		name = append(name[:parent], '.')
		if key.Type == gjson.String {
			name = append(name, key.Str...)
		} else {
			name = strconv.AppendInt(name, int64(key.Num), 10)
			elements++
		}
		if item.Type == gjson.JSON {
			f.items(item, name, depth-1)
		} else {
			f.leaf(string(name), text(item))
		}
		return f.left > 0 && f.room > 0
	})
	if elements > 0 {
		f.leaf(string(name[:parent]), strconv.Itoa(elements))
	}
}

func (f *flattener) leaf(name, value string) {
	f.left--
	f.room -= len(name) + len(value)
	f.n.add(name, name, value)
}

func text(v gjson.Result) string {
	switch v.Type {
	case gjson.String:
		return v.Str
	case gjson.Null:
		return ""
	}
	return v.Raw
}

// eachPair splits a query or a form as Coraza does.
func eachPair(s string, fn func(name, value string)) {
	for part := range strings.SplitSeq(s, "&") {
		if part != "" {
			name, value, _ := strings.Cut(part, "=")
			fn(unescape(name), unescape(value))
		}
	}
}

// unescape decodes what can be decoded and leaves the rest.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out, i = append(out, byte(b)), i+2
				continue
			}
		}
		if s[i] == '+' {
			out = append(out, ' ')
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// RepeatedCookies are the pairs of a Cookie field whose name comes more than
// once, spelled as they are: the rules see each of them in a field of its own,
// too.
func RepeatedCookies(field string) []string {
	pairs := map[string][]string{}
	for part := range strings.SplitSeq(field, ";") {
		part = trimControl(part)
		name, value, _ := strings.Cut(part, "=")
		if name = trimControl(name); name != "" || trimControl(value) != "" {
			pairs[name] = append(pairs[name], part)
		}
	}
	var out []string
	for _, list := range pairs {
		if len(list) > 1 {
			out = append(out, list...)
		}
	}
	return out
}

func trimControl(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
