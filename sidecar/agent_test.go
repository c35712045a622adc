package sidecar

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/agent"
)

// TestAudit: a service puts its own doings on record, for whom it was asked and
// in the name of the controls that are its own. It cannot write history for
// others.
func TestAudit(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	self := h.System.ServiceID("shop")
	event := func(change func(*agent.AuditRequest)) []byte {
		q := agent.AuditRequest{Class: "money", Action: "order.paid", Outcome: "allowed", Resource: "order/o1"}
		change(&q)
		b, err := json.Marshal(q)
		must(t, err)
		return b
	}
	for _, tc := range []struct {
		name    string
		body    []byte
		status  int
		subject string
	}{
		{"by itself", event(func(*agent.AuditRequest) {}), 204, self},
		{"for whom it was asked", event(func(q *agent.AuditRequest) { q.Identity = ann }), 204, "user:ann"},
		{"by a control of its own", event(func(q *agent.AuditRequest) { q.Identity, q.Control, q.Outcome = ann, "db.row_mac", "refused" }), 204, "user:ann"},
		{"for a forged identity", event(func(q *agent.AuditRequest) { q.Identity = ann[:len(ann)-4] + "AAAA" }), 401, ""},
		{"for whom it names", bytes.Replace(event(func(*agent.AuditRequest) {}), []byte("{"), []byte(`{"subject":"user:bob",`), 1), 400, ""},
		{"by a plane's control", event(func(q *agent.AuditRequest) { q.Control = "authn.session" }), 400, ""},
		{"in a plane's class", event(func(q *agent.AuditRequest) { q.Class = "authentication" }), 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(h.Events("sidecar_shop"))
			res, err := h.of["shop"].sock.Post("http://sidecar"+agent.PathAudit, "application/json", bytes.NewReader(tc.body))
			must(t, err)
			res.Body.Close()
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d", res.StatusCode, tc.status)
			}
			if res.StatusCode != http.StatusNoContent {
				if after := len(h.Events("sidecar_shop")); after != before {
					t.Errorf("%d events went on record", after-before)
				}
				return
			}
			e := h.newest("shop")
			if e.Subject != tc.subject || e.Actor != self || (tc.subject != self) != (e.Flow == "4" && len(strings.Trim(e.Trace, "0")) > 0) {
				t.Errorf("on record: %+v", e)
			}
		})
	}
}
