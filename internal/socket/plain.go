//go:build !linux || 386

package socket

import (
	"errors"
	"net"
	"syscall"
)

// Wrap returns c.
func Wrap(c net.Conn) net.Conn { return c }

// Silent reports whether nothing has come on a socket that nobody has read: neither
// bytes nor the end. fd must not block, as those of package net; it is for a function
// that syscall.RawConn calls.
func Silent(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
	return errors.Is(err, syscall.EAGAIN)
}
