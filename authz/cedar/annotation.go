package cedar

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// annotations that have a meaning here. Others are the author's own, unless
// they look like one of these misspelt.
var annotations = []string{"id", "obligation", "fields", "mask", "reason", "doc"}

// ruling reads what a policy asks for besides its effect. attrs are the
// attributes of the types that the policy may apply to, nil without a schema.
// at is the place in list of the annotation that an error is about.
func ruling(ref rampart.PolicyRef, list []ast.AnnotationType, attrs map[string][]authz.Attr) (_ authz.Ruling, at int, err error) {
	r := authz.Ruling{Policy: ref}
	for i, a := range list {
		if err := annotate(&r, string(a.Key), string(a.Value), attrs); err != nil {
			return authz.Ruling{}, i, fmt.Errorf("@%s(%q): %v", a.Key, a.Value, err)
		}
	}
	return r, 0, nil
}

// Idle is an annotation that asks for nothing here.
type Idle struct {
	Policy rampart.PolicyRef
	Name   string // without the "@"
	Line   int    // 1-based; 0 when unknown
}

// Idle returns the annotations that have no meaning here and whose name does
// not begin with "x_", by which authors mark their own. They load: other tools
// may read them.
func (e *Engine) Idle() []Idle {
	var out []Idle
	for _, p := range e.order {
		for i, a := range p.tree.Annotations {
			kind, _, _ := strings.Cut(string(a.Key), "_")
			if kind != "x" && kind != "obligation" && !slices.Contains(annotations, string(a.Key)) {
				out = append(out, Idle{p.ref, string(a.Key), p.noted[i]})
			}
		}
	}
	return out
}

// linesOf says where the annotations of a policy stand; 0 where that is unknown.
func linesOf(list []ast.AnnotationType, src source, st *statement) []int {
	out := make([]int, len(list))
	if st == nil || len(st.annotations) != len(list) {
		return out
	}
	for i, a := range st.annotations {
		out[i] = src.line(a.from)
	}
	return out
}

func annotate(r *authz.Ruling, name, value string, attrs map[string][]authz.Attr) error {
	kind, _, _ := strings.Cut(name, "_")
	switch {
	case name == "id":
		return nil
	case name == "doc":
		r.Detail = value
		return nil
	case name == "reason":
		return reason(r, value)
	case kind == "obligation":
		return oblige(r, value)
	case name == "fields" || name == "mask":
		return limit(r, name, value, attrs)
	}
	if near := nearest(name, annotations); near != "" {
		return fmt.Errorf("is unknown; did you mean @%s?", near)
	}
	return nil
}

func reason(r *authz.Ruling, value string) error {
	if value == "" || len(value) > 300 {
		return errors.New("a text for the user has 1 to 300 bytes")
	}
	r.Reason = value
	return nil
}

// oblige reads "type; name=value; name=value".
func oblige(r *authz.Ruling, value string) error {
	words := strings.Split(value, ";")
	o := rampart.Obligation{ID: r.Policy.ID, Type: strings.TrimSpace(words[0])}
	if !isName(o.Type) {
		return errors.New(`write "type; name=value", for example "step-up; acr=aal2"`)
	}
	for _, w := range words[1:] {
		k, v, ok := strings.Cut(w, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || !isName(k) || v == "" {
			return fmt.Errorf("%q is no property: write name=value", strings.TrimSpace(w))
		}
		if _, twice := o.Properties[k]; twice {
			return fmt.Errorf("the property %q stands twice", k)
		}
		if o.Properties == nil {
			o.Properties = map[string]string{}
		}
		o.Properties[k] = v
	}
	r.Obligations = append(r.Obligations, o)
	return nil
}

// limit reads @fields and @mask: names joined by commas.
func limit(r *authz.Ruling, what, value string, attrs map[string][]authz.Attr) error {
	if r.Policy.Effect != rampart.Allow {
		return errors.New("a forbid shows nothing, so it has no fields")
	}
	var names []string
	for word := range strings.SplitSeq(value, ",") {
		word = strings.TrimSpace(word)
		if !isPath(word) {
			return fmt.Errorf("%q is no name of a member: write \"total, card.last4\"", word)
		}
		names = append(names, word)
	}
	if r.Fields == nil {
		r.Fields = &rampart.Fields{}
	}
	if err := declared(names, what == "mask", attrs); err != nil {
		return err
	}
	if what == "fields" {
		r.Fields.Only = sorted(names)
		return nil
	}
	masked, err := byClass(names, attrs)
	r.Fields.Mask = masked
	return err
}

// declared refuses a name that the schema does not know: what is misspelt here
// would be shown. attrs nil knows every name.
func declared(names []string, classes bool, attrs map[string][]authz.Attr) error {
	if attrs == nil {
		return nil
	}
	known := append(slices.Sorted(maps.Keys(attrs)), "id", "tenant")
	for _, name := range names {
		member, _, _ := strings.Cut(name, ".")
		if slices.Contains(known, member) || classes && classWord(name) != nil {
			continue
		}
		if classes {
			known = append(known, classWords...)
		}
		if near := nearest(member, known); near != "" {
			return fmt.Errorf("authz.types declares no attribute %q; did you mean %q?", member, near)
		}
		return fmt.Errorf("authz.types declares no attribute %q; declare it, as one that is optional if no policy reads it", member)
	}
	return nil
}

// classWords are the words of @mask that stand for attributes.
var classWords = []string{"pii", string(rampart.ClassInternal), string(rampart.ClassConfidential), string(rampart.ClassSecret)}

// byClass replaces "pii" and the names of classes by the attributes that are
// personal, or at least that sensitive.
func byClass(names []string, attrs map[string][]authz.Attr) ([]string, error) {
	var out []string
	for _, name := range names {
		belongs := classWord(name)
		if belongs == nil {
			out = append(out, name)
			continue
		}
		if attrs == nil {
			return nil, fmt.Errorf("%s needs `authz.types` in rampart.yaml, which says what is %s", name, name)
		}
		n := len(out)
		for attr, kinds := range attrs {
			if slices.ContainsFunc(kinds, belongs) {
				out = append(out, attr)
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("no attribute here is %s, so nothing would be masked", name)
		}
	}
	return sorted(out), nil
}

// classWord returns which attributes a word of @mask stands for; nil for a name.
func classWord(word string) func(authz.Attr) bool {
	switch c := rampart.Class(word); c {
	case "pii":
		return func(a authz.Attr) bool { return a.PII }
	case rampart.ClassInternal, rampart.ClassConfidential, rampart.ClassSecret:
		return func(a authz.Attr) bool {
			class := a.Class
			if class == "" {
				class = rampart.ClassInternal
			}
			return class.Rank() >= c.Rank()
		}
	}
	return nil
}

func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// isName accepts letters, digits, "_" and "-".
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || c != '-' && !isWordByte(c) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

func isPath(s string) bool {
	for member := range strings.SplitSeq(s, ".") {
		if !isName(member) {
			return false
		}
	}
	return true
}
