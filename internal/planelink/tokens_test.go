package planelink

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// service answers exchanges with "token N" as soon as it may.
type service struct {
	calls atomic.Int32
	may   chan struct{} // one value lets one exchange end
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	n := s.calls.Add(1)
	select {
	case <-s.may:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	body := fmt.Sprintf(`{"access_token":"token %d","expires_in":120}`, n)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// TestTokenAndRevocation: an exchange that began before a revocation neither
// answers nor is kept for whoever asks after it.
func TestTokenAndRevocation(t *testing.T) {
	s := &service{may: make(chan struct{}, 8)}
	l := &Link{opt: Options{Now: time.Now, Control: "control"}}
	l.state.Store(&State{Epoch: 1})
	g := &Generation{link: l, control: &http.Client{Transport: s}}
	ask := func() <-chan string {
		got := make(chan string, 1)
		go func() {
			tok, err := g.Token(t.Context(), wire.TypeSession, "secret", "spiffe://x/service/a")
			if err != nil {
				tok = err.Error()
			}
			got <- tok
		}()
		return got
	}
	until := func(calls int32) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); s.calls.Load() < calls; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d exchanges began, want %d", s.calls.Load(), calls)
			}
		}
	}
	before := ask()
	until(1)
	l.state.Store(&State{Epoch: 2})
	after := ask()
	until(2)
	s.may <- struct{}{}
	s.may <- struct{}{}
	if first, second := <-before, <-after; first != "token 1" || second != "token 2" {
		t.Errorf("before the revocation %q, after it %q", first, second)
	}
	if got := <-ask(); got != "token 2" || s.calls.Load() != 2 {
		t.Errorf("kept %q after %d exchanges", got, s.calls.Load())
	}
}

// TestTokenRunsOnce: many who ask for one token cost one exchange, and a token
// near its end is not handed out.
func TestTokenRunsOnce(t *testing.T) {
	s := &service{may: make(chan struct{}, 100)}
	now := atomic.Int64{}
	now.Store(time.Now().UnixNano())
	l := &Link{opt: Options{Now: func() time.Time { return time.Unix(0, now.Load()) }, Control: "control"}}
	l.state.Store(&State{})
	g := &Generation{link: l, control: &http.Client{Transport: s}}
	got := make(chan string)
	for range 20 {
		go func() {
			tok, _ := g.Token(t.Context(), wire.TypeSession, "secret", "spiffe://x/service/a")
			got <- tok
		}()
	}
	s.may <- struct{}{}
	for range 20 {
		if tok := <-got; tok != "token 1" {
			t.Errorf("got %q", tok)
		}
	}
	s.may <- struct{}{}
	if tok, err := g.Token(t.Context(), wire.TypeSession, "secret", "spiffe://x/service/b"); err != nil || tok != "token 2" {
		t.Errorf("for another audience %q, %v", tok, err)
	}
	now.Add(int64(101 * time.Second))
	s.may <- struct{}{}
	if tok, err := g.Token(t.Context(), wire.TypeSession, "secret", "spiffe://x/service/a"); err != nil || tok != "token 3" {
		t.Errorf("with 19 seconds to live %q, %v", tok, err)
	}
}

func TestRevocationsJoin(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0) }
	l := &Link{opt: Options{Now: func() time.Time { return at(0) }}}
	l.state.Store(&State{})
	revoke := func(list ...wire.Revocation) {
		t.Helper()
		if err := l.apply(wire.Update{Kind: "revoked", Revoked: list}); err != nil {
			t.Fatal(err)
		}
	}
	revoke(wire.Revocation{Kind: "sub", ID: "user:ann", NotBefore: at(20), Expires: at(100)}, wire.Revocation{Kind: "sid", ID: "old", NotBefore: at(-9), Expires: at(-1)})
	revoke(wire.Revocation{Kind: "sub", ID: "user:ann", NotBefore: at(10), Expires: at(90)})
	st := l.State()
	if st.Epoch != 2 || len(st.revoked) != 1 {
		t.Errorf("epoch %d, %d revocations kept; want 2 and the one in force", st.Epoch, len(st.revoked))
	}
	for s, want := range map[int]bool{15: true, 20: true, 21: false} {
		if got := st.Revoked("sub", "user:ann", at(s)); got != want {
			t.Errorf("issued at %d: revoked %v, want %v", s, got, want)
		}
	}
}

func BenchmarkStage(b *testing.B) {
	l := &Link{opt: Options{Now: time.Now, Control: "control"}}
	l.state.Store(&State{})
	s := &service{may: make(chan struct{}, 1)}
	s.may <- struct{}{}
	g := &Generation{link: l, control: &http.Client{Transport: s}}
	b.Run("exchange_cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Token(b.Context(), wire.TypeSession, "a session's value, which is 43 characters long", "spiffe://shop.example/service/shop"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
