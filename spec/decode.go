package spec

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decimal is how a number is written: YAML's hexadecimal, octal and
// underscored forms are read differently by different tools.
var (
	nothing  = regexp.MustCompile(`^0+(ms|s|m|h|d|KiB|MiB|/[smhd])?$`) // a duration, rate or size of none
	decimal  = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,17})$`)
	fraction = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?$`)
)

// field is one key that a struct of the model takes.
type field struct {
	index int
	// shape is the tag of the same name: "one" (a single value stands for a
	// list of one), "number" (a number is taken as text), "plan" (the word
	// plan sets the struct's field Plan instead), "brief" (milliseconds are
	// taken too), "usual" (true stands for the map with nothing in it).
	shape string
	// words is the tag oneof: all that the text may be.
	words []string
}

// decoder fills the model from nodes and records where each key stands.
type decoder struct {
	*report
	fields map[reflect.Type]map[string]field
}

func newDecoder(r *report) *decoder {
	return &decoder{report: r, fields: map[reflect.Type]map[string]field{}}
}

// keys returns the keys of a struct type by name.
func (d *decoder) keys(t reflect.Type) map[string]field {
	if known, ok := d.fields[t]; ok {
		return known
	}
	out := map[string]field{}
	for i := range t.NumField() {
		f := t.Field(i)
		if name := f.Tag.Get("yaml"); name != "" && name != "-" {
			out[name] = field{index: i, shape: f.Tag.Get("shape"), words: strings.Fields(f.Tag.Get("oneof"))}
		}
	}
	d.fields[t] = out
	return out
}

// decode stores the node in v. Types with a form of their own come first.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	switch to := v.Addr().Interface().(type) {
	case *Duration:
		scalarOf(d, n, to, path, ParseDuration)
	case *Rate:
		scalarOf(d, n, to, path, ParseRate)
	case *Size:
		scalarOf(d, n, to, path, ParseSize)
	case *time.Time:
		scalarOf(d, n, to, path, parseDate)
	case *Authn:
		d.authn(n, to, path)
	case *WAF:
		d.waf(n, to, path)
	case *AuthzAttr:
		d.attr(n, to, path)
	case *any:
		*to = d.free(n, path)
	default:
		d.kind(n, v, path)
	}
}

func (d *decoder) kind(n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			d.wrong(n, path, "a map", d.example(path, v.Type()))
		} else {
			d.structure(n, v, path)
		}
	case reflect.Map:
		if d.want(n, yaml.MappingNode, path, "a map of names", "write NAME: and its keys below it") {
			d.named(n, v, path)
		}
	case reflect.Slice:
		if d.want(n, yaml.SequenceNode, path, "a list", "write [a, b], or one entry per line after a dash") {
			d.list(n, v, path)
		}
	case reflect.String:
		d.text(n, v, path)
	case reflect.Bool:
		if d.wantTag(n, "!!bool", path, "true or false", "write true or false without quotes") {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case reflect.Int:
		d.integer(n, v, path)
	}
}

// examples are what to write where a map is due and a word stands, and whether the
// thing can be had off: true and off are what people try first.
var examples = map[string]string{
	"idempotency": "write true for the defaults, { required: true } to demand a key, or remove the key to have none",
	"nonce":       "write true for the defaults, { window: 5m }, or remove the key to have none",
	"cors":        "write { origins: [\"https://app.example.com\"] }, or remove the key to have none",
	"ban":         "write { after: 120/m, first: 1m, longest: 1h }; it cannot be switched off, so write a higher rate to ban less",
	"breaker":     "write { failures: 50, least: 20, open: 5s }; it cannot be switched off, so write failures: 100 to open it only when every request fails",
	"upstream":    "write { timeout: 30s }; it cannot be switched off",
	"edge":        "write { connections: 10000, per_ip: 256 }, or remove the key for the defaults",
	"limits":      "write { store: \"rediss://HOST:PORT\", ca: FILE.pem }, or remove the key to let each gateway count alone",
	"limit":       "write { ip: 100/m, user: 60/m }, or remove the key for the defaults",
	"validate":    "write { max_body: 64KiB }, or remove the key for the defaults",
}

// example is what to write where a map is due: of keys that exist.
func (d *decoder) example(path string, t reflect.Type) string {
	if fix, ok := examples[path[strings.LastIndexByte(path, '.')+1:]]; ok {
		return fix
	}
	keys := slices.Sorted(slices.Values(names(d.keys(t))))
	if len(keys) == 0 {
		return "write { key: value }"
	}
	return "write { KEY: VALUE }, of the keys " + strings.Join(keys[:min(len(keys), maxListed)], ", ")
}

// want reports a node of another kind than the model has at this key.
func (d *decoder) want(n *yaml.Node, kind yaml.Kind, path, what, fix string) bool {
	if n.Kind == kind {
		return true
	}
	d.wrong(n, path, what, fix)
	return false
}

func (d *decoder) wantTag(n *yaml.Node, tag, path, what, fix string) bool {
	if n.Kind == yaml.ScalarNode && n.Tag == tag {
		return true
	}
	d.wrong(n, path, what, fix)
	return false
}

func (d *decoder) wrong(n *yaml.Node, path, what, fix string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		d.bad(path, "the key has no value", "give it one, or remove the key")
		return
	}
	d.bad(path, "want "+what+", got "+typeName(n), fix)
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	keys := d.keys(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		here := join(path, key.Value)
		f, ok := keys[key.Value]
		if !ok {
			d.at[here] = place(key)
			d.unknown(here, "unknown key", key.Value, set(keys), "the keys here are")
			continue
		}
		d.at[here] = place(key)
		d.shaped(value, v, f, here)
		if len(f.words) > 0 {
			d.oneOf(v.Field(f.index), f.words, here)
		}
	}
	if line := v.FieldByName("Line"); line.IsValid() {
		line.SetInt(int64(n.Line))
	}
}

// shaped decodes one key of the struct v by the field's shape.
func (d *decoder) shaped(n *yaml.Node, v reflect.Value, f field, path string) {
	to := v.Field(f.index)
	switch {
	case f.shape == "plan" && n.Kind == yaml.ScalarNode && n.Value == "plan":
		v.FieldByName("Plan").SetBool(true)
	case f.shape == "one" && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		d.list(&yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n}}, to, path)
	case f.shape == "usual" && n.Tag == "!!bool" && strings.EqualFold(n.Value, "true"):
		to.Set(reflect.New(to.Type().Elem()))
	case f.shape == "brief":
		scalarOf(d, n, to.Addr().Interface().(*Duration), path, parseBrief)
	case f.shape == "number" && n.Tag == "!!int":
		to.SetString(n.Value)
	default:
		d.decode(n, to, path)
	}
}

// oneOf reports a text that is none of the words. The word that is likely meant
// takes its place, so that the rules after this one judge the file that its author
// meant: a misspelt role: gateway is one problem, and not one of every flow besides.
func (d *decoder) oneOf(v reflect.Value, allowed []string, path string) {
	text := v.String()
	if text == "" || slices.Contains(allowed, text) {
		return
	}
	best, ok := Nearest(text, allowed)
	d.add(fault{Problem: d.problem(path, fmt.Sprintf("%q is not accepted here", shorten(text))), name: text, candidates: words(allowed...), what: "the values are", mended: ok})
	v.SetString(best)
}

// named decodes a map whose keys are names of the system.
func (d *decoder) named(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		here := join(path, key.Value)
		d.at[here] = place(key)
		entry := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, entry, here)
		v.SetMapIndex(reflect.ValueOf(key.Value), entry)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if len(n.Content) == 0 && !strings.HasPrefix(path, "authz.roles.") {
		d.bad(path, "the list is empty", "fill it, or remove the key")
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		here := index(path, i)
		d.at[here] = place(c)
		d.decode(c, v.Index(i), here)
	}
}

func (d *decoder) text(n *yaml.Node, v reflect.Value, path string) {
	fix := "write a word"
	if n.Kind == yaml.ScalarNode {
		fix = fmt.Sprintf("write %q in quotes", shorten(n.Value))
	}
	if !d.wantTag(n, "!!str", path, "a string", fix) {
		return
	}
	if n.Value == "" {
		d.bad(path, "the value is empty", "give it one, or remove the key")
		return
	}
	v.SetString(n.Value)
}

func (d *decoder) integer(n *yaml.Node, v reflect.Value, path string) {
	const fix = "write a number such as 40, without quotes"
	if !d.wantTag(n, "!!int", path, "a whole number", fix) {
		return
	}
	i, err := strconv.ParseInt(n.Value, 10, 32)
	if err != nil || !decimal.MatchString(n.Value) {
		d.bad(path, "want a whole number in decimal", fix)
		return
	}
	v.SetInt(i)
	if i == 0 {
		d.zero[path] = true
	}
}

// scalarOf decodes a type that has a written form of its own.
func scalarOf[T any](d *decoder, n *yaml.Node, to *T, path string, parse func(string) (T, error)) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		_, err := parse("")
		d.wrong(n, path, strings.TrimPrefix(err.Error(), "want "), "write it as one word")
		return
	}
	got, err := parse(n.Value)
	if err != nil {
		fix := err.Error()
		if nothing.MatchString(n.Value) {
			fix += "; leave the key out for its default"
		}
		d.bad(path, fmt.Sprintf("%q is not accepted here", shorten(n.Value)), fix)
		return
	}
	*to = got
}

func parseDate(text string) (time.Time, error) {
	t, err := time.Parse(dateLayout, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("want a date such as 2027-06-30")
	}
	return t, nil
}

// entryMethods and patterns are the two sets of words that authn takes.
var (
	entryMethods = []string{"session", "jwt", "api_key"}
	patterns     = []string{"exchange", "per_service", "gateway"}
)

// authn decodes a single word, or the map {all, bind}.
func (d *decoder) authn(n *yaml.Node, to *Authn, path string) {
	if n.Kind == yaml.MappingNode {
		d.structure(n, reflect.ValueOf(to).Elem(), path)
		if !d.has(join(path, "all")) {
			d.bad(path, "want the methods that must all be present", "write { all: [api_key, jwt] }")
		}
		return
	}
	if !d.wantTag(n, "!!str", path, "a word or a map", "write authn: session, or authn: { all: [api_key, jwt] }") {
		return
	}
	switch {
	case slices.Contains(entryMethods, n.Value):
		to.All = []string{n.Value}
	case slices.Contains(patterns, n.Value):
		to.Pattern = n.Value
	default:
		d.unknown(path, fmt.Sprintf("unknown way to authenticate %q", shorten(n.Value)), n.Value, words(slices.Concat(entryMethods, patterns)...), "the words are")
	}
}

// free decodes what the file only hands on, such as a request body, into
// JSON-like values: nil, bool, int64, float64, string, []any, map[string]any.
func (d *decoder) free(n *yaml.Node, path string) any {
	switch n.Kind {
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			out[n.Content[i].Value] = d.free(n.Content[i+1], join(path, n.Content[i].Value))
		}
		return out
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, c := range n.Content {
			out[i] = d.free(c, index(path, i))
		}
		return out
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		return d.number(n, path)
	}
	return n.Value
}

func (d *decoder) number(n *yaml.Node, path string) any {
	if decimal.MatchString(n.Value) {
		i, _ := strconv.ParseInt(n.Value, 10, 64) // at most 18 digits
		return i
	}
	f, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || math.IsInf(f, 0) || !fraction.MatchString(n.Value) {
		d.badAt(place(n), path, "want a number in decimal, got "+typeName(n), "write it as in JSON, or put it in quotes")
		return nil
	}
	return f
}

// names returns the keys of a map in no order.
func names[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	return out
}

// set returns the keys of a map as a set; words is a set written out.
func set[V any](m map[string]V) map[string]bool { return words(names(m)...) }

func words(list ...string) map[string]bool {
	out := make(map[string]bool, len(list))
	for _, w := range list {
		out[w] = true
	}
	return out
}

// root decodes the whole file.
func (d *decoder) root(n *yaml.Node, s *System) { d.structure(n, reflect.ValueOf(s).Elem(), "") }
