package token_test

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// everything tries each way to a token, and a revocation.
func (h *house) everything(g token.Granted, code string, own key) map[string]func() error {
	const back = "https://shop.example/cb"
	return map[string]func() error{
		"session":      func() error { _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); return err },
		"access token": func() error { _, err := h.exchange("edge", wire.TypeAccess, g.AccessToken, "a"); return err },
		"authorize":    func() error { _, err := h.authorize(authorization("shop", back)); return err },
		"code":         func() error { _, err := h.redeem("shop", back, code, verifier); return err },
		"refresh":      func() error { _, err := h.refresh("shop", g.RefreshToken); return err },
		"own":          func() error { _, err := h.grant(with(asItself(), own.assertion(h, "batch"))); return err },
		"revoke":       func() error { return h.revokeToken("shop", g.RefreshToken) },
	}
}

// TestNoRecordNoToken: what cannot be recorded is not handed out.
func TestNoRecordNoToken(t *testing.T) {
	h, g, code, own := failing(t)
	h.deaf = true
	tries := h.everything(g, code, own)
	for _, name := range slices.Sorted(maps.Keys(tries)) { // refresh before revoke, which comes true even so
		if err := tries[name](); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
}

// TestNoStoreNoToken: a store that is gone is never taken for nobody, and
// nothing of it leaves the house.
func TestNoStoreNoToken(t *testing.T) {
	h, g, code, own := failing(t)
	h.db.Close()
	tries := h.everything(g, code, own)
	delete(tries, "session") // needs nothing of this store
	for name, try := range tries {
		err := try()
		if rampart.KindOf(err) != rampart.Unavailable || token.CodeOf(err) != "temporarily_unavailable" {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	a := h.caller("a")
	if _, err := h.introspect(&a, url.Values{}, "x.y.z"); err != nil {
		t.Errorf("what needs no store: %v", err)
	}
	if err := h.Sweep(t.Context()); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("sweep: %v", err)
	}
}

func failing(t *testing.T) (h *house, g token.Granted, code string, own key) {
	t.Helper()
	h, own = newHouse(t, ""), newKey(t, "k")
	h.register(token.Client{ID: "batch", Auth: "private_key_jwt", Keys: own.jwks(), Grants: []string{"client_credentials"}})
	g = h.login("shop")
	q, err := h.authorize(authorization("shop", "https://shop.example/cb"))
	if err != nil {
		t.Fatal(err)
	}
	return h, g, q.Get("code"), own
}

// TestRefuseAnswersTheClient: the person need do nothing for the client to
// learn that somebody must.
func TestRefuseAnswersTheClient(t *testing.T) {
	h := newHouse(t, "")
	for name, tc := range map[string]struct{ kind, want string }{"a good request": {"code", "login_required"}, "a bad one": {"token", "unsupported_response_type"}} {
		q := authorization("shop", "https://shop.example/cb")
		q.Set("response_type", tc.kind)
		a, err := h.ParseAuthorization(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		to, err := h.Refuse(a, "login_required")
		if err != nil || !strings.HasPrefix(to, "https://shop.example/cb?") || !strings.Contains(to, "error="+tc.want) || !strings.Contains(to, "iss=") {
			t.Errorf("%s: %s, %v", name, to, err)
		}
	}
}

// TestReplicasFollowEachOther: what one token service revoked another on the
// same store refuses, from the next time it looks.
func TestReplicasFollowEachOther(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	first := h.Service
	h.restart()
	if _, err := first.Revoke(t.Context(), "sub", "user:ann"); err != nil {
		t.Fatal(err)
	}
	if err := h.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Second)
	h.dead("at the other replica", "", g)
	list, err := h.Revocations(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("in force: %+v, %v", list, err)
	}
	h.clock = h.clock.Add(2 * time.Hour)
	if err := h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err = h.Revocations(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("after their time: %+v, %v", list, err)
	}
}
