package spec

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// plainText is a text that needs no quotes wherever it stands.
var plainText = regexp.MustCompile(`^[A-Za-z_./][A-Za-z0-9_./-]*$`)

// Effective returns the file with every default written out, as YAML in a
// fixed order. Loaded from the same folder it is the same system, and its own
// Effective is equal to it.
func (s *System) Effective() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(structNode(reflect.ValueOf(s).Elem())); err != nil {
		return nil, fmt.Errorf("effective: %v", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("effective: %v", err)
	}
	return out.Bytes(), nil
}

// node renders a value as its parser reads it; nil leaves the key out.
func node(v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case Duration:
		return wordNode(x != 0, x.String())
	case Rate:
		return wordNode(x != Rate{}, x.String())
	case Size:
		return wordNode(x != 0, x.String())
	case time.Time:
		return wordNode(!x.IsZero(), x.Format(dateLayout))
	case Authn:
		return authnNode(x)
	case Limit:
		return limitNode(v)
	case WAF:
		return wafNode(v)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return node(v.Elem())
	case reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return freeNode(v.Interface())
	case reflect.Struct:
		return structNode(v)
	case reflect.Map:
		return mapNode(v)
	case reflect.Slice:
		return listNode(v)
	case reflect.String:
		if v.Len() == 0 {
			return nil
		}
		return textNode(v.String())
	case reflect.Bool:
		return wordNode(v.Bool(), "true")
	case reflect.Int:
		return wordNode(true, strconv.FormatInt(v.Int(), 10))
	}
	return nil
}

// wordNode is a scalar that needs no quotes.
func wordNode(given bool, word string) *yaml.Node {
	if !given {
		return nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: word}
}

// textNode is a string, quoted whenever it could be read as anything else.
func textNode(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if !plainText.MatchString(text) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func add(m *yaml.Node, key string, value *yaml.Node) {
	if value != nil {
		m.Content = append(m.Content, textNode(key), value)
	}
}

// structNode renders the keys in the order of the model. A struct of scalars
// takes one line.
func structNode(v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			add(m, key, node(v.Field(i)))
		}
	}
	if len(m.Content) == 0 {
		return nil
	}
	return oneLine(m)
}

// oneLine puts a map on one line if nothing in it is a map.
func oneLine(m *yaml.Node) *yaml.Node {
	nested := func(n *yaml.Node) bool {
		return n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle == 0
	}
	if !slices.ContainsFunc(m.Content, nested) {
		m.Style = yaml.FlowStyle
	}
	return m
}

func mapNode(v reflect.Value) *yaml.Node {
	if v.Len() == 0 {
		return nil
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		value := node(v.MapIndex(k))
		if value == nil { // an entry without content is still an entry
			value = emptyNode(v.Type().Elem())
		}
		add(m, k.String(), value)
	}
	return m
}

func emptyNode(t reflect.Type) *yaml.Node {
	if t.Kind() == reflect.Slice {
		return &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	}
	return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
}

func listNode(v reflect.Value) *yaml.Node {
	if v.Len() == 0 {
		return nil
	}
	l := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range v.Len() {
		l.Content = append(l.Content, node(v.Index(i)))
	}
	if v.Type().Elem().Kind() == reflect.String {
		l.Style = yaml.FlowStyle
	}
	return l
}

// authnNode writes a single word where one says it all.
func authnNode(a Authn) *yaml.Node {
	switch {
	case a.Pattern != "":
		return textNode(a.Pattern)
	case len(a.All) == 1 && a.Bind == "":
		return textNode(a.All[0])
	}
	return structNode(reflect.ValueOf(a))
}

func limitNode(v reflect.Value) *yaml.Node {
	n := structNode(v)
	if !v.FieldByName("Plan").Bool() {
		return n
	}
	if n == nil {
		n = &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	}
	add(n, "api_key", textNode("plan"))
	return n
}

// wafNode says detect either way: a flow that leaves it out takes its gateway's.
func wafNode(v reflect.Value) *yaml.Node {
	n := structNode(v)
	if detect := v.FieldByName("Detect"); n != nil && !detect.Bool() {
		add(n, "detect", wordNode(true, "false"))
	}
	return n
}

// freeNode renders the JSON-like values of a scenario.
func freeNode(x any) *yaml.Node {
	switch x := x.(type) {
	case map[string]any:
		m := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		for _, key := range sortedNames(x) {
			add(m, key, freeNode(x[key]))
		}
		return m
	case []any:
		l := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, e := range x {
			l.Content = append(l.Content, freeNode(e))
		}
		return l
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: x, Style: yaml.DoubleQuotedStyle}
	case int64:
		return wordNode(true, strconv.FormatInt(x, 10))
	case float64:
		return wordNode(true, strconv.FormatFloat(x, 'g', -1, 64))
	case bool:
		return wordNode(true, strconv.FormatBool(x))
	}
	return wordNode(true, "null")
}
