package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestPrintGateways: what status says of each gateway; other planes have no line.
func TestPrintGateways(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	services := func(list ...wire.ServiceHealth) wire.EdgeHealth { return wire.EdgeHealth{Services: list} }
	shared := func(s wire.StoreHealth) wire.EdgeHealth { return wire.EdgeHealth{Store: &s} }
	for name, row := range map[string]struct {
		health wire.EdgeHealth
		bans   int
		want   string
	}{
		"well, alone":       {wire.EdgeHealth{}, 0, "gateway/edge  all are asked as usual  by this gateway  0"},
		"a breaker is open": {services(wire.ServiceHealth{Name: "shop", Open: now.Add(-90 * time.Second)}), 3, "gateway/edge  shop: BREAKER OPEN for 1m30s  by this gateway  3"},
		"full":              {services(wire.ServiceHealth{Name: "shop", AtLimit: true, Limit: 64}), 0, "gateway/edge  shop: AT ITS LIMIT of 64  by this gateway  0"},
		"both, and another": {services(wire.ServiceHealth{Name: "a", Open: now.Add(time.Second), AtLimit: true, Limit: 7}, wire.ServiceHealth{Name: "b", AtLimit: true, Limit: 9}), 0,
			"gateway/edge  a: BREAKER OPEN for 0s, AT ITS LIMIT of 7; b: AT ITS LIMIT of 9  by this gateway  0"},
		"more than are told": {wire.EdgeHealth{More: 2}, 0, "gateway/edge  and 2 more  by this gateway  0"},
		"shared":             {shared(wire.StoreHealth{}), 0, "gateway/edge  all are asked as usual  in the store  0"},
		"the store is away":  {shared(wire.StoreHealth{Away: now.Add(-3 * time.Minute), Alone: true}), 0, "gateway/edge  all are asked as usual  BY SHARE: the store is away for 3m0s  0"},
		"just back":          {shared(wire.StoreHealth{Alone: true}), 0, "gateway/edge  all are asked as usual  by share: the store is just back  0"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			edge := wire.Heartbeat{Plane: "gateway/edge", Health: row.health, Bans: wire.Bans{InForce: row.bans}}
			err := printGateways(&b, wire.Status{Planes: []wire.PlaneStatus{{Heartbeat: edge}, {Heartbeat: wire.Heartbeat{Plane: "sidecar/shop"}}}}, now)
			lines := strings.Split(strings.TrimSpace(b.String()), "\n")
			if err != nil || len(lines) != 2 || strings.Join(strings.Fields(lines[1]), " ") != strings.Join(strings.Fields(row.want), " ") {
				t.Errorf("%v\n%s\nwant %s", err, b.String(), row.want)
			}
		})
	}
}
