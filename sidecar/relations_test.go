package sidecar

import (
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/agent"
)

// TestRejectedRelations: the answer to a push says what of it does not count.
func TestRejectedRelations(t *testing.T) {
	h := open(t, []string{"shop"}, related...)
	push := func(p agent.TuplesPush) (state agent.TuplesState) {
		t.Helper()
		p.Source = "db1"
		if status := h.post("shop", agent.PathTuples, p, &state); status != 200 {
			t.Fatalf("status %d", status)
		}
		return state
	}
	good := shares("o1", "user:ann")
	if got := push(agent.TuplesPush{Reset: true, To: 1, Changes: []agent.TupleWrite{good}}); got.Rejected != nil || !got.Ready {
		t.Errorf("nothing is wrong: %+v", got)
	}
	odd := agent.TupleWrite{Object: "order:o2", Relation: "viewr", Subject: "user:ann"}
	member := agent.TupleWrite{Object: "team:red", Relation: "member", Subject: "user:ann"}
	gone := odd
	gone.Delete = true
	got := push(agent.TuplesPush{From: 1, To: 2, Changes: []agent.TupleWrite{good, odd, member, gone}})
	if got.Revision != 2 || got.Rejected == nil || got.Rejected.Count != 2 {
		t.Fatalf("%+v", got)
	}
	if first := got.Rejected.First; first[0].Relation != "viewr" || !strings.Contains(first[0].Reason, "viewr") || !strings.Contains(first[1].Reason, "from_token") {
		t.Errorf("%+v", first)
	}
	many := make([]agent.TupleWrite, agent.MaxRejected+5)
	for i := range many {
		many[i] = odd
	}
	got = push(agent.TuplesPush{From: 2, To: 3, Changes: many})
	if got.Rejected == nil || got.Rejected.Count != len(many) || len(got.Rejected.First) != agent.MaxRejected {
		t.Errorf("%+v", got.Rejected)
	}
}
