// Package frames ends HTTP/2 connections that work a server without asking it for
// anything: requests taken back at once (CVE-2023-44487) or made invalid so that
// the server takes them back, floods of frames that carry nothing, and header
// blocks that do not end.
//
// It stands between TLS and net/http, where every frame is seen before it costs
// anything, and counts. It judges no frame otherwise: RFC 9113 is net/http's.
package frames

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// Rule names a way in which a connection went too far. The zero Rule is none.
type Rule uint8

// The rules. What they allow is far above what browsers and proxies do.
const (
	Resets  Rule = iota + 1 // streams reset by either side, for an error
	Flood                   // frames that carry nothing
	Block                   // a header block in too many pieces, or too long
	Slow                    // a frame head or a header block that does not end
	Preface                 // the connection does not begin as RFC 9113 section 3.4 has it
	Long                    // a header block longer than the server reads, which answers that itself: it is told of, and ends nothing
	Broken                  // the server ends the connection for an error of its own finding, such as a field that is too long
)

// String returns what the rule says.
func (r Rule) String() string {
	switch r {
	case Resets:
		return "too many streams of the connection were reset"
	case Flood:
		return "too many frames that carry nothing"
	case Block:
		return "a header block in too many pieces, or too long"
	case Slow:
		return "a header block did not end in time"
	case Preface:
		return "HTTP/2 was agreed on, and something else came"
	case Long:
		return "the head of the request is too long"
	case Broken:
		return "the connection broke the protocol of HTTP/2, or a field was too long"
	}
	return "no rule"
}

// Code is the rule as events bear it.
func (r Rule) Code() string {
	switch r {
	case Resets:
		return "h2_resets"
	case Flood:
		return "h2_flood"
	case Block:
		return "h2_block"
	case Slow:
		return "h2_slow"
	case Preface:
		return "h2_preface"
	case Long:
		return "h2_long"
	case Broken:
		return "h2_broken"
	}
	return ""
}

// Options configure a Listener. Zero fields have the defaults that they name.
type Options struct {
	Resets     int           // streams that may be reset at once; 200
	ResetRate  int           // and per second; 30
	Frames     int           // frames without a use at once; 2000
	FrameRate  int           // and per second; 1000
	Pieces     int           // of a header block; 16
	BlockBytes int           // of a header block, compressed; 64 KiB
	BlockTime  time.Duration // for a header block, once begun; 5 s
	// LongBlock is more bytes of a header block, compressed, than the server reads: it
	// answers 431 and tells nobody. 0: nobody is told here.
	LongBlock int
	// OnRefuse hears of each connection that is closed, or that the server closes for an
	// error, once, and of each block over LongBlock. It may be called from many
	// goroutines. Nil: nobody does.
	OnRefuse func(peer net.Addr, r Rule)
	Now      func() time.Time // nil: time.Now
}

func (o *Options) fill() {
	or(&o.Resets, 200)
	or(&o.ResetRate, 30)
	or(&o.Frames, 2000)
	or(&o.FrameRate, 1000)
	or(&o.Pieces, 16)
	or(&o.BlockBytes, 64<<10)
	or(&o.BlockTime, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
}

func or[T int | time.Duration](v *T, usual T) {
	if *v <= 0 {
		*v = usual
	}
}

// Listener hands out connections of which those of HTTP/2 are counted.
type Listener struct {
	net.Listener
	opt Options
}

// NewListener returns a listener over inner, whose TLS connections must have
// finished their handshake. The http.Server that serves it must allow
// unencrypted HTTP/2, which is how net/http takes HTTP/2 from a connection that
// is no *tls.Conn; Request.TLS is nil there. net/http would go on to serve HTTP/1
// on such a connection, with no eye on its framing: what does not begin with the
// preface ends here. Others pass as they are.
func NewListener(inner net.Listener, opt Options) *Listener {
	if inner == nil {
		panic("frames: NewListener needs a listener")
	}
	opt.fill()
	return &Listener{inner, opt}
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t, ok := conn.(*tls.Conn)
	if !ok || t.ConnectionState().NegotiatedProtocol != "h2" {
		return conn, nil
	}
	return newConn(t, &l.opt), nil
}

// Conn is a counted connection. One goroutine may read and one may write at a
// time; all other methods may be called at any time.
type Conn struct {
	net.Conn
	opt  *Options
	slow *time.Timer // runs while a header block, or the head of a frame, is open

	in, out scanner
	waiting bool // the timer runs
	long    bool // it was told that the header block that is open, or was the last, is too long

	broken bool // it was told that the server ends the connection for an error

	mu     sync.Mutex // guards below
	resets bucket
	frames bucket
	ended  error
}

func newConn(conn net.Conn, opt *Options) *Conn {
	now := opt.Now()
	c := &Conn{
		Conn: conn, opt: opt,
		in:     scanner{skip: len(preface)},
		resets: bucket{left: float64(opt.Resets), most: float64(opt.Resets), rate: float64(opt.ResetRate), at: now},
		frames: bucket{left: float64(opt.Frames), most: float64(opt.Frames), rate: float64(opt.FrameRate), at: now},
	}
	c.slow = time.AfterFunc(opt.BlockTime, func() { _ = c.end(Slow) })
	c.waiting = true // for the preface
	return c
}

// Read reads what the client sent, as long as it keeps to the rules.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if r := c.in.feed(p[:n], c.received); r != 0 {
		return 0, c.end(r)
	}
	if c.blocked() && err == nil {
		return 0, c.end(Block)
	}
	c.watch()
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended != nil {
			err = c.ended
		}
	}
	return n, err
}

// watch has the timer run while there is something to wait for.
func (c *Conn) watch() {
	open := c.in.open()
	switch {
	case open && !c.waiting:
		c.slow.Reset(c.opt.BlockTime)
	case !open && c.waiting:
		c.slow.Stop()
	}
	c.waiting = open
}

func (c *Conn) blocked() bool {
	return c.in.pieces > c.opt.Pieces || c.in.block > c.opt.BlockBytes
}

// tellLong tells of a header block that the server will not read, once for each.
func (c *Conn) tellLong(f frame) {
	switch f.kind {
	case frameHeaders:
		c.long = false
	case frameContinuation:
	default:
		return
	}
	if c.opt.LongBlock <= 0 || c.long || c.in.block <= c.opt.LongBlock {
		return
	}
	c.long = true
	c.tell(Long)
}

func (c *Conn) tell(r Rule) {
	if c.opt.OnRefuse != nil {
		c.opt.OnRefuse(c.RemoteAddr(), r)
	}
}

// received counts one frame of the client's.
func (c *Conn) received(f frame) Rule {
	c.tellLong(f)
	cost := f.cost()
	if cost == 0 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.kind == frameReset {
		return c.resets.take(1, c.opt.Now(), Resets)
	}
	return c.frames.take(cost, c.opt.Now(), Flood)
}

// Write writes what net/http has to say. Resets are counted here too: a client can
// have the server take its requests back. What is written earns the client the
// frames with which it asks for more, from before it can have them.
func (c *Conn) Write(p []byte) (int, error) {
	if r := c.out.feed(p, c.sent); r != 0 {
		return 0, c.end(r)
	}
	c.mu.Lock()
	c.frames.earn(float64(len(p)) / bytesPerFrame)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *Conn) sent(f frame) Rule {
	if f.kind == frameGoAway && f.code != 0 && !c.broken {
		c.broken = true
		c.tell(Broken)
	}
	if f.kind != frameReset || f.code == 0 { // NO_ERROR: the answer came before the body had
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resets.take(1, c.opt.Now(), Resets)
}

// end closes the connection for good. Nothing is said: net/http may be writing.
func (c *Conn) end(r Rule) error {
	c.mu.Lock()
	first := c.ended == nil
	if first {
		c.ended = &Error{r}
	}
	err := c.ended
	c.mu.Unlock()
	if first {
		peer := c.RemoteAddr()
		_ = closeNow(c.Conn)
		if c.opt.OnRefuse != nil {
			c.opt.OnRefuse(peer, r)
		}
	}
	return err
}

// closeNow leaves out the alert with which TLS ends: it would wait for a write
// that the client holds up.
func closeNow(conn net.Conn) error {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn().Close()
	}
	return conn.Close()
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.slow.Stop()
	c.mu.Lock()
	if c.ended == nil {
		c.ended = net.ErrClosed
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// Error ends a connection that broke a rule.
type Error struct{ Rule Rule }

// Error returns the rule's text.
func (e *Error) Error() string { return "frames: " + e.Rule.String() }
