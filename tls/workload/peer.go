package workload

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// peerCredentials are transport credentials without any transport security: the
// socket never leaves the machine, and the kernel tells who connected.
type peerCredentials struct{}

var _ credentials.TransportCredentials = peerCredentials{}

// ServerHandshake notes who connected. Whoever it is may go on: a stranger
// learns from the answer to its call, as SPIFFE Workload Endpoint section 6 has it.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	inner := conn
	if c, ok := conn.(*boundedConn); ok {
		inner = c.Conn
	}
	if u, ok := inner.(*net.UnixConn); ok {
		info.caller = callerAt(u)
	}
	return conn, info, nil
}

// ClientHandshake is no part of a server.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, net.ErrClosed
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "so_peercred"}
}

func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

func (peerCredentials) OverrideServerName(string) error { return nil }

// peerInfo is what the kernel said.
type peerInfo struct {
	credentials.CommonAuthInfo
	caller Caller
}

func (peerInfo) AuthType() string { return "so_peercred" }

func callerAt(u *net.UnixConn) Caller {
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || credErr != nil {
		return Caller{}
	}
	return Caller{UID: cred.Uid, PID: cred.Pid, known: true}
}

// callerOf returns who makes a call; not known when nobody said so.
func callerOf(ctx context.Context) Caller {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(peerInfo); ok {
			return info.caller
		}
	}
	return Caller{}
}

// bounded closes connections over the bound at once, so that Accept never waits
// for one to end.
type bounded struct {
	net.Listener
	open chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.open <- struct{}{}:
			return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.open })}, nil
		default:
			conn.Close()
		}
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
