package policytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// Problem is one fault of a test file or one finding about a policy.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitzero"` // 1-based; 0 when no line is meant
	Col  int    `json:"col,omitzero"`  // 1-based; 0 when only the line is known
	Key  string `json:"key,omitzero"`  // path of the key, such as tests[3].subject; of a finding, the name of the rule
	Msg  string `json:"msg"`           // the rule that is broken
	Fix  string `json:"fix,omitzero"`  // what to write instead
}

// String renders p as one line: FILE:LINE:COL: KEY: RULE; FIX.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	for _, n := range []int{p.Line, p.Col} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Msg)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems is the error of a file that was refused, at most 20, by position.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

const maxProblems = 20

// Parse reads a test file strictly: an unknown key, a key twice, a value of
// another type and a name that the file does not declare are Problems. What it
// says of roles, actions and policies is held against those when it is run.
func Parse(name string, src []byte) (*File, error) {
	d := &decoder{file: name}
	root := d.document(src)
	f := &File{name: name}
	if root != nil {
		d.value(root, f, "")
	}
	if len(d.problems) == 0 {
		d.check(f)
	}
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	return f, nil
}

// document parses the one document of a file.
func (d *decoder) document(src []byte) *yaml.Node {
	if len(src) > MaxBytes || !utf8.Valid(src) {
		d.bad(&yaml.Node{Line: 1, Column: 1}, "", fmt.Sprintf("a test file is UTF-8 text of at most %d bytes", MaxBytes), "split it")
		return nil
	}
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(src))
	if err := dec.Decode(&doc); err != nil {
		d.syntax(err)
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.bad(&yaml.Node{Line: max(1, more.Line), Column: 1}, "", "a second document", "keep one document per file")
		return nil
	}
	if len(doc.Content) != 1 {
		d.bad(&yaml.Node{Line: 1, Column: 1}, "", "the file is empty", "begin with policy_test: v1")
		return nil
	}
	return doc.Content[0]
}

var yamlLine = regexp.MustCompile(`^yaml: line ([0-9]+): `)

func (d *decoder) syntax(err error) {
	at, text := &yaml.Node{Line: 1, Column: 1}, err.Error()
	if errors.Is(err, io.EOF) {
		d.bad(at, "", "the file is empty", "begin with policy_test: v1")
		return
	}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	d.bad(at, "", "not YAML: "+strings.TrimPrefix(text, "yaml: "), "check brackets, quotes and indentation here and above")
}

// check holds names against what the file declares.
func (d *decoder) check(f *File) {
	top := &yaml.Node{Line: 1, Column: 1}
	if f.Version != version {
		d.bad(top, "policy_test", fmt.Sprintf("%q is not accepted here", f.Version), "write policy_test: v1")
	}
	if len(f.Tests)+len(f.Matrix) == 0 {
		d.bad(top, "tests", "the file holds no test", "write tests: or matrix:")
	}
	for i, r := range f.Relations {
		if _, err := r.tuple(); err != nil {
			d.bad(&yaml.Node{Line: r.line, Column: r.col}, fmt.Sprintf("relations[%d]", i), err.Error(), `write "order:17#viewer@user:bob"`)
		}
	}
	rows := 0
	for i, r := range f.Tests {
		rows++
		d.checkRow(f, r, fmt.Sprintf("tests[%d]", i))
	}
	for i, m := range f.Matrix {
		rows += len(m.Actions) * (len(m.Roles) + len(m.Subjects))
		d.checkMatrix(f, m, fmt.Sprintf("matrix[%d]", i))
	}
	if rows > MaxRows {
		d.bad(top, "tests", fmt.Sprintf("more than %d rows", MaxRows), "split the file")
	}
}

func (d *decoder) checkRow(f *File, r Row, path string) {
	at := &yaml.Node{Line: r.line, Column: r.col}
	known(d, at, path+".subject", r.Subject, f.Subjects)
	d.checkAction(at, path+".action", r.Action)
	d.checkLayer(at, path+".at", r.At)
	d.checkLayer(at, path+".layer", r.Layer)
	for i, name := range r.List {
		known(d, at, fmt.Sprintf("%s.list[%d]", path, i), name, f.Resources)
	}
	for i, name := range r.Expect.Names {
		if !slices.Contains(r.List, name) {
			d.bad(at, fmt.Sprintf("%s.expect[%d]", path, i), fmt.Sprintf("%q is not in the list", name), "write a name of list:")
		}
	}
	switch {
	case !r.Expect.set:
		d.bad(at, path+".expect", "the key is missing", "write expect: allow or expect: deny, for a list the names that it shows")
	case r.Expect.list != (r.List != nil):
		d.bad(at, path+".expect", "allow and deny are for a resource, names for a list", "write list: [NAMES] with expect: [NAMES], or resource: NAME with expect: allow or deny")
	case r.List != nil && r.Resource != "":
		d.bad(at, path+".resource", "a row asks for one resource or for a list", "remove one of the two")
	case r.List == nil && r.Resource == "" && (r.At == "" || r.At == string(rampart.LayerDomain)):
		d.bad(at, path+".resource", "the key is missing", "write a name of resources:, or ask one layer alone with at: gateway")
	case r.Resource != "":
		known(d, at, path+".resource", r.Resource, f.Resources)
	}
	if len(r.List) > 0 && !sameType(f, r.List) {
		d.bad(at, path+".list", "a list shows one type", "split the row")
	}
	if r.Expect.Effect == rampart.Allow && (r.Layer != "" || r.Code != "") {
		d.bad(at, path+".layer", "layer and code are of a denial", "remove them, or ask one layer alone with at:")
	}
}

func sameType(f *File, list []string) bool {
	return !slices.ContainsFunc(list, func(name string) bool { return f.Resources[name].Type != f.Resources[list[0]].Type })
}

func (d *decoder) checkMatrix(f *File, m Matrix, path string) {
	at := &yaml.Node{Line: m.line, Column: m.col}
	if len(m.Actions) == 0 || len(m.Roles)+len(m.Subjects) == 0 {
		d.bad(at, path, "a matrix has actions, and roles or subjects", "write actions: [orders:read] and roles: { customer: [orders:read] }")
	}
	d.checkLayer(at, path+".at", m.At)
	if m.Resource != "" {
		known(d, at, path+".resource", m.Resource, f.Resources)
	}
	if m.Resource == "" && m.At == string(rampart.LayerDomain) {
		d.bad(at, path+".resource", "the key is missing", "the domain layer asks about a resource")
	}
	for _, a := range m.Actions {
		d.checkAction(at, path+".actions", a)
	}
	for name := range m.Subjects {
		known(d, at, path+".subjects."+name, name, f.Subjects)
	}
	for _, lines := range []map[string][]string{m.Roles, m.Subjects} {
		for _, name := range slices.Sorted(maps.Keys(lines)) {
			for _, a := range lines[name] {
				if !slices.Contains(m.Actions, a) {
					d.bad(at, path+"."+name, fmt.Sprintf("%q is no column of this matrix", a), suggest(a, m.Actions))
				}
			}
		}
	}
}

func (d *decoder) checkAction(at *yaml.Node, path, action string) {
	probe := authz.Request{Action: rampart.Action(action), Resource: rampart.Resource{Type: "any"}}
	if probe.Validate() != nil {
		d.bad(at, path, fmt.Sprintf("%q is no action", action), `write "type:verb", such as orders:read`)
	}
}

func (d *decoder) checkLayer(at *yaml.Node, path, layer string) {
	if layer != "" && !isLayer(layer) {
		d.bad(at, path, fmt.Sprintf("unknown layer %q", layer), suggest(layer, []string{"gateway", "service", "domain"}))
	}
}

// known reports a name that the file does not declare.
func known[T any](d *decoder, at *yaml.Node, path, name string, declared map[string]T) {
	if _, ok := declared[name]; ok {
		return
	}
	if name == "" {
		d.bad(at, path, "the key is missing", "the names are: "+strings.Join(slices.Sorted(maps.Keys(declared)), ", "))
		return
	}
	d.bad(at, path, fmt.Sprintf("%q is not declared", name), suggest(name, slices.Sorted(maps.Keys(declared))))
}
