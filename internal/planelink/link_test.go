package planelink_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestRotation: a new certificate begins a new generation; the old one keeps
// its certificate and its tokens for the calls that are under way.
func TestRotation(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	h.TTL = 10 * time.Second
	h.Restart()
	l := h.Link(h.Options("service/shop", "sidecar/shop"))
	old, aud := l.Now(), h.System.ServiceID("stock")
	h.Until("the certificate is renewed", func() bool { return l.Now() != old })
	next := l.Now()
	if next.Fingerprint() == old.Fingerprint() {
		t.Error("the new generation shows the old certificate")
	}
	if cur, err := old.Pinned().Current(); err != nil || cur.Fingerprint != old.Fingerprint() {
		t.Errorf("the old generation shows another certificate, %v", err)
	}
	for _, g := range []*planelink.Generation{old, next} {
		tok, err := g.Token(t.Context(), wire.TypeSVIDOnly, "", aud)
		if err != nil || boundTo(t, tok) != g.Fingerprint() {
			t.Errorf("a token of generation %x is bound to another certificate, %v", g.Fingerprint(), err)
		}
	}
	h.Until("listeners follow", func() bool {
		cur, err := l.Source().Current()
		return err == nil && cur.Fingerprint == l.Now().Fingerprint()
	})
}

// boundTo reads the fingerprint in a token's cnf.
func boundTo(t *testing.T, token string) (fingerprint [32]byte) {
	t.Helper()
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Confirm struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	b, err := base64.RawURLEncoding.DecodeString(claims.Confirm.Thumbprint)
	if err != nil || copy(fingerprint[:], b) != len(fingerprint) {
		t.Fatalf("thumbprint %q, %v", claims.Confirm.Thumbprint, err)
	}
	return fingerprint
}

// TestControlRestart: the link comes back by itself, and a file that did not
// change is not a new configuration.
func TestControlRestart(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	l := h.Link(h.Options("gateway/edge", "gateway/edge"))
	sys, epoch := l.State().System, l.State().Epoch
	h.Stop()
	h.Until("silence is noticed", func() bool { return l.Age() > 1500*time.Millisecond })
	if l.State().System != sys {
		t.Error("the configuration went with the control plane")
	}
	h.Restart()
	h.Until("the stream is back", func() bool { return l.Age() < time.Second && l.State().Epoch > epoch })
	if l.State().System != sys {
		t.Error("the same file became another configuration")
	}
	epoch = l.State().Epoch
	h.Revoke("sid", "s1")
	h.Until("a revocation arrives", func() bool { return l.State().Epoch > epoch })
	if !l.State().PrincipalRevoked(rampart.Principal{Session: "s1"}, time.Now().Add(-time.Second)) {
		t.Error("the session is not revoked")
	}
}

// TestUnsafe: a plane outside a throw-away folder refuses a file that switches
// controls off, and ends.
func TestUnsafe(t *testing.T) {
	h := controltest.Start(t, controltest.File(t, "principals:", "unsafe: { disable: [authn.csrf] }\nprincipals:"))
	opt := h.Options("gateway/edge", "gateway/edge")
	opt.Throwaway = false
	l, err := planelink.Dial(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Run(ctx); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("the link ended with %v, want the refusal", err)
	}
	if l.State().System != nil {
		t.Error("the file is in force")
	}
}

// TestJoinOnce: a join token is good once, for whom it was made.
func TestJoinOnce(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	opt := h.Options("service/shop", "sidecar/shop")
	h.Link(opt)
	if _, err := planelink.Dial(t.Context(), opt); err == nil {
		t.Error("a join token was good twice")
	}
	opt = h.Options("service/shop", "sidecar/shop")
	other := controltest.Start(t, controltest.File(t))
	opt.Roots = other.Options("service/shop", "sidecar/shop").Roots
	if _, err := planelink.Dial(t.Context(), opt); err == nil {
		t.Error("joined a control plane that the roots do not vouch for")
	}
}
