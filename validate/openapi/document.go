package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/validate/strictjson"
)

// The bounds of a document.
const (
	maxDocument = 4 << 20 // bytes
	maxNodes    = 200_000 // values, aliases expanded
	maxDepth    = 64
)

// document is a parsed file: JSON-like values and where each stands.
type document struct {
	root  map[string]any
	lines map[string]int // JSON pointer -> line; empty for JSON
}

// parse reads YAML, or JSON when the text begins with a brace.
func parse(text []byte) (*document, error) {
	if len(text) > maxDocument {
		return nil, errors.New("document is larger than 4 MiB")
	}
	d := &document{lines: map[string]int{}}
	v, err := d.decode(text)
	if err != nil {
		return nil, err
	}
	root, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("document is not an object")
	}
	d.root = root
	return d, nil
}

func (d *document) decode(text []byte) (any, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return strictjson.Limits{Depth: maxDepth, Values: maxNodes}.Decode(text)
	}
	var node yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&node); err != nil {
		return nil, fmt.Errorf("not YAML: %v", err)
	}
	if dec.Decode(&yaml.Node{}) == nil {
		return nil, errors.New("more than one YAML document in the file")
	}
	c := converter{lines: d.lines, nodes: maxNodes}
	return c.value(&node, "", maxDepth)
}

// Fault is a rule that a document breaks, as Compile's error.
type Fault struct {
	Line    int    // 0 when the document is JSON
	Pointer string // where it is broken
	Msg     string // the rule, with the way out
}

func (f *Fault) Error() string {
	if f.Line > 0 {
		return fmt.Sprintf("line %d, %s: %s", f.Line, f.Pointer, f.Msg)
	}
	return f.Pointer + ": " + f.Msg
}

// fail reports a rule that the document breaks at pointer, with the way out.
func (d *document) fail(pointer, format string, args ...any) error {
	return &Fault{d.line(pointer), orRoot(pointer), fmt.Sprintf(format, args...)}
}

// line returns that of what stands at pointer or around it, 0 for JSON.
func (d *document) line(pointer string) int {
	for {
		if line := d.lines[pointer]; line > 0 {
			return line
		}
		i := strings.LastIndexByte(pointer, '/')
		if i < 0 {
			return 0
		}
		pointer = pointer[:i]
	}
}

func orRoot(pointer string) string {
	if pointer == "" {
		return "/"
	}
	return pointer
}

// lookup follows a reference within the document, "#/a/b".
func (d *document) lookup(ref string) (any, bool) {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil, false
	}
	var v any = d.root
	for token := range strings.SplitSeq(rest, "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[unescape.Replace(token)]; !ok {
			return nil, false
		}
	}
	return v, true
}

var (
	escape   = strings.NewReplacer("~", "~0", "/", "~1")
	unescape = strings.NewReplacer("~1", "/", "~0", "~")
)

// join appends a token to a JSON pointer (RFC 6901).
func join(pointer, token string) string { return pointer + "/" + escape.Replace(token) }

// converter turns YAML nodes into what a JSON decoder would have made of the
// same document. yaml's own decoding would turn dates into times, and status
// codes into integer keys.
type converter struct {
	lines map[string]int
	nodes int // still allowed: aliases can multiply
}

func (c *converter) value(n *yaml.Node, at string, depth int) (any, error) {
	c.nodes--
	if c.nodes < 0 || depth == 0 {
		return nil, fmt.Errorf("line %d, %s: document is too large or too deep", n.Line, orRoot(at))
	}
	if _, ok := c.lines[at]; !ok {
		c.lines[at] = n.Line
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return c.value(n.Content[0], at, depth)
	case yaml.AliasNode:
		return c.value(n.Alias, at, depth-1)
	case yaml.SequenceNode:
		return c.sequence(n, at, depth)
	case yaml.MappingNode:
		return c.mapping(n, at, depth)
	case yaml.ScalarNode:
		return c.scalar(n, at)
	}
	return nil, fmt.Errorf("line %d, %s: not a YAML value", n.Line, orRoot(at))
}

func (c *converter) sequence(n *yaml.Node, at string, depth int) (any, error) {
	out := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		v, err := c.value(item, at+"/"+strconv.Itoa(i), depth-1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (c *converter) mapping(n *yaml.Node, at string, depth int) (any, error) {
	out := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, item := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return nil, fmt.Errorf("line %d, %s: key must be a plain text; write merged keys out", key.Line, orRoot(at))
		}
		if _, twice := out[key.Value]; twice {
			return nil, fmt.Errorf("line %d, %s: key given twice", key.Line, join(at, key.Value))
		}
		c.lines[join(at, key.Value)] = key.Line
		v, err := c.value(item, join(at, key.Value), depth-1)
		if err != nil {
			return nil, err
		}
		out[key.Value] = v
	}
	return out, nil
}

func (c *converter) scalar(n *yaml.Node, at string) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	case "!!int", "!!float":
		v, err := strictjson.Decode([]byte(n.Value))
		if _, ok := v.(json.Number); !ok || err != nil {
			return nil, fmt.Errorf("line %d, %s: write numbers as JSON does, or quote the text", n.Line, orRoot(at))
		}
		return v, nil
	case "!!str", "!!timestamp":
		return n.Value, nil
	}
	return nil, fmt.Errorf("line %d, %s: tag %s is not supported", n.Line, orRoot(at), n.ShortTag())
}
