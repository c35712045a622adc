package relations

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a tuple, in bytes: those of OpenFGA, so that any tuple of ours can
// go there.
const (
	maxObject   = 256
	maxSubject  = 512
	maxName     = 50
	maxContext  = 2 << 10
	anyone      = "*"
	nameSymbols = "_-"
)

// ref is an object or a subject taken apart.
type ref struct{ kind, id, relation string }

// parse checks the forms of a tuple.
func (t Tuple) parse() (object, subject ref, err error) {
	object, err = parseRef(t.Object, maxObject)
	if err == nil && (object.relation != "" || object.id == anyone) {
		err = fmt.Errorf("the object %q is not of the form \"type:id\"", clip(t.Object))
	}
	if err == nil {
		subject, err = parseRef(t.Subject, maxSubject)
	}
	if err == nil && subject.id == anyone && subject.relation != "" {
		err = fmt.Errorf("the subject %q names the members of everybody", clip(t.Subject))
	}
	if err == nil && !isName(t.Relation) {
		err = fmt.Errorf("the relation %q is not a name", clip(t.Relation))
	}
	if err == nil && t.Condition != "" && !isName(t.Condition) {
		err = fmt.Errorf("the condition %q is not a name", clip(t.Condition))
	}
	if err == nil && t.Condition == "" && len(t.Context) > 0 {
		err = fmt.Errorf("a tuple of %s has a context and no condition that could read it", clip(t.Object))
	}
	return object, subject, err
}

// parseRef takes "type:id" or "type:id#relation" apart. An id is any text
// without "#", spaces and control characters.
func parseRef(s string, limit int) (ref, error) {
	whole, relation, hasRelation := strings.Cut(s, "#")
	kind, id, _ := strings.Cut(whole, ":")
	if len(s) > limit || !isName(kind) || !isID(id) || hasRelation && !isName(relation) {
		return ref{}, fmt.Errorf("%q is not of the form \"type:id\" or \"type:id#relation\" in %d bytes", clip(s), limit)
	}
	return ref{kind, id, relation}, nil
}

func (r ref) String() string {
	if r.relation == "" {
		return r.kind + ":" + r.id
	}
	return r.kind + ":" + r.id + "#" + r.relation
}

func isID(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '#' || unicode.IsSpace(r) || unicode.IsControl(r)
	})
}

func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(nameSymbols, c) < 0 {
			return false
		}
	}
	return true
}

// allowed reports why the model has no such relation to write: a tuple that it
// does not know would be stored and never count.
func allowed(of map[string][]string, kind, relation string) error {
	relations, ok := of[kind]
	if !ok {
		return fmt.Errorf("there are no relations of type %q to write; those of the model are of %q", kind, slices.Sorted(maps.Keys(of)))
	}
	if !slices.Contains(relations, relation) {
		return fmt.Errorf("%q of type %q cannot be written; the model and authz.from_token leave %q", relation, kind, relations)
	}
	return nil
}

// clip keeps foreign text short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
