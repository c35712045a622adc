// Package framing answers "where does this request end?" before net/http reads
// it, for HTTP/1. Its connections follow the framing of every request by the
// letter of RFC 9112 and refuse what two parsers could frame differently: the
// parsed request has lost that evidence. What passes is unchanged.
//
// HTTP/2 has frames and does not come here. What both versions can get wrong, the
// path, the host, fields and methods, is judged by package canonical.
package framing

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
)

// Bounds of a refusal.
const (
	defaultHead = 32 << 10
	answerTime  = 5 * time.Second        // for writing it
	lingerTime  = 500 * time.Millisecond // for the client to read it before the connection goes
	lingerBytes = 256 << 10
)

// Options configure a Listener.
type Options struct {
	// MaxHead bounds the head of a request, in bytes; 0 means 32 KiB. Let it be no
	// more than MaxHeaderBytes of the http.Server, which would answer otherwise.
	MaxHead int
	// OnRefuse hears of every refusal, and of a connection that ends because a head
	// did not end in time, from the goroutine of the connection, which it holds up.
	// Nil: refusals go unheard.
	OnRefuse func(peer net.Addr, r Rule)
	// Header may add to the headers of an answer to a refusal. May be nil.
	Header func(http.Header)
}

// Listener hands out connections that are guarded.
type Listener struct {
	net.Listener
	opt Options
}

// NewListener returns a listener over inner. TLS connections of inner must have
// finished their handshake. Those that agreed on HTTP/2 pass as they are, since
// net/http serves it on a *tls.Conn only; all others are guarded.
func NewListener(inner net.Listener, opt Options) *Listener {
	if inner == nil {
		panic("framing: NewListener needs a listener")
	}
	if opt.MaxHead <= 0 {
		opt.MaxHead = defaultHead
	}
	return &Listener{inner, opt}
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t, ok := conn.(*tls.Conn)
		if !ok {
			return l.guard(conn), nil
		}
		switch cs := t.ConnectionState(); {
		case !cs.HandshakeComplete:
			conn.Close() // nobody knows what it will speak
		case cs.NegotiatedProtocol == "h2":
			return conn, nil
		case cs.NegotiatedProtocol == "" || cs.NegotiatedProtocol == "http/1.1":
			return &secureConn{l.guard(conn), t}, nil
		default:
			conn.Close() // a protocol of its own, as acme-tls/1 (RFC 8737): no request belongs there
		}
	}
}

func (l *Listener) guard(conn net.Conn) *Conn {
	return &Conn{
		Conn: conn, opt: &l.opt, m: machine{limit: l.opt.MaxHead},
		reading: deadline{below: conn.SetReadDeadline}, writing: deadline{below: conn.SetWriteDeadline},
	}
}

// secureConn is a guarded connection over TLS. net/http fills Request.TLS from
// ConnectionState, and must not find it on others.
type secureConn struct {
	*Conn
	tls *tls.Conn
}

// ConnectionState returns that of the TLS connection.
func (c *secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// What became of the current request, as far as answers are concerned.
const (
	unanswered uint32 = iota
	answering         // net/http has begun to write
	refused           // the answer is ours, and the last
)

// Conn is a guarded connection. One goroutine at a time may read, as with
// net/http; other methods may be called at any time.
//
// A read returns bytes of one request only: net/http reads ahead while a handler
// runs, one byte at a time, and what that byte belongs to must not be refused
// before the handler has answered.
type Conn struct {
	net.Conn
	opt *Options

	m      machine
	rest   []byte // read ahead of the message that is read now
	buf    []byte // of rest
	later  error  // came with the bytes that were read last
	bad    Rule   // 0: nothing yet
	ahead  bool   // bad was found in a byte that was read ahead
	ended  bool
	late   bool // it was told that a head did not end in time
	tunnel bool

	answer           atomic.Uint32
	reading, writing deadline
}

// NetConn returns the connection below, which must not be read.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Tunnel ends the guard: what comes now is no HTTP. For whoever has hijacked the
// connection, before it answers that the protocol changes, and for whoever has
// answered for the last time and throws away what still comes.
func (c *Conn) Tunnel() { c.tunnel = true }

// Read reads bytes of the current request. What breaks a rule is answered here,
// and the error has net/http close the connection without an answer of its own.
func (c *Conn) Read(p []byte) (int, error) {
	switch {
	case c.ended:
		return 0, refusal(c.bad)
	case c.bad != 0:
		return 0, c.refuse()
	case len(p) == 0:
		return c.read(p)
	case len(c.rest) > 0:
		return c.readAhead(p)
	case c.later != nil:
		return 0, c.over(c.later)
	}
	n, err := c.read(p)
	switch {
	case c.tunnel:
		return n, err
	case n == 0:
		return 0, c.over(err)
	}
	c.later = err
	used, bad := c.feed(p[:n])
	if bad {
		return c.violated(p)
	}
	if used < n {
		c.buf = append(c.buf[:0], p[used:n]...)
		c.rest = c.buf
	}
	return used, nil
}

// over is how reading ends. Within a head nobody is answered: bufio gives the
// part of a line for a line, and net/http would judge it. A head whose time is over
// is told of, once; a connection on which none was begun only waited.
func (c *Conn) over(err error) error {
	if c.tunnel || c.m.atStart() || c.m.inBody() {
		return err
	}
	switch {
	case errors.Is(err, io.EOF):
		c.answer.Store(refused)
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.late:
		c.late = true
		if c.opt.OnRefuse != nil {
			c.opt.OnRefuse(c.RemoteAddr(), HeadSlow)
		}
	}
	return err
}

// readAhead reads what was read before.
func (c *Conn) readAhead(p []byte) (int, error) {
	n := copy(p, c.rest)
	if c.tunnel {
		c.rest = c.rest[n:]
		return n, nil
	}
	used, bad := c.feed(p[:n])
	c.rest = c.rest[used:]
	if bad {
		return c.violated(p)
	}
	return used, nil
}

// feed takes bytes and reports whether they break a rule.
func (c *Conn) feed(b []byte) (used int, bad bool) {
	head := !c.m.inBody()
	first := c.m.atStart() && len(b) == 1
	used, r := c.m.feed(b)
	if head && (c.m.inBody() || used > 0 && c.m.atStart()) {
		c.answer.CompareAndSwap(answering, unanswered) // the answer to the request before is complete
	}
	c.bad, c.ahead = r, first
	return used, r != 0
}

// violated ends a read of bytes that break a rule. A single byte where a request
// begins may have been read ahead while the one before is being answered. Then
// it is too early to speak: another byte goes in its place, and the next read is
// the end.
func (c *Conn) violated(p []byte) (int, error) {
	if c.ahead {
		p[0] = 'X'
		return 1, nil
	}
	return 0, c.refuse()
}

// Write writes an answer of net/http, unless the request was refused meanwhile.
func (c *Conn) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(p, []byte("HTTP/1.1 100 ")) { // which is no answer yet
		c.answer.CompareAndSwap(unanswered, answering)
	}
	if c.answer.Load() == refused {
		return 0, net.ErrClosed
	}
	return c.write(p)
}

// refuse answers, if no other answer has begun, and takes nothing more.
func (c *Conn) refuse() error {
	c.ended = true
	before := c.answer.Swap(refused)
	if c.opt.OnRefuse != nil {
		c.opt.OnRefuse(c.RemoteAddr(), c.bad)
	}
	if before == unanswered || !c.m.inBody() {
		c.say()
	}
	return refusal(c.bad)
}

// say writes the answer and waits a little for the client to have read it:
// closing with bytes unread would have the kernel throw it away.
func (c *Conn) say() {
	if c.SetWriteDeadline(time.Now().Add(answerTime)) != nil {
		return
	}
	if _, err := c.write(c.document()); err != nil {
		return
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, lingering{c}, lingerBytes) // whatever ends it, the connection ends
	}
}

// lingering reads what nobody will look at.
type lingering struct{ c *Conn }

func (l lingering) Read(p []byte) (int, error) { return l.c.read(p) }

// document is the whole answer.
func (c *Conn) document() []byte {
	w := answer{header: http.Header{}}
	if c.opt.Header != nil {
		c.opt.Header(w.header)
	}
	problem.Write(&w, c.bad.Err(), "")
	w.header.Set("Connection", "close")
	w.header.Set("Content-Length", fmt.Sprint(w.body.Len()))
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	_ = w.header.Write(&out) // a bytes.Buffer takes all
	out.WriteString("\r\n")
	out.Write(w.body.Bytes())
	return out.Bytes()
}

// answer is an http.ResponseWriter into memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(p []byte) (int, error) { return w.body.Write(p) }

// refusal is an error on which net/http says nothing: it takes it for a
// connection that failed.
func refusal(r Rule) error {
	return &net.OpError{Op: "read", Net: "http", Err: &Error{r}}
}

// Error is what a handler finds that reads a malformed body: the client has its
// answer then.
type Error struct{ Rule Rule }

// Error returns the rule's text.
func (e *Error) Error() string { return "framing: " + e.Rule.String() }

// Unwrap returns the error of Rule.Err.
func (e *Error) Unwrap() error { return e.Rule.Err() }
