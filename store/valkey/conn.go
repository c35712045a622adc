package valkey

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// errStale says that the server had left before a command was sent, which can
// therefore be sent again.
var errStale = errors.New("valkey: the server has closed the connection")

// conn looks, before it writes, whether the other side is still there. The
// client cannot do so itself under TLS: after a restart of the server, each
// connection of the pool would cost somebody a 503.
type conn struct {
	*tls.Conn
	raw syscall.RawConn
}

// dialer returns a function that dials by TLS.
func dialer(config *tls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: tls.Client(inner, config)}
		if sys, ok := inner.(syscall.Conn); ok {
			c.raw, err = sys.SyscallConn()
		}
		if err = errors.Join(err, c.HandshakeContext(ctx)); err != nil {
			return nil, errors.Join(err, inner.Close())
		}
		return c, nil
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.gone() {
		return 0, errStale
	}
	return c.Conn.Write(b)
}

// gone reports whether the other side has closed or reset the connection.
func (c *conn) gone() bool {
	if c.raw == nil {
		return false
	}
	var n int
	var errPeek error
	err := c.raw.Control(func(fd uintptr) {
		n, _, errPeek = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	if err != nil {
		return true
	}
	waiting := errors.Is(errPeek, syscall.EAGAIN) || errors.Is(errPeek, syscall.EINTR)
	return errPeek != nil && !waiting || errPeek == nil && n == 0
}

// live runs do until it has met a connection that the server holds too.
func live(do func() error) error {
	var err error
	for range conns + 1 {
		if err = do(); !errors.Is(err, errStale) {
			return err
		}
	}
	return err
}
