package hop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/leash"
)

// asWeRead is a connection on which something happens as soon as bytes have come.
type asWeRead struct {
	*net.TCPConn
	happens *func()
}

func (c asWeRead) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if f := *c.happens; n > 0 && f != nil {
		f()
	}
	return n, err
}

// TestCutAsTheAnswerComes: a wait that ends after the answer was read, and before
// anybody has it, cuts the connection a moment later. By then it must not be another's:
// it does not wait for the next request, whatever becomes of the answer.
func TestCutAsTheAnswerComes(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	defer srv.Close()
	for name, under := range map[string]func(*testing.T) (ctx context.Context, end func()){
		"a leash": func(t *testing.T) (context.Context, func()) {
			l := new(leash.Leash)
			l.Begin(t.Context())
			return l, func() { go l.End(errors.New("slow")); runtime.Gosched() }
		},
		"another context": func(t *testing.T) (context.Context, func()) { return context.WithCancel(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			var happens func()
			tr := hop.New(hop.Options{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if err != nil {
					return nil, err
				}
				return asWeRead{c.(*net.TCPConn), &happens}, nil
			}, Else: elsewhere{}, Wait: time.Minute})
			defer tr.CloseIdleConnections()
			for n := range 200 {
				ctx, end := under(t)
				happens = end
				got, err := ask(tr, request(t, "POST", srv.URL+"/cut", "x").WithContext(ctx))
				if err == nil && got != "200 /cut" || err != nil && !errors.Is(err, context.Canceled) {
					t.Fatalf("%q, %v", got, err)
				}
				happens = nil
				for range 2 {
					if got, err := ask(tr, request(t, "POST", srv.URL+"/next", "x")); err != nil || got != "200 /next" {
						t.Fatalf("the next of %d: %q, %v", n, got, err)
					}
				}
			}
		})
	}
}

// fickle is a server that ends connections as they are used again, in all the ways in
// which that can be: it takes the times from a source that is the same in each run.
type fickle struct {
	seen sync.Map // how often each request came, whole or not
}

func (f *fickle) count(id string) *atomic.Int32 {
	n, _ := f.seen.LoadOrStore(id, new(atomic.Int32))
	return n.(*atomic.Int32)
}

// listen serves until the test ends.
func (f *fickle) listen(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := uint64(0); ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c.(*net.TCPConn), rand.New(rand.NewPCG(n, 1)))
		}
	}()
	return l.Addr().String()
}

// soon waits for less than it takes to use a connection again, or a little more.
func soon(by *rand.Rand) {
	for end := time.Now().Add(time.Duration(by.IntN(150)) * time.Microsecond); time.Now().Before(end); {
	}
}

func (f *fickle) serve(c *net.TCPConn, by *rand.Rand) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		id := strings.Fields(line)[1]
		f.count(id).Add(1)
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
		switch by.IntN(12) {
		case 0: // it answers what it has not read, and goes
			_, _ = io.WriteString(c, answer)
			return
		case 1: // the same, at once by a reset
			_, _ = io.WriteString(c, answer)
			_ = c.SetLinger(0)
			return
		}
		rest(in)
		switch by.IntN(12) {
		case 0: // not a word
			return
		case 1: // the answer, and the end as the next request comes
			_, _ = io.WriteString(c, answer)
			soon(by)
			return
		case 2: // and by a reset
			_, _ = io.WriteString(c, answer)
			soon(by)
			_ = c.SetLinger(0)
			return
		case 3: // and with a word that nobody asked for, as servers say that they waited for long
			_, _ = io.WriteString(c, answer)
			soon(by)
			_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		case 4: // two for one
			_, _ = io.WriteString(c, answer+"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus")
		default:
			_, _ = io.WriteString(c, answer)
		}
	}
}

// rest reads a request to its end.
func rest(in *bufio.Reader) {
	length := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			_, _ = in.Discard(length)
			return
		}
	}
}

// TestUsedAgainAsItEnds: whatever a server does to a connection as that is used again,
// no request that must not come twice comes twice, none comes that was not sent, as
// its caller is told, and no answer goes to another's question. A server that has
// ended the connection before anybody asked costs nobody an answer.
func TestUsedAgainAsItEnds(t *testing.T) {
	const callers, each = 8, 400
	f := new(fickle)
	addr := f.listen(t)
	tr, _ := dialed(t)
	var answered, unanswered atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			by := rand.New(rand.NewPCG(uint64(i), 2))
			for j := range each {
				method, body := "GET", ""
				if by.IntN(2) == 0 {
					method, body = "POST", strings.Repeat("x", 1+by.IntN(8<<10))
				}
				id := fmt.Sprintf("/%s/%d/%d", method, i, j)
				got, err := ask(tr, request(t, method, "http://"+addr+id, body))
				came := f.count(id).Load()
				switch {
				case err == nil && got == "200 "+id:
					answered.Add(1)
				case err == nil && got != "408 ":
					t.Errorf("%s was answered %q", id, got)
				default:
					unanswered.Add(1)
				}
				if most := map[string]int32{"GET": 2, "POST": 1}[method]; came > most {
					t.Errorf("%s came %d times (%v)", id, came, err)
				}
				if errors.Is(err, hop.ErrNotSent) && came > 0 {
					t.Errorf("%s came, and its caller is told that nothing was sent: %v", id, err)
				}
				soon(by)
			}
		})
	}
	all.Wait()
	if answered.Load() < 2*unanswered.Load() {
		t.Errorf("%d answered and %d not: a server that goes away before it is asked costs answers", answered.Load(), unanswered.Load())
	}
	t.Logf("%d answered, %d not", answered.Load(), unanswered.Load())
}

var _ http.RoundTripper = (*hop.Transport)(nil)
