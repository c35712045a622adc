package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	acmeproto "github.com/mholt/acmez/v3/acme"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// shelf is what the control plane keeps, with its contract of fences and without
// its leases; an order at a real authority is in the tests of the gateway.
type shelf struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]string // holder
	fences map[string]uint64
	loads  int
}

func newShelf() *shelf {
	return &shelf{values: map[string][]byte{}, locks: map[string]string{}, fences: map[string]uint64{}}
}

func (s *shelf) call(_ context.Context, q wire.EdgeStoreRequest) (a wire.EdgeStoreAnswer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := rampart.Errorf(rampart.NotFound, "", "no such key")
	switch q.Op {
	case wire.EdgeLoad, wire.EdgeStat:
		s.loads++
		v, ok := s.values[q.Key]
		if !ok {
			return a, missing
		}
		return wire.EdgeStoreAnswer{Value: v, Size: int64(len(v))}, nil
	case wire.EdgeStore:
		for key, fence := range s.fences {
			if (key == q.Key || strings.HasPrefix(q.Key, key+"/")) && fence > q.Fence {
				return a, rampart.Errorf(rampart.Conflict, "", "fenced")
			}
		}
		s.values[q.Key] = q.Value
	case wire.EdgeDelete:
		delete(s.values, q.Key)
	case wire.EdgeList:
		a.Keys = slices.Sorted(maps.Keys(s.values))
	case wire.EdgeLock:
		if h := s.locks[q.Key]; h != "" && h != q.Owner {
			return a, nil
		}
		if s.locks[q.Key] == "" {
			s.fences[q.Key]++
		}
		s.locks[q.Key] = q.Owner
		a.Fence = s.fences[q.Key]
	case wire.EdgeUnlock:
		if s.locks[q.Key] == q.Owner {
			s.locks[q.Key] = ""
		}
	}
	return a, nil
}

func TestStorage(t *testing.T) {
	ctx, shelf := t.Context(), newShelf()
	a, b := newStorage(shelf.call, "ca", time.Now), newStorage(shelf.call, "ca", time.Now)
	key := "certificates/ca/shop.example/shop.example.key"
	if _, err := a.Load(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing key: %v, want fs.ErrNotExist", err)
	}
	if err := a.Delete(ctx, key); err != nil || a.Exists(ctx, key) {
		t.Errorf("deleting what is not there: %v", err)
	}
	must(t, a.Lock(ctx, "issue_cert_shop.example"))
	if ok, err := b.TryLock(ctx, "issue_cert_shop.example"); ok || err != nil {
		t.Errorf("two hold one lock: %v", err)
	}
	waiting, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Lock(waiting, "issue_cert_shop.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	must(t, a.Store(ctx, key, []byte("of a")))
	if err := b.Store(ctx, key, []byte("of b")); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("a write past the holder: %v", err)
	}
	shelf.locks["certificates/ca/shop.example"] = "" // a slept past its lease
	must(t, b.Lock(ctx, "issue_cert_shop.example"))
	must(t, b.Store(ctx, key, []byte("of b")))
	if err := a.Store(ctx, key, []byte("of a")); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("a write under a lost lock: %v", err)
	}
	ended, end := context.WithCancel(ctx)
	end()
	must(t, b.Unlock(ended, "issue_cert_shop.example")) // also when its work was broken off
	must(t, b.Unlock(ctx, "issue_cert_shop.example"))
	must(t, a.Unlock(ctx, "issue_cert_shop.example"))
	if got, err := b.Load(ctx, key); err != nil || string(got) != "of b" {
		t.Errorf("%q, %v", got, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testEdge(t *testing.T, shelf *shelf) *Edge {
	e := New(Options{Names: []string{"shop.example", "www.shop.example"}, Directory: "https://127.0.0.1:1/dir", Client: http.DefaultClient, Call: shelf.call, HTTP: true, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(e.cache.Stop)
	return e
}

// No handshake leads to an order, or to a certificate of our own making.
func TestHandshakesWithoutACertificate(t *testing.T) {
	shelf := newShelf()
	e := testEdge(t, shelf)
	for name, c := range map[string]struct {
		hello tls.ClientHelloInfo
		known bool
	}{
		"ours":                    {tls.ClientHelloInfo{ServerName: "shop.example", SupportedProtos: []string{"h2"}}, true},
		"none, so the first":      {tls.ClientHelloInfo{}, true},
		"ours, with a dot":        {tls.ClientHelloInfo{ServerName: "WWW.shop.example."}, true},
		"not ours":                {tls.ClientHelloInfo{ServerName: "evil.example"}, false},
		"a proof nobody wants":    {tls.ClientHelloInfo{ServerName: "shop.example", SupportedProtos: []string{Protocol}}, true},
		"a proof of one not ours": {tls.ClientHelloInfo{ServerName: "evil.example", SupportedProtos: []string{Protocol}}, false},
	} {
		cert, err := e.Certificate(&c.hello)
		if cert != nil || (err != nil) != c.known {
			t.Errorf("%s: %v, %v", name, cert != nil, err)
		}
	}
	if len(shelf.values) != 0 {
		t.Errorf("a handshake wrote %v", shelf.values)
	}
	if diff := cmp.Diff([]State{{Name: "shop.example"}, {Name: "www.shop.example"}}, e.State()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// The authority may come to a gateway that did not ask it to; strangers that
// come often do not reach the store each time.
func TestProofsOfOthers(t *testing.T) {
	shelf := newShelf()
	one, other := testEdge(t, shelf), testEdge(t, shelf)
	ch := acmeproto.Challenge{Type: acmeproto.ChallengeTypeTLSALPN01, Token: "tok", KeyAuthorization: "tok.thumb", Identifier: acmeproto.Identifier{Type: "dns", Value: "shop.example"}}
	must(t, one.challenges.Present(t.Context(), ch))
	ch.Type = acmeproto.ChallengeTypeHTTP01
	must(t, one.challenges.Present(t.Context(), ch))
	for _, e := range []*Edge{one, other} {
		cert, err := e.Certificate(&tls.ClientHelloInfo{ServerName: "shop.example", SupportedProtos: []string{Protocol}})
		if err != nil || cert == nil {
			t.Fatalf("no proof: %v", err)
		}
	}
	plain := other.Handler(http.NotFoundHandler())
	ask := func(method, host, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://"+host+path, nil)
		w := httptest.NewRecorder()
		plain.ServeHTTP(w, r)
		return w
	}
	if w := ask("GET", "shop.example:80", "/.well-known/acme-challenge/tok"); w.Code != 200 || w.Body.String() != "tok.thumb" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	for _, c := range [][3]string{{"GET", "evil.example", "/.well-known/acme-challenge/tok"}, {"GET", "shop.example", "/.well-known/acme-challenge/other"}, {"GET", "www.shop.example", "/.well-known/acme-challenge/tok"}, {"POST", "shop.example", "/.well-known/acme-challenge/tok"}} {
		if w := ask(c[0], c[1], c[2]); w.Code == 200 {
			t.Errorf("%v was answered", c)
		}
	}
	before := shelf.loads
	for range 50 {
		ask("GET", "www.shop.example", "/.well-known/acme-challenge/x")
	}
	if n := shelf.loads - before; n > 2 {
		t.Errorf("50 strangers reached the store %d times", n)
	}
	ch.Type = acmeproto.ChallengeTypeTLSALPN01
	must(t, one.challenges.CleanUp(t.Context(), ch))
	if _, err := one.Certificate(&tls.ClientHelloInfo{ServerName: "shop.example", SupportedProtos: []string{Protocol}}); err == nil {
		t.Error("a proof outlived its order")
	}
}

func TestPauses(t *testing.T) {
	away, refused := errors.New("no route"), acmeproto.Problem{Type: acmeproto.ProblemTypeRateLimited}
	for _, c := range []struct {
		err      error
		failures int
		want     time.Duration
	}{
		{away, 0, 2 * time.Second}, {away, 1, 4 * time.Second}, {away, 20, 5 * time.Minute}, {away, 1 << 30, 5 * time.Minute},
		{refused, 0, time.Minute}, {refused, 3, 8 * time.Minute}, {refused, 99, time.Hour},
	} {
		if got := pauseAfter(c.err, c.failures); got != c.want {
			t.Errorf("%v after %d failures: %v, want %v", c.err, c.failures, got, c.want)
		}
	}
}

func TestIssuerKey(t *testing.T) {
	for directory, want := range map[string]string{
		"https://acme-v02.api.letsencrypt.org/directory": "acme-v02.api.letsencrypt.org-directory",
		"https://127.0.0.1:14000/dir":                    "127.0.0.1-14000-dir",
		"https://CA.example/a/../b/":                     "ca.example-a-..-b",
	} {
		if got := issuerKey(directory); got != want {
			t.Errorf("%s: %s, want %s", directory, got, want)
		}
	}
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"account":{"status":"valid"},"key":"LS0tLS1CRUdJTg=="}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAccount(b); err == nil && a.PrivateKey == nil {
			t.Error("an account without a key")
		}
	})
}
