package jwks_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwks"
	"github.com/rampart-security/rampart/authn/jwt"
)

// provider is an issuer behind real TLS that can misbehave.
type provider struct {
	*httptest.Server
	fetches atomic.Int64

	mu     sync.Mutex
	answer http.HandlerFunc
}

func newProvider(t *testing.T) *provider {
	p := &provider{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) answers(f http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

func (p *provider) serves(body string) {
	p.answers(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
}

// publishes serves the keys of signers.
func (p *provider) publishes(t *testing.T, signers ...*jwt.Signer) {
	t.Helper()
	set, err := jwt.PublicJWKS(signers...)
	if err != nil {
		t.Fatal(err)
	}
	p.serves(string(set))
}

// clock is a clock that the test moves.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time           { return time.Unix(1_800_000_000, c.ns.Load()) }
func (c *clock) advance(by time.Duration) { c.ns.Add(int64(by)) }

const issuer = "https://idp.example"

func newClient(t *testing.T, p *provider) (*jwks.Client, *clock) {
	t.Helper()
	at := &clock{}
	c, err := jwks.New(jwks.Options{
		Issuers: []jwks.Issuer{{Name: issuer, URL: p.URL + "/keys", Algorithms: []jwt.Algorithm{jwt.ES256, jwt.RS256}}},
		HTTP:    p.Client(), Log: slog.New(slog.DiscardHandler), Now: at.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, at
}

func newSigner(t *testing.T) *jwt.Signer {
	t.Helper()
	s, err := jwt.GenerateEdge()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trusts reports whether the client knows the signer's key now.
func trusts(t *testing.T, c *jwks.Client, s *jwt.Signer) bool {
	t.Helper()
	set, err := c.Keys(t.Context(), issuer, s.KeyID())
	if err != nil {
		t.Fatal(err)
	}
	return set.Has(s.KeyID())
}

func TestKeysAreFetchedOnceAndKept(t *testing.T) {
	p, key := newProvider(t), newSigner(t)
	p.publishes(t, key)
	c, at := newClient(t, p)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if !trusts(t, c, key) {
				t.Error("a published key is not trusted")
			}
		})
	}
	all.Wait()
	at.advance(5*time.Minute - time.Second)
	trusts(t, c, key)
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for one set within 5 min", n)
	}
}

// TestUnknownKidsCannotMakeUsFetch: a flood reaches the issuer once per 10 s,
// a new key is found all the same, and rotation has its own budget.
func TestUnknownKidsCannotMakeUsFetch(t *testing.T) {
	p, key, next := newProvider(t), newSigner(t), newSigner(t)
	p.publishes(t, key)
	c, at := newClient(t, p)
	trusts(t, c, key)
	for second := range 100 {
		for n := range 20 {
			if _, err := c.Keys(t.Context(), issuer, fmt.Sprintf("unknown-%d-%d", second, n)); err != nil {
				t.Fatal(err)
			}
		}
		at.advance(time.Second)
	}
	if n := p.fetches.Load(); n < 2 || n > 11 {
		t.Errorf("2000 unknown kids in 100 s made %d fetches, want one per 10 s", n)
	}
	p.publishes(t, key, next)
	at.advance(10 * time.Second)
	if !trusts(t, c, next) {
		t.Error("a new key was not found")
	}
	before := p.fetches.Load()
	at.advance(5 * time.Minute)
	if _, err := c.Keys(t.Context(), issuer, "unknown"); err != nil {
		t.Fatal(err)
	}
	c.Refresh(t.Context())
	if p.fetches.Load() != before+1 {
		t.Error("the set was not renewed at its age while a flood went on")
	}
}

func TestWithdrawnKeyIsNotTrustedAfterFiveMinutes(t *testing.T) {
	p, key, next := newProvider(t), newSigner(t), newSigner(t)
	p.publishes(t, key)
	c, at := newClient(t, p)
	if !trusts(t, c, key) {
		t.Fatal("a published key is not trusted")
	}
	p.publishes(t, next)
	at.advance(5 * time.Minute)
	if trusts(t, c, key) {
		t.Error("a withdrawn key is trusted after 5 min")
	}
}

func TestRefreshIsAheadOfRequests(t *testing.T) {
	p, key := newProvider(t), newSigner(t)
	p.publishes(t, key)
	c, at := newClient(t, p)
	c.Refresh(t.Context())
	at.advance(4*time.Minute - time.Second)
	c.Refresh(t.Context())
	if n := p.fetches.Load(); n != 1 {
		t.Fatalf("%d fetches before 4 min", n)
	}
	at.advance(time.Second)
	c.Refresh(t.Context())
	at.advance(4 * time.Minute)
	trusts(t, c, key)
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want the two of Refresh", n)
	}
}

// TestFailureKeepsTheLastSet for a day, and no longer.
func TestFailureKeepsTheLastSet(t *testing.T) {
	key := newSigner(t)
	wide := `{"keys":[],"x":"` + strings.Repeat("x", 256<<10) + `"}`
	good, err := jwt.PublicJWKS(key)
	if err != nil {
		t.Fatal(err)
	}
	one := strings.TrimSuffix(strings.TrimPrefix(string(good), `{"keys":[`), `]}`)
	for name, answer := range map[string]http.HandlerFunc{
		"failing":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"huge":          func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, wide) },
		"not a key set": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no keys at all": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"error":"maintenance"}`)
		},
		"redirecting": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
		"a kid twice": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"keys":[%s,%s]}`, one, one) },
		"symmetric key": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`)
		},
		"51 keys": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[`+strings.Repeat(`{},`, 50)+`{}]}`)
		},
		"weak RSA": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[{"kty":"RSA","n":"`+strings.Repeat("w", 170)+`","e":"AQAB","kid":"a"}]}`)
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"keys":[`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			p.publishes(t, key)
			c, at := newClient(t, p)
			trusts(t, c, key)
			p.answers(answer)
			at.advance(24 * time.Hour)
			if !trusts(t, c, key) {
				t.Error("a failure made the last set forgotten")
			}
			if n := p.fetches.Load(); n != 2 {
				t.Errorf("%d fetches, want 2: redirects are not followed", n)
			}
			at.advance(time.Second)
			_, err := c.Keys(t.Context(), issuer, key.KeyID())
			if rampart.KindOf(err) != rampart.Unavailable {
				t.Errorf("after a day: %v", err)
			}
			p.publishes(t, key)
			at.advance(10 * time.Second)
			if !trusts(t, c, key) {
				t.Error("does not recover")
			}
		})
	}
}

// TestEndlessAnswerIsNotRead: the issuer stops being able to write.
func TestEndlessAnswerIsNotRead(t *testing.T) {
	p, key := newProvider(t), newSigner(t)
	p.publishes(t, key)
	c, at := newClient(t, p)
	trusts(t, c, key)
	const much = 64 << 20
	written := make(chan int, 1)
	p.answers(func(w http.ResponseWriter, _ *http.Request) {
		n, chunk := 0, make([]byte, 64<<10)
		for n < much {
			m, err := w.Write(chunk)
			if n += m; err != nil {
				break
			}
		}
		written <- n
	})
	at.advance(5 * time.Minute)
	if !trusts(t, c, key) {
		t.Error("the last set is forgotten")
	}
	if n := <-written; n >= much {
		t.Errorf("%d bytes were read", n)
	}
}

// TestSlowIssuerHoldsNobody beyond the request's own patience.
func TestSlowIssuerHoldsNobody(t *testing.T) {
	p, key := newProvider(t), newSigner(t)
	p.publishes(t, key)
	c, _ := newClient(t, p)
	trusts(t, c, key)
	release, reached := make(chan struct{}), make(chan struct{})
	p.answers(func(http.ResponseWriter, *http.Request) { close(reached); <-release })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	set, err := c.Keys(ctx, issuer, "unknown")
	if err != nil || !set.Has(key.KeyID()) {
		t.Errorf("set %v, error %v", set, err)
	}
	if !trusts(t, c, key) {
		t.Error("a known key waits for the fetch of an unknown one")
	}
	close(release)
}

func TestOnlyDeclaredIssuers(t *testing.T) {
	p := newProvider(t)
	p.serves(`{"keys":[]}`)
	c, _ := newClient(t, p)
	for _, name := range []string{"https://evil.example", issuer + "/", "", "HTTPS://idp.example"} {
		if _, err := c.Source(name)(t.Context(), "k"); rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("issuer %q: %v", name, err)
		}
	}
	if p.fetches.Load() != 0 {
		t.Error("an issuer that nobody declared made a fetch")
	}
	for name, issuers := range map[string][]jwks.Issuer{
		"plain HTTP":   {{Name: issuer, URL: "http://idp.example/keys", Algorithms: []jwt.Algorithm{jwt.ES256}}},
		"no algorithm": {{Name: issuer, URL: "https://idp.example/keys"}},
		"no name":      {{URL: "https://idp.example/keys", Algorithms: []jwt.Algorithm{jwt.ES256}}},
		"twice": {
			{Name: issuer, URL: "https://idp.example/keys", Algorithms: []jwt.Algorithm{jwt.ES256}},
			{Name: issuer, URL: "https://idp.example/others", Algorithms: []jwt.Algorithm{jwt.ES256}},
		},
	} {
		if _, err := jwks.New(jwks.Options{Issuers: issuers, HTTP: http.DefaultClient, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
