package profile

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// counted is a connection that leaves the counts when it is closed, and
// remembers how far its handshake came.
type counted struct {
	net.Conn
	l    *Listener
	hop  bool         // the peer is a proxy in front
	from *net.TCPAddr // who is behind it, before the handshake begins; nil: nobody that is known

	seated bool       // among those of at; guarded by the listener's mu
	at     netip.Addr // whose it is; written before the handshake, guarded as seated

	mu     sync.Mutex // guards below
	closed bool
	after  func() // also called once it is closed

	shaking context.Context // ends with the handshake; nil before it, and after. Of the goroutine that runs it
	turn    bool            // it computes; the same
	begun   bool            // it did once; the same

	hello  atomic.Bool // a ClientHello came
	modern atomic.Bool // it offered TLS 1.3
	agreed atomic.Bool // version, protocol and key exchange are settled; certificates come next
}

// RemoteAddr returns the client's address, as far as it is known.
func (c *counted) RemoteAddr() net.Addr {
	if c.from != nil {
		return c.from
	}
	return c.Conn.RemoteAddr()
}

// Read implements net.Conn. A handshake that waits for the client holds no turn.
//
// Its writes do: all that a server says fits into a socket's buffer, whatever the
// client reads of it.
func (c *counted) Read(b []byte) (int, error) {
	if c.shaking == nil || !c.begun {
		return c.Conn.Read(b)
	}
	c.pause()
	n, err := c.Conn.Read(b)
	if again := c.compute(); err == nil {
		err = again
	}
	return n, err
}

// compute waits for a turn, as long as the handshake may take.
func (c *counted) compute() error {
	if c.shaking == nil || c.turn {
		return nil
	}
	if err := c.l.turns.enter(c.shaking, c.at); err != nil {
		return err
	}
	c.turn, c.begun = true, true
	return nil
}

// pause gives the turn back, if there is one.
func (c *counted) pause() {
	if c.turn {
		c.turn = false
		c.l.turns.leave()
	}
}

// shaken ends the handshake.
func (c *counted) shaken() {
	c.pause()
	c.shaking = nil
}

// Close closes the connection and counts it out, once.
func (c *counted) Close() error {
	c.mu.Lock()
	first, after := !c.closed, c.after
	c.closed, c.after = true, nil
	c.mu.Unlock()
	if first {
		c.l.leave(c)
	}
	if after != nil {
		after()
	}
	return c.Conn.Close()
}

// forget has fn called when the connection is closed, at once if it is already.
func (c *counted) forget(fn func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.after = fn
	}
	c.mu.Unlock()
	if closed {
		fn()
	}
}
