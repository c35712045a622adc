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

// TestStrip: what a service gets of a path is a part of it, and costs no memory.
func TestStrip(t *testing.T) {
	for name, tc := range map[string]struct {
		mount, path, rest string
		ok                bool
	}{
		"everything":        {"/", "/shop/a", "/shop/a", true},
		"below its mount":   {"/shop/", "/shop/a/b", "/a/b", true},
		"its mount":         {"/shop/", "/shop/", "/", true},
		"without the slash": {"/shop/", "/shop", "/", true},
		"a longer name":     {"/shop/", "/shops", "", false},
		"another's":         {"/shop/", "/stock/a", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			tg := &target{mount: tc.mount}
			var rest string
			var ok bool
			n := testing.AllocsPerRun(10, func() { rest, ok = tg.strip(tc.path) })
			if rest != tc.rest || ok != tc.ok || n != 0 {
				t.Errorf("%q, %v, %v allocations", rest, ok, n)
			}
		})
	}
}
