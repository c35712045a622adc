package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/policies"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/threat"
)

// Every probe is about controls of the one list, the list names exactly the
// probes that exist, and every control has a probe or says why not.
func TestControlsAndProbesAgree(t *testing.T) {
	list, err := policies.Controls()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for _, p := range Probes() {
		for _, c := range p.Controls {
			want[c] = append(want[c], p.ID)
		}
	}
	got := map[string][]string{}
	for _, c := range list {
		if len(c.Probes) > 0 {
			got[c.ID] = c.Probes
		}
		if len(c.Probes) == 0 && c.Unprobed == "" {
			t.Errorf("control %s has no probe and does not say why", c.ID)
		}
	}
	sorted := func(m map[string][]string) map[string][]string {
		for k := range m {
			slices.Sort(m[k])
		}
		return m
	}
	if d := cmp.Diff(sorted(want), sorted(got)); d != "" {
		t.Errorf("probes by control, in package verify (-) and in policies/controls.yaml (+):\n%s", d)
	}
}

// TestScenario: what a probe does not judge for want of a word in the file names the
// word and where to read of it, and a scenario that names no user has one who may.
func TestScenario(t *testing.T) {
	const file = `rampart: v1
system: { name: shop }
authz: { roles: { member: ["orders:create"] } }
services:
  edge: { role: gateway, listen: ":8443" }
  orders: { upstream: "http://127.0.0.1:9000", methods: [GET, POST] }
flows:
  - { from: users, to: edge, authn: session }
  - { from: edge, to: orders, allow: "role:member", idempotency: true }
`
	const call = `verify: { scenario: { call: "POST /orders/x", `
	for name, tc := range map[string]struct{ add, probe, want string }{
		"no scenario":                      {"", "P-121", "the file has no verify.scenario, so no consequential request is known; rampart verify --help shows one"},
		"no object":                        {call + "} }", "P-022", "verify.scenario names no object of one subject; rampart verify --help shows one"},
		"no ledger":                        {call + "} }", "P-121", "verify.scenario names no ledger to count bookings in; rampart verify --help shows one"},
		"nothing to change under that key": {call + `ledger: "GET /orders/x" } }`, "P-121", "verify.scenario names no amount, a number of the body to change; rampart verify --help shows one"},
		"all that it takes":                {call + `ledger: "GET /orders/x", amount: /n } }`, "P-121", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rampart.yaml")
			if err := os.WriteFile(path, []byte(file+tc.add), 0o600); err != nil {
				t.Fatal(err)
			}
			sys, err := spec.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			probe := Probes()[slices.IndexFunc(Probes(), func(p Probe) bool { return p.ID == tc.probe })]
			if ok, why := probe.Needs(sys); ok != (tc.want == "") || !ok && why != tc.want {
				t.Errorf("%s is judged: %v, %q; want %q", tc.probe, ok, why, tc.want)
			}
			if got := (&target{sys: sys}).facts().Roles; !slices.Equal(got, []string{"member"}) {
				t.Errorf("the probes' user has the roles %v", got)
			}
		})
	}
}

func TestProbesAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Probes() {
		if seen[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		seen[p.ID] = true
		if p.Title == "" || p.SeedRow == "" || len(p.Controls) == 0 || p.Vantage == "" || p.Safety == "" || p.Run == nil || len(p.Proves) == 0 {
			t.Errorf("%s lacks a part", p.ID)
		}
		if _, known := order[p.Controls[0]]; !known && p.Blind == "" && !standsAlone(p.Controls[0]) {
			t.Errorf("%s: control %s has no place in the order of a request", p.ID, p.Controls[0])
		}
	}
	if len(seen) < 34 || len(Removable()) < 12 {
		t.Errorf("%d probes and %d removable controls are too few", len(seen), len(Removable()))
	}
}

// standsAlone lists controls that are judged by a signal of their own, and not
// by who refused first.
func standsAlone(control string) bool {
	return slices.Contains([]string{"tls.min13", "headers.security", "authn.mfa", "authz.separation", "limit.login", "secret.acl", "data.envelope", "db.audit_log", "db.check",
		"message.signature", "message.schema", "message.recipient_guard"}, control)
}

// Each of the seven threats of the payment table has probes, and one of them
// at least was made to turn red or tests itself.
func TestSeedThreatsHaveProbes(t *testing.T) {
	for _, name := range []string{"PAY-1", "PAY-2", "PAY-3", "PAY-4", "PAY-5", "PAY-6", "PAY-7"} {
		sharp := slices.ContainsFunc(Probes(), func(p Probe) bool { return slices.Contains(p.Proves, name) && (p.Blind == "" || p.SelfTest != "") })
		if !sharp {
			t.Errorf("no probe of %s can be seen to fail", name)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		verdicts []Verdict
		want     int
	}{
		{[]Verdict{Pass, Pass}, ExitProven},
		{[]Verdict{Pass, NotApplicable, Accepted}, ExitProven},
		{[]Verdict{Pass, Inconclusive}, ExitInconclusive},
		{[]Verdict{Inconclusive, Fail, Pass}, ExitFailed},
		{[]Verdict{NotApplicable}, ExitInconclusive},
		{[]Verdict{"", Pass}, ExitInconclusive},
		{nil, ExitInconclusive},
	} {
		var r Report
		for _, v := range tt.verdicts {
			r.Probes = append(r.Probes, Outcome{Verdict: v})
		}
		if got := r.ExitCode(); got != tt.want {
			t.Errorf("%v: exit %d, want %d", tt.verdicts, got, tt.want)
		}
	}
}

// A probe that crashes, errs or hangs has judged nothing.
func TestJudgeIsNeverGreenByAccident(t *testing.T) {
	for name, run := range map[string]func(context.Context, *Env) (Result, error){
		"crashes": func(context.Context, *Env) (Result, error) { panic("at work") },
		"errs":    func(context.Context, *Env) (Result, error) { return Result{Verdict: Pass}, errors.New("target down") },
		"is stopped": func(ctx context.Context, _ *Env) (Result, error) {
			<-ctx.Done()
			return Result{Verdict: Pass}, nil
		},
	} {
		tg := &target{sys: &spec.System{}, now: time.Now, run: "00000000"}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		got := tg.judge(ctx, Probe{ID: "P-000", Controls: []string{"limit.ip"}, Run: run})
		cancel()
		if got.Verdict != Inconclusive {
			t.Errorf("a probe that %s: %s", name, got.Verdict)
		}
	}
}

func TestVerdictOn(t *testing.T) {
	by := func(control string) event { return event{Outcome: "refused", Control: control} }
	for _, tt := range []struct {
		name   string
		want   string
		status int
		who    event
		seen   bool
		result Verdict
	}{
		{"the control itself", "authz.gateway", 403, by("authz.gateway"), true, Pass},
		{"an earlier control hides it", "authz.gateway", 429, by("limit.user"), true, Inconclusive},
		{"a later control shows that it let go", "authz.gateway", 403, by("authz.service"), true, Fail},
		{"the service itself refused", "validate.openapi", 422, event{}, false, Fail},
		{"a service's own control cannot be told from the service", "field.server_owned", 422, event{}, false, Inconclusive},
		{"something broke", "authz.gateway", 503, event{}, false, Inconclusive},
		{"a control nobody knows", "authz.gateway", 403, by(""), true, Inconclusive},
	} {
		if got := verdictOn(attack{"x", request{}, []string{tt.want}}, tt.status, tt.who, tt.seen); got.Verdict != tt.result {
			t.Errorf("%s: %s (%s), want %s", tt.name, got.Verdict, got.Signal, tt.result)
		}
	}
}

func TestAccept(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	sys := &spec.System{
		Threats: map[string]spec.Named{"PAY-1": {Is: "RT-S-X@flow-1"}},
		Accept:  []spec.Accept{{Threat: "RT-S-X@flow-1", Owner: "alice", Until: now.AddDate(0, 0, 1)}, {Threat: "PAY-2", Owner: "bob", Until: now}},
	}
	for threat, want := range map[string]Verdict{"PAY-1": Accepted, "PAY-2": Fail, "PAY-3": Fail} {
		if got := accept(sys, Probe{Proves: []string{threat}}, failed("x"), now); got.Verdict != want {
			t.Errorf("%s: %s, want %s", threat, got.Verdict, want)
		}
	}
}

func TestProofs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := Report{Finished: at, Digest: "d", Probes: []Outcome{
		{ID: "P-1", Verdict: Pass, Controls: []string{"limit.ip"}},
		{ID: "P-2", Verdict: Pass, Controls: []string{"limit.user"}},
		{ID: "P-3", Verdict: Fail, Controls: []string{"limit.user", "limit.ip"}},
		{ID: "P-4", Verdict: Pass, Controls: []string{"authn.jwt"}},
		{ID: "P-5", Verdict: Inconclusive, Controls: []string{"authn.jwt"}},
		{ID: "P-6", Verdict: Pass, Controls: []string{"audit.log"}, SelfTest: "flips a byte"},
		{ID: "P-7", Verdict: NotApplicable, Controls: []string{"secret.acl"}},
	}}
	want := map[string]threat.Proof{
		"limit.ip":   {Passed: true, Falsified: true, Time: at, Digest: "d"},
		"limit.user": {Time: at, Digest: "d"},
		"audit.log":  {Passed: true, Falsified: true, Time: at, Digest: "d"},
	}
	if d := cmp.Diff(want, r.Proofs(map[string]bool{"limit.ip": true})); d != "" {
		t.Errorf("proofs (-want +got):\n%s", d)
	}
}

func TestCompareRemovals(t *testing.T) {
	mine := mustTurnRed("limit.api_key")
	base := Report{}
	for _, p := range Probes() {
		base.Probes = append(base.Probes, Outcome{ID: p.ID, Verdict: Pass, Controls: p.Controls})
	}
	with := func(change map[string]Verdict) Report {
		out := Report{Probes: slices.Clone(base.Probes)}
		for i := range out.Probes {
			if v, ok := change[out.Probes[i].ID]; ok {
				out.Probes[i].Verdict = v
			}
		}
		return out
	}
	red := map[string]Verdict{}
	for _, id := range mine {
		red[id] = Fail
	}
	broken := maps.Clone(red)
	broken["P-020"] = Fail
	unsureToo := maps.Clone(red)
	unsureToo["P-020"] = Inconclusive
	for _, tt := range []struct {
		name string
		rep  Report
		want string
	}{
		{"its probes turn red", with(red), Killed},
		{"nobody notices", base, Survived},
		{"its probes cannot tell", with(map[string]Verdict{mine[0]: Inconclusive}), Survived},
		{"others turn red, too", with(broken), Broken},
		{"others lose sight of theirs", with(unsureToo), Killed},
	} {
		if got := compare(base, tt.rep, "limit.api_key"); got.State != tt.want {
			t.Errorf("%s: %s, want %s (%+v)", tt.name, got.State, tt.want, got)
		}
	}
}

// A control whose probes could not judge the complete system is told, and not
// left out.
func TestNothingIsLeftOutInSilence(t *testing.T) {
	base := Report{}
	for _, p := range Probes() {
		base.Probes = append(base.Probes, Outcome{ID: p.ID, Verdict: Pass, Controls: p.Controls})
	}
	set := func(control string, v Verdict) {
		for i := range base.Probes {
			if slices.Contains(mustTurnRed(control), base.Probes[i].ID) {
				base.Probes[i].Verdict = v
			}
		}
	}
	set("limit.ip", Inconclusive)
	set("secret.acl", NotApplicable)
	got, err := FalsifyOptions{}.choose(base)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, "limit.ip") || slices.Contains(got, "secret.acl") || len(got) != len(Removable())-1 {
		t.Errorf("chosen: %v", got)
	}
	if r := (FalsifyOptions{}).remove(t.Context(), base, "limit.ip"); r.State != Errored || r.Signal == "" {
		t.Errorf("limit.ip: %+v", r)
	}
	if _, err := (FalsifyOptions{Controls: []string{"audit.log"}}).choose(base); err == nil {
		t.Error("a control that nothing can remove was chosen")
	}
}

func TestMatrix(t *testing.T) {
	old := Matrix{Digest: "d", Binary: "b", Removals: []Removal{{Control: "a", State: Killed}, {Control: "b", State: Killed}}}
	newer := Matrix{Digest: "d", Binary: "b", Removals: []Removal{{Control: "b", State: Survived}}}
	if d := cmp.Diff(map[string]bool{"a": true}, old.With(newer).Killed()); d != "" {
		t.Error(d)
	}
	newer.Binary = "c"
	if got := old.With(newer).Killed(); len(got) != 0 {
		t.Errorf("what another build missed counts: %v", got)
	}
	for state, want := range map[string]int{Killed: 0, Survived: 1, Broken: 1, Errored: 3} {
		m := Matrix{Removals: []Removal{{State: Killed}, {State: state}}}
		if got := m.ExitCode(); got != want {
			t.Errorf("%s: exit %d, want %d", state, got, want)
		}
	}
}

func TestReportForms(t *testing.T) {
	r := Report{System: "shop", Digest: strings.Repeat("d", 64), Probes: []Outcome{
		{ID: "P-001", Title: "a", SeedRow: "owasp: A01", Verdict: Pass, Control: "edge.route"},
		{ID: "P-002", Title: "b", SeedRow: "payment: 1 x", Verdict: Fail, Control: "limit.ip", Signal: "61 passed"},
		{ID: "P-003", Title: "c", SeedRow: "owasp: A05", Verdict: Inconclusive, Control: "limit.ip", Signal: "masked by limit.user"},
	}}
	var table, lines bytes.Buffer
	if err := errors.Join(r.Table(&table, TableOptions{}), r.WriteJSON(&lines)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"OWASP Top 10\n  PASS     P-001", "FAIL     P-002", "61 passed", "UNSURE   P-003", "1 passed, 1 failed, 1 inconclusive"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
	if strings.Index(table.String(), "P-003") > strings.Index(table.String(), "P-002") {
		t.Error("a section is torn apart")
	}
	d := json.NewDecoder(&lines)
	for range r.Probes {
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"id", "seed_row", "verdict", "control", "evidence"} {
			if _, ok := o[key]; !ok {
				t.Errorf("an object lacks %q", key)
			}
		}
	}
}

func TestEdited(t *testing.T) {
	file := "# kept\nrampart: v1\nexternal:\n  bank: { url: \"https://bank.example\", stand_in: \"127.0.0.1:9011\", run: [x] }\n  free: { url: \"https://free.example\", stand_in: \"127.0.0.1:9012\" }\n"
	out, err := edited([]byte(file), "limit.ip")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# kept", "disable:", "- limit.ip", "127.0.0.1:9012"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the copy lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "127.0.0.1:9011") {
		t.Error("the stand-in that we start stays on a port that is in use")
	}
	if whole, err := edited([]byte(file), ""); err != nil || strings.Contains(string(whole), "unsafe") {
		t.Errorf("the complete copy has an unsafe block: %v", err)
	}
	if _, err := edited([]byte("- a list"), "limit.ip"); err == nil {
		t.Error("a file that is no mapping was edited")
	}
}

// FuzzChain: no bytes crash the reader of logs.
func FuzzChain(f *testing.F) {
	f.Add(handmade(f))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var c chain
		c.read(bytes.NewReader(b))
	})
}

func handmade(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The log was made by hand, with sha256sum and printf, from the description
// of the format alone.
func TestChain(t *testing.T) {
	good := handmade(t)
	lines := bytes.SplitAfter(bytes.TrimSuffix(good, []byte("\n")), []byte("\n"))
	for _, tt := range []struct {
		name string
		log  []byte
		want string
	}{
		{"as written", good, ""},
		{"empty", nil, ""},
		{"a record being written", append(slices.Clone(good), `{"seq":4,"pr`...), ""},
		{"one bit of an event", bytes.Replace(good, []byte("session.login"), []byte("session.logio"), 1), "is not what was hashed"},
		{"a space in an event", bytes.Replace(good, []byte(`"event":{`), []byte(`"event":{ `), 1), "is not what was hashed"},
		{"the first record missing", bytes.Join(lines[1:], nil), "follows 0"},
		{"one in between missing", slices.Concat(lines[0], lines[2], []byte("\n")), "follows 1"},
		{"two swapped", slices.Concat(lines[0], lines[2], []byte("\n"), lines[1]), "follows 1"},
		{"another seq", bytes.Replace(good, []byte(`"seq":2`), []byte(`"seq":3`), 1), "follows 1"},
		{"no JSON", []byte("x\n"), "does not parse"},
	} {
		var c chain
		err := c.read(bytes.NewReader(tt.log))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
