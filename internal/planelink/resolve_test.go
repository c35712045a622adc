package planelink

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// answering counts questions and answers each with its number; during runs while
// a question is under way.
type answering struct {
	asked  atomic.Int32
	during func()
	down   bool
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	n := a.asked.Add(1)
	if a.during != nil {
		a.during()
	}
	if a.down {
		return nil, errors.New("nobody answers")
	}
	body := fmt.Sprintf(`{"principal":{"sub":"user:%d"},"expires":"2100-01-01T00:00:00Z"}`, n)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// TestResolve: an answer is kept for ten seconds, and no longer than until
// something is revoked or forgotten, even while the question is under way.
func TestResolve(t *testing.T) {
	now := atomic.Int64{}
	now.Store(time.Now().UnixNano())
	l := &Link{opt: Options{Now: func() time.Time { return time.Unix(0, now.Load()) }, Control: "control"}}
	l.state.Store(&State{})
	heard := func() { l.lastBeat.Store(now.Load()) }
	heard()
	a := &answering{}
	l.gen.Store(&Generation{link: l, control: &http.Client{Transport: a}})
	session := wire.ResolveRequest{Type: wire.TypeSession, Value: "s", IP: "192.0.2.1"}
	ask := func(q wire.ResolveRequest) string {
		t.Helper()
		r, err := l.Resolve(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return r.Principal.Subject
	}
	expect := func(what, want string, q wire.ResolveRequest) {
		t.Helper()
		if got := ask(q); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	from := func(q wire.ResolveRequest, ip string) wire.ResolveRequest { q.IP = ip; return q }
	key := wire.ResolveRequest{Type: wire.TypeAPIKey, Value: "k", IP: "192.0.2.1"}

	expect("first", "user:1", session)
	expect("kept", "user:1", session)
	expect("a session from elsewhere", "user:1", from(session, "192.0.2.2"))
	expect("a key", "user:2", key)
	expect("a key again", "user:2", key)
	expect("a key from elsewhere", "user:3", from(key, "192.0.2.2"))
	now.Add(int64(11 * time.Second))
	heard()
	expect("ten seconds later", "user:4", session)
	l.state.Store(&State{Epoch: 1})
	expect("after a revocation", "user:5", session)
	l.Forget("s")
	expect("after a logout", "user:6", session)

	l.Forget("s")
	a.during = func() { l.Forget("s") }
	expect("asked before a logout", "user:7", session)
	a.during = nil
	expect("what was answered to that is not kept", "user:8", session)
	l.state.Store(&State{Epoch: 2})
	a.during = func() { l.state.Store(&State{Epoch: 3}) }
	expect("asked before a revocation", "user:9", session)
	a.during = nil
	expect("what was answered to that is not kept", "user:10", session)

	a.down = true
	now.Add(int64(11 * time.Second))
	heard()
	expect("nobody answers", "user:10", session)
	before := a.asked.Load()
	now.Add(int64(time.Minute))
	expect("and nobody is heard", "user:10", session)
	if a.asked.Load() != before {
		t.Error("a control plane that is not heard is asked")
	}
	now.Add(int64(10 * time.Minute))
	if r, err := l.Resolve(t.Context(), session); err == nil {
		t.Errorf("ten minutes later %s is still who it was", r.Principal.Subject)
	}
	l.state.Store(&State{Epoch: 4})
	if r, err := l.Resolve(t.Context(), session); err == nil {
		t.Errorf("after a revocation %s is still who it was", r.Principal.Subject)
	}
}

func BenchmarkResolve(b *testing.B) {
	l := &Link{opt: Options{Now: time.Now, Control: "control"}}
	l.state.Store(&State{})
	l.lastBeat.Store(time.Now().UnixNano())
	l.gen.Store(&Generation{link: l, control: &http.Client{Transport: &answering{}}})
	q := wire.ResolveRequest{Type: wire.TypeSession, Value: "a session's value, which is 43 characters long", IP: "192.0.2.1"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Resolve(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}
