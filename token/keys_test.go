package token_test

import (
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestKeysRotate: keys change under tokens that are in use, and none of them is
// refused; a stolen key takes its tokens with it.
func TestKeysRotate(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	first := h.rings.Edge.Signer(h.clock).KeyID()
	for _, r := range []*jwt.Ring{h.rings.Internal, h.rings.Edge} {
		if err := r.Rotate(h.clock); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.SetRings(h.rings); err != nil {
		t.Fatal(err)
	}
	h.mustExchange("a", wire.TypeJWT, forA, "b")
	h.clock = h.clock.Add(11 * time.Minute)
	if now := h.rings.Edge.Signer(h.clock).KeyID(); now == first {
		t.Fatal("the next key does not sign: the test shows nothing")
	}
	h.mustExchange("edge", wire.TypeAccess, g.AccessToken, "a")
	g, err := h.refresh("shop", g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.edge(g.AccessToken); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	for _, key := range h.rings.Edge.Status(h.clock) {
		if key.State != jwt.KeyActive {
			continue
		}
		if err := h.rings.Edge.Revoke(key.ID, h.clock); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.SetRings(h.rings); err != nil {
		t.Fatal(err)
	}
	if _, err := h.exchange("edge", wire.TypeAccess, g.AccessToken, "a"); err == nil {
		t.Error("a token of the revoked key lives on")
	}
	if g, err = h.refresh("shop", g.RefreshToken); err != nil {
		t.Fatal(err)
	}
	h.mustExchange("edge", wire.TypeAccess, g.AccessToken, "a")
}
