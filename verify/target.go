package verify

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// target is the running system as one run sees it. Safe for concurrent use.
type target struct {
	sys      *spec.System
	running  wire.Running
	dir      string
	run      string
	admin    adminClient
	roots    *x509.CertPool
	trail    *trail
	ops      []operation
	now      func() time.Time
	parallel int
	net      byte // second byte of this run's source addresses; 0: only 127.0.0.1 can be bound

	// disk keeps who reads database files as bytes (Lock) apart from who opens
	// them as databases (RLock). SQLite's locks belong to the process: closing any
	// descriptor of a file drops them all, and a probe that wrote on would damage
	// the very system that it judges.
	disk sync.RWMutex

	mu         sync.Mutex // guards below
	sources    int
	identities int
	clients    map[string]string        // principal -> registered client id
	crowd      map[string]*sharedCaller // by facts and slot
	stories    int
	revoke     []wire.Revocation // at the end of the run

	keys    sync.Mutex        // guards apiKeys
	apiKeys map[string]string // by client

	mail sync.Mutex // held while a hostile message is under way
	exit sync.Mutex // guards left
	left bool       // the declared call out was made
}

// ErrNotRunning is in the chain of the error of Run when there is no running
// system to judge.
var ErrNotRunning = errors.New("the system does not run")

// openTarget finds the running system of a state folder and makes sure that it
// runs this very file.
func openTarget(ctx context.Context, opt Options) (*target, error) {
	t := &target{sys: opt.System, dir: opt.StateDir, run: randomID(4), now: opt.Now, clients: map[string]string{}, apiKeys: map[string]string{}, crowd: map[string]*sharedCaller{}}
	b, err := os.ReadFile(filepath.Join(t.dir, "run", "system.json"))
	if err != nil {
		return nil, fmt.Errorf("verify: %w on %s; start it with: rampart up --state %s", ErrNotRunning, t.dir, t.dir)
	}
	if err := json.Unmarshal(b, &t.running); err != nil {
		return nil, fmt.Errorf("verify: run/system.json: %w", err)
	}
	t.admin = newAdmin(t.running.Admin)
	st, err := t.admin.status(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify: %w: the control plane of %s does not answer: %v", ErrNotRunning, t.dir, err)
	}
	if want := t.sys.Bundle().Digest; st.Digest != want {
		return nil, fmt.Errorf("verify: the running system has configuration %.12s, the file is %.12s; restart it", st.Digest, want)
	}
	pem, err := os.ReadFile(filepath.Join(t.dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if t.roots, err = t.publicRoots(); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if !t.roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("verify: ca.pem holds no certificate")
	}
	if t.ops, err = operations(t.sys); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	t.trail, err = openTrail(filepath.Join(t.dir, "audit"))
	t.chooseNet()
	return t, err
}

// chooseNet settles from where probes dial: each from an address of its own, a
// new one in each run, so that what one spends of its address's limit is not
// missed by another. Where the system has 127.0.0.1 alone, probes go one after
// another.
func (t *target) chooseNet() {
	t.parallel, t.net = maxParallel, 16+t.run[0]%64
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.1:0", t.net))
	if err != nil {
		t.parallel, t.net = 1, 0
		return
	}
	l.Close()
}

// source returns an address that no other probe of this run dials from.
func (t *target) source() net.IP {
	if t.net == 0 {
		return net.IPv4(127, 0, 0, 1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources++
	var high byte
	fmt.Sscanf(t.run[2:4], "%02x", &high)
	return net.IPv4(127, t.net, high, byte(t.sources%250+1))
}

// edgeAddr is where the edge answers, by an address that its certificate names.
func (t *target) edgeAddr() string {
	_, port, err := net.SplitHostPort(t.running.Edge)
	if err != nil {
		return t.running.Edge
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// edgeName is the name by which the edge's certificate is verified.
func (t *target) edgeName() string {
	if t.foreignCertificate() {
		return t.sys.Services[t.gateway()].Names[0]
	}
	return "localhost"
}

// foreignCertificate reports whether somebody else's authority vouches for the
// edge.
func (t *target) foreignCertificate() bool {
	svc := t.sys.Services[t.gateway()]
	return svc.ACME != nil || svc.Cert != nil
}

// publicRoots are those of this machine where somebody else vouches for the
// edge, and none otherwise: the local CA's come to them.
func (t *target) publicRoots() (*x509.CertPool, error) {
	if t.foreignCertificate() {
		return x509.SystemCertPool()
	}
	return x509.NewCertPool(), nil
}

// atEnd revokes what an account or client of the run holds, and removes it, when
// the run is over.
func (t *target) atEnd(kind, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revoke = append(t.revoke, wire.Revocation{Kind: kind, ID: id})
}

// close makes every credential of the run worthless and then removes accounts
// and clients, also after the run's context has ended. An account that could not
// be removed stays, tagged "verify", and opens nothing.
func (t *target) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, r := range t.revoke {
		t.admin.revoke(ctx, r) // the system may be going down: then its credentials do, too
	}
	for _, r := range t.revoke {
		t.admin.remove(ctx, r)
	}
	t.admin.close()
}

// gateway is the name of the edge service.
func (t *target) gateway() string { return t.sys.Gateway() }

// services lists the services behind sidecars, sorted.
func (t *target) services() []string {
	var out []string
	for name, s := range t.sys.Services {
		if s.Role != "gateway" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Env is one probe's view of the system: its own source address, its own
// identities, its own notes. Not for concurrent use, but for do and trail.
type Env struct {
	*target
	http *edgeClient

	mu    sync.Mutex // guards notes
	notes []string
	ends  []func()
}

func (t *target) env() *Env {
	e := &Env{target: t}
	e.http = newEdgeClient(t, t.source())
	return e
}

// note adds a line of evidence. It must hold no secret.
func (e *Env) note(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

func (e *Env) evidence() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.notes, "; ")
}

// atClose undoes something when the probe is over, last first.
func (e *Env) atClose(f func()) { e.ends = append(e.ends, f) }

func (e *Env) close() {
	for _, f := range slices.Backward(e.ends) {
		f()
	}
	e.http.close()
}
