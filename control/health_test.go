package control_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestHealth: what a gateway says of its health is shown, as far as it speaks of
// services of the file; nobody else has any.
func TestHealth(t *testing.T) {
	h := open(t, "")
	since := h.now().Add(-time.Minute).UTC()
	said := wire.EdgeHealth{More: 1 << 30, Store: &wire.StoreHealth{Away: since, Alone: true}}
	for i := range 2 * wire.MaxHealth {
		said.Services = append(said.Services, wire.ServiceHealth{Name: fmt.Sprint("nobody", i), AtLimit: true})
	}
	orders := wire.ServiceHealth{Name: "orders", Open: since, AtLimit: true, Limit: 64}
	said.Services = append(said.Services, orders, orders, wire.ServiceHealth{Name: "payments", AtLimit: true, Limit: -1})
	for as, plane := range map[string]string{"gateway/edge": "gateway/edge", "service/orders": "sidecar/orders"} {
		must(t, h.call(as, http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: plane, Instance: "i", Health: said}, nil))
	}
	var st wire.Status
	must(t, h.admin(http.MethodGet, wire.AdminStatus, nil, &st))
	got := map[string]wire.EdgeHealth{}
	for _, p := range st.Planes {
		got[p.Plane] = p.Health
	}
	edge := got["gateway/edge"]
	if edge.More < 1 || edge.More > 100 {
		t.Errorf("more than those told: %d", edge.More)
	}
	edge.More = 0
	want := wire.EdgeHealth{Store: said.Store, Services: []wire.ServiceHealth{orders, {Name: "payments", AtLimit: true}}}
	if diff := cmp.Diff(want, edge); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wire.EdgeHealth{}, got["sidecar/orders"]); diff != "" {
		t.Errorf("a sidecar has the health of a gateway: %s", diff)
	}
}
