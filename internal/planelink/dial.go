package planelink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"

	"github.com/rampart-security/rampart"
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

// calledConn is one connection to a service; leaf is the certificate that the
// service showed on it.
type calledConn struct {
	net.Conn
	link *Link
	id   string
	leaf *x509.Certificate
}

// Close closes the connection and forgets it.
func (c *calledConn) Close() error {
	c.link.called.mu.Lock()
	delete(c.link.called.open, c)
	c.link.called.mu.Unlock()
	return c.Conn.Close()
}

// dialer returns what opens connections to one service, under TLS with src. One
// that was disabled is refused before it gets the first byte of a request.
func (l *Link) dialer(src *svid.Source, name, id string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	cfg := profile.MTLSClient(src, id)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &calledConn{Conn: raw, link: l, id: id}
		conn := tls.Client(c, cfg)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		c.leaf = conn.ConnectionState().PeerCertificates[0]
		if !l.called.keep(c) {
			raw.Close()
			return nil, rampart.Errorf(rampart.Unavailable, controlPeer, "%s is disabled", name)
		}
		return conn, nil
	}
}

// keep remembers a connection unless its peer was disabled. A revocation that
// arrives meanwhile waits for the lock, and so finds what is kept.
func (d *called) keep(c *calledConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.revoked() {
		return false
	}
	if d.open == nil {
		d.open = map[*calledConn]struct{}{}
	}
	d.open[c] = struct{}{}
	return true
}

func (c *calledConn) revoked() bool { return c.link.State().PeerRevoked(c.id, c.leaf) }

// endDisabled closes the connections to services that were disabled, with what
// is under way on them.
func (l *Link) endDisabled() {
	l.called.mu.Lock()
	var ended []*calledConn
	for c := range l.called.open {
		if c.revoked() {
			ended = append(ended, c)
		}
	}
	l.called.mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}
