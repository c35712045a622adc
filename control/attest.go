package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/tls/attest"
)

// attestSocket is the name of the socket in the state folder at which processes
// of this machine prove who they are, unless the file says another place.
const attestSocket = "join"

// proofs are those by which planes join beside tokens. The zero value takes none.
type proofs struct {
	cluster attest.Kubernetes
	machine attest.Unix
	socket  net.Listener // nil: the file knows no process
}

// openProofs reads what the file says of them, and opens the socket if one may be
// used.
func (p *Plane) openProofs() error {
	j := p.system().Trust.Join
	if k := j.Kubernetes; k != nil {
		text, _ := p.system().Resource(k.JWKS)
		keys, err := jwt.ParseForeignKeySet(text, jwt.RS256, jwt.ES256)
		if err != nil {
			return fmt.Errorf("trust.join.kubernetes.jwks: %w", err)
		}
		p.proofs.cluster = attest.Kubernetes{Accounts: k.Accounts, Verify: jwt.NewServiceAccount(jwt.ForeignOptions{
			Keys:   func(context.Context, string) (*jwt.KeySet, error) { return keys, nil },
			Issuer: k.Issuer, Audience: k.Audience, Algorithms: []jwt.Algorithm{jwt.RS256, jwt.ES256}, Now: p.opt.Now,
		}).Verify}
	}
	if len(j.Unix) == 0 {
		return nil
	}
	p.proofs.machine.Processes = map[string]attest.Process{}
	for name, u := range j.Unix {
		p.proofs.machine.Processes[name] = attest.Process{UID: uint32(*u.UID), Exe: u.Exe, SHA256: u.SHA256}
	}
	return p.openAttestSocket(j.Socket)
}

// openAttestSocket opens it to every user whom its folder lets in: who they are
// the kernel says, not the mode.
func (p *Plane) openAttestSocket(path string) error {
	if path == "" {
		var err error
		if path, err = p.opt.State.Socket(attestSocket); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	p.proofs.socket = l
	return os.Chmod(path, 0o666)
}

// AttestSocket returns the path of the socket for processes of this machine, ""
// if the file knows none.
func (p *Plane) AttestSocket() string {
	if p.proofs.socket == nil {
		return ""
	}
	return p.proofs.socket.Addr().String()
}

// attestRoutes is all that the socket serves.
func (p *Plane) attestRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathAttest, p.handle(p.serveAttest))
	return mux
}

// serveProofs serves the socket until the server is stopped.
func (p *Plane) serveProofs(s *http.Server) error {
	if p.proofs.socket == nil {
		return nil
	}
	s.ConnContext = withProcess
	return serve(s, p.proofs.socket)
}

type processKey struct{}

// withProcess notes which connection a request came by. The process is asked for
// at each request, and let go after it.
func withProcess(ctx context.Context, c net.Conn) context.Context {
	u, _ := c.(*net.UnixConn)
	return context.WithValue(ctx, processKey{}, u)
}

// processOf is the process at the other end; nil when no kernel vouches for one.
func processOf(r *http.Request) *attest.Peer {
	u, _ := r.Context().Value(processKey{}).(*net.UnixConn)
	if u == nil {
		return nil
	}
	peer, err := attest.PeerOf(u)
	if err != nil {
		return nil
	}
	return peer
}

// serveAttest trades a proof that lasts for an SVID.
func (p *Plane) serveAttest(w http.ResponseWriter, r *http.Request) error {
	peer := processOf(r)
	from := ipKey(r.RemoteAddr)
	if peer != nil {
		defer peer.Close()
		from = "uid:" + strconv.FormatUint(uint64(peer.UID), 10)
	}
	if v := p.joins.Allow(from, 1); !v.OK {
		ratelimit.Headers(w.Header(), v, "join")
		return rampart.Errorf(rampart.Limited, "limit.ip", "control: too many attempts to join")
	}
	var q wire.AttestRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "svid.attest", Control: "mtls.required", Peer: r.RemoteAddr}
	got, id, err := p.attested(r.Context(), q, peer)
	e.Detail = got.Selectors
	if err != nil {
		return p.refuse(r.Context(), e, err)
	}
	e.Action = "svid." + q.Kind
	return p.issue(w, r, q.CSR, id, e)
}

// attested is whom a proof is of.
func (p *Plane) attested(ctx context.Context, q wire.AttestRequest, peer *attest.Peer) (got attest.Attested, id identity, err error) {
	switch q.Kind {
	case wire.ProofKubernetes:
		if got, err = p.proofs.cluster.Attest(ctx, q.Evidence); err != nil {
			return got, identity{}, err
		}
		id, ok := p.byName(got.Name)
		if !ok {
			return got, identity{}, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %.100q is not in rampart.yaml", got.Name)
		}
		return got, id, nil
	case wire.ProofUnix:
		id, ok := p.byPath(q.Identity)
		if !ok {
			return got, identity{}, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %.100q is not in rampart.yaml", q.Identity)
		}
		got, err = p.proofs.machine.Attest(peer, id.name)
		return got, id, err
	}
	return got, identity{}, rampart.Errorf(rampart.Invalid, "mtls.required", "control: %.20q is no kind of proof", q.Kind)
}

func (p *Plane) byName(name string) (identity, bool) {
	for _, id := range p.ids {
		if id.name == name {
			return id, true
		}
	}
	return identity{}, false
}
