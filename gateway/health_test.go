package gateway

import (
	"slices"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/network/shed"
)

// TestOperatorsSeeHealth: a service that is at its limit is in the status of the
// control plane, and for ten seconds after it was.
func TestOperatorsSeeHealth(t *testing.T) {
	h := open(t)
	tg := h.gw.table.Load().targets
	i := slices.IndexFunc(tg, func(tg *target) bool { return tg.name == "shop" })
	load := tg[i].backend.load
	for {
		if _, err := load.Enter(shed.Important); err != nil {
			break
		}
	}
	edge := func() wire.EdgeHealth {
		var st wire.Status
		h.Admin(wire.AdminStatus, nil, &st)
		for _, p := range st.Planes {
			if p.Plane == "gateway/edge" {
				return p.Health
			}
		}
		return wire.EdgeHealth{}
	}
	h.Until("the status names the service", func() bool {
		s := edge().Services
		return len(s) == 1 && s[0] == wire.ServiceHealth{Name: "shop", AtLimit: true, Limit: load.Limit()}
	})
	if s := edge().Store; s != nil {
		t.Errorf("no store is shared, and it says %+v", s)
	}
	h.pass(healthWindow)
	if s := h.gw.health().Services; len(s) != 0 {
		t.Errorf("ten seconds later: %+v", s)
	}
}
