package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
)

// maxProgram bounds the file that is hashed.
const maxProgram = 1 << 30

// Peer is the process at the other end of a Unix socket, as the kernel knew it
// when it connected (SO_PEERCRED).
//
// A process id says nothing once its process has ended: another may have it. So
// the process is held by a pidfd, taken from the socket itself where the kernel
// can (SO_PEERPIDFD, Linux 6.5), and its start time is compared: it is the same
// before and after everything that was read by its id.
//
// The user is what can be relied on. A process can hand its socket to a child, or
// become another program while its own code goes on elsewhere, so that the
// program says what an honest process runs and nothing of a hostile one.
type Peer struct {
	UID uint32
	PID int32

	start uint64 // in clock ticks since the machine started

	mu sync.Mutex // guards fd
	fd int        // pidfd, -1 when closed
}

// PeerOf asks the kernel who connected; Close the peer after use.
func PeerOf(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	p := &Peer{fd: -1}
	var asked error
	err = raw.Control(func(fd uintptr) { asked = p.ask(int(fd)) })
	if err = errors.Join(err, asked); err != nil {
		p.Close()
		return nil, fmt.Errorf("attest: who is at the other end: %w", err)
	}
	return p, nil
}

func (p *Peer) ask(socket int) error {
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return err
	}
	p.UID, p.PID = cred.Uid, cred.Pid
	p.fd, err = unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return p.openByID()
	}
	if err != nil { // it has ended: whoever has its id now did not connect
		p.fd = -1
		return err
	}
	p.start, err = startOf(cred.Pid)
	return err
}

// openByID is for kernels that do not hand out a pidfd of the socket. That the
// process began when it did before and after is no proof that it is the one that
// connected, which may have ended long before; that it is of the same user is
// all that the proof rests on.
func (p *Peer) openByID() (err error) {
	if p.start, err = startOf(p.PID); err != nil {
		return err
	}
	if p.fd, err = unix.PidfdOpen(int(p.PID), 0); err != nil {
		p.fd = -1
		return err
	}
	var of unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", p.PID), &of); err != nil {
		return err
	}
	if of.Uid != p.UID {
		return errors.New("its id is that of another user's process")
	}
	return p.same()
}

// Ended reports whether the process is gone, all of its threads. A Peer that is
// closed cannot tell, and says no.
func (p *Peer) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// Close lets go of the process. It may be called more than once.
func (p *Peer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}

// Program is what a process runs.
type Program struct {
	Exe    string // absolute path; " (deleted)" follows when the file was replaced
	SHA256 string // of the very file that runs, lower-case hex
}

func (g Program) selectors(p *Peer) map[string]string {
	return map[string]string{"uid": strconv.FormatUint(uint64(p.UID), 10), "exe": g.Exe, "sha256": g.SHA256}
}

// Program reads what the process runs now. The error is of kind Unavailable if it
// has ended, or if this user may not look.
func (p *Peer) Program() (Program, error) {
	g, err := p.program()
	if err != nil {
		e := rampart.Errorf(rampart.Unavailable, control, "attest: the program of the process cannot be read")
		e.Err = err
		return Program{}, e
	}
	return g, nil
}

func (p *Peer) program() (Program, error) {
	path := fmt.Sprintf("/proc/%d/exe", p.PID)
	exe, err := os.Readlink(path)
	if err != nil {
		return Program{}, err
	}
	f, err := os.Open(path) // the file that runs, even if another stands at its path
	if err != nil {
		return Program{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxProgram+1))
	if err != nil || n > maxProgram {
		return Program{}, errors.Join(err, fmt.Errorf("read %d bytes of it", n))
	}
	again, err := os.Readlink(path)
	if err != nil || again != exe {
		return Program{}, errors.New("it became another program meanwhile")
	}
	if err := p.same(); err != nil {
		return Program{}, err
	}
	return Program{exe, hex.EncodeToString(h.Sum(nil))}, nil
}

// same holds that what was read by the process id was of the process that
// connected: it still lives, so nobody else can have had its id meanwhile, and it
// began when it did at first.
func (p *Peer) same() error {
	start, err := startOf(p.PID)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return errors.New("the peer is closed")
	}
	if err := unix.PidfdSendSignal(p.fd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the process has ended: %w", err)
	}
	if start != p.start {
		return errors.New("another process has its id now")
	}
	return nil
}

// startOf is when a process began, field 22 of /proc/PID/stat.
func startOf(pid int32) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStart(b)
}

// parseStart counts from the last parenthesis: the name before it may hold any
// bytes.
func parseStart(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, errors.New("no process name")
	}
	fields := strings.Fields(string(stat[i+1:]))
	if len(fields) < 20 {
		return 0, errors.New("too few fields")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
