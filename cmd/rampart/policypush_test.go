package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// TestArrival: a push is waited for at the planes that live, and what one refuses
// fails it.
func TestArrival(t *testing.T) {
	const orders = "sidecar/orders"
	no := []wire.Refused{{Version: 7, Code: "bundle_replay", Reason: "3 of 4\x1b[2J"}}
	for name, c := range map[string]struct {
		a       arrival
		plane   wire.PlanePolicies
		pending bool
		fails   string
		shown   string
	}{
		"it is there":              {arrival{7, false}, wire.PlanePolicies{Version: 7}, false, "", "version 7 "},
		"a newer one is":           {arrival{7, false}, wire.PlanePolicies{Version: 8}, false, "", "version 8"},
		"it is on its way":         {arrival{7, false}, wire.PlanePolicies{Version: 6}, true, "has not arrived at " + orders, "version 6, NOT YET 7"},
		"nothing was ever there":   {arrival{7, false}, wire.PlanePolicies{}, true, "has not arrived", "NOTHING: it denies"},
		"the plane is silent":      {arrival{7, false}, wire.PlanePolicies{Version: 6, SeenSeconds: 60}, false, "", "60.0s ago"},
		"it is refused":            {arrival{7, false}, wire.PlanePolicies{Version: 6, Refused: no}, false, "refused by " + orders, "REFUSED 7: bundle_replay"},
		"an older one was refused": {arrival{9, false}, wire.PlanePolicies{Version: 6, Refused: no}, true, "has not arrived", "version 6"},
		"it is on trial":           {arrival{7, true}, wire.PlanePolicies{Version: 6, Shadow: wire.Shadow{Version: 7}}, false, "", "version 6"},
		"the trial is refused":     {arrival{7, true}, wire.PlanePolicies{Version: 6, Refused: no}, false, "refused by", "version 6"},
		"the trial has ended":      {arrival{0, true}, wire.PlanePolicies{Version: 6}, false, "", "version 6"},
	} {
		t.Run(name, func(t *testing.T) {
			c.plane.Plane = orders
			st := wire.PolicyStatus{Version: 7, Planes: []wire.PlanePolicies{c.plane}}
			if got := len(c.a.pending(st)) > 0; got != c.pending {
				t.Errorf("waits %t, want %t", got, c.pending)
			}
			err := c.a.verdict(st)
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("push fails with %v, want %q", err, c.fails)
			}
			var out bytes.Buffer
			if err := (&adminFlags{}).policyStatus(&out, st); err != nil || !strings.Contains(out.String(), c.shown) || strings.Contains(out.String(), "\x1b") {
				t.Errorf("%v: status shows\n%s\nwant %q", err, out.String(), c.shown)
			}
		})
	}
}

// TestMeantDecisions: a trace means its denials, and the audit log has what the
// logs of decisions have not.
func TestMeantDecisions(t *testing.T) {
	state, err := statedir.Open(filepath.Join(t.TempDir(), "st"), statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(state.Path("audit"), "sidecar/orders", audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	trace, other := strings.Repeat("a", 32), strings.Repeat("b", 32)
	record := func(trace, id string, outcome audit.Outcome) {
		class := audit.ClassAuthzDeny
		if outcome == audit.Allowed {
			class = audit.ClassAuthzAllow
		}
		e := audit.Event{Time: time.Now(), Class: class, Action: "orders:list", Outcome: outcome, Trace: trace, Code: "timeout", Resource: "order/*", Detail: map[string]string{"decision": id, "reason": "too slow"}}
		if err := log.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	record(trace, "AAAA", audit.Allowed)
	record(trace, "ABBB", audit.Refused)
	record(trace, "ACCC", audit.Refused)
	record(trace, "ACCC", audit.Refused) // another plane tells of the same
	record(other, "BDDD", audit.Allowed)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		trace: "ABBB ACCC", other: "allow", strings.Repeat("c", 32): "no decision of trace",
		"BD": "BDDD", "A": "more than one", "X": "rampart audit tail names", "": "missing",
	} {
		ids, err := meantDecisions(t.Context(), state, text)
		if got := strings.Join(ids, " "); err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	cmd := policyWhyCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{trace, "--state", state.Path()})
	if err := cmd.ExecuteContext(t.Context()); err != nil || strings.Count(out.String(), "because     too slow") != 2 || !strings.Contains(out.String(), "not: the audit log alone") {
		t.Errorf("why: %v\n%s", err, out.String())
	}
	if _, err := findDecision(state, "ABBB"); !slices.Contains([]error{errNoDecision}, err) {
		t.Errorf("%v, want %v, not %v", err, errNoDecision, decisionlog.ErrNotFound)
	}
}
