package policytest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart"
)

// decoder fills a File from nodes and collects what is wrong.
type decoder struct {
	file     string
	problems Problems
	depth    int
}

func (d *decoder) bad(at *yaml.Node, path, msg, fix string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{d.file, at.Line, at.Column, path, msg, fix})
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col)) })
}

// value stores n in what to points at.
func (d *decoder) value(n *yaml.Node, to any, path string) {
	if d.depth++; d.depth > maxDepth {
		d.bad(n, path, "nested too deep", "flatten it")
	} else if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.bad(n, path, "anchors and aliases are not allowed", "write the value out")
	} else {
		d.typed(n, to, path)
	}
	d.depth--
}

func (d *decoder) typed(n *yaml.Node, to any, path string) {
	switch to := to.(type) {
	case *string:
		d.text(n, to, path)
	case *int:
		d.integer(n, to, path)
	case *time.Time:
		d.time(n, to, path)
	case *Expect:
		d.expect(n, to, path)
	case *[]string:
		d.texts(n, to, path)
	case *map[string]any:
		d.free(n, to, path)
	case *Row:
		to.line, to.col = n.Line, n.Column
		if n.Kind == yaml.ScalarNode {
			d.sentence(n, to, path)
			return
		}
		d.structure(n, reflect.ValueOf(to).Elem(), path)
	case *Relation:
		to.line, to.col = n.Line, n.Column
		if n.Kind == yaml.ScalarNode {
			to.Tuple = n.Value
			return
		}
		d.structure(n, reflect.ValueOf(to).Elem(), path)
	case *Subject:
		to.line, to.col = n.Line, n.Column
		d.structure(n, reflect.ValueOf(to).Elem(), path)
	case *Resource:
		to.line, to.col = n.Line, n.Column
		d.structure(n, reflect.ValueOf(to).Elem(), path)
	case *Matrix:
		to.line, to.col = n.Line, n.Column
		d.structure(n, reflect.ValueOf(to).Elem(), path)
	default:
		d.composite(n, reflect.ValueOf(to).Elem(), path)
	}
}

func (d *decoder) composite(n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.each(n, path, func(key, value *yaml.Node, here string) {
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			entry := reflect.New(v.Type().Elem())
			d.value(value, entry.Interface(), here)
			v.SetMapIndex(reflect.ValueOf(key.Value), entry.Elem())
		})
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.bad(n, path, "want a list", "write one entry per line after a dash")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			d.value(c, v.Index(i).Addr().Interface(), fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

// each visits the members of a map, each key once.
func (d *decoder) each(n *yaml.Node, path string, visit func(key, value *yaml.Node, here string)) {
	if n.Kind != yaml.MappingNode {
		d.bad(n, path, "want a map", "write { key: value }")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		here := strings.TrimPrefix(path+"."+key.Value, ".")
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || key.Anchor != "" {
			d.bad(key, path, "a key is a word", "write KEY: VALUE")
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.bad(key, here, fmt.Sprintf("the key is already on line %d", line), "keep one of the two")
			continue
		}
		seen[key.Value] = key.Line
		visit(key, value, here)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	keys := map[string]int{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			keys[name] = i
		}
	}
	d.each(n, path, func(key, value *yaml.Node, here string) {
		i, ok := keys[key.Value]
		if !ok {
			d.bad(key, here, "unknown key", suggest(key.Value, slices.Sorted(maps.Keys(keys))))
			return
		}
		d.value(value, v.Field(i).Addr().Interface(), here)
	})
}

func (d *decoder) text(n *yaml.Node, to *string, path string) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" {
		d.bad(n, path, "want a text", fmt.Sprintf("write %q in quotes", clip(n.Value)))
		return
	}
	*to = n.Value
}

func (d *decoder) texts(n *yaml.Node, to *[]string, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		*to = []string{n.Value}
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.bad(n, path, "want a list of texts", "write [a, b]")
		return
	}
	*to = make([]string, len(n.Content))
	for i, c := range n.Content {
		d.value(c, &(*to)[i], fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) integer(n *yaml.Node, to *int, path string) {
	i, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || i < 0 || i > math.MaxInt32 {
		d.bad(n, path, "want a whole number", "write a number such as 12")
		return
	}
	*to = i
}

func (d *decoder) time(n *yaml.Node, to *time.Time, path string) {
	t, err := time.Parse(time.RFC3339, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		d.bad(n, path, "want a time", "write it as 2026-01-01T12:00:00Z")
		return
	}
	*to = t
}

func (d *decoder) expect(n *yaml.Node, to *Expect, path string) {
	to.set = true
	if n.Kind == yaml.SequenceNode {
		to.list = true
		d.texts(n, &to.Names, path)
		return
	}
	switch n.Value {
	case "allow":
		to.Effect = rampart.Allow
	case "deny":
	default:
		d.bad(n, path, fmt.Sprintf("%q is neither allow nor deny", clip(n.Value)), suggest(n.Value, []string{"allow", "deny"}))
	}
}

// sentence reads "alice may [not] orders:read own [by POLICY] [because CODE]".
func (d *decoder) sentence(n *yaml.Node, to *Row, path string) {
	const form = "write: SUBJECT may ACTION RESOURCE [by POLICY], or: SUBJECT may not ACTION RESOURCE [because CODE]"
	words := strings.Fields(n.Value)
	if len(words) < 4 || words[1] != "may" {
		d.bad(n, path, "not a sentence that this file knows", form)
		return
	}
	to.Subject, words = words[0], words[2:]
	to.Expect = Expect{Effect: rampart.Allow, set: true}
	if words[0] == "not" {
		to.Expect.Effect, words = rampart.Deny, words[1:]
	}
	if len(words)%2 != 0 {
		d.bad(n, path, "a word is missing or one too many", form)
		return
	}
	to.Action, to.Resource = words[0], words[1]
	for i := 2; i < len(words); i += 2 {
		switch words[i] {
		case "by":
			to.Policy = words[i+1]
		case "because":
			to.Code = words[i+1]
		default:
			d.bad(n, path, fmt.Sprintf("unknown word %q", clip(words[i])), form)
		}
	}
}

// free reads JSON-like values as rampart.Resource.Attrs holds them. A null
// stands for an absent member.
func (d *decoder) free(n *yaml.Node, to *map[string]any, path string) {
	*to = map[string]any{}
	d.each(n, path, func(key, value *yaml.Node, here string) { (*to)[key.Value] = d.json(value, here) })
}

func (d *decoder) json(n *yaml.Node, path string) any {
	switch n.Kind {
	case yaml.MappingNode:
		var m map[string]any
		d.value(n, &m, path)
		return m
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		if d.depth++; d.depth > maxDepth {
			d.bad(n, path, "nested too deep", "flatten it")
			d.depth--
			return nil
		}
		for i, c := range n.Content {
			out = append(out, d.json(c, fmt.Sprintf("%s[%d]", path, i)))
		}
		d.depth--
		return out
	case yaml.ScalarNode:
		return d.scalar(n, path)
	}
	d.bad(n, path, "anchors and aliases are not allowed", "write the value out")
	return nil
}

func (d *decoder) scalar(n *yaml.Node, path string) any {
	switch n.Tag {
	case "!!str":
		return n.Value
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return i
		}
	case "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	}
	d.bad(n, path, fmt.Sprintf("%q is no value of JSON", clip(n.Value)), "put it in quotes")
	return nil
}

// suggest words the fix for an unknown name.
func suggest(name string, candidates []string) string {
	best, least := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if n := distance(name, c); n < least {
			best, least = c, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "the names here are: " + strings.Join(candidates[:min(len(candidates), 24)], ", ")
}

// distance is the edit distance where a swap of neighbours counts one; names
// beyond 64 bytes are near to nothing.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// clip keeps text of a file short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
