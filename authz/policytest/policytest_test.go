package policytest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// head is a file to which tests add their rows.
const head = `policy_test: v1
subjects:
  alice: { roles: [customer], organizations: [acme], team: red }
  bob: { id: user:robert, roles: [customer] }
resources:
  own: { type: order, tenant: acme, attrs: { owner: user:alice, total: 12.5, tags: [a, b] } }
  other: { type: order, id: "18", attrs: { owner: user:robert } }
`

func TestParseRefuses(t *testing.T) {
	for name, row := range map[string]struct{ add, want string }{
		"an unknown key":             {"tests:\n  - { subjct: alice }\n", `t.yaml:9:7: tests[0].subjct: unknown key; did you mean "subject"?`},
		"a key far from all":         {"zebra: 1\n", `t.yaml:8:1: zebra: unknown key; the names here are: matrix, now,`},
		"a key twice":                {"tests: []\ntests: []\n", "t.yaml:9:1: tests: the key is already on line 8"},
		"a subject of nowhere":       {"tests:\n  - alcie may orders:read own\n", `t.yaml:9:5: tests[0].subject: "alcie" is not declared; did you mean "alice"?`},
		"a resource of nowhere":      {"tests:\n  - alice may orders:read owm\n", `tests[0].resource: "owm" is not declared; did you mean "own"?`},
		"no test at all":             {"", "tests: the file holds no test"},
		"half a sentence":            {"tests:\n  - alice may orders:read\n", "t.yaml:9:5: tests[0]: not a sentence"},
		"an odd word":                {"tests:\n  - alice may orders:read own with love\n", `unknown word "with"`},
		"no action":                  {"tests:\n  - alice may read own\n", `"read" is no action`},
		"no expectation":             {"tests:\n  - { subject: alice, action: orders:read, resource: own }\n", "tests[0].expect: the key is missing"},
		"another effect":             {"tests:\n  - { subject: alice, action: orders:read, resource: own, expect: alow }\n", `"alow" is neither allow nor deny; did you mean "allow"?`},
		"a list that allows":         {"tests:\n  - { subject: alice, action: orders:read, list: [own], expect: allow }\n", "names for a list"},
		"a name outside the list":    {"tests:\n  - { subject: alice, action: orders:read, list: [own], expect: [other] }\n", `"other" is not in the list`},
		"a layer that is none":       {"tests:\n  - { subject: alice, action: orders:read, at: gatway, expect: deny }\n", `unknown layer "gatway"; did you mean "gateway"?`},
		"a permit with a code":       {"tests:\n  - { subject: alice, action: orders:read, resource: own, expect: allow, code: error }\n", "layer and code are of a denial"},
		"a tuple that is none":       {"relations: [order:17]\ntests:\n  - alice may orders:read own\n", `t.yaml:8:13: relations[0]: "order:17" is no tuple`},
		"a column that is none":      {"matrix:\n  - { actions: [orders:read], roles: { customer: [orders:raed] } }\n", `"orders:raed" is no column`},
		"an anchor":                  {"tests: &x []\n", "anchors and aliases are not allowed"},
		"not YAML":                   {"tests: [\n", "not YAML"},
		"a tab":                      {"tests:\n\t- a\n", "not YAML"},
		"a second document":          {"---\na: b\n", "a second document"},
		"an infinite number":         {"tests:\n  - { subject: alice, action: orders:read, resource: own, context: { n: .inf }, expect: deny }\n", "no value of JSON"},
		"a time that is none":        {"now: yesterday\n", "want a time"},
		"a number for a text":        {"tests:\n  - { subject: 12 }\n", `tests[0].subject: want a text; write "12" in quotes`},
		"a text for a number":        {"tests:\n  - { subject: alice, line: x }\n", "tests[0].line: want a whole number"},
		"a map for a list":           {"tests:\n  - { subject: alice, list: { a: b } }\n", "tests[0].list: want a list of texts"},
		"a word for a map":           {"matrix:\n  - word\n", "matrix[0]: want a map"},
		"a word for rows":            {"tests: word\n", "tests: want a list"},
		"an odd number":              {"tests:\n  - { subject: alice, context: { n: [0o17] } }\n", "tests[0].context.n[0]"},
		"an alias":                   {"tests:\n  - { subject: alice, context: { n: *x } }\n", "not YAML"},
		"a merge":                    {"tests:\n  - { <<: { a: b } }\n", "a key is a word"},
		"too deep":                   {"tests:\n  - { context: { n: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + " } }\n", "nested too deep"},
		"words without a pair":       {"tests:\n  - alice may orders:read own by\n", "a word is missing or one too many"},
		"two resources":              {"tests:\n  - { subject: alice, action: orders:read, resource: own, list: [own], expect: [own] }\n", "one resource or for a list"},
		"no resource":                {"tests:\n  - { subject: alice, action: orders:read, expect: deny }\n", "tests[0].resource: the key is missing"},
		"no subject":                 {"tests:\n  - { action: orders:read, resource: own, expect: deny }\n", "tests[0].subject: the key is missing; the names are: alice, bob"},
		"a matrix of nobody":         {"matrix:\n  - { actions: [orders:read] }\n", "a matrix has actions, and roles or subjects"},
		"a grid without an object":   {"matrix:\n  - { actions: [orders:read], at: domain, subjects: { alice: [] } }\n", "the domain layer asks about a resource"},
		"another version, no header": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			src := head + row.add
			if row.want == "" {
				src, row.want = "tests: []\n", `policy_test: "" is not accepted here; write policy_test: v1`
			}
			_, err := Parse("t.yaml", []byte(src))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	f, err := Parse("t.yaml", []byte(head+`tests:
  - alice may orders:read own by orders.allow
  - bob may not orders:read own because no_permit
  - { subject: alice, action: orders:read, list: [own, other], expect: [own] }
  - { subject: alice, action: orders:read, at: gateway, expect: allow }
`))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, r := range f.Tests {
		said = append(said, r.String())
	}
	want := []string{"alice may orders:read own by orders.allow", "bob may not orders:read own because no_permit",
		"alice lists orders:read of [own other]: [own]", "alice may orders:read at gateway"}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Error(diff)
	}
	p, r := f.Subjects["alice"].principal("alice"), f.Resources["own"].resource("own")
	if p.Subject != "user:alice" || p.Tenant != "acme" || r.ID != "own" || r.Attrs["total"] != 12.5 {
		t.Errorf("got %+v, %+v", p, r)
	}
}

// FuzzParse: no bytes panic, and what is accepted asks about what is declared.
func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "tests:\n  - alice may orders:read own\n"))
	f.Add([]byte(head + "matrix:\n  - { actions: [orders:read], roles: { customer: [orders:read] } }\n"))
	f.Add([]byte("policy_test: v1\ntests: [[[[{a: *b}]]]]\n"))
	f.Add([]byte("? [a]\n: b\n<<: {a: b}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("f.yaml", src)
		if err != nil {
			return
		}
		for _, r := range file.Tests {
			if _, ok := file.Subjects[r.Subject]; !ok {
				t.Errorf("accepted %v", r)
			}
		}
	})
}
