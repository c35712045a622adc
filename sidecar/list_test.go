package sidecar

import (
	"testing"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/monitor/audit"
)

// TestListsHaveAnID: what a service is told of a list leads to its event, whether
// it was allowed or denied.
func TestListsHaveAnID(t *testing.T) {
	h := open(t, []string{"shop"}, related...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	reset := agent.TuplesPush{Source: "db1", Reset: true, To: 1, Changes: []agent.TupleWrite{shares("o2", "user:ann")}}
	if h.post("shop", agent.PathTuples, reset, nil) != 200 {
		t.Fatal("reset")
	}
	for name, c := range map[string]struct {
		resource string
		want     audit.Outcome
	}{
		"allowed":                  {"order", audit.Allowed},
		"a type that nobody knows": {"parcel", audit.Refused},
	} {
		before := len(h.Events("sidecar_shop"))
		var list agent.FilterAnswer
		if status := h.post("shop", agent.PathFilter, agent.FilterRequest{Identity: ann, Action: "shop:read", Type: c.resource}, &list); status != 200 {
			t.Fatalf("%s: status %d", name, status)
		}
		h.Until("it is on record", func() bool { return len(h.Events("sidecar_shop")) == before+1 })
		if e := h.Events("sidecar_shop")[before]; e.Outcome != c.want || list.Decision.ID == "" || e.Detail["decision"] != list.Decision.ID {
			t.Errorf("%s: the service is told %q, on record is %+v", name, list.Decision.ID, e)
		}
	}
}
