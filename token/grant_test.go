package token_test

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

func TestAuthorizationCode(t *testing.T) {
	h := newHouse(t, "")
	const redirect = "https://shop.example/cb"
	q, err := h.authorize(authorization("shop", redirect))
	if err != nil {
		t.Fatal(err)
	}
	if q.Get("state") != "s t" || q.Get("iss") != issuer {
		t.Errorf("answer %v lacks state or issuer", q)
	}
	for name, try := range map[string][4]string{
		"no verifier":      {"shop", redirect, q.Get("code"), ""},
		"another verifier": {"shop", redirect, q.Get("code"), strings.Repeat("x", 43)},
		"another client":   {"other", redirect, q.Get("code"), verifier},
		"another redirect": {"shop", "http://127.0.0.1/cb", q.Get("code"), verifier},
		"another code":     {"shop", redirect, "rac_x", verifier},
	} {
		if _, err := h.redeem(try[0], try[1], try[2], try[3]); token.CodeOf(err) != "invalid_grant" {
			t.Errorf("%s: %v, want invalid_grant", name, err)
		}
	}
	g, err := h.redeem("shop", redirect, q.Get("code"), verifier)
	if err != nil {
		t.Fatalf("a failed guess burned the code: %v", err)
	}
	sub, err := h.AccessToken(t.Context(), g.AccessToken)
	if err != nil || sub.Principal.Subject != "user:ann" || sub.Principal.Client != "shop" || sub.Expires.Sub(h.clock) > 15*time.Minute {
		t.Errorf("token stands for %+v, %v", sub, err)
	}
	if _, err := h.redeem("shop", redirect, q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("second use: %v, want invalid_grant", err)
	}
	if _, err := h.AccessToken(t.Context(), g.AccessToken); err == nil {
		t.Error("what a stolen code was traded for outlives its second use")
	}
	if _, err := h.refresh("shop", g.RefreshToken); err == nil {
		t.Error("the refresh token of a stolen code outlives its second use")
	}
	if e := h.last(); e.Action != "token.theft" || e.Detail["alert"] != "true" || !slices.Contains(h.over, "sid-ann") {
		t.Errorf("recorded as %+v, and the sessions %v ended", e, h.over)
	}
}

func TestCodeExpires(t *testing.T) {
	h := newHouse(t, "")
	q, err := h.authorize(authorization("shop", "https://shop.example/cb"))
	if err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Minute)
	if _, err := h.redeem("shop", "https://shop.example/cb", q.Get("code"), verifier); token.CodeOf(err) != "invalid_grant" {
		t.Errorf("after a minute: %v, want invalid_grant", err)
	}
}

func TestAuthorizationRequests(t *testing.T) {
	h := newHouse(t, "")
	const good = "https://shop.example/cb"
	set := func(name, value string) url.Values {
		q := authorization("shop", good)
		q.Set(name, value)
		return q
	}
	for name, q := range map[string]url.Values{ // nobody is redirected
		"unknown client":      set("client_id", "nobody"),
		"no client":           set("client_id", ""),
		"prefix of redirect":  set("redirect_uri", good+"/more"),
		"another scheme":      set("redirect_uri", "http://shop.example/cb"),
		"another's redirect":  set("redirect_uri", "https://other.example/cb"),
		"no redirect":         set("redirect_uri", ""),
		"loopback by name":    set("redirect_uri", "http://localhost:5000/cb"),
		"loopback other path": set("redirect_uri", "http://127.0.0.1:5000/other"),
		"loopback with user":  set("redirect_uri", "http://x@127.0.0.1:5000/cb"),
		"loopback, no port":   set("redirect_uri", "http://127.0.0.1/other"),
		"loopback, port 0":    set("redirect_uri", "http://127.0.0.1:0/cb"),
		"loopback, long port": set("redirect_uri", "http://127.0.0.1:65536/cb"),
		"loopback, odd port":  set("redirect_uri", "http://127.0.0.1:05000/cb"),
		"loopback, empty":     set("redirect_uri", "http://127.0.0.1:/cb"),
		"loopback, fragment":  set("redirect_uri", "http://127.0.0.1:5000/cb#"),
		"loopback, loud":      set("redirect_uri", "HTTP://127.0.0.1:5000/cb"),
		"loopback, query":     set("redirect_uri", "http://127.0.0.1:5000/cb?"),
		"loopback, encoded":   set("redirect_uri", "http://127.0.0.1:5000/%63b"),
		"loopback, other":     set("redirect_uri", "http://127.0.0.2:5000/cb"),
		"two redirects":       {"client_id": {"shop"}, "redirect_uri": {good, good}},
	} {
		if got, err := h.authorize(q); err == nil {
			t.Errorf("%s: redirected with %v", name, got)
		}
	}
	for name, tc := range map[string]struct {
		q    url.Values
		code string
	}{
		"implicit flow":  {set("response_type", "token"), "unsupported_response_type"},
		"plain PKCE":     {set("code_challenge_method", "plain"), "invalid_request"},
		"no PKCE":        {set("code_challenge", ""), "invalid_request"},
		"short PKCE":     {set("code_challenge", "abc"), "invalid_request"},
		"a scope":        {set("scope", "admin"), "invalid_scope"},
		"loopback, port": {authorization("shop", "http://127.0.0.1:53124/cb"), ""},
	} {
		got, err := h.authorize(tc.q)
		if err != nil || got.Get("error") != tc.code || (got.Get("code") == "") != (tc.code != "") {
			t.Errorf("%s: %v, %v; want error %q", name, got, err, tc.code)
		}
		if (got.Get("error_description") != "") != (tc.code != "") {
			t.Errorf("%s: error_description %q beside error %q", name, got.Get("error_description"), tc.code)
		}
	}
}

// TestParallelRefresh: a client that sends its token a hundred times at once goes
// on with one family, whichever answer it keeps.
func TestParallelRefresh(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	var mu sync.Mutex
	successors := map[string]bool{}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			next, err := h.refresh("shop", g.RefreshToken)
			if err != nil {
				t.Errorf("refresh: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			successors[next.RefreshToken] = true
		})
	}
	wg.Wait()
	if len(successors) != 1 {
		t.Fatalf("%d successors, want 1", len(successors))
	}
	for text := range successors {
		if _, err := h.refresh("shop", text); err != nil {
			t.Errorf("the successor does not work: %v", err)
		}
	}
}

func TestRefreshTheft(t *testing.T) {
	for _, tc := range []struct {
		name  string
		reuse func(h *house, old, next string) string
	}{
		{"the one before, after ten seconds", func(h *house, old, _ string) string {
			h.clock = h.clock.Add(10*time.Second + 1)
			return old
		}},
		{"two generations back, at once", func(h *house, old, next string) string {
			if _, err := h.refresh("shop", next); err != nil {
				h.t.Fatal(err)
			}
			return old
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			g := h.login("shop")
			next, err := h.refresh("shop", g.RefreshToken)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.refresh("shop", tc.reuse(h, g.RefreshToken, next.RefreshToken)); token.CodeOf(err) != "invalid_grant" {
				t.Fatalf("reuse: %v, want invalid_grant", err)
			}
			if e := h.last(); e.Action != "token.theft" || e.Subject != "user:ann" || e.Detail["alert"] != "true" {
				t.Errorf("recorded as %+v", e)
			}
			if _, err := h.refresh("shop", next.RefreshToken); err == nil {
				t.Error("the family survived")
			}
			if _, err := h.AccessToken(t.Context(), next.AccessToken); err == nil {
				t.Error("the family's access token survived")
			}
			if _, err := h.exchange("edge", wire.TypeSession, "ann", "a"); err == nil || !slices.Contains(h.over, "sid-ann") {
				t.Errorf("the browser session that it came from survived: %v, ended are %v", err, h.over)
			}
		})
	}
}

func TestRefreshRefused(t *testing.T) {
	h := newHouse(t, "")
	g := h.login("shop")
	for name, try := range map[string][2]string{
		"another client's":  {"other", g.RefreshToken},
		"an access token":   {"shop", g.AccessToken},
		"nothing":           {"shop", ""},
		"a made-up one":     {"shop", "rrt_x.0.y"},
		"the next by guess": {"shop", strings.Replace(g.RefreshToken, ".0.", ".1.", 1)},
		"an unknown client": {"nobody", g.RefreshToken},
		"a longer one":      {"shop", g.RefreshToken + "A"},
	} {
		if _, err := h.refresh(try[0], try[1]); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := h.refresh("shop", g.RefreshToken); err != nil {
		t.Fatalf("noise revoked the family: %v", err)
	}
	h.clock = h.clock.Add(7*24*time.Hour + time.Second)
	if _, err := h.refresh("shop", g.RefreshToken); err == nil {
		t.Error("an idle family was accepted")
	}
}

func TestRevokeToken(t *testing.T) {
	for name, pick := range map[string]func(token.Granted) string{
		"access":  func(g token.Granted) string { return g.AccessToken },
		"refresh": func(g token.Granted) string { return g.RefreshToken },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, "")
			g := h.login("shop")
			if err := h.revokeToken("other", pick(g)); err != nil {
				t.Fatal(err)
			}
			if e := h.last(); e.Action != "token.revoke" || e.Outcome != audit.Refused || e.Resource != "client:other" || e.Peer != "192.0.2.1:7" {
				t.Errorf("a stranger's try was recorded as %+v", e)
			}
			if _, err := h.AccessToken(t.Context(), g.AccessToken); err != nil {
				t.Fatal("another client revoked it")
			}
			if err := h.revokeToken("shop", pick(g)); err != nil {
				t.Fatal(err)
			}
			if _, err := h.AccessToken(t.Context(), g.AccessToken); err == nil {
				t.Error("the access token lives on")
			}
			_, err := h.refresh("shop", g.RefreshToken)
			if alive := err == nil; alive != (name == "access") {
				t.Errorf("the refresh token lives: %v", alive)
			}
		})
	}
}

func FuzzRefresh(f *testing.F) {
	h := newHouse(f, "")
	g := h.login("shop")
	f.Add("rrt_")
	f.Add("rrt_a.b.c")
	f.Add(g.RefreshToken[:len(g.RefreshToken)-1])
	f.Fuzz(func(t *testing.T, s string) {
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {s}}
		if _, err := h.Grant(t.Context(), token.Request{Form: form}); err == nil && s != g.RefreshToken {
			t.Errorf("%q was accepted", s)
		}
	})
}
