package hop

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Whole is a body that is in memory.
type Whole struct {
	rest   []byte
	closed atomic.Bool
}

// NewWhole returns a body of b, which is then its own.
func NewWhole(b []byte) *Whole { return &Whole{rest: b} }

// Bytes are what is left to read, which it stays. They are not to be changed.
func (w *Whole) Bytes() []byte { return w.rest }

// Read implements io.Reader.
func (w *Whole) Read(p []byte) (int, error) {
	switch {
	case len(w.rest) == 0:
		return 0, io.EOF
	case w.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (w *Whole) Close() error {
	w.closed.Store(true)
	return nil
}

// body is that of an answer, as far as it is still to come. At its end the connection
// waits for the next request.
type body struct {
	from  io.ReadCloser // net/http's; nil: it is
	left  int64         // bytes long
	c     *conn
	ctx   context.Context
	last  bool // the server closes the connection after this answer
	state atomic.Int32
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	switch b.state.Load() {
	case whole:
		return 0, io.EOF // the connection is another's
	case left:
		return 0, http.ErrBodyReadAfterClose
	}
	b.c.extend() // an answer may go on for as long as it is read
	if b.ctx.Err() != nil {
		b.c.Cut() // again, if that came before extend
	}
	n, err := b.read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.end(whole)
	case err != nil:
		b.end(left)
		if cause := b.ctx.Err(); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	if b.from != nil {
		return b.from.Read(p)
	}
	n, err := b.c.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// Close ends the connection unless all was read: what is left may never end.
func (b *body) Close() error {
	b.end(left)
	return nil
}

// States of a body. The zero value is one that is being read.
const (
	whole = 1 + iota // read to its end
	left             // given up
)

func (b *body) end(state int32) {
	if b.state.CompareAndSwap(0, state) {
		b.c.done(state == whole && !b.last)
	}
}

var _, _ io.ReadCloser = (*body)(nil), (*Whole)(nil)
