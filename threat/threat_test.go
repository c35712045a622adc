package threat

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/policies"
	"github.com/rampart-security/rampart/spec"
)

var systems = []string{"payments", "tenlines", "batch", "partners", "staff"}

func applicable(m Model) []Row {
	return m.filter(func(r Row) bool { return r.State != NotApplicable })
}

// The payment table of the mission, found with nobody naming it.
func TestSeedThreatsWithoutNames(t *testing.T) {
	sys := load(t, "payments")
	named := maps.Clone(sys.Threats)
	if len(named) != 7 {
		t.Fatalf("the example names %d threats, want 7", len(named))
	}
	sys.Threats = nil
	m := analyze(t, sys, Evidence{})
	want := map[string]struct {
		letter   Stride
		controls []string
	}{
		"RT-S-APIKEY-REPLAY@flow-1":       {Spoofing, []string{"authn.api_key_bound_to_jwt", "limit.api_key"}},
		"RT-T-INTRANSIT@flow-1":           {Tampering, []string{"tls.min13", "field.server_owned"}},
		"RT-S-REPLAY@flow-2":              {Spoofing, []string{"idempotency.key", "nonce.window"}},
		"RT-I-CREDENTIAL-EXPOSURE@flow-3": {Disclosure, []string{"secret.manager", "secret.acl", "secret.not_in_env"}},
		"RT-T-STORE@flow-4":               {Tampering, []string{"db.row_mac", "db.audit_log"}},
		"RT-T-QUEUE@flow-5":               {Tampering, []string{"message.signature", "message.schema"}},
		"RT-I-MISDELIVERY@flow-6":         {Disclosure, []string{"message.recipient_guard"}},
	}
	for id, w := range want {
		r, ok := m.Row(id)
		var needs []string
		for _, c := range r.Controls {
			if c.Need == "all" && !c.Missing() {
				needs = append(needs, c.ID)
			}
		}
		if !ok || r.Stride != w.letter || r.State != Declared || !slices.Equal(needs, w.controls) {
			t.Errorf("%s: found %v, letter %q, state %q, controls %v; want declared by %v", id, ok, r.Stride, r.State, needs, w.controls)
		}
	}
	for key, n := range named {
		if _, ok := want[n.Is]; !ok {
			t.Errorf("%s names %s, which is not of the payment table", key, n.Is)
		}
	}
}

// Nothing of the model but the lines depends on the order of the file.
func TestOrderDoesNotShow(t *testing.T) {
	for _, name := range systems {
		sys := load(t, name)
		before := analyze(t, sys, Evidence{})
		after := analyze(t, parse(t, reversed(t, sys.Bundle().File), sys.Bundle().Resources), Evidence{})
		if len(before.Rows) != len(after.Rows) {
			t.Fatalf("%s reversed: %d rows, were %d", name, len(after.Rows), len(before.Rows))
		}
		same := cmpopts.IgnoreFields(Row{}, "Line")
		for i := range before.Rows {
			if diff := cmp.Diff(before.Rows[i], after.Rows[i], same); diff != "" {
				t.Fatalf("%s reversed (-before +after):\n%s", name, diff)
			}
		}
	}
}

// reversed turns the order of every list and map of the file round.
func reversed(t *testing.T, text []byte) string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	reverse(&doc)
	out, err := yaml.Marshal(&doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func reverse(n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		pairs := slices.Collect(slices.Chunk(n.Content, 2))
		slices.Reverse(pairs)
		n.Content = slices.Concat(pairs...)
	case yaml.SequenceNode:
		slices.Reverse(n.Content)
	}
	for _, c := range n.Content {
		reverse(c)
	}
}

// Removing a control opens and weakens exactly what Without foretells, and
// every control carries something in some system.
func TestRemovingAControl(t *testing.T) {
	carries := map[string]bool{}
	for _, name := range systems {
		base := analyze(t, load(t, name), Evidence{})
		for _, control := range spec.KnownControls() {
			sys := load(t, name)
			sys.Unsafe.Disable = append(sys.Unsafe.Disable, control)
			got, want := Diff(base, analyze(t, sys, Evidence{})), base.Without(control)
			noSeverity := cmpopts.IgnoreFields(Change{}, "Sev")
			if diff := cmp.Diff(want, got, noSeverity); diff != "" {
				t.Errorf("%s without %s (-foretold +seen):\n%s", name, control, diff)
			}
			carries[control] = carries[control] || len(got.Opened)+len(got.Worse) > 0
		}
	}
	for _, control := range spec.KnownControls() {
		if !carries[control] {
			t.Errorf("no threat of any system leans on %s", control)
		}
	}
}

// Every rule finds something in one system and says nothing of another, every
// letter has rules, and each element is answered for each letter it can have.
func TestRulesFireAndAreSilent(t *testing.T) {
	fires, silent, letter := map[string]string{}, map[string]string{}, map[Stride]int{}
	for _, name := range systems {
		m := analyze(t, load(t, name), Evidence{})
		said := map[string]bool{}
		for _, r := range applicable(m) {
			said[r.Rule] = true
		}
		for id := range m.Rules {
			if said[id] {
				fires[id] = name
			} else {
				silent[id] = name
			}
		}
		for id := range m.Rules {
			letter[Stride(id[3:4])]++
		}
	}
	for id := range silent {
		if fires[id] == "" {
			t.Errorf("%s fires nowhere", id)
		}
	}
	for id := range fires {
		if silent[id] == "" {
			t.Errorf("%s fires everywhere", id)
		}
	}
	for _, s := range letters() {
		if letter[s] < 6*len(systems) {
			t.Errorf("letter %s has %d rules, want at least 6", s, letter[s]/len(systems))
		}
	}
}

// No row speaks of what a system lacks.
func TestNoNonsense(t *testing.T) {
	for name, absent := range map[string][]string{
		"tenlines": {"QUEUE", "MESSAGE", "MISDELIVERY", "STORE", "POOL", "SECRET", "CREDENTIAL", "APIKEY", "PLAN", "SSRF", "PARTNER", "PII", "TENANT"},
		"batch":    {"QUEUE", "SESSION", "CSRF", "TOKEN", "ROUTE", "BROWSER", "VOLUMETRIC", "PII"},
		"staff":    {"QUEUE", "STORE", "APIKEY", "TOKEN-THEFT", "PII", "SSRF"},
		"partners": {"SESSION", "CSRF", "GUESSING", "FORGED", "BROWSER", "LOGIN"},
	} {
		for _, r := range applicable(analyze(t, load(t, name), Evidence{})) {
			for _, word := range absent {
				if strings.Contains(r.Rule, word) {
					t.Errorf("%s: %s speaks of what is not there", name, r.ID)
				}
			}
		}
	}
}

func TestStates(t *testing.T) {
	const control, row = "message.recipient_guard", "RT-I-MISDELIVERY@flow-6"
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	digest := load(t, "payments").Bundle().Digest
	good := Proof{Passed: true, Falsified: true, Time: now.Add(-time.Hour), Digest: digest}
	with := func(change func(*Proof)) map[string]Proof {
		p := good
		change(&p)
		return map[string]Proof{control: p}
	}
	for _, tt := range []struct {
		name     string
		enforced string
		proofs   map[string]Proof
		want     State
	}{
		{"nothing known", "", nil, Declared},
		{"planes run another file", "other", nil, Declared},
		{"planes run this file", digest, nil, Enforced},
		{"probe passed and was seen to fail", digest, with(func(*Proof) {}), Proven},
		{"the same while the planes are not asked", "", with(func(*Proof) {}), Proven},
		{"the same while the planes run another file", "other", with(func(*Proof) {}), Declared},
		{"probe passed, never seen to fail", digest, with(func(p *Proof) { p.Falsified = false }), Enforced},
		{"probe got through", digest, with(func(p *Proof) { p.Passed = false }), Open},
		{"proof at the edge of its age", digest, with(func(p *Proof) { p.Time = now.Add(-24 * time.Hour) }), Proven},
		{"proof too old", digest, with(func(p *Proof) { p.Time = now.Add(-24*time.Hour - 1) }), Stale},
		{"failure too old", digest, with(func(p *Proof) { p.Passed, p.Time = false, now.Add(-48*time.Hour) }), Stale},
		{"proof from the future", digest, with(func(p *Proof) { p.Time = now.Add(time.Minute) }), Stale},
		{"proof of another file", digest, with(func(p *Proof) { p.Digest = "other" }), Stale},
	} {
		m := analyze(t, load(t, "payments"), Evidence{EnforcedDigest: tt.enforced, Proofs: tt.proofs, Now: now})
		if r, _ := m.Row(row); r.State != tt.want {
			t.Errorf("%s: %s, want %s (%s)", tt.name, r.State, tt.want, r.Reason)
		}
	}
}

// A row is as good as its worst control.
func TestWorstControlCounts(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sys := load(t, "payments")
	p := Proof{Passed: true, Falsified: true, Time: now, Digest: sys.Bundle().Digest}
	ev := Evidence{EnforcedDigest: sys.Bundle().Digest, Now: now, Proofs: map[string]Proof{"nonce.window": p}}
	if r, _ := analyze(t, sys, ev).Row("PAY-3"); r.State != Enforced {
		t.Errorf("one of two proven: %s, want enforced", r.State)
	}
	ev.Proofs["idempotency.key"] = p
	if r, _ := analyze(t, sys, ev).Row("PAY-3"); r.State != Proven {
		t.Errorf("both proven: %s, want proven", r.State)
	}
	ev.Proofs["idempotency.key"] = Proof{Time: now, Digest: p.Digest}
	if r, _ := analyze(t, sys, ev).Row("PAY-3"); r.State != Open {
		t.Errorf("a probe got through one: %s, want open and not partial", r.State)
	}
}

// What is missing on one item of data or one consumer is missing.
func TestNothingGetsPast(t *testing.T) {
	for _, tt := range []struct {
		name, row string
		change    func(*spec.System)
		want      State
	}{
		{"a second critical item without a MAC", "RT-T-STORE@flow-4", func(s *spec.System) {
			d := s.Data["contact"]
			d.Integrity = "critical"
			s.Data["contact"] = d
		}, Open},
		{"a signature nobody checks", "RT-T-QUEUE@flow-5", func(s *spec.System) { flow(s, "6").Message.AcceptFrom = nil }, Open},
		{"checks of a signature nobody makes", "RT-R-MESSAGE@flow-5", func(s *spec.System) { flow(s, "5").Message.Sign = "" }, Open},
		{"a second way in without a server-owned field", "RT-T-INTRANSIT@flow-1", func(s *spec.System) {
			flow(s, "10").Carries = append(flow(s, "10").Carries, "payment")
		}, Open},
		{"a queue's schema that its consumer ignores", "RT-T-QUEUE@flow-5", func(s *spec.System) { flow(s, "6").Message.Schema = "" }, Open},
		{"a schema the producer ignores and the consumer checks", "RT-T-QUEUE@flow-5", func(s *spec.System) { flow(s, "5").Message.Schema = "" }, Declared},
	} {
		sys := load(t, "payments")
		tt.change(sys)
		if r, _ := analyze(t, sys, Evidence{}).Row(tt.row); r.State != tt.want {
			t.Errorf("%s: %s is %q, want %q", tt.name, tt.row, r.State, tt.want)
		}
	}
}

func flow(s *spec.System, id string) *spec.Flow {
	return &s.Flows[slices.IndexFunc(s.Flows, func(f spec.Flow) bool { return f.ID == id })]
}

// An acceptance overlays and never hides, and a past date is red again.
func TestAcceptance(t *testing.T) {
	sys := load(t, "partners")
	until := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	sys.Accept = []spec.Accept{{Threat: "RT-I-OPEN-ZONE@zone-data", Owner: "alice", Reason: "moves in May", Until: until}}
	open := func(m Model) bool {
		return slices.ContainsFunc(m.Open(), func(r Row) bool { return r.Rule == "RT-I-OPEN-ZONE" })
	}
	before := analyze(t, sys, Evidence{Now: until.Add(-1)})
	if r, _ := before.Row("RT-I-OPEN-ZONE@zone-data"); r.State != Open || r.standing() != "ACCEPTED until 2027-01-31 (open)" || open(before) {
		t.Errorf("before the date: %s, counted %v", r.standing(), open(before))
	}
	if after := analyze(t, sys, Evidence{Now: until}); !open(after) {
		t.Error("on the date the threat must count again")
	}
}

func TestNamesOfNothing(t *testing.T) {
	sys := load(t, "payments")
	sys.Threats["PAY-3"] = spec.Named{Is: "RT-S-REPLAI@flow-2", Line: 76}
	sys.Accept = append(sys.Accept, spec.Accept{Threat: "RT-T-QUEUE@flow-1", Line: 12})
	_, err := Analyze(sys, Evidence{})
	if err == nil {
		t.Fatal("names of no threat were accepted")
	}
	want := `rampart.yaml:12:1: accept[4].threat: "RT-T-QUEUE@flow-1" is no threat of this system; did you mean "RT-T-QUEUE@flow-5"?
rampart.yaml:76:1: threats.PAY-3.is: "RT-S-REPLAI@flow-2" is no threat of this system; did you mean "RT-S-REPLAY@flow-2"?`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The lines are those of the text.
func TestNamesOfNothingHaveLines(t *testing.T) {
	text, err := os.ReadFile("testdata/tenlines.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sys := parse(t, string(text)+`threats:
  SHOP-1: { is: RT-T-CSRF@flow-users>gateway }
  SHOP-2: { is: RT-T-QUEUE@flow-users>gateway }
accept:
  - { threat: RT-S-SESION@flow-users>gateway, owner: alice, reason: none, until: 2030-01-01 }
`, small["tenlines"])
	_, err = Analyze(sys, Evidence{})
	if err == nil || !strings.Contains(err.Error(), "rampart.yaml:11:1: threats.SHOP-2.is") || !strings.Contains(err.Error(), `rampart.yaml:13:1: accept[0].threat: "RT-S-SESION@flow-users>gateway" is no threat of this system; did you mean "RT-S-SESSION@flow-users>gateway"?`) {
		t.Errorf("got %v", err)
	}
}

// The severities of the one table, and that public data is never high.
func TestSeverity(t *testing.T) {
	for _, name := range systems {
		for _, r := range applicable(analyze(t, load(t, name), Evidence{})) {
			if r.Impact == 0 && (r.Severity == High || r.Severity == Critical) {
				t.Errorf("%s: public data at severity %s", r.ID, r.Severity)
			}
			if want := severity(r.Impact, r.Likelihood); r.State != Partial && r.Severity != want || r.State == Partial && r.Severity != want.lower() {
				t.Errorf("%s: %s, table says %s", r.ID, r.Severity, want)
			}
		}
	}
	if severity(3, "high") != Critical || severity(0, "low") != Low || Low.lower() != Low {
		t.Error("the corners of the table moved")
	}
}

// Controls of the rules, of the file's reader and of the list are one set.
func TestOneSetOfControls(t *testing.T) {
	list, err := policies.Controls()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	if diff := cmp.Diff(spec.KnownControls(), ids); diff != "" {
		t.Errorf("controls (-spec +controls.yaml):\n%s", diff)
	}
}
