package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

// body is that of a request. Somebody may still read it when the handler has
// returned: from then on there is nothing to read.
type body struct {
	x    *exchange
	over atomic.Bool // all of it has been read, or there is none

	mu      sync.Mutex    // guards below; held while somebody reads
	left    int64         // bytes of it that were not read, if its length is known
	chunks  io.Reader     // nil: its length is known
	lines   *bufio.Reader // under chunks
	expects bool          // the client waits for a word before it sends
	closed  bool
}

// frame says where the body ends.
func (b *body) frame(x *exchange, f *requestFields) {
	b.x, b.left, b.expects = x, f.length, f.expects && f.length != 0
	if f.chunked {
		b.lines = bufio.NewReader(taken{x.conn})
		b.chunks = httputil.NewChunkedReader(b.lines)
	}
	if f.length == 0 {
		b.over.Store(true)
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.over.Load():
		return 0, io.EOF
	}
	if err := b.invite(); err != nil {
		return 0, err
	}
	if b.chunks != nil {
		return b.readChunks(p)
	}
	n, err := taken{b.x.conn}.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		b.over.Store(true)
		err = io.EOF // with the last bytes, so that nobody must ask again
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *body) readChunks(p []byte) (int, error) {
	n, err := b.chunks.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	var end [2]byte // the guard lets no trailer pass
	if _, short := io.ReadFull(b.lines, end[:]); short != nil {
		return n, io.ErrUnexpectedEOF
	}
	b.over.Store(true)
	return n, io.EOF
}

// invite tells a client that waits for it to send the body (RFC 9110 section 10.1.1).
func (b *body) invite() error {
	if !b.expects {
		return nil
	}
	b.expects = false
	return b.x.answer.goOn()
}

// Close implements io.Closer. What was not read is left.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// spent reports, as an answer begins, whether nothing is left of the body on the way.
// What has come along with the head, whole, is thrown away.
func (b *body) spent() bool {
	if b.over.Load() {
		return true
	}
	if !b.mu.TryLock() {
		return false // somebody waits for the client
	}
	defer b.mu.Unlock()
	c := b.x.conn
	if b.chunks != nil || b.expects || b.left > int64(c.end-c.at) {
		return false
	}
	c.at += int(b.left)
	b.left = 0
	b.over.Store(true)
	return true
}

// settle ends the body for everybody, and reports whether it was read whole. A reader
// that waits for the client is woken: the connection will not be used again.
func (b *body) settle() bool {
	if !b.mu.TryLock() {
		_ = b.x.conn.rwc.SetReadDeadline(time.Unix(1, 0)) // if that fails, the connection is closed, and reading has ended
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.closed = true
	return b.over.Load()
}

// taken reads what the connection has read ahead, then from the connection.
type taken struct{ c *conn }

// Read implements io.Reader.
func (t taken) Read(p []byte) (int, error) {
	c := t.c
	if c.at == c.end {
		return c.rwc.Read(p)
	}
	n := copy(p, c.buf[c.at:c.end])
	c.at += n
	return n, nil
}
