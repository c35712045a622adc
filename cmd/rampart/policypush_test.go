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
	walled, lost := strings.Repeat("d", 32), strings.Repeat("e", 32)
	for _, e := range []audit.Event{
		{Class: audit.ClassWAF, Control: "waf.rules", Action: "POST /orders", Trace: walled, Detail: map[string]string{"decision": "BDDD", "rules": "942100 in body:/note", "score": "5 of 5", "error": "refused"}},
		{Class: audit.ClassNetwork, Control: "edge.route", Action: "GET /nope", Trace: lost, Peer: "192.0.2.1:9", Detail: map[string]string{"error": "no such route"}},
	} {
		e.Time, e.Outcome = time.Now(), audit.Refused
		if err := log.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"BD": "BDDD", "A": "more than one", "X": "rampart audit tail names", "": "missing"} {
		got, err := meantDecision(t.Context(), state, text)
		if err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	why := func(args ...string) string {
		cmd := policyWhyCommand()
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append(args, "--state", state.Path()))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			return out.String() + "error: " + err.Error()
		}
		return out.String()
	}
	if got := why(trace); strings.Count(got, "because     too slow") != 2 || !strings.Contains(got, "not: the audit log alone") || strings.Contains(got, "error: ") {
		t.Errorf("why: %s", got)
	}
	for text, want := range map[string][]string{
		other:                   {"error: ", "all 1 decisions", "allow"},
		strings.Repeat("c", 32): {"error: ", "no event of trace"},
		walled:                  {"refused     POST /orders\n", "control     waf.rules\n", "rules       942100 in body:/note\n", "score       5 of 5\n", "do          if the request is right, exclude these rules", "policies    none refused it; decision BDDD came before\n"},
		lost:                    {"refused     GET /nope\n", "who         192.0.2.1:9\n", "because     no such route\n", "do          rampart routes", "policies    none refused it\n"},
	} {
		got := why(text)
		for _, part := range want {
			if !strings.Contains(got, part) || strings.Contains(got, "error: ") != (want[0] == "error: ") || strings.Contains(got, "answer") {
				t.Errorf("why %s: want %q in %s", text, part, got)
			}
		}
	}
	if got, err := afterwards(t.Context(), state, "BDDD"); err != nil || got != "the request was refused after it, by waf.rules: rampart policy why "+walled {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	if got, err := afterwards(t.Context(), state, "ABBB"); err != nil || got != "" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	if got := why(walled, "--json"); !strings.Contains(got, `"refused":{`) || !strings.Contains(got, `"by_policy":false`) {
		t.Errorf("why --json: %s", got)
	}
	if _, err := findDecision(state, "ABBB"); !slices.Contains([]error{errNoDecision}, err) {
		t.Errorf("%v, want %v, not %v", err, errNoDecision, decisionlog.ErrNotFound)
	}
}
