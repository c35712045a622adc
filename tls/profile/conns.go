package profile

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/tls/svid"
)

// closeAfter is how long a connection stays open whose peer is not welcome any
// more, so that what it asks in that time gets an answer that says so. Then it is
// closed with all that is under way on it. RFC 8446 says nothing about that
// moment, and neither do the SPIFFE standards: this is our answer.
const closeAfter = 2 * time.Second

// refusedEpoch is that of no Source: whoever has it never passes again.
const refusedEpoch = math.MaxUint64

// peerConn is one open connection of an mTLS listener.
//
// A handshake is judged once, and connections live long. So each remembers the
// epoch of its verdict. Every request compares it with the source's, which is
// an atomic load; a new epoch has the peer judged anew, at the next request or by
// the listener, whichever comes first.
type peerConn struct {
	judge *judge
	raw   net.Conn // below TLS: closing it waits for nobody
	tls   *tls.Conn
	until time.Time // requests after it are the last
	heard func(net.Addr, error)

	epoch atomic.Uint64

	mu      sync.Mutex // held while the peer is judged anew; guards below
	verdict verdict
	state   tls.ConnectionState
	refusal error
}

// watching returns config for the one connection p: the same, and what it finds
// out about the peer is kept. Tickets are off, so nothing is shared by the copy.
func (p *peerConn) watching(config *tls.Config) *tls.Config {
	config = config.Clone()
	auth := config.ClientAuth
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		v, err := p.judge.handshake(cs, auth)
		p.verdict = v
		return err
	}
	return config
}

// begin starts the life of a connection whose handshake is complete.
func (p *peerConn) begin(conn *tls.Conn) {
	p.tls, p.state = conn, conn.ConnectionState()
	p.epoch.Store(p.verdict.epoch)
	if leaf := p.verdict.peer.Leaf; leaf != nil {
		p.until = ageCap(leaf.NotBefore, leaf.NotAfter, p.judge.now())
	}
}

// ageCap is the earlier of one life of the peer's certificate from now, up to a
// tenth less so that a fleet does not come again at once, and its end.
func ageCap(notBefore, notAfter, now time.Time) time.Time {
	var b [1]byte
	rand.Read(b[:])
	life := notAfter.Sub(notBefore)
	until := now.Add(life - life/10*time.Duration(b[0])/256)
	if notAfter.Before(until) {
		return notAfter
	}
	return until
}

// recheck refuses a peer that is not welcome any more.
func (p *peerConn) recheck() error {
	if p.epoch.Load() == p.judge.src.Epoch() {
		return nil
	}
	return p.again()
}

func (p *peerConn) again() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusal != nil {
		return p.refusal
	}
	v, err := p.judge.again(p.verdict, p.state)
	if err != nil {
		p.refusal = err
		p.epoch.Store(refusedEpoch)
		time.AfterFunc(closeAfter, func() { p.raw.Close() })
		p.heard(p.raw.RemoteAddr(), err)
		return err
	}
	p.verdict = v
	p.epoch.Store(v.epoch)
	return nil
}

// old reports whether the connection should take no more requests.
func (p *peerConn) old() bool { return !p.until.IsZero() && p.judge.now().After(p.until) }

// conns are the open connections of a listener.
type conns struct {
	mu   sync.Mutex // guards below
	open map[*tls.Conn]*peerConn
}

func (c *conns) add(p *peerConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[p.tls] = p
}

func (c *conns) remove(p *peerConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, p.tls)
}

func (c *conns) of(conn net.Conn) *peerConn {
	t, ok := conn.(*tls.Conn)
	if guarded, is := conn.(interface{ NetConn() net.Conn }); is && !ok {
		t, ok = guarded.NetConn().(*tls.Conn) // whoever guards HTTP/1 stands in between
	}
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open[t]
}

func (c *conns) all() []*peerConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*peerConn, 0, len(c.open))
	for _, p := range c.open {
		out = append(out, p)
	}
	return out
}

// follow judges every open connection anew whenever an epoch begins, until ctx
// ends. After that requests are still judged as they come: what drains is
// bounded by whoever drains it.
func (c *conns) follow(ctx context.Context, src *svid.Source) {
	for {
		changed := src.Changed()
		for _, p := range c.all() {
			p.recheck()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// NewMTLSListener is NewListener for MTLSServer(src, allow). It also remembers
// who is at the other end of each connection and judges them anew whenever src
// begins an epoch: new roots, new denials, other flows. Who is refused then is
// told to OnRefuse once, refused at its next request, and cut off two seconds later
// with all that is under way. Protect has requests judged.
func NewMTLSListener(inner net.Listener, src *svid.Source, allow func(id string) error, opt ListenerOptions) *Listener {
	return newJudged(inner, src, allow, tls.RequireAnyClientCert, opt)
}

// NewControlListener is NewMTLSListener for ControlServer(src, allow).
func NewControlListener(inner net.Listener, src *svid.Source, allow func(id string) error, opt ListenerOptions) *Listener {
	return newJudged(inner, src, allow, tls.RequestClientCert, opt)
}

func newJudged(inner net.Listener, src *svid.Source, allow func(string) error, auth tls.ClientAuthType, opt ListenerOptions) *Listener {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	j := newJudge(src, allow, opt.Now)
	if inner == nil {
		panic("profile: an mTLS listener needs a listener")
	}
	l := newListener(inner, j.config(auth), opt)
	l.judge, l.conns.open = j, map[*tls.Conn]*peerConn{}
	l.start()
	return l
}

// Protect has srv, which must serve this listener alone, judge the peer at every
// request: refuse answers those of one that is not welcome any more, instead of
// srv's handler. It also ends the age of connections: past the earlier of one
// life of the peer's certificate and its end, an answer says "Connection: close",
// which net/http turns into the end of an HTTP/1.1 connection after this answer
// and into a graceful GOAWAY of an HTTP/2 one (RFC 9113 section 6.8). What is
// under way is never broken off by age. Call it before srv serves.
func (l *Listener) Protect(srv *http.Server, refuse func(http.ResponseWriter, *http.Request, error)) {
	next, connContext := srv.Handler, srv.ConnContext
	srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, conn)
		}
		if p := l.conns.of(conn); p != nil {
			ctx = context.WithValue(ctx, peerKey{}, p)
		}
		return ctx
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := r.Context().Value(peerKey{}).(*peerConn)
		if p == nil { // closed before it was served, or of another listener
			refuse(w, r, unjudged())
			return
		}
		if err := p.recheck(); err != nil {
			w.Header().Set("Connection", "close")
			refuse(w, r, err)
			return
		}
		if p.old() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

type peerKey struct{}

// Recheck refuses a request whose peer is not welcome any more: for a handler
// that goes on for long, after Protect let the request in. A context that is of
// no protected request is refused.
func Recheck(ctx context.Context) error {
	if p, ok := ctx.Value(peerKey{}).(*peerConn); ok {
		return p.recheck()
	}
	return unjudged()
}
