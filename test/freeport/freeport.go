// Package freeport names ports for servers of a test that cannot be given an
// open listener.
package freeport

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// The ports lie below those that the kernel takes for outgoing connections, one
// of which could take a port between its choice and its use, and those that
// `rampart up --free-ports` takes.
const first, last = 4000, 9000

// given counts what this process was given; it starts elsewhere in each.
var given atomic.Int64

// Take returns a port of 127.0.0.1 on which nothing listens and which no other
// test of this process was given. Safe for concurrent use.
func Take(t testing.TB) string {
	t.Helper()
	for range last - first {
		port := strconv.FormatInt(first+(int64(os.Getpid())*16+given.Add(1))%(last-first), 10)
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}
