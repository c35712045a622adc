package attest

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// ParseStart is for the fuzzer.
var ParseStart = parseStart

// ByID finds the process that connected by its id alone, as if its user were uid.
func ByID(conn *net.UnixConn, uid uint32) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	p := &Peer{fd: -1, UID: uid}
	defer p.Close()
	var asked error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); asked == nil {
			p.PID = cred.Pid
			asked = p.openByID()
		}
	})
	return errors.Join(err, asked)
}
