package threat

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rampart-security/rampart/policies"
)

const goodRule = `id: RT-T-SAMPLE
title: Sample
stride: T
element: flow
applies: flow.edge
mitigated_by: { all: [tls.min13] }
why: a
abuse: b
fix: c
`

func known(t testing.TB) []policies.Control {
	t.Helper()
	list, err := policies.Controls()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Every defect of a rule is an error when it is loaded, with file and column
// where it is in an expression.
func TestBrokenRules(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"misspelt field", "flow.edge", "flow.edgy", "r.yaml:5:14: applies: undefined field 'edgy'"},
		{"misspelt field in quotes", "flow.edge", "'flow.edgy'", "r.yaml:5:15: applies: undefined field 'edgy'"},
		{"misspelt field in a block", "flow.edge", "|\n  flow.edge ||\n    flow.edgy", "r.yaml:7:"},
		{"field of a nested value", "flow.edge", "flow.from.zone.thrust < 3", "undefined field 'thrust'"},
		{"variable of another element", "flow.edge", "store.queue", "undeclared reference to 'store'"},
		{"item outside about", "flow.edge", "d.rank > 1", "undeclared reference to 'd'"},
		{"no condition but a number", "flow.edge", "flow.max_rank", "the result is int, not bool"},
		{"types that do not compare", "flow.edge", "flow.max_rank == flow.id", "no matching overload"},
		{"dynamic value", "flow.edge", "dyn(flow.max_rank) == 1", "r.yaml:5:13: applies: dynamic values are not allowed"},
		{"index that can fail", "flow.edge", "flow.carries[0].rank > 1 && false", "r.yaml:5:22: applies: _[_] can fail"},
		{"division that can fail", "flow.edge", "1 / flow.max_rank > 0", "_/_ can fail"},
		{"syntax", "flow.edge", "'flow.edge &&'", "r.yaml:5:"},
		{"condition that is no text", "flow.edge", "true", "an expression is a string"},
		{"no condition", "applies: flow.edge\n", "", "a rule needs"},
		{"impact that is a word", "why: a", "why: a\nseverity: { impact: '\"high\"' }", "the result is string, not int"},
		{"unknown key", "why: a", "why: a\nmitigated: true", "field mitigated not found"},
		{"unknown control", "tls.min13", "tls.min14", `control "tls.min14" is not in controls.yaml`},
		{"unknown element", "element: flow", "element: cloud", `element "cloud" is none of`},
		{"letter of another rule", "stride: T", "stride: S", `is not of letter "S"`},
		{"id of another form", "RT-T-SAMPLE", "T1", "not of the form"},
		{"two rules", "fix: c\n", "fix: c\n---\nid: RT-T-OTHER\n", "one rule a file"},
		{"not YAML", "id:", "\tid:", "r.yaml: yaml"},
		{"no reason", "why: a\n", "", "a rule needs"},
	} {
		if !strings.Contains(goodRule, tt.old) {
			t.Fatalf("%s: the sample lost %q", tt.name, tt.old)
		}
		text := strings.Replace(goodRule, tt.old, tt.new, 1)
		_, err := loadRules(fstest.MapFS{"r.yaml": {Data: []byte(text)}}, known(t))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := loadRules(fstest.MapFS{"r.yaml": {Data: []byte(goodRule)}}, known(t)); err != nil {
		t.Errorf("the sample itself: %v", err)
	}
	_, err := loadRules(fstest.MapFS{"a.yaml": {Data: []byte(goodRule)}, "b.yaml": {Data: []byte(goodRule)}}, known(t))
	if err == nil || !strings.Contains(err.Error(), "b.yaml: rule RT-T-SAMPLE is also in a.yaml") {
		t.Errorf("one id twice: %v", err)
	}
}

// A rule that could not be evaluated says so: it never reads as "does not
// apply", and its row fails a gate.
func TestCostLimitIsInconclusive(t *testing.T) {
	const names = 150
	var data, carries strings.Builder
	for i := range names {
		fmt.Fprintf(&data, "  item%d: { class: internal }\n", i)
		fmt.Fprintf(&carries, "item%d, ", i)
	}
	sys := parse(t, "rampart: v1\nsystem: { name: wide }\ndata:\n"+data.String()+`services:
  gateway: { role: gateway }
  a: { upstream: "http://127.0.0.1:9000" }
flows:
  - { id: 1, from: users, to: gateway, carries: [`+strings.TrimSuffix(carries.String(), ", ")+`] }
  - { id: 2, from: gateway, to: a, carries: [item0] }
`, nil)
	rule := strings.Replace(goodRule, "flow.edge", `flow.carries.exists(a, flow.carries.exists(b, a.name == b.name && a.rank > 3)) && false`, 1)
	set, err := loadRules(fstest.MapFS{"r.yaml": {Data: []byte(rule)}}, known(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := set.analyze(sys, Evidence{})
	if err != nil {
		t.Fatal(err)
	}
	wide, _ := m.Row("RT-T-SAMPLE@flow-1")
	narrow, _ := m.Row("RT-T-SAMPLE@flow-2")
	if wide.State != Inconclusive || narrow.State != NotApplicable {
		t.Errorf("wide flow %s, narrow flow %s; want inconclusive, not_applicable", wide.State, narrow.State)
	}
	if n := len(m.Undecided()); n != 1 {
		t.Errorf("%d rows are undecided, want 1", n)
	}
}

// A likelihood that is no word of the table is a failed evaluation.
func TestUnknownLikelihood(t *testing.T) {
	rule := goodRule + "severity: { likelihood: flow.id }\n"
	set, err := loadRules(fstest.MapFS{"r.yaml": {Data: []byte(rule)}}, known(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := set.analyze(load(t, "payments"), Evidence{})
	if err == nil || m.System != "" {
		t.Fatalf("names of rules that are not loaded were accepted: %v", err)
	}
	sys := load(t, "tenlines")
	if m, err = set.analyze(sys, Evidence{}); err != nil {
		t.Fatal(err)
	}
	if r, _ := m.Row("RT-T-SAMPLE@flow-users>gateway"); r.State != Inconclusive {
		t.Errorf("state %s (%s), want inconclusive", r.State, r.Reason)
	}
}

// FuzzRule: no text makes the loader or the evaluation of what it accepts
// panic or hang.
func FuzzRule(f *testing.F) {
	files, err := policies.Stride()
	if err != nil {
		f.Fatal(err)
	}
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range names {
		text, err := fs.ReadFile(files, n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(strings.Replace(goodRule, "flow.edge", "|\n  flow.carries.all(a, flow.carries.all(b, a == b))", 1)))
	controls, sys := known(f), load(f, "tenlines")
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := loadRules(fstest.MapFS{"r.yaml": {Data: text}}, controls)
		if err != nil {
			return
		}
		if _, err := set.analyze(sys, Evidence{}); err != nil {
			t.Fatal(err)
		}
	})
}
