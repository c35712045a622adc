package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
)

// adminSocket is the name of the admin socket in the state folder.
const adminSocket = "control"

const maxRedirects = 16

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
	for pattern, call := range map[string]adminCall{
		"GET " + wire.AdminStatus:     p.adminStatus,
		"POST " + wire.AdminJoinToken: p.adminJoinToken,
		"GET " + wire.AdminUsers:      p.adminListUsers,
		"POST " + wire.AdminUsers:     p.adminPutUser,
		"POST " + wire.AdminClients:   p.adminPutClient,
		"POST " + wire.AdminAPIKeys:   p.adminCreateKey,
		"GET " + wire.AdminSecrets:    p.adminListSecrets,
		"POST " + wire.AdminSecrets:   p.adminSetSecret,
		"POST " + wire.AdminRevoke:    p.adminRevoke,
	} {
		mux.HandleFunc(pattern, p.handle(p.administer(pattern, call)))
	}
	return mux
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
			return p.refuse(r.Context(), e, err)
		}
		if err := p.opt.Audit.Record(r.Context(), e); err != nil {
			return err
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

func (p *Plane) adminListUsers(r *http.Request, _ *audit.Event) (any, error) {
	users, err := p.opt.Store.Users(r.Context())
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.User, len(users))
	for i, u := range users {
		f := u.Facts
		out[i] = wire.User{Name: u.Name, Tag: u.Tag, Facts: spec.DemoUser{Roles: f.Roles, Organizations: f.Organizations, Team: f.Team, ManagedTeams: f.ManagedTeams}}
	}
	return out, nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// adminPutUser creates or changes an account. A change of rights or password
// ends the sessions and tokens that were issued before it.
func (p *Plane) adminPutUser(r *http.Request, e *audit.Event) (any, error) {
	var q wire.User
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if !nameForm.MatchString(q.Name) {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: a user name is up to 64 of a-z, 0-9 and . _ -, starting with a letter or digit")
	}
	old, err := p.opt.Store.User(r.Context(), q.Name)
	exists := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, unavailable(err)
	}
	u := store.User{Name: q.Name, Tag: q.Tag, Facts: factsOf(q), Hash: old.Hash, Changed: p.opt.Now()}
	e.Resource = u.Facts.Subject
	if err := p.checkRoles(u.Facts.Roles); err != nil {
		return nil, err
	}
	if q.Password != "" || !exists {
		if u.Hash, err = p.hasher.Hash(r.Context(), q.Password); err != nil {
			return nil, err
		}
	}
	if err := p.opt.Store.PutUser(r.Context(), u); err != nil {
		return nil, unavailable(err)
	}
	if exists && (u.Hash != old.Hash || !reflect.DeepEqual(u.Facts, old.Facts)) {
		return nil, p.revoke(r.Context(), "sub", u.Facts.Subject)
	}
	return nil, nil
}

func factsOf(u wire.User) rampart.Principal {
	f := rampart.Principal{
		Kind: rampart.KindHuman, Subject: "user:" + u.Name, Organizations: u.Facts.Organizations,
		Roles: u.Facts.Roles, Team: u.Facts.Team, ManagedTeams: u.Facts.ManagedTeams,
	}
	if len(f.Organizations) > 0 {
		f.Tenant = f.Organizations[0]
	}
	return f
}

// checkRoles refuses a role that nothing defines: most likely a typing error
// that would take a right away.
func (p *Plane) checkRoles(roles []string) error {
	for _, role := range roles {
		if _, ok := p.opt.System.Authz.Roles[role]; !ok && len(p.opt.System.Authz.Roles) > 0 {
			return rampart.Errorf(rampart.Invalid, "", "control: role %q is not in authz.roles", role)
		}
	}
	return nil
}

func (p *Plane) adminPutClient(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Client
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = "client:" + q.ID
	if !nameForm.MatchString(q.ID) {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: a client id is up to 64 of a-z, 0-9 and . _ -, starting with a letter or digit")
	}
	if _, ok := p.opt.System.Principals[q.Principal]; !ok {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: %q is not in principals", q.Principal)
	}
	if len(q.Redirects) > maxRedirects || slices.ContainsFunc(q.Redirects, badRedirect) {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: redirects are up to %d https addresses, or http on a loopback address, without fragment", maxRedirects)
	}
	return nil, unavailable(p.opt.Store.PutClient(r.Context(), token.Client{ID: q.ID, Principal: q.Principal, Redirects: q.Redirects, Tag: q.Tag}))
}

func badRedirect(text string) bool { return token.CheckRedirect(text) != nil }

// adminCreateKey makes an API key of a client. It is shown once.
func (p *Plane) adminCreateKey(r *http.Request, e *audit.Event) (any, error) {
	var q wire.APIKeyRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = "client:" + q.Client
	c, err := p.opt.Store.Client(r.Context(), q.Client)
	if errors.Is(err, token.ErrNotFound) {
		return nil, rampart.Errorf(rampart.NotFound, "", "control: client %.64q is not registered", q.Client)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	text, k, err := p.apikeys.Create(r.Context(), c.ID, apikey.Limits{})
	if err != nil {
		return nil, err
	}
	e.Detail["key"] = k.ID
	return wire.APIKey{ID: k.ID, Key: text}, nil
}

func (p *Plane) adminListSecrets(r *http.Request, _ *audit.Event) (any, error) {
	list, err := p.keys.secrets.List(r.Context())
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.SecretMeta, len(list))
	for i, m := range list {
		out[i] = wire.SecretMeta{Path: m.Path, Version: m.Version, Created: m.Created.UTC().Format(time.RFC3339)}
	}
	return out, nil
}

func (p *Plane) adminSetSecret(r *http.Request, e *audit.Event) (any, error) {
	var q wire.SetSecret
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	defer clear(q.Value)
	e.Resource = "secret:" + q.Path[:min(len(q.Path), 256)]
	version, err := p.keys.secrets.Put(r.Context(), q.Path, q.Value)
	e.Detail["version"] = strconv.Itoa(version)
	return nil, err
}

func (p *Plane) adminRevoke(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Revocation
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = q.Kind[:min(len(q.Kind), 16)] + ":" + q.ID[:min(len(q.ID), 256)]
	return nil, p.revoke(r.Context(), q.Kind, q.ID)
}
