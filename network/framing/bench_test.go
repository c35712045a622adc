package framing

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// endless is a connection that brings the same bytes again and again.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}

func (*endless) Write(p []byte) (int, error)      { return len(p), nil }
func (*endless) Close() error                     { return nil }
func (*endless) LocalAddr() net.Addr              { return nil }
func (*endless) RemoteAddr() net.Addr             { return nil }
func (*endless) SetDeadline(time.Time) error      { return nil }
func (*endless) SetReadDeadline(time.Time) error  { return nil }
func (*endless) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkRead is one request through the guard: 1 KiB of head as browsers send
// it, beside the same reads without a guard.
func BenchmarkRead(b *testing.B) {
	head := "POST /payments HTTP/1.1\r\nHost: pay.example\r\nContent-Type: application/json\r\nContent-Length: 200\r\n"
	for i := 0; len(head) < 1022; i++ {
		head += fmt.Sprintf("X-Header-%d: %s\r\n", i, strings.Repeat("v", min(60, max(1, 1022-len(head)-16))))
	}
	request := head + "\r\n" + strings.Repeat("x", 200)
	l := NewListener(closed{}, Options{})
	for name, conn := range map[string]io.Reader{
		"guarded":   l.guard(&endless{text: request}),
		"bare":      &endless{text: request},
		"pipelined": l.guard(&endless{text: strings.Repeat(request, 4)}),
	} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 4096)
			b.SetBytes(int64(len(request)))
			b.ReportAllocs()
			for b.Loop() {
				for got := 0; got < len(request); {
					n, err := conn.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
		})
	}
}

type closed struct{ net.Listener }

// TestNoAllocations: in the steady state a request costs no memory.
func TestNoAllocations(t *testing.T) {
	l := NewListener(closed{}, Options{})
	text := "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
	c, buf := l.guard(&endless{text: text}), make([]byte, 7) // lines in pieces, too
	if n := testing.AllocsPerRun(1000, func() {
		for got := 0; got < len(text); {
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}
