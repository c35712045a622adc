package planelink_test

import (
	"os"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestForcedRotation: when a root is retired by force, who has a proof that lasts
// comes back below the new root, and who has none ends at once, so that whoever
// started it does so with a fresh token. Neither waits for its certificate to end.
func TestForcedRotation(t *testing.T) {
	h := attesting(t, newCluster(t))
	socket, err := h.State.Socket("join")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	token, err := planelink.Dial(t.Context(), h.Options("service/shop", "sidecar/shop"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- token.Run(t.Context()) }()
	opt := h.Options("service/stock", "sidecar/stock")
	opt.Join = ""
	opt.Proof = &planelink.Proof{Kind: wire.ProofUnix, Identity: "service/stock", Socket: socket, Roots: func() ([]byte, error) { return os.ReadFile(h.State.Path("ca.pem")) }}
	lasting := h.Link(opt)
	first := lasting.Now()

	for _, to := range []string{"prepare", "publish", "activate", "retire"} {
		h.Admin(wire.AdminCA, wire.CAStep{To: to, Force: to == "activate" || to == "retire", Reason: "the key was on a stolen disk"}, nil)
	}
	select {
	case err := <-ended:
		if rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("the plane that joined by a token ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the plane that joined by a token lives on")
	}
	h.Until("the plane with a proof has a new certificate", func() bool { return lasting.Now() != first && lasting.Age() < time.Second })
	var id wire.Identity
	if err := lasting.Call(t.Context(), "POST", wire.PathRenew, wire.RenewRequest{}, &id); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("the new certificate is not taken: %v", err)
	}
}
