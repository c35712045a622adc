package token_test

import (
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/token"
)

// TestChainsOnlyNarrow walks random ways through the file, asking for random
// scopes: whatever comes out, each token may do no more, lives no longer and
// has come through one more service than the one before.
func TestChainsOnlyNarrow(t *testing.T) {
	h := newHouse(t, "")
	h.limit("orders:read", "orders:write", "payments:*", "mail:send")
	next := map[string][]string{"edge": {"a", "own"}, "own": {"b", "c"}, "a": {"b"}, "b": {"c"}, "c": {"d", "own"}, "d": {"e"}}
	asks := []string{"", "", "orders:read", "orders:read orders:write", "payments:read", "payments:*", "orders:*", "mail:send orders:read"}
	rng := rand.New(rand.NewPCG(1, 2))
	minted, refused := 0, 0
	for range 300 {
		kind, text, from := wire.TypeSession, "ann", "edge"
		var scope []string
		expires := h.clock.Add(time.Hour).Unix()
		for depth := 1; depth <= 5; depth++ {
			to := next[from]
			if len(to) == 0 {
				break
			}
			callee := to[rng.IntN(len(to))]
			form := h.asked(kind, text, callee)
			if ask := asks[rng.IntN(len(asks))]; ask != "" {
				form.Set("scope", ask)
			}
			x, err := h.Exchange(t.Context(), h.caller(from), form)
			if err != nil {
				refused++
				break
			}
			minted++
			got, err := h.read(x.AccessToken, from, callee)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Actors()) != depth || got.Actors()[0] != h.sys.ServiceID(from) || got.Expires > expires {
				t.Fatalf("hop %d from %s: actors %v, expires %d after %d", depth, from, got.Actors(), got.Expires, expires)
			}
			if scope != nil && slices.ContainsFunc(got.Scope, func(s string) bool { return !coveredBy(s, scope) }) {
				t.Fatalf("hop %d from %s: %v is more than %v", depth, from, got.Scope, scope)
			}
			kind, text, from, scope, expires = wire.TypeJWT, x.AccessToken, callee, got.Scope, got.Expires
		}
	}
	if minted < 300 || refused == 0 {
		t.Errorf("%d minted and %d refused: the test shows little", minted, refused)
	}
}

// coveredBy is written apart from the code under test.
func coveredBy(want string, have []string) bool {
	return slices.ContainsFunc(have, func(h string) bool {
		return h == want || strings.HasSuffix(h, ":*") && strings.HasPrefix(want, strings.TrimSuffix(h, "*"))
	})
}

// TestLostResponseHeals: the server dies between commit and reply; the client
// tries again and goes on, with the one successor there is.
func TestLostResponseHeals(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	lost, err := h.refresh("shop", g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.clock = h.clock.Add(9 * time.Second)
	again, err := h.refresh("shop", g.RefreshToken)
	if err != nil || again.RefreshToken != lost.RefreshToken {
		t.Fatalf("no healing: %v", err)
	}
	if _, err := h.refresh("shop", again.RefreshToken); err != nil {
		t.Errorf("the successor does not work: %v", err)
	}
}

// TestDisabledClient: nothing that it holds is good for anything.
func TestDisabledClient(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	h.register(token.Client{ID: "shop", Redirects: []string{"https://shop.example/cb"}, Disabled: true})
	for name, try := range map[string]func() error{
		"refresh":   func() error { _, err := h.refresh("shop", g.RefreshToken); return err },
		"exchange":  func() error { _, err := h.exchange("edge", wire.TypeAccess, g.AccessToken, "a"); return err },
		"authorize": func() error { _, err := h.authorize(authorization("shop", "https://shop.example/cb")); return err },
	} {
		if err := try(); token.CodeOf(err) != "invalid_client" {
			t.Errorf("%s: %v, want invalid_client", name, err)
		}
	}
}

// FuzzAuthorization: whatever a query says, nobody is sent but to an address of
// the client, and a code comes only with PKCE.
func FuzzAuthorization(f *testing.F) {
	h := newHouse(f, "")
	for _, q := range []string{
		authorization("shop", "https://shop.example/cb").Encode(), "client_id=shop", "scope=a:b&scope=c:d", "prompt=none%20login&max_age=-1",
		"client_id=shop&redirect_uri=https://shop.example/cb%23&response_type=code",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		a, err := h.ParseAuthorization(t.Context(), q)
		if err != nil {
			return
		}
		who, err := h.Facts(t.Context(), "user:ann")
		if err != nil {
			t.Fatal(err)
		}
		who.Session, who.AuthTime = "sid-ann", h.started
		to, err := h.Authorize(t.Context(), a, token.Subject{Principal: who, Issued: h.started})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		if u.Host != "shop.example" && u.Host != "other.example" && u.Hostname() != "127.0.0.1" {
			t.Errorf("%q leads to %s", query, to)
		}
		if u.Query().Has("code") && q.Get("code_challenge_method") != "S256" {
			t.Errorf("%q got a code without PKCE", query)
		}
	})
}

func BenchmarkRefresh(b *testing.B) {
	h := newHouse(b, "")
	g := h.login("shop")
	b.ReportAllocs()
	for b.Loop() {
		h.events = h.events[:0]
		next, err := h.refresh("shop", g.RefreshToken)
		if err != nil {
			b.Fatal(err)
		}
		g = next
	}
}

func BenchmarkIntrospect(b *testing.B) {
	h := newHouse(b, "")
	text := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	a := h.caller("a")
	b.ReportAllocs()
	for b.Loop() {
		got, err := h.Introspect(b.Context(), token.Request{Form: url.Values{"token": {text}}, Caller: &a})
		if err != nil || got["active"] != true {
			b.Fatal(got, err)
		}
	}
}
