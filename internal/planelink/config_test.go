package planelink

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

const small = `rampart: v1
system: { name: shop }
services:
  edge: { role: gateway }
  orders: { upstream: "http://127.0.0.1:9001" }
flows:
  - { from: customer, to: edge, authn: session }
  - { from: edge, to: orders }
principals: { customer: {} }
`

// TestRefusedConfiguration: a plane that has a configuration keeps it when a newer
// one is refused, and says so; one that has none ends. What a plane says that it
// enforces is what heartbeats say.
func TestRefusedConfiguration(t *testing.T) {
	l := &Link{opt: Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler)}}
	l.state.Store(&State{})
	good, bad := spec.NewBundle([]byte(small), nil), spec.NewBundle([]byte("rampart: v1\nnonsense"), nil)
	if err := l.apply(wire.Update{Kind: "config", Config: &bad}); err == nil {
		t.Error("a plane without a configuration goes on with none")
	}
	apply(t, l, wire.Update{Kind: "config", Config: &good})
	apply(t, l, wire.Update{Kind: "config", Config: &bad})
	var hb wire.Heartbeat
	l.sayConfig(&hb)
	if l.State().System.Bundle().Digest != good.Digest || hb.Digest != good.Digest || !strings.Contains(hb.Unenforced, "configuration refused") {
		t.Errorf("the heartbeat says %.12s and %q", hb.Digest, hb.Unenforced)
	}
	next := spec.NewBundle([]byte(small+"# more\n"), nil)
	old := l.State().System
	apply(t, l, wire.Update{Kind: "config", Config: &next})
	l.Enforces(old, errTooLong)
	hb = wire.Heartbeat{}
	l.sayConfig(&hb)
	if hb.Digest != good.Digest || len(hb.Unenforced) != wire.MaxReason {
		t.Errorf("a plane that compiled nothing says %.12s and %d bytes of why", hb.Digest, len(hb.Unenforced))
	}
	l.Enforces(l.State().System, nil)
	hb = wire.Heartbeat{}
	if l.sayConfig(&hb); hb.Digest != next.Digest || hb.Unenforced != "" {
		t.Errorf("a plane that enforces the newest says %.12s and %q", hb.Digest, hb.Unenforced)
	}
}

type long struct{}

func (long) Error() string { return strings.Repeat("x", 2*wire.MaxReason) }

var errTooLong error = long{}
