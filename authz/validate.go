package authz

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// Bounds of a Request and of a policy file. The decision point enforces them
// before any engine runs, because no engine bounds its own memory.
const (
	MaxValues      = 10_000   // values in Attrs, in Context, and per list of the principal
	MaxDepth       = 16       // nesting of Attrs and Context
	MaxText        = 64 << 10 // bytes of one string or key
	MaxSourceBytes = 1 << 20  // bytes of one policy file
	MaxNesting     = 200      // brackets within brackets of a policy file
)

// Verb returns the part of an action after the colon: "read" of "orders:read".
func Verb(a rampart.Action) string {
	_, verb, _ := strings.Cut(string(a), ":")
	return verb
}

// Validate reports the first violation of the bounds above, of the form of
// Action ("type:verb") or Resource.Type (lower-case letters, digits, "_"), or
// of the value types that rampart.Resource allows. A nil value stands for an
// absent member and is accepted in a map only.
func (r Request) Validate() error {
	if err := validAction(r.Action); err != nil {
		return err
	}
	if !isNoun(r.Resource.Type) {
		return fmt.Errorf("resource type %q is not a lower-case noun such as \"order\"", clip(r.Resource.Type))
	}
	if len(r.Resource.ID) > MaxText || len(r.Resource.Tenant) > MaxText {
		return errors.New("resource id or tenant is too long")
	}
	if err := validPrincipal(r.Principal); err != nil {
		return err
	}
	b := budget{left: MaxValues}
	if err := b.spendMap("resource", r.Resource.Attrs, 0); err != nil {
		return err
	}
	b = budget{left: MaxValues}
	return b.spendMap("context", r.Context, 0)
}

func validAction(a rampart.Action) error {
	typ, verb, ok := strings.Cut(string(a), ":")
	if !ok || !isWord(typ) || !isWord(verb) {
		return fmt.Errorf("action %q is not of the form \"type:verb\"", clip(string(a)))
	}
	return nil
}

func validPrincipal(p rampart.Principal) error {
	if len(p.Subject) > MaxText || len(p.Tenant) > MaxText || len(p.Team) > MaxText {
		return errors.New("a name of the principal is too long")
	}
	for _, list := range [][]string{p.Organizations, p.Roles, p.ManagedTeams} {
		if len(list) > MaxValues {
			return fmt.Errorf("the principal has a list of more than %d names", MaxValues)
		}
	}
	return nil
}

// budget bounds the number of values in one tree.
type budget struct{ left int }

func (b *budget) spendMap(path string, m map[string]any, depth int) error {
	for k, v := range m {
		if !utf8.ValidString(k) || len(k) > MaxText {
			return fmt.Errorf("a name in %s is not UTF-8 or too long", path)
		}
		if v == nil {
			continue
		}
		if err := b.spend(path, k, v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (b *budget) spend(path, name string, v any, depth int) error {
	if b.left--; b.left < 0 {
		return fmt.Errorf("%s holds more than %d values", path, MaxValues)
	}
	if depth > MaxDepth {
		return fmt.Errorf("%s is nested deeper than %d", path, MaxDepth)
	}
	switch v := v.(type) {
	case bool, int64:
		return nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s.%s is not a finite number", path, clip(name))
		}
		return nil
	case string:
		if !utf8.ValidString(v) || len(v) > MaxText {
			return fmt.Errorf("%s.%s is not UTF-8 or too long", path, clip(name))
		}
		return nil
	case []any:
		for _, e := range v {
			if err := b.spend(path, name, e, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		return b.spendMap(path, v, depth)
	}
	return fmt.Errorf("%s.%s has the type %T, which is not JSON-like", path, clip(name), v)
}

// CheckSource reports why a policy file must not reach a parser: too large, no
// UTF-8, or nested so deeply that a recursive parser could exhaust its stack.
func CheckSource(name string, src []byte) error {
	if len(src) > MaxSourceBytes {
		return fmt.Errorf("%s: a policy file holds at most %d bytes", name, MaxSourceBytes)
	}
	if !utf8.Valid(src) {
		return fmt.Errorf("%s: a policy file is UTF-8 text", name)
	}
	depth := 0
	for i, c := range src {
		switch c {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(0, depth-1)
		}
		if depth > MaxNesting {
			line := 1 + strings.Count(string(src[:i]), "\n")
			return fmt.Errorf("%s:%d: brackets are nested deeper than %d", name, line, MaxNesting)
		}
	}
	return nil
}

func isWord(s string) bool {
	return isName(s, "_-.")
}

// isNoun: Cedar identifiers have no dash, and types become Cedar types.
func isNoun(s string) bool {
	return isName(s, "_") && s[0] >= 'a' && s[0] <= 'z'
}

func isName(s, punct string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte(punct, c) < 0 {
			return false
		}
	}
	return true
}

// clip keeps untrusted text short in messages.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
