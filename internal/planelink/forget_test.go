package planelink

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestForget: who caches says when it forgot; who does not has forgotten at once.
func TestForget(t *testing.T) {
	l := &Link{}
	l.state.Store(&State{})
	send := func(id uint64) (hb wire.Heartbeat) {
		t.Helper()
		if err := l.apply(wire.Update{Kind: "forget", Forget: &wire.Forget{ID: id, Secrets: []string{"store:db"}}}); err != nil {
			t.Fatal(err)
		}
		l.reportForget(&hb)
		return hb
	}
	if hb := send(3); hb.Forgot != 3 || hb.Trust.Secrets != nil {
		t.Errorf("without caches: forgot %d, in use %v", hb.Forgot, hb.Trust.Secrets)
	}
	var told []wire.Forget
	l.OnForget(func(f wire.Forget) { told = append(told, f) })
	l.OnSecretsInUse(func() map[string]int { return map[string]int{"store:db": 7} })
	hb := send(5)
	if hb.Forgot != 3 {
		t.Errorf("forgot %d before anybody said so", hb.Forgot)
	}
	if d := cmp.Diff([]wire.Forget{{ID: 5, Secrets: []string{"store:db"}}}, told); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]int{"store:db": 7}, hb.Trust.Secrets); d != "" {
		t.Error(d)
	}
	l.Forgot(5)
	l.Forgot(4) // later news of older ones takes nothing back
	if l.reportForget(&hb); hb.Forgot != 5 {
		t.Errorf("forgot %d, want 5", hb.Forgot)
	}
	if err := l.apply(wire.Update{Kind: "forget"}); err != nil {
		t.Errorf("an empty update: %v", err)
	}
}
