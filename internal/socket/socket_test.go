package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/rampart-security/rampart/internal/socket"
)

// pair returns two ends of a connection.
func pair(t testing.TB) (one, other net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fine(t, err)
	defer l.Close()
	one, err = net.Dial("tcp", l.Addr().String())
	fine(t, err)
	other, err = l.Accept()
	fine(t, err)
	t.Cleanup(func() { one.Close(); other.Close() })
	return one, other
}

func fine(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestConn is the suite of package net for connections: deadlines that come before,
// during and after, both ways at once, closing under a reader.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		one, other := pair(t)
		return socket.Wrap(one), socket.Wrap(other), func() { one.Close(); other.Close() }, nil
	})
}

// Errors are those of package net, to the type.
func TestErrors(t *testing.T) {
	for name, do := range map[string]func(c, peer net.Conn) error{
		"reading a closed one": func(c, _ net.Conn) error { c.Close(); _, err := c.Read(make([]byte, 1)); return err },
		"writing to a closed":  func(c, _ net.Conn) error { c.Close(); _, err := c.Write([]byte("x")); return err },
		"nothing, of a closed": func(c, _ net.Conn) error { c.Close(); _, err := c.Read(nil); return err },
		"nothing, to a closed": func(c, _ net.Conn) error { c.Close(); _, err := c.Write(nil); return err },
		"reading, too late": func(c, _ net.Conn) error {
			_ = c.SetDeadline(time.Unix(1, 0))
			_, err := c.Read(make([]byte, 1))
			return err
		},
		"writing, too late": func(c, _ net.Conn) error {
			_ = c.SetDeadline(time.Unix(1, 0))
			_, err := c.Write([]byte("x"))
			return err
		},
		"the end":             func(c, peer net.Conn) error { peer.Close(); _, err := c.Read(make([]byte, 1)); return err },
		"reset while reading": func(c, peer net.Conn) error { reset(peer); _, err := c.Read(make([]byte, 1)); return err },
		"reset, then written to": func(c, peer net.Conn) error {
			reset(peer)
			_, _ = c.Read(make([]byte, 1))
			_, err := c.Write([]byte("x"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			one, peer := pair(t)
			want := do(one, peer)
			two, peer := pair(t)
			got := do(socket.Wrap(two), peer)
			for what, is := range map[string]error{"the end": io.EOF, "a closed one": net.ErrClosed, "too late": os.ErrDeadlineExceeded, "a reset": syscall.ECONNRESET, "a broken pipe": syscall.EPIPE} {
				if errors.Is(got, is) != errors.Is(want, is) {
					t.Errorf("%s: %v, want %v", what, got, want)
				}
			}
			w, isNet := errors.AsType[*net.OpError](want)
			g, ok := errors.AsType[*net.OpError](got)
			if ok != isNet || ok && (g.Op != w.Op || g.Net != w.Net || g.Timeout() != w.Timeout()) {
				t.Errorf("%#v, want %#v", got, want)
			}
		})
	}
}

// reset ends a connection so that its peer finds an error.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
	time.Sleep(10 * time.Millisecond)
}

// What does not fit is sent when there is room, and one write stays in one piece
// beside another.
func TestWhole(t *testing.T) {
	one, other := pair(t)
	w := socket.Wrap(one)
	const size = 8 << 20
	for _, c := range []byte("ab") {
		go func() { _, _ = w.Write(bytes.Repeat([]byte{c}, size)) }()
	}
	time.Sleep(50 * time.Millisecond) // so that both wait
	all, err := io.ReadAll(io.LimitReader(socket.Wrap(other), 2*size))
	fine(t, err)
	if len(all) != 2*size || bytes.Count(all[:size], all[:1]) != size || all[size] == all[0] {
		t.Error("two writes were mixed, or cut short")
	}
}

func TestSilent(t *testing.T) {
	one, other := pair(t)
	raw, err := one.(*net.TCPConn).SyscallConn()
	fine(t, err)
	ask := func() (silent bool) {
		fine(t, raw.Control(func(fd uintptr) { silent = socket.Silent(fd) }))
		return silent
	}
	if !ask() {
		t.Error("nothing came, and it is not silent")
	}
	_, err = other.Write([]byte("x"))
	fine(t, err)
	wait(t, func() bool { return !ask() }, "a byte came")
	_, err = one.Read(make([]byte, 1))
	fine(t, err)
	if !ask() {
		t.Error("all was read, and it is not silent")
	}
	other.Close()
	wait(t, func() bool { return !ask() }, "the end came")
}

func wait(t *testing.T, ok func() bool, what string) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%s, and it is silent", what)
}
