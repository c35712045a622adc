package hop

import (
	"bufio"
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/rampart-security/rampart/internal/leash"
	"github.com/rampart-security/rampart/internal/socket"
)

// conn is one connection. One request at a time owns it.
type conn struct {
	net.Conn
	of     *Transport
	addr   string
	raw    syscall.RawConn // of the socket; nil: it cannot be asked
	step   func(fd uintptr) bool
	msg    []byte // for step, and what came of it
	asked  bool
	sent   error
	waited bool // for a request, once at least
	bare   bool // nothing is between this and the socket
	still  func(bool)

	in    *bufio.Reader
	quota int       // bytes that may be read yet
	until time.Time // deadline of the socket
	since time.Time // when it was used last: to ask, or to read
	heard bool      // a byte of the answer came

	by   *leash.Leash // that cuts it; nil: stop is of what does
	stop func() bool
}

func newConn(t *Transport, c net.Conn, addr string) *conn {
	n := &conn{Conn: c, of: t, addr: addr, raw: rawOf(c), since: t.opt.Now()}
	n.in = bufio.NewReader(reader{n})
	_, n.bare = c.(syscall.Conn)
	n.still = stillOf(c)
	n.step = n.stepping
	return n
}

// rawOf is the socket under TLS and whatever else wraps it.
func rawOf(c net.Conn) syscall.RawConn {
	for {
		if s, ok := c.(syscall.Conn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// send sends msg, unless something has come since the last answer: the end, or what
// nobody asked for, which must not be taken for the next answer. Then it is stale, as
// is a connection that cannot be asked, and not a byte was sent. Otherwise it waits
// until the answer begins, or never will. The socket is asked, written to and waited
// for within one use of the poller, so that no read must find out that there is
// nothing yet: what comes after it was asked wakes who waits.
func (c *conn) send(msg []byte) (sent error, stale bool) {
	if c.raw == nil {
		return nil, true
	}
	c.msg, c.asked, c.sent = msg, false, nil
	_ = c.raw.Read(c.step) // an error: who reads next finds it
	c.msg = nil
	return c.sent, !c.asked
}

// stepping is what send does with the socket: false waits until it can be read.
func (c *conn) stepping(fd uintptr) (done bool) {
	if c.asked {
		return true
	}
	if !socket.Silent(fd) {
		return true
	}
	c.asked = true
	_, c.sent = c.Write(c.msg)
	return c.sent != nil
}

// drained reports whether nothing is left of what was read. What lies in the kernel is
// for silent to find; TLS may have read more than it was asked for, and gives that
// while what is below it stands still.
func (c *conn) drained() bool {
	if c.in.Buffered() > 0 || c.still == nil {
		return c.in.Buffered() == 0 && c.bare
	}
	c.still(true)
	defer c.still(false)
	_, err := c.in.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// stillOf finds what can stand still below TLS.
func stillOf(c net.Conn) func(bool) {
	for {
		if s, ok := c.(interface{ Still(bool) }); ok {
			return s.Still
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// reader is the connection as far as it may be read.
type reader struct{ c *conn }

var errLongHead = errors.New("the head of the answer is too long")

func (r reader) Read(p []byte) (int, error) {
	if r.c.quota <= 0 {
		return 0, errLongHead
	}
	n, err := r.c.Conn.Read(p[:min(len(p), r.c.quota)])
	r.c.quota -= n
	r.c.heard = r.c.heard || n > 0
	return n, err
}

// exchange sends msg, which is r, and returns the answer, whose body owns the
// connection from then on if something is left of it. An error has closed it.
func (c *conn) exchange(r *http.Request, msg []byte) (*http.Response, error) {
	ctx := r.Context()
	c.extend()
	c.hold(ctx)
	res, b, err := c.ask(r, msg)
	switch {
	case err != nil:
		c.free()
		c.Close()
		return nil, wrap(r, err)
	case b == nil:
		c.done(!res.Close)
	default:
		b.c, b.ctx, b.last = c, ctx, res.Close
		res.Body = b
	}
	return res, nil
}

// hold has the connection cut when ctx ends, until free.
func (c *conn) hold(ctx context.Context) {
	if l, ok := ctx.(*leash.Leash); ok {
		c.by = l
		l.Hold(c)
		return
	}
	c.stop = context.AfterFunc(ctx, c.Cut)
}

// free reports whether the connection was not cut, and never will be.
func (c *conn) free() (uncut bool) {
	if l := c.by; l != nil {
		c.by = nil
		return l.Let(c)
	}
	return c.stop()
}

// done ends an exchange: the connection waits for the next, or is closed.
func (c *conn) done(reusable bool) {
	if uncut := c.free(); !uncut || !reusable || !c.drained() {
		c.Close()
		return
	}
	c.of.give(c)
}

// extend moves the deadline, seldom: it is a last resort.
func (c *conn) extend() {
	now := c.of.opt.Now()
	c.since = now
	if c.until.Sub(now) >= c.of.opt.Wait {
		return
	}
	c.until = now.Add(2 * c.of.opt.Wait)
	_ = c.SetDeadline(c.until) // a closed one says so when it is written to
}

// Cut ends whatever waits for the connection.
func (c *conn) Cut() { _ = c.SetDeadline(time.Unix(1, 0)) }

func (c *conn) ask(r *http.Request, msg []byte) (*http.Response, *body, error) {
	c.quota, c.heard = maxHead, false
	sent, stale := c.write(msg)
	if stale {
		return nil, nil, errStale
	}
	res, b, err := c.answer(r) // also when sending failed: the server may have said why
	switch {
	case err == nil:
		res.Close = res.Close || sent != nil
		c.quota = math.MaxInt
		return res, b, nil
	case !c.heard:
		return nil, nil, errors.Join(errUnheard, sent, err)
	}
	return nil, nil, err
}

// write sends msg. What has come over a new connection belongs to its handshake.
func (c *conn) write(msg []byte) (sent error, stale bool) {
	if c.waited {
		return c.send(msg)
	}
	_, sent = c.Write(msg)
	return sent, false
}

// answer reads the head of the answer that counts.
func (c *conn) answer(r *http.Request) (*http.Response, *body, error) {
	for range interim {
		res, b, err := c.read(r)
		if err != nil {
			return nil, nil, err
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return nil, nil, errors.New("the answer changes the protocol, which nobody asked for")
		}
		if res.StatusCode >= http.StatusOK {
			return res, b, nil
		}
	}
	return nil, nil, errors.New("too many interim answers")
}
