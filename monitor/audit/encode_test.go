package audit

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
)

// sameAsJSON encodes e and compares it with encoding/json, byte for byte.
func sameAsJSON(t *testing.T, tx *text, e Event) {
	t.Helper()
	want, errJSON := json.Marshal(e)
	err := tx.event(&e)
	if (err == nil) != (errJSON == nil) {
		t.Fatalf("here %v, encoding/json %v", err, errJSON)
	}
	if err == nil && string(tx.buf) != string(want) {
		t.Errorf("got  %s\nwant %s", tx.buf, want)
	}
}

// TestSameAsJSON: a member that is there and one that is not, each in turn.
func TestSameAsJSON(t *testing.T) {
	whole := denial()
	whole.Time, whole.Plane, whole.Subject, whole.Peer = time.Unix(1<<31, 1000).UTC(), plane, "user:<1>", "[::1]:1"
	var tx text
	sameAsJSON(t, &tx, whole)
	sameAsJSON(t, &tx, Event{})
	for _, set := range []func(e *Event, s string){
		func(e *Event, s string) { e.Plane = s }, func(e *Event, s string) { e.Class = s }, func(e *Event, s string) { e.Action = s },
		func(e *Event, s string) { e.Outcome = Outcome(s) }, func(e *Event, s string) { e.Control = s }, func(e *Event, s string) { e.Flow = s },
		func(e *Event, s string) { e.Layer = s }, func(e *Event, s string) { e.Code = s }, func(e *Event, s string) { e.Subject = s },
		func(e *Event, s string) { e.Actor = s }, func(e *Event, s string) { e.Resource = s }, func(e *Event, s string) { e.Trace = s },
		func(e *Event, s string) { e.Peer = s }, func(e *Event, s string) { e.Detail = map[string]string{s: s, "b": "", "a": s} },
		func(e *Event, s string) {
			e.Policies = []rampart.PolicyRef{{ID: s, Effect: rampart.Allow}, {File: s, Line: -1}}
		},
		func(e *Event, _ string) { e.Detail, e.Policies = map[string]string{}, []rampart.PolicyRef{} },
		func(e *Event, _ string) { e.Time = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		for _, s := range []string{"", "GET /?a=<b>&\"c\"\\", "größe\x00\xff\u2028"} {
			with, without := whole, Event{}
			set(&with, s)
			set(&without, s)
			sameAsJSON(t, &tx, with)
			sameAsJSON(t, &tx, without)
		}
	}
}

// TestDecision: the id of a decision is recorded as a detail, with and without others,
// and of an event that is cut too.
func TestDecision(t *testing.T) {
	long := strings.Repeat("x", maxEvent)
	for name, detail := range map[string]map[string]string{"alone": nil, "empty": {}, "with others": {"count": "1", "reason": "r"}, "in place of one": {"decision": "other"}, "cut": {"error": long, "decision": long}} {
		t.Run(name, func(t *testing.T) {
			e := denial()
			e.Detail, e.Decision = detail, `D1"`
			got, err := new(text).encode(e)
			must(t, err)
			e.Detail = maps.Clone(detail)
			if e.Detail == nil {
				e.Detail = map[string]string{}
			}
			e.Detail["decision"], e.Decision = e.Decision, ""
			if want, err := new(text).encode(e); err != nil || string(got) != string(want) {
				t.Errorf("got  %s\nwant %s, %v", got, want, err)
			}
			if detail["decision"] == `D1"` {
				t.Error("the caller's map was changed")
			}
		})
	}
}

// FuzzSameAsJSON: whatever an event holds, the log has what encoding/json writes,
// and it is read back as one record.
func FuzzSameAsJSON(f *testing.F) {
	f.Add("authz_deny", "POST /api", "flow>x", "\xff\u2028", "order:1", int64(5), true)
	f.Add("", "", "", "", "", int64(-1)<<40, false)
	f.Fuzz(func(t *testing.T, class, action, flow, subject, resource string, at int64, allow bool) {
		e := Event{
			Time: time.Unix(at%(1<<40), at).UTC(), Class: class, Action: action, Outcome: Outcome(flow), Flow: flow, Subject: subject,
			Resource: resource, Detail: map[string]string{class: action, subject: resource, flow: ""}, Policies: []rampart.PolicyRef{{Engine: class, File: flow, Line: int(at)}},
		}
		if allow {
			e.Policies[0].Effect = rampart.Allow
		}
		var tx text
		sameAsJSON(t, &tx, e)
		b, err := tx.encode(e)
		if err != nil {
			return
		}
		r := record{seq: 1, event: b}
		var h hasher
		r.hash = h.sum(&r)
		line := r.appendTo(nil)
		if back, err := parseRecord(line[:len(line)-1]); err != nil || back.hash != r.hash || len(line) > maxLine {
			t.Errorf("%d bytes, %v", len(line), err)
		}
	})
}
