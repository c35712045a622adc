package authz

import (
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func TestCheckSource(t *testing.T) {
	for name, row := range map[string]struct{ src, want string }{
		"a policy":     {"package a\nallow if (input.x == 1)\n", ""},
		"many in turn": {strings.Repeat("() [] {}\n", MaxNesting+1), ""},
		"at the limit": {strings.Repeat("(", MaxNesting), ""},
		"one too deep": {"x\n" + strings.Repeat("[", MaxNesting+1), "p:2: brackets"},
		"at the size":  {strings.Repeat("x", MaxSourceBytes), ""},
		"too large":    {strings.Repeat("x", MaxSourceBytes+1), "at most"},
		"no text":      {"\xff", "UTF-8"},
	} {
		err := CheckSource("p", []byte(row.src))
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

// FuzzValidate: what passes is of the documented form.
func FuzzValidate(f *testing.F) {
	f.Add("orders:read", "order", "owner", "user:alice")
	f.Add("orders", "Order", "\xff", "")
	f.Add(":", "", "", "\xff")
	f.Fuzz(func(t *testing.T, action, typ, name, text string) {
		r := Request{
			Action:   rampart.Action(action),
			Resource: rampart.Resource{Type: typ, Attrs: map[string]any{name: text, "list": []any{text}}},
		}
		if r.Validate() != nil {
			return
		}
		if Verb(r.Action) == "" || strings.Count(action, ":") != 1 || typ != strings.ToLower(typ) {
			t.Errorf("accepted %q on %q", action, typ)
		}
		if strings.ToValidUTF8(name+text, "") != name+text {
			t.Errorf("accepted broken text %q", name+text)
		}
	})
}
