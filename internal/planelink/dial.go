package planelink

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/socket"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// called are the open connections to services, so that a revocation can close
// them: one that stays open would carry requests and tokens to a service that
// was disabled. The zero value is ready.
type called struct {
	mu   sync.Mutex // guards below
	open map[*calledConn]struct{}
}

// calledConn is one connection to a plane.
type calledConn struct {
	net.Conn
	link *Link
	src  *svid.Source
	id   string // SPIFFE ID of the plane
	tls  *tls.Conn

	still bool // reads find nothing; for the goroutine that reads
}

// Still has reads find nothing for now, so that who reads sees what TLS has read ahead.
func (c *calledConn) Still(yes bool) { c.still = yes }

// Read implements net.Conn.
func (c *calledConn) Read(p []byte) (int, error) {
	if c.still {
		return 0, os.ErrDeadlineExceeded // which TLS takes for passing
	}
	return c.Conn.Read(p)
}

// NetConn is the connection below, of whom what lies above it can ask the socket.
func (c *calledConn) NetConn() net.Conn { return c.Conn }

// Close closes the connection and forgets it.
func (c *calledConn) Close() error {
	c.link.called.mu.Lock()
	delete(c.link.called.open, c)
	c.link.called.mu.Unlock()
	return c.Conn.Close()
}

// dialer returns what opens connections to one plane, under TLS with src, and
// tells shown the end of the certificate that the plane showed. One that is denied
// is refused before it gets the first byte of a request. speak are the protocols to
// offer; nil offers those of the profile.
func (l *Link) dialer(src *svid.Source, name, id string, speak []string, shown func(until time.Time)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	cfg := profile.MTLSClient(src, id)
	if speak != nil {
		cfg.NextProtos = speak
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := (&net.Dialer{Timeout: handshakeTimeout}).DialContext(ctx, network, addr) // sooner than callers give up, so that they know the plane is away
		if err != nil {
			return nil, relay.NotReached(err)
		}
		c := &calledConn{Conn: socket.Wrap(raw), link: l, src: src, id: id}
		c.tls = tls.Client(c, cfg)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		epoch := src.Epoch()
		err = c.tls.HandshakeContext(ctx)
		if err == nil {
			err = l.called.keep(c, epoch)
		}
		if err != nil {
			raw.Close()
			return nil, relay.NotReached(unwelcome(name, err))
		}
		shown(c.tls.ConnectionState().PeerCertificates[0].NotAfter)
		return c.tls, nil
	}
}

// unwelcome says of a plane that is denied that it cannot be reached now: whoever
// called through this one did nothing wrong.
func unwelcome(name string, err error) error {
	if errors.Is(err, errDenied) {
		return rampart.Errorf(rampart.Unavailable, controlPeer, "%s is disabled", name)
	}
	return err
}

// keep remembers a connection, and judges its peer anew if an epoch began during
// the handshake. One that begins meanwhile waits for the lock, and so finds what
// is kept.
func (d *called) keep(c *calledConn, epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.src.Epoch() != epoch {
		if err := c.recheck(); err != nil {
			return err
		}
	}
	if d.open == nil {
		d.open = map[*calledConn]struct{}{}
	}
	d.open[c] = struct{}{}
	return nil
}

func (c *calledConn) recheck() error {
	return profile.RecheckServer(c.src, c.id, c.tls.ConnectionState())
}

// endDenied closes the connections to planes that are denied, or that no root
// vouches for any more, with what is under way on them.
func (l *Link) endDenied() {
	l.called.mu.Lock()
	var ended []*calledConn
	for c := range l.called.open {
		if c.recheck() != nil {
			ended = append(ended, c)
		}
	}
	l.called.mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}

// carrier carries requests to one plane. A transport keeps connections for as
// long as they are used, and does not know that the certificate which the plane
// showed has an end: past that, a new transport takes over and the old one runs
// dry. The end of our own certificate is that of the generation.
type carrier struct {
	fresh func() transport
	now   func() time.Time

	mu        sync.Mutex // guards below
	transport transport
	until     time.Time // zero: nothing was shown yet
}

type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

func (l *Link) carrier(src *svid.Source, name, id string, wait time.Duration, speak ...string) *carrier {
	c := &carrier{now: l.opt.Now}
	dial := l.dialer(src, name, id, speak, c.shown)
	c.fresh = func() transport {
		t := newTransport(nil, wait)
		t.DialTLSContext = dial
		if slices.Equal(speak, []string{protoHTTP2}) {
			t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: streamBuffer}
		}
		return t
	}
	c.transport = c.fresh()
	return c
}

// http1 is a carrier that speaks HTTP/1.1, which costs less than net/http's.
func (l *Link) http1(src *svid.Source, name, id string) *carrier {
	c := l.carrier(src, name, id, maxServiceWait, protoHTTP1)
	other, dial := c.fresh, l.dialer(src, name, id, []string{protoHTTP1}, c.shown)
	c.fresh = func() transport {
		return hop.New(hop.Options{
			Dial: func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) },
			Else: other(), Wait: maxServiceWait, Now: l.opt.Now,
		})
	}
	c.transport = c.fresh()
	return c
}

func (c *carrier) shown(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() || until.Before(c.until) {
		c.until = until
	}
}

// current is the transport for a request that begins now.
func (c *carrier) current() transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.IsZero() && !c.now().Before(c.until) {
		c.transport.CloseIdleConnections() // the others close once they have idled
		c.transport, c.until = c.fresh(), time.Time{}
	}
	return c.transport
}

// RoundTrip implements http.RoundTripper.
func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) { return c.current().RoundTrip(r) }

// CloseIdleConnections is what http.Client looks for.
func (c *carrier) CloseIdleConnections() { c.current().CloseIdleConnections() }
