package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/spec"
)

// TestReservedPaths: where a sidecar delivers messages no caller gets, under no
// mount and in no case.
func TestReservedPaths(t *testing.T) {
	sys, err := spec.Load(controltest.File(t))
	if err != nil {
		t.Fatal(err)
	}
	tab, err := compile(sys, "edge", time.Now, func(_, _ string, r spec.Rate) ratelimit.Limiter { return newRing(r, time.Now) })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := tab.find("GET", "/stock/mugs"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/stock/_rampart/messages/orders.sold", "/stock/_rampart", "/stock/_Rampart/x", "/_rampart/messages/orders.sold", "/_RAMPART"} {
		_, _, _, err := tab.find("GET", path)
		if e, ok := errors.AsType[*rampart.Error](err); !ok || e.Kind != rampart.NotFound || e.Control != "edge.route" {
			t.Errorf("%s: %v, want not found", path, err)
		}
	}
}
