package rebac

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz/filter"
)

// TestDirect: what row-level security can look up, and which line it cannot.
func TestDirect(t *testing.T) {
	const head = "model\n  schema 1.1\ntype user\ntype team\n  relations\n    define lead: [user]\n    define member: [user, team#lead]\n    define crowd: [user, team#crowd]\ntype doc\n  relations\n    define owner: [user]\n    define home: [team]\n    define viewer: "
	stated := map[string]string{"team#lead": "managed_teams", "doc#owner": "tenant"}
	for definition, want := range map[string]string{
		"[user, user:*]":                "viewer@user viewer@user:*",
		"[user] or owner":               "viewer@user =org@user",
		"[team#lead]":                   "viewer@team#lead(=managed_teams@user)",
		"[team#member] or owner":        "viewer@team#member(member@user member@team#lead(=managed_teams@user)) =org@user",
		"[user] or viewer2":             "viewer@user viewer2@user",
		"[user] and owner":              `model.fga:13: "and"`,
		"[user] but not owner":          `model.fga:13: "but not"`,
		"[user] or lead from home":      `model.fga:13: "from"`,
		"[user with late]":              "model.fga:13: condition",
		"[team#crowd]":                  "model.fga:8: usersets",
		"[user] or (owner and viewer2)": `model.fga:13: "and"`,
	} {
		src := head + definition + "\n    define viewer2: [user] or viewer\ncondition late(h: int) {\n  h > 20\n}\n"
		m, err := ParseModel("model.fga", []byte(src))
		if err != nil {
			t.Fatalf("%s: %v", definition, err)
		}
		got := ""
		r, err := m.Direct("doc", "viewer", stated)
		if u, ok := errors.AsType[*filter.Untranslatable](err); ok {
			what, _, _ := strings.Cut(strings.TrimPrefix(u.What, "row-level security has no "), " ")
			if strings.HasPrefix(u.What, `row-level security has no "but not"`) {
				what = `"but not"`
			}
			got = fmt.Sprintf("%s:%d: %s", u.Policy.File, u.Policy.Line, what)
		} else if err == nil {
			got = waysText(r)
		}
		if got != want {
			t.Errorf("%s: got %s (%v), want %s", definition, got, err, want)
		}
	}
	if _, err := modelOf(t, head+"[user]\n").Direct("doc", "writer", nil); !errors.Is(err, ErrUnknownRelation) {
		t.Errorf("an unknown relation: %v", err)
	}
}

func modelOf(t *testing.T, src string) *Model {
	t.Helper()
	m, err := ParseModel("model.fga", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func waysText(r filter.Relation) string {
	var out []string
	for _, w := range r.Ways {
		text := w.Relation + "@" + w.Subject
		if w.Fact != "" {
			text = "=" + w.Fact + "@" + w.Subject
		}
		if w.Everyone {
			text += ":*"
		}
		if w.Members != nil {
			text += "#" + w.Members.Name + "(" + waysText(*w.Members) + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}
