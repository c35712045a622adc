package guide

import (
	"strconv"

	"github.com/tidwall/gjson"
)

// cleanJSON walks a body as Coraza flattens it, with the parser that Coraza
// uses: names such as json.items.0.note, an array's length under the array's own name.
func (g *Guide) cleanJSON(s string, st *scratch) bool {
	if tooDeep(s) || !gjson.Valid(s) {
		return false
	}
	name := append(make([]byte, 0, 128), "json"...)
	if !g.cleanItems(gjson.Parse(s), name, st) {
		return false
	}
	return st.used <= max(flatBytes, len(s)*flatFactor) && st.args <= maxArguments
}

// Coraza refuses to flatten beyond this many bytes of names and values.
const (
	flatBytes  = 4096
	flatFactor = 8
)

func (g *Guide) cleanItems(v gjson.Result, name []byte, st *scratch) bool {
	elements, clean, parent := 0, true, len(name)
	v.ForEach(func(key, item gjson.Result) bool {
		name = append(name[:parent], '.')
		if key.Type == gjson.String {
			name = append(name, key.Str...)
		} else {
			name = strconv.AppendInt(name, int64(key.Num), 10)
			elements++
		}
		clean = st.args <= maxArguments && g.cleanItem(item, name, st)
		return clean
	})
	if elements > 0 && clean {
		return g.cleanLeaf(name[:parent], strconv.Itoa(elements), st)
	}
	return clean
}

func (g *Guide) cleanItem(item gjson.Result, name []byte, st *scratch) bool {
	switch item.Type {
	case gjson.JSON:
		return g.cleanItems(item, name, st)
	case gjson.String:
		return g.cleanLeaf(name, item.Str, st)
	case gjson.Null:
		return g.cleanLeaf(name, "", st)
	}
	return g.cleanLeaf(name, item.Raw, st)
}

func (g *Guide) cleanLeaf(name []byte, value string, st *scratch) bool {
	st.args++
	st.used += len(name) + len(value)
	if g.distinct && !st.names.add(name) {
		return false
	}
	if !g.memo.or(append(append(st.key[:0], g.postName.id), name...), func() bool {
		return g.clean(g.postName.class(string(name)), string(name), st)
	}) {
		return false
	}
	if len(g.post.keyed) > 0 {
		return g.clean(g.post.class(string(name)), value, st)
	}
	return g.cleanValue(g.post.id, g.post.base, value, st)
}

// tooDeep counts brackets outside of strings.
func tooDeep(s string) bool {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
