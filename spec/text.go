package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of the text. 1,000 flows with every key written out take about
// 60,000 nodes; nothing that the model knows nests deeper than ten.
const (
	maxDepth  = 32
	maxNodes  = 200_000
	maxScalar = 4096 // bytes of one value
)

var (
	plainKey   = regexp.MustCompile(`^[A-Za-z0-9_.@>-]{1,64}$`)
	yamlFault  = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)
	aliasFault = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
	// questionMark is an unquoted word such as bool? in a flow collection, where
	// the parser takes the mark for that of a key.
	questionMark = regexp.MustCompile(`[:,{[][ \t]*([a-z]{1,16}\?)[ \t\r\n]*[,}\]]`)
	tabIndented  = regexp.MustCompile(`(?m)^ *\t`)
)

// parseText turns bytes into the one mapping at the root of a YAML document.
// It returns nil after reporting why it cannot.
func (r *report) parseText(text []byte) *yaml.Node {
	if at, ok := badRune(text); ok {
		r.badAt(at, "", "the file has a byte that is not printable UTF-8 text", "save it as plain UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		r.bad("", "the file is empty", "start with the line rampart: v1, or let rampart init write one")
		return nil
	case err != nil:
		r.syntax(text, err)
		return nil
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		r.badAt(position{max(1, second.Line), 1}, "", "the file holds a second document", "keep one document per file and remove the line ---")
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		r.bad("", "the file is not a map of keys", "start with the line rampart: v1")
		return nil
	}
	return doc.Content[0]
}

// badRune finds the first byte that is not UTF-8, or the first control
// character that YAML does not allow.
func badRune(text []byte) (position, bool) {
	at := position{1, 1}
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		switch {
		case c == utf8.RuneError && size == 1, c == 0x7f, c < ' ' && c != '\n' && c != '\r' && c != '\t':
			return at, true
		case c == '\n':
			at = position{at.line + 1, 1}
		default:
			at.col++
		}
		text = text[size:]
	}
	return position{}, false
}

// syntax reports an error of the YAML parser. Its texts carry a line at best,
// and for faults of indentation the line of the block instead of the fault.
func (r *report) syntax(text []byte, err error) {
	m := yamlFault.FindStringSubmatch(strings.TrimSpace(strings.SplitN(err.Error(), "\n", 2)[0]))
	msg := m[2]
	line, _ := strconv.Atoi(m[1]) // "" reads as 0: the first line
	if a := aliasFault.FindStringSubmatch(msg); a != nil {
		at := offsetPosition(text, bytes.Index(text, []byte("*"+a[1])))
		r.badAt(at, "", fmt.Sprintf("alias *%s: anchors and aliases are not allowed", shorten(a[1])), "write the value out, or quote it if it starts with *")
		return
	}
	if loc := tabIndented.FindIndex(text); loc != nil {
		r.badAt(offsetPosition(text, loc[1]-1), "", "a tab in the indentation", "indent with spaces")
		return
	}
	from := lineStart(text, line+1)
	asks := questionMark.FindSubmatchIndex(text[lineOffset(text, from.line):])
	switch {
	case strings.HasPrefix(msg, "did not find expected ','") && asks != nil:
		at := lineOffset(text, from.line) + asks[2]
		word := string(text[at : at+asks[3]-asks[2]])
		r.badAt(offsetPosition(text, at), "", fmt.Sprintf("%s needs quotes here: inside { } and [ ] a bare ? means something else in YAML", word), fmt.Sprintf("write %q", word))
	case strings.HasPrefix(msg, "did not find expected ','"):
		r.badAt(from, "", "a bracket that opens here is never closed", "close it with ] or }, and check the commas and quotes inside")
	case strings.HasPrefix(msg, "did not find expected"):
		at := lineStart(text, firstBadLine(text))
		r.badAt(at, "", "this line does not fit the block above it", "check its indentation, and that its key ends with a colon and a space")
	default:
		r.badAt(lineStart(text, line), "", "not YAML: "+shorten(msg), "check quotes, colons and brackets; quote a value that starts with a special character")
	}
}

// firstBadLine returns the 1-based line at which the text stops to be YAML: a
// file cut before it parses, a file cut after it does not. A cut inside an
// open bracket or quote fails for that reason only and counts as good.
func firstBadLine(text []byte) int {
	ends := []int{}
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	ends = append(ends, len(text))
	return 1 + sort.Search(len(ends)-1, func(i int) bool {
		var n yaml.Node
		err := yaml.Unmarshal(text[:ends[i]], &n)
		return err != nil && strings.Contains(err.Error(), "did not find expected") && !strings.Contains(err.Error(), "expected ','")
	})
}

// lineStart returns the first character of a line that is not a blank.
func lineStart(text []byte, line int) position {
	lines := bytes.Split(text, []byte("\n"))
	line = min(max(1, line), len(lines))
	s := lines[line-1]
	return position{line, 1 + len(s) - len(bytes.TrimLeft(s, " \t"))}
}

// lineOffset is where a line begins, in bytes.
func lineOffset(text []byte, line int) int {
	offset := 0
	for range line - 1 {
		i := bytes.IndexByte(text[offset:], '\n')
		if i < 0 {
			break
		}
		offset += i + 1
	}
	return offset
}

func offsetPosition(text []byte, offset int) position {
	before := text[:max(0, offset)]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])}
}

// inspector walks the nodes before they are given meaning, and refuses what
// makes one text read two ways.
type inspector struct {
	*report
	nodes int
	full  bool // a cap was hit and reported; nothing deeper is looked at
}

func (in *inspector) walk(n *yaml.Node, path string, depth int) {
	in.nodes++
	switch {
	case in.full:
		return
	case in.nodes > maxNodes:
		in.full = true
		in.badAt(place(n), path, fmt.Sprintf("more than %d values in one file", maxNodes), "split the system")
		return
	case depth > maxDepth:
		in.full = true
		in.badAt(place(n), path, fmt.Sprintf("nested deeper than %d levels", maxDepth), "write it flatter")
		return
	case n.Kind == yaml.AliasNode:
		in.badAt(place(n), path, "anchors and aliases are not allowed", "write the value out")
		return
	case n.Anchor != "":
		in.badAt(place(n), path, "anchors and aliases are not allowed", "remove &"+shorten(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		in.badAt(place(n), path, "tags are not allowed", "remove "+shorten(n.Tag))
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		in.mapping(n, path, depth)
	case yaml.SequenceNode:
		for i, c := range n.Content {
			in.walk(c, index(path, i), depth+1)
		}
	case yaml.ScalarNode:
		in.scalar(n, path)
	}
}

func (in *inspector) mapping(n *yaml.Node, path string, depth int) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 || len(key.Value) > maxScalar {
			in.badAt(place(key), path, "a key that is no plain word", "write the key as a word")
			continue
		}
		if key.Tag == "!!merge" {
			in.badAt(place(key), path, "merge keys (<<) are not allowed", "write the keys out")
			continue
		}
		here := join(path, key.Value)
		if key.Tag != "!!str" {
			in.badAt(place(key), here, "a key that YAML reads as "+typeName(key), "put the key in quotes")
			continue
		}
		if line, dup := seen[key.Value]; dup {
			in.badAt(place(key), here, fmt.Sprintf("the key is already on line %d", line), "keep one of the two")
			continue
		}
		seen[key.Value] = key.Line
		if literalSecret(path, key.Value, value) {
			in.badAt(place(key), here, secretMsg, secretFix)
			continue
		}
		in.walk(value, here, depth+1)
	}
}

func (in *inspector) scalar(n *yaml.Node, path string) {
	switch {
	case len(n.Value) > maxScalar:
		in.badAt(place(n), path, fmt.Sprintf("longer than %d bytes", maxScalar), "shorten it, or keep it in a file of its own")
	case strings.ContainsFunc(n.Value, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }):
		in.badAt(place(n), path, "a control character in the value", "remove it")
	case secretValue(n.Value):
		in.badAt(place(n), path, secretMsg, secretFix)
	}
}

func place(n *yaml.Node) position { return position{n.Line, n.Column} }

// typeName says in words what YAML takes a node for.
func typeName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!str":
		return "a string"
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool":
		return "the truth value " + shorten(n.Value)
	case "!!timestamp":
		return "a date"
	}
	return "nothing"
}

// join appends a key to a path, quoted if it could be taken for something else.
func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = shorten(key)
		if !plainKey.MatchString(key) {
			key = strconv.Quote(key)
		}
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// shorten cuts a text that is quoted in a message.
func shorten(s string) string { return cut(s, 60) }

// cut keeps at most so many bytes, and whole characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}
