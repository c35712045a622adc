package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart"
)

const tenLines = `rampart: v1
system: { name: shop }
services:
  gateway: { role: gateway, listen: ":8443" }
  catalog: { upstream: "http://127.0.0.1:9000", openapi: catalog.openapi.yaml, run: ["node", "server.js"] }
flows:
  - { from: users, to: gateway, authn: session }
  - { from: gateway, to: catalog, allow: "role:member" }
`

func mustParse(t testing.TB, text string) *System {
	t.Helper()
	s, err := parse("rampart.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDefaults says what ten lines mean.
func TestDefaults(t *testing.T) {
	minute := func(n int) Rate { return Rate{n, time.Minute} }
	want := &System{
		Version: "v1",
		Info:    Info{Name: "shop", Criticality: "medium", TrustDomain: "shop.internal"},
		Zones: map[string]Zone{
			"internet": {}, "partner": {Trust: 20}, "edge": {Trust: 40}, "app": {Trust: 70}, "data": {Trust: 80, Private: true},
		},
		Principals: map[string]Principal{"users": {Kind: "human", Zone: "internet"}},
		Authz: Authz{
			Roles:  map[string][]string{"member": {}},
			Bundle: PolicyBundle{Expires: Duration(30 * 24 * time.Hour), MaxStaleness: Duration(24 * time.Hour), Replay: 200, MaxChanged: 100},
			Log:    DecisionLog{Overflow: "block", Keep: Duration(30 * 24 * time.Hour)},
		},
		Sessions:   Sessions{Idle: Duration(30 * time.Minute), Absolute: Duration(12 * time.Hour)},
		Revocation: Revocation{Sensitive: Duration(5 * time.Second), Other: Duration(2 * time.Minute)},
		Trust:      Trust{Root: "embedded", Leaf: Duration(time.Hour)},
		KEK:        KEK{Kind: "file"},
		Services: map[string]Service{
			"gateway": {
				Role: "gateway", Zone: "edge", Listen: ":8443",
				Edge: &Edge{Connections: 10_000, PerIP: 256, Ban: Ban{After: minute(120), First: Duration(time.Minute), Longest: Duration(time.Hour)}},
			},
			"catalog": {Zone: "app", Upstream: "http://127.0.0.1:9000", Mount: "/", OpenAPI: "catalog.openapi.yaml", Run: []string{"node", "server.js"}},
		},
		Flows: []Flow{
			{
				ID: "users>gateway", From: "users", To: "gateway", TLS: TLS{Min: "1.3", Certificate: "local"}, Authn: Authn{All: []string{"session"}},
				Limit: Limit{IP: minute(300), User: minute(120)}, Validate: Validate{MaxBody: 64 << 10}, Line: 7,
			},
			{
				ID: "gateway>catalog", From: "gateway", To: "catalog", TLS: TLS{Min: "1.3"}, Authn: Authn{Pattern: "exchange"},
				Validate: Validate{OpenAPI: "strict", MaxBody: 64 << 10, Response: "sampled"}, Allow: []string{"role:member"}, Line: 8,
				Priority: "normal", WAF: &WAF{Mode: "guided", Paranoia: 1, Threshold: 5},
				Upstream: &Resilience{Timeout: Duration(30 * time.Second), Breaker: Breaker{Failures: 50, Least: 20, Open: Duration(5 * time.Second)}},
			},
		},
		Verify: Verify{Freshness: Duration(24 * time.Hour)},
	}
	s := mustParse(t, tenLines)
	if diff := cmp.Diff(want, s, cmpopts.IgnoreUnexported(System{})); diff != "" {
		t.Errorf("ten lines mean (-want +got):\n%s", diff)
	}
	if len(s.Warnings()) != 0 {
		t.Errorf("warnings: %v", s.Warnings())
	}
}

// TestShapes covers the values that may be written in more than one way.
func TestShapes(t *testing.T) {
	s := mustParse(t, strings.NewReplacer(
		`openapi: catalog.openapi.yaml`, `policy: [a.cedar, b.rego]`,
		`authn: session`, `authn: { all: [session] }, id: 007x, limit: { ip: 5/s }`,
		`allow: "role:member"`, `allow: "role:member", idempotency: true, nonce: true`,
	).Replace(tenLines)+`  - { id: 3, from: shop, to: gateway, authn: { all: [jwt, api_key] } }
  - { id: 4, from: till, to: gateway, authn: api_key, limit: { api_key: 10/h } }
principals: { shop: { kind: client, plan: basic }, till: { kind: client, plan: basic } }
plans: { basic: { api_key: 60/m } }
accept: [{ threat: RT-X@flow-3, owner: ann, reason: known, until: "2027-06-30" }]
verify: { scenario: { call: "GET /a", body: { n: 1, f: 1.5, yes: true, none: null, day: 2027-01-01, list: [a, {}] } } }
`)
	if got := s.Services["catalog"]; !slices.Equal(got.Policy, []string{"a.cedar", "b.rego"}) || got.Mount != "/catalog/" || !slices.Equal(got.Methods, []string{"GET", "HEAD"}) {
		t.Errorf("a service without document: %+v", got)
	}
	if f := s.Flows[0]; f.ID != "007x" || f.Limit.IP != (Rate{5, time.Second}) || f.Limit.Plan {
		t.Errorf("flow 0: %+v", f)
	}
	if f, long := s.Flows[1], mustParse(t, strings.Replace(tenLines, `allow: "role:member"`, `allow: "role:member", idempotency: {}, nonce: {}`, 1)).Flows[1]; f.Idempotency == nil || f.Nonce == nil ||
		!cmp.Equal(f.Idempotency, long.Idempotency) || !cmp.Equal(f.Nonce, long.Nonce) {
		t.Errorf("true means %+v and %+v, want as {}: %+v, %+v", f.Idempotency, f.Nonce, long.Idempotency, long.Nonce)
	}
	if f := s.Flows[2]; f.ID != "3" || f.Authn.Bind != bindClient || !f.Limit.Plan {
		t.Errorf("a flow of key and JWT is bound and takes the plan's rate: %+v", f)
	}
	if f := s.Flows[3]; f.Limit.Plan || f.Limit.APIKey != (Rate{10, time.Hour}) || f.Authn.Bind != "" {
		t.Errorf("a rate of its own replaces the plan's: %+v", f)
	}
	if got := s.Accept[0].Until; !got.Equal(time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)) || s.Accept[0].Line != 13 {
		t.Errorf("until %v, line %d", got, s.Accept[0].Line)
	}
	want := map[string]any{"n": int64(1), "f": 1.5, "yes": true, "none": nil, "day": "2027-01-01", "list": []any{"a", map[string]any{}}}
	if diff := cmp.Diff(any(want), s.Verify.Scenario.Body); diff != "" {
		t.Error(diff)
	}
}

// payments writes the example's file with small stand-ins for what it names.
func payments(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../examples/payments/rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("rampart.yaml", string(text))
	for _, res := range mustParse(t, string(text)).resources() {
		write(res.name, "of "+res.name)
	}
	return filepath.Join(folder, "rampart.yaml")
}

func TestPayments(t *testing.T) {
	s, err := Load(payments(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Warnings()) != 0 {
		t.Errorf("warnings: %v", s.Warnings())
	}
	if got, ok := s.Resource("schemas/paid.json"); !ok || string(got) != "of schemas/paid.json" {
		t.Errorf("the message schema is %q, %v", got, ok)
	}
	again, err := FromBundle(s.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again, cmpopts.IgnoreUnexported(System{})); diff != "" {
		t.Errorf("the bundle is another system (-file +bundle):\n%s", diff)
	}
}

// TestEffective demands that the file with every default written out is the
// same system: same meaning, same controls, and nothing left to fill in.
func TestEffective(t *testing.T) {
	example, err := os.ReadFile("../examples/payments/rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{tenLines, whole, ruled, string(example)} {
		s := mustParse(t, text)
		first, err := s.Effective()
		if err != nil {
			t.Fatal(err)
		}
		again := mustParse(t, string(first))
		second, err := again.Effective()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Errorf("effective of effective (-first +second):\n%s", diff)
		}
		lines := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Line" }, cmp.Ignore())
		if diff := cmp.Diff(s, again, cmpopts.IgnoreUnexported(System{}), lines, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("effective is another system (-file +effective):\n%s", diff)
		}
		if diff := cmp.Diff(s.Controls(), again.Controls(), cmpopts.IgnoreFields(ControlInstance{}, "Default")); diff != "" {
			t.Errorf("effective has other controls:\n%s", diff)
		}
	}
}

// TestControls names, for the seed's flows, what stands against its threats,
// and what goes when the file says less.
func TestControls(t *testing.T) {
	text, err := os.ReadFile("../examples/payments/rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	has := func(s *System, instance string) bool {
		return slices.ContainsFunc(s.Controls(), func(c ControlInstance) bool { return c.ID+"@"+c.Element == instance })
	}
	for _, tc := range []struct{ instance, cut string }{
		{"authn.api_key_bound_to_jwt@flow-1", "authn: { all: [api_key, jwt], bind: \"jwt.azp == api_key.client\" }"},
		{"limit.api_key@flow-1", "authn: { all: [api_key, jwt], bind: \"jwt.azp == api_key.client\" }"},
		{"field.server_owned@flow-2", "server_owned: { fields: [amount], mode: compare, source: order }"},
		{"idempotency.key@flow-2", "idempotency: { header: Idempotency-Key, required: true, keep: 24h, repeat: true }"},
		{"nonce.window@flow-2", "nonce: { header: Rampart-Nonce, window: 5m }"},
		{"secret.manager@flow-3", "inject: { secret: processor_key, into: \"header:Authorization\" }"},
		{"db.row_mac@flow-4", ", row_mac: true"},
		{"db.row_mac@data-payment", ", row_mac: true"},
		{"db.audit_log@flow-4", ", audit_table: payment_audit"},
		{"data.envelope@data-payment", ", encrypt: envelope, row_mac: true"},
		{"message.schema@flow-5", "message: { sign: svid, schema: schemas/paid.json }"},
		{"message.recipient_guard@flow-6", "guard: { recipient: \"message.recipient == subject\" }"},
	} {
		if !has(mustParse(t, string(text)), tc.instance) {
			t.Errorf("%s is not there", tc.instance)
		}
		if strings.Count(string(text), tc.cut) != 1 {
			t.Fatalf("%q stands %d times in the file", tc.cut, strings.Count(string(text), tc.cut))
		}
		with := ""
		if strings.HasPrefix(tc.cut, "authn") {
			with = "authn: jwt" // and the other flow of a JWT makes way
		}
		less := strings.Replace(string(text), tc.cut, with, 1)
		less = strings.ReplaceAll(less, ", api_key: plan, user", ", user")
		if with != "" {
			less = cutLine(cutLine(less, "- { id: 11,"), "@flow-11,")
		}
		if tc.instance == "message.schema@flow-5" {
			less = strings.Replace(less, "accept_from: [payments], ", "", 1)
			less = strings.Replace(less, ", replay_window: 10m, refuse: dead_letter", "", 1)
		}
		if has(mustParse(t, less), tc.instance) {
			t.Errorf("%s is there without %q", tc.instance, tc.cut)
		}
	}
}

func cutLine(text, with string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, with) }), "")
}

// TestControlsOff demands that each known control can be switched off, and
// that the example, with an identity provider, has an instance of each: a control without one is a word.
func TestControlsOff(t *testing.T) {
	text, err := os.ReadFile("../examples/payments/rampart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "identity: { providers: { corp: { issuer: \"https://login.example\", client_id: shop } } }\n"...) // the example signs in by itself
	known := KnownControls()
	if !slices.IsSorted(known) {
		t.Error("KnownControls is not sorted")
	}
	ids := func(s *System) []string {
		var out []string
		for _, c := range s.Controls() {
			out = append(out, c.ID)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	if diff := cmp.Diff(known, ids(mustParse(t, string(text)))); diff != "" {
		t.Errorf("controls of the example (-known +has):\n%s", diff)
	}
	for i, id := range known {
		off := mustParse(t, string(text)+"unsafe: { disable: ["+id+"] }\n")
		if diff := cmp.Diff(slices.Delete(slices.Clone(known), i, i+1), ids(off)); diff != "" {
			t.Errorf("without %s (-want +got):\n%s", id, diff)
		}
	}
}

func TestAdmitUnsafe(t *testing.T) {
	off := mustParse(t, tenLines+"unsafe: { disable: [limit.ip, authn.csrf] }\n")
	if err := mustParse(t, tenLines).AdmitUnsafe(false); err != nil {
		t.Errorf("a safe file: %v", err)
	}
	if err := off.AdmitUnsafe(true); err != nil {
		t.Errorf("in a throw-away folder: %v", err)
	}
	const want = "rampart.yaml:9:11: unsafe.disable: switches off limit.ip, authn.csrf, which only a throw-away state folder may do; remove the unsafe block"
	if err := off.AdmitUnsafe(false); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if w := off.Warnings(); len(w) != 1 || w[0].Key != "unsafe.disable" {
		t.Errorf("warnings: %v", w)
	}
}

func TestWarnings(t *testing.T) {
	s := mustParse(t, `rampart: v1
system: { name: shop }
authz: { roles: { member: [] } }
services:
  gateway: { role: gateway }
  files: { upstream: "http://127.0.0.1:9000" }
  hooks: { upstream: "http://127.0.0.1:9002", methods: [POST] }
  idle: { upstream: "http://127.0.0.1:9001" }
stores: { events: { kind: nats } }
flows:
  - { from: gateway, to: files, allow: any }
  - { id: 2, from: gateway, to: files, allow: "role:membre" }
  - { from: files, to: events, topic: seen }
  - { from: gateway, to: hooks, allow: "role:member" }
`)
	want := []string{
		`rampart.yaml:5:3: services.gateway: no principal reaches the gateway, so nothing outside is served; add { from: users, to: gateway, authn: session } to flows`,
		`rampart.yaml:6:3: services.files: without an openapi document requests are not validated, and only GET and HEAD pass; add openapi: FILE, or list in methods: what may pass unvalidated, such as methods: [GET, HEAD, POST]`,
		`rampart.yaml:7:47: services.hooks.methods: without an openapi document requests are not validated, and only POST pass; add openapi: FILE, or list in methods: what may pass unvalidated, such as methods: [GET, HEAD, POST]`,
		`rampart.yaml:8:3: services.idle: no flow reaches the service, so nobody can call it; add { from: gateway, to: idle } to flows`,
		`rampart.yaml:11:33: flows[gateway>files].allow: every caller that proves who it is may use this flow; write "role:NAME" to narrow it`,
		`rampart.yaml:12:47: flows[2].allow[0]: role "membre" is not declared and holds no permission; did you mean "member"?`,
		`rampart.yaml:13:5: flows[files>events]: messages are not checked against a schema; add message: { schema: FILE.json }`,
		`rampart.yaml:13:5: flows[files>events]: messages are not signed, so whoever reaches the queue can forge them; add sign: svid where they are published and accept_from where they are taken`,
	}
	var got []string
	for _, w := range s.Warnings() {
		got = append(got, w.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestProblems demands that one run tells everything, in order and bounded.
func TestProblems(t *testing.T) {
	var text strings.Builder
	text.WriteString(tenLines)
	for i := range 50 {
		fmt.Fprintf(&text, "  - { id: x%d, from: nobody, to: catalog }\n", i)
	}
	_, err := parse("rampart.yaml", []byte(text.String()))
	ps, ok := errors.AsType[Problems](err)
	if !ok || len(ps) != maxProblems {
		t.Fatalf("got %d problems: %v", len(ps), err)
	}
	for i, p := range ps {
		if p.Line != 9+i || p.Key != fmt.Sprintf("flows[x%d].from", i) {
			t.Errorf("problem %d: %v", i, p)
		}
	}
	if rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("kind %v", rampart.KindOf(err))
	}
}

func TestInit(t *testing.T) {
	good := []InitOptions{
		{Name: "shop", Service: "catalog", Upstream: "http://127.0.0.1:9000"},
		{Name: "shop", Service: "null", Upstream: "http://[::1]:9000", OpenAPI: "a b/c.yaml", Run: []string{"sh", "-c", "echo \"$HI\" # {}\n"}, Role: "true"},
	}
	for _, o := range good {
		text, err := Init(o)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		s := mustParse(t, string(text))
		svc := s.Services[o.Service]
		if lines := strings.Count(string(text), "\n"); lines != 10 && lines != 9 {
			t.Errorf("%d lines", lines)
		}
		if svc.Upstream != o.Upstream || svc.OpenAPI != o.OpenAPI || !slices.Equal(svc.Run, o.Run) || s.Info.Name != o.Name {
			t.Errorf("%+v became %+v", o, svc)
		}
	}
	for _, o := range []InitOptions{
		{},
		{Name: "My Shop", Service: "catalog", Upstream: "http://127.0.0.1:9000"},
		{Name: "shop", Service: "catalog", Upstream: "http://example.com"},
		{Name: "shop", Service: "x: { role: gateway }, y", Upstream: "http://127.0.0.1:9000"},
		{Name: "shop", Service: "catalog", Upstream: "http://127.0.0.1:9000", OpenAPI: "/etc/passwd"},
	} {
		if text, err := Init(o); err == nil {
			t.Errorf("%+v is written:\n%s", o, text)
		}
	}
}

// BenchmarkLoad reads a system of 100 services and 1,000 flows from disk.
func BenchmarkLoad(b *testing.B) {
	path := filepath.Join(b.TempDir(), "rampart.yaml")
	if err := os.WriteFile(path, []byte(large(100, 1000)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(path); err != nil {
			b.Fatal(err)
		}
	}
}

func large(services, flows int) string {
	var out strings.Builder
	out.WriteString("rampart: v1\nsystem: { name: large }\nservices:\n  gateway: { role: gateway }\n")
	for i := range services {
		fmt.Fprintf(&out, "  s%d: { upstream: \"http://127.0.0.1:%d\" }\n", i, 10000+i)
	}
	out.WriteString("flows:\n  - { from: users, to: gateway }\n")
	for i := range flows - 1 {
		from := "gateway"
		if i >= services {
			from = fmt.Sprintf("s%d", i%services)
		}
		fmt.Fprintf(&out, "  - { id: f%d, from: %s, to: s%d, authn: exchange, validate: { max_body: 16KiB }, authz: { require: \"a:b\" } }\n", i, from, (i+i/services)%services)
	}
	return out.String()
}
