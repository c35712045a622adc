//go:build linux && !386

package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// Wrap returns c with reads and writes of its own if it is a *net.TCPConn, and c as it
// is otherwise. What it returns has all methods of c, and may be used concurrently as
// c may.
func Wrap(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c // it is closed, and says so itself
	}
	w := &conn{TCPConn: tcp, raw: raw}
	w.in.try, w.out.try = w.in.read, w.out.write
	return w
}

// Silent reports whether nothing has come on a socket that nobody has read: neither
// bytes nor the end. fd must not block, as those of package net; it is for a function
// that syscall.RawConn calls.
func Silent(fd uintptr) bool {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), uintptr(len(b)), syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN
}

// conn is a TCP connection. Its descriptor does not block: package net made it so.
type conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out side
}

// side is what reads, or what writes.
type side struct {
	mu  sync.Mutex // held by who reads, or writes
	p   []byte
	n   int
	err error                        // of the system call
	try func(fd uintptr) (done bool) // one of the two below, made once
}

func (s *side) read(fd uintptr) bool  { return s.call(syscall.SYS_READ, "read", fd) }
func (s *side) write(fd uintptr) bool { return s.call(syscall.SYS_WRITE, "write", fd) }

// call reports whether there is nothing to wait for.
func (s *side) call(trap uintptr, name string, fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.p))), uintptr(len(s.p)))
		switch errno {
		case 0:
			s.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError(name, errno)
			return true
		}
	}
}

// do has one system call made when the socket is ready for it.
func (s *side) do(p []byte, when func(func(uintptr) bool) error) (int, error) {
	s.p, s.n, s.err = p, 0, nil
	err := when(s.try)
	s.p = nil
	if err == nil {
		err = s.err
	}
	return s.n, err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.TCPConn.Read(p) // which knows whether the connection is closed
	}
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	n, err := c.in.do(p, c.raw.Read)
	switch {
	case err != nil:
		return 0, c.wrap("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return c.TCPConn.Write(p)
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	sent := 0
	for sent < len(p) {
		n, err := c.out.do(p[sent:], c.raw.Write)
		sent += n
		if err != nil {
			return sent, c.wrap("write", err)
		}
	}
	return sent, nil
}

// wrap gives an error the form that it has in package net.
func (c *conn) wrap(op string, err error) error {
	if o, ok := errors.AsType[*net.OpError](err); ok { // of the poller: the connection is closed, or its time is over
		o.Op = op
		return o
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
