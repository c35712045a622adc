package spec

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// leaves lists the patterns of all keys of t: "*" stands for a name.
func leaves(t reflect.Type, at string) []string {
	switch {
	case t.Kind() == reflect.Pointer:
		return leaves(t.Elem(), at)
	case t.Kind() == reflect.Struct && !scalar(t):
		var out []string
		for i := range t.NumField() {
			if key := keyOf(t.Field(i)); key != "" {
				out = append(out, leaves(t.Field(i).Type, strings.TrimPrefix(at+"."+key, "."))...)
			}
		}
		return out
	case hasNames(t), t == reflect.TypeFor[[]Flow]():
		return append([]string{at + ".*"}, leaves(t.Elem(), at+".*")...)
	}
	return []string{at}
}

// TestEveryKeyIsDecided: each key of the file is live or frozen, never both, and
// both tables name keys that there are. Whoever adds a key decides.
func TestEveryKeyIsDecided(t *testing.T) {
	all := leaves(reflect.TypeFor[System](), "")
	live := strings.Fields(liveKeys)
	for _, key := range all {
		stuck := why(key) != ""
		switch listed := slices.Contains(live, key); {
		case stuck && listed:
			t.Errorf("%s is in both tables: take it out of one", key)
		case stuck && strings.HasPrefix(why(key), "nobody"):
			t.Errorf("%s is in neither table: find out who reads it, and when, then write it into liveKeys or frozen", key)
		}
	}
	for _, key := range slices.Concat(live, slices.Collect(maps.Keys(frozen))) {
		if !slices.ContainsFunc(all, func(k string) bool { return k == key || strings.HasPrefix(k, key+".") }) {
			t.Errorf("%s is no key of the file", key)
		}
	}
}

const before = `rampart: v1
system: { name: shop }
services:
  gateway: { role: gateway, listen: ":8443" }
  orders: { upstream: "http://127.0.0.1:9000", openapi: orders.yaml }
principals: { customer: {} }
flows:
  - { from: customer, to: gateway, authn: session, limit: { ip: 100/m } }
  - { from: gateway, to: orders }
`

const ordersDoc = `openapi: 3.1.0
info: { title: orders, version: "1" }
paths: {}
`

// read loads a file with the document of orders beside it.
func read(t *testing.T, text, doc string) *System {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"rampart.yaml": text, "orders.yaml": doc} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(filepath.Join(dir, "rampart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		edit   []string // old, new, ...
		doc    string
		live   []string // keys
		frozen []string
	}{
		"nothing":               {},
		"a comment":             {edit: []string{"principals:", "# people\nprincipals:"}},
		"what a default says":   {edit: []string{"customer: {}", "customer: { kind: human }"}},
		"a limit":               {edit: []string{"100/m", "90/m"}, live: []string{"flows[customer>gateway].limit.ip"}},
		"a document's content":  {doc: ordersDoc + "# more\n", live: []string{"services.orders.openapi"}},
		"a list of exclusions":  {edit: []string{"to: orders }", `to: orders, waf: { exclude: [{ route: "POST /x", field: "body:/n", rules: [942100], reason: r, until: 2099-01-01 }] } }`}, live: []string{"flows[gateway>orders].waf.exclude"}},
		"another trust domain":  {edit: []string{"name: shop }", "name: shop, trust_domain: other.internal }"}, frozen: []string{"system.trust_domain"}},
		"a listener":            {edit: []string{":8443", ":9443"}, frozen: []string{"services.gateway.listen"}},
		"an upstream":           {edit: []string{":9000", ":9001"}, frozen: []string{"services.orders.upstream"}},
		"a command":             {edit: []string{"openapi:", "run: [./orders], openapi:"}, frozen: []string{"services.orders.run"}},
		"a key in an optional":  {edit: []string{"to: orders }", "to: orders, cors: { origins: [\"https://a.example\"] } }"}, live: []string{"flows[gateway>orders].cors.max_age", "flows[gateway>orders].cors.origins"}},
		"a principal that goes": {edit: []string{"customer: {}", "customer: {}, clerk: {}", "from: customer,", "from: clerk,"}, live: []string{"flows[clerk>gateway]", "flows[customer>gateway]", "principals.clerk"}},
		"a service more": {edit: []string{"principals:", "  more: { upstream: \"http://127.0.0.1:9002\" }\nprincipals:", "  - { from: gateway, to: orders }", "  - { from: gateway, to: orders }\n  - { from: gateway, to: more }"},
			live: []string{"flows[gateway>more]"}, frozen: []string{"services.more", "services.more.upstream"}},
	} {
		t.Run(name, func(t *testing.T) {
			doc := ordersDoc
			if tc.doc != "" {
				doc = tc.doc
			}
			old, new := read(t, before, ordersDoc), read(t, strings.NewReplacer(tc.edit...).Replace(before), doc)
			var live, stuck []string
			for _, c := range Changes(old, new) {
				if c.Why != "" {
					stuck = append(stuck, c.Key)
				} else {
					live = append(live, c.Key)
				}
			}
			for _, want := range tc.live {
				if !slices.Contains(live, want) {
					t.Errorf("%s is not among what changed: %v", want, live)
				}
			}
			if len(tc.live) == 0 && len(tc.frozen) == 0 && len(live) > 0 {
				t.Errorf("changed: %v", live)
			}
			if diff := cmp.Diff(tc.frozen, stuck); diff != "" {
				t.Errorf("frozen: %s", diff)
			}
			if got := Frozen(old, new); len(got) != len(tc.frozen) {
				t.Errorf("Frozen: %v", got)
			}
		})
	}
}

// TestChangeSaysWhere: a change names its line, and both values.
func TestChangeSaysWhere(t *testing.T) {
	got := Changes(read(t, before, ordersDoc), read(t, strings.Replace(before, "100/m", "90/m", 1), ordersDoc))
	want := []Change{{Key: "flows[customer>gateway].limit.ip", Line: 8, Old: "100/m", New: "90/m"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestApart: of two long values both show what differs, not what is the same.
func TestApart(t *testing.T) {
	list := strings.Repeat(`{ route: "POST /x", field: "body:/n", rules: [942100], until: 2099-01-01 }, `, 5)
	for name, tc := range map[string]struct{ old, new, wantOld, wantNew string }{
		"short":             {"100/m", "90/m", "100/m", "90/m"},
		"a date at the end": {list + "until: 2099-01-01", list + "until: 2099-02-01", "...2099-01-01 }, until: 2099-01-01", "...2099-01-01 }, until: 2099-02-01"},
		"one more":          {list, list + "more", "...until: 2099-01-01 }, ", "...until: 2099-01-01 }, more"},
		"a new value":       {"", list, "", list[:200] + "..."},
		"one long word":     {strings.Repeat("x", 300) + "a", strings.Repeat("x", 300) + "b", "..." + strings.Repeat("x", 20) + "a", "..." + strings.Repeat("x", 20) + "b"},
		"within a letter":   {strings.Repeat("é", 300) + "aaaaaaaaaaaaaaaaaaà", strings.Repeat("é", 300) + "aaaaaaaaaaaaaaaaaaá", "...éaaaaaaaaaaaaaaaaaaà", "...éaaaaaaaaaaaaaaaaaaá"},
	} {
		t.Run(name, func(t *testing.T) {
			old, new := apart(tc.old, tc.new)
			if diff := cmp.Diff([]string{tc.wantOld, tc.wantNew}, []string{old, new}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
