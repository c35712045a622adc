package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// adminSocket is the name of the admin socket in the state folder.
const adminSocket = "control"

// openAdmin opens the admin socket. What a killed predecessor left there is
// removed: the folder is this user's alone.
func (p *Plane) openAdmin() (net.Listener, error) {
	path, err := p.opt.State.Socket(adminSocket)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

type peerKey struct{}

// peer is the process at the other end of the admin socket.
type peer struct {
	uid uint32
	pid int32
	ok  bool // the kernel said so
}

// withPeer notes who connected, as the kernel knows it (SO_PEERCRED).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	var who peer
	if u, ok := c.(*net.UnixConn); ok {
		who = peerOf(u)
	}
	return context.WithValue(ctx, peerKey{}, who)
}

func peerOf(u *net.UnixConn) peer {
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || credErr != nil {
		return peer{}
	}
	return peer{uid: cred.Uid, pid: cred.Pid, ok: true}
}

// adminCall serves one call of the administrator. It fills in what the audit
// log should name; a nil error must not have been answered to yet when the
// event is recorded, so it returns what to answer.
type adminCall func(r *http.Request, e *audit.Event) (answer any, err error)

// adminRoutes is the admin socket: the same user or root, each call recorded
// before its answer.
func (p *Plane) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	for _, routes := range []map[string]adminCall{
		p.adminSystemRoutes(),
		p.adminUserRoutes(),
		p.adminClientRoutes(),
		p.adminTrustRoutes(),
		p.adminPolicyRoutes(),
		p.adminRotationRoutes(),
		p.adminAuthorityRoutes(),
		p.adminDEKRoutes(),
		p.adminSecretRoutes(),
		p.adminKEKRoutes(),
		p.adminConfigRoutes(),
		p.adminBanRoutes(),
	} {
		for pattern, call := range routes {
			limit := int64(maxBody)
			switch pattern {
			case "POST " + wire.AdminPolicies:
				limit = maxPush
			case "POST " + wire.AdminConfig:
				limit = maxApply
			case "POST " + wire.AdminRestore:
				limit = maxPage
			}
			mux.HandleFunc(pattern, p.handleUpTo(limit, p.administer(pattern, call)))
		}
	}
	return mux
}

func (p *Plane) adminSystemRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminStatus:     p.adminStatus,
		"POST " + wire.AdminJoinToken: p.adminJoinToken,
		"POST " + wire.AdminRevoke:    p.adminRevoke,
	}
}

func (p *Plane) administer(name string, call adminCall) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, _ := r.Context().Value(peerKey{}).(peer)
		class := audit.ClassAdmin
		if r.Method == http.MethodGet {
			class = audit.ClassAPIRead // on record, but nobody waits for the disk to look at a list
		}
		e := audit.Event{
			Class: class, Action: name, Outcome: audit.Allowed,
			Actor: "uid:" + strconv.FormatUint(uint64(who.uid), 10), Detail: map[string]string{"pid": strconv.Itoa(int(who.pid))},
		}
		if !who.ok || who.uid != 0 && int(who.uid) != os.Geteuid() {
			return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "", "control: only the user who runs the system, or root, may administer it"))
		}
		answer, err := call(r, &e)
		if err != nil {
			return p.refuse(r.Context(), e, withCause(err))
		}
		if e.Action != "" { // else the call has put it on record itself
			if err := p.opt.Audit.Record(r.Context(), e); err != nil {
				return err
			}
		}
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return writeJSON(w, answer)
	}
}

// adminStatus changes nothing and is polled: its event does not wait for the
// disk.
func (p *Plane) adminStatus(_ *http.Request, e *audit.Event) (any, error) {
	e.Class = audit.ClassAPIRead
	return p.status(), nil
}

func (p *Plane) adminJoinToken(r *http.Request, e *audit.Event) (any, error) {
	var q wire.JoinTokenRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = q.Identity
	text, err := p.newJoinToken(r.Context(), q.Identity)
	return wire.JoinToken{Token: text}, err
}

func (p *Plane) adminRevoke(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Revocation
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = q.Kind[:min(len(q.Kind), 16)] + ":" + q.ID[:min(len(q.ID), 256)]
	return nil, p.revoke(r.Context(), q.Kind, q.ID)
}

// withCause says what is in the way of something that is not available: whoever
// reaches this socket may read the log too, where it stands.
func withCause(err error) error {
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Kind != rampart.Unavailable || e.Err == nil {
		return err
	}
	return &rampart.Error{Kind: e.Kind, Control: e.Control, Msg: e.Msg + ": " + e.Err.Error(), Err: err}
}
