package sidecar

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/tls/workload"
)

// How the service's own certificate is kept fresh.
const (
	workloadAsk   = 10 * time.Second       // bounds one call to the control plane
	workloadFirst = 200 * time.Millisecond // until the second try; it doubles
	workloadLast  = 10 * time.Second       // and goes no further
	controlSVID   = "mtls.required"
)

// identity is the certificate that the service itself holds: the same SPIFFE ID
// as this process has, under a key that is not this process's. It is what the
// workload API gives out. Safe for concurrent use.
type identity struct {
	s    *Sidecar
	wake chan struct{} // of keep

	mu      sync.Mutex // guards below
	cert    svid.Snapshot
	bundle  []byte // roots that came with cert: used before the first trust
	asked   string // the root that moved cert's renewal forward
	due     time.Time
	given   *workload.Snapshot // what Snapshot answers
	why     error              // or this
	changed chan struct{}
}

var _ workload.Source = (*identity)(nil)

func newIdentity(s *Sidecar) *identity {
	return &identity{s: s, wake: make(chan struct{}, 1), why: errNoIdentity(), changed: make(chan struct{})}
}

func errNoIdentity() error {
	return rampart.Errorf(rampart.Unavailable, controlSVID, "there is no certificate for the service yet")
}

// serveWorkload serves the SPIFFE Workload API and Envoy's secret discovery to the
// service, and keeps its certificate fresh.
func (s *Sidecar) serveWorkload(ctx context.Context) error {
	if s.opt.Workload == "" {
		return errors.New("sidecar: the service asks for the workload API, which has no socket")
	}
	l, err := listenWorkload(s.opt.Workload)
	if err != nil {
		return fmt.Errorf("sidecar: workload API: %w", err)
	}
	id := newIdentity(s)
	opt := workload.Options{Source: id, Allow: s.mayHoldIdentity, Record: s.workloadEvent}
	if s.table.Load().sys.Trust.JWT {
		opt.Tokens = &tokensOf{s: s}
	}
	kept := make(chan struct{})
	go func() { defer close(kept); id.keep(ctx) }()
	err = workload.NewServer(opt).Serve(ctx, l)
	<-kept
	if err != nil {
		return fmt.Errorf("sidecar: workload API: %w", err)
	}
	return nil
}

// listenWorkload opens the socket to this user and group. The file's mode is the
// outer wall: whoever gets through is still asked for by the kernel's word.
func listenWorkload(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// mayHoldIdentity reports whether a user's processes are the service: by default
// those of the user that this process runs as.
func (s *Sidecar) mayHoldIdentity(uid uint32) bool {
	if len(s.opt.WorkloadUIDs) == 0 {
		return uid == uint32(os.Geteuid())
	}
	return slices.Contains(s.opt.WorkloadUIDs, uid)
}

// workloadEvent puts on record who was given the identity, and what was refused.
func (s *Sidecar) workloadEvent(ctx context.Context, e workload.Event) error {
	out := audit.Event{Class: audit.ClassKey, Action: e.Action, Outcome: audit.Allowed, Control: controlSVID, Subject: s.table.Load().id,
		Resource: e.Resource, Peer: fmt.Sprintf("uid %d, pid %d", e.Caller.UID, e.Caller.PID)}
	switch {
	case e.Action == workload.ActionNACK:
		s.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "an Envoy refuses its certificates", slog.String("names", e.Resource), slog.Any("error", e.Err))
		out.Outcome = audit.Failed
	case e.Err != nil:
		out.Outcome = audit.Refused
	}
	if e.Err != nil {
		out.Detail = map[string]string{"error": e.Err.Error()}
	}
	if known, ok := asError(e.Err); ok && known.Control != "" {
		out.Control = known.Control
	}
	return s.opt.Audit.Record(ctx, out)
}

// Snapshot implements workload.Source.
func (i *identity) Snapshot() (*workload.Snapshot, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.given, i.why
}

// Changed implements workload.Source.
func (i *identity) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// keep renews the certificate at half its life and tells what changed, until ctx
// ends.
func (i *identity) keep(ctx context.Context) {
	// What the control plane takes back is taken back at once, whatever this loop
	// waits for.
	i.s.opt.Link.OnState(func(*planelink.State) { i.tell(); i.nudge() })
	pause := workloadFirst
	for ctx.Err() == nil {
		if i.isDue() {
			if err := i.renew(ctx); err != nil && ctx.Err() == nil {
				i.s.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "the service's certificate is not renewed; will try again", slog.Any("error", err))
				i.postpone(pause)
				pause = min(2*pause, workloadLast)
			} else {
				pause = workloadFirst
			}
		}
		i.tell()
		i.rest(ctx)
	}
}

// isDue reports whether to ask for a certificate now. A service that is disabled
// is not asked for: the answer is known.
func (i *identity) isDue() bool {
	if i.denied() != nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.s.opt.Now().Before(i.due)
}

// denied refuses a service that was disabled, or that the file does not give its
// identity any more.
func (i *identity) denied() error {
	if !i.s.table.Load().svc.Workload {
		return rampart.Errorf(rampart.Denied, controlSVID, "rampart.yaml does not give this service its certificate")
	}
	return i.s.opt.Link.Disabled()
}

func (i *identity) postpone(d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.due = i.s.opt.Now().Add(d)
}

// rest waits until there is something to do.
func (i *identity) rest(ctx context.Context) {
	i.mu.Lock()
	next := i.due
	if end := i.cert.NotAfter; end.After(i.s.opt.Now()) && end.Before(next) {
		next = end
	}
	i.mu.Unlock()
	wait := next.Sub(i.s.opt.Now())
	if i.denied() != nil {
		wait = workloadLast // there is nothing to ask for; what changes that wakes us
	}
	// Clocks jump: none is slept past for long.
	t := time.NewTimer(min(max(wait, 10*time.Millisecond), workloadLast))
	defer t.Stop()
	select {
	case <-t.C:
	case <-i.wake:
	case <-ctx.Done():
	}
}

// renew asks for a certificate under a new key. The key never was anywhere else,
// and the control plane gives out no other name than this process's own.
func (i *identity) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, workloadAsk)
	defer cancel()
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	var id wire.Identity
	if err := i.s.opt.Link.Call(ctx, http.MethodPost, wire.PathRenew, wire.RenewRequest{CSR: csr}, &id); err != nil {
		return err
	}
	return i.adopt(id, key)
}

func (i *identity) adopt(id wire.Identity, key crypto.Signer) error {
	cert, err := svid.NewSnapshot(id.Chain, key, id.Bundle)
	if err != nil {
		return err
	}
	if own := i.s.table.Load().id; cert.ID != own {
		return fmt.Errorf("sidecar: the certificate is of %.200q, not %.200q", cert.ID, own)
	}
	leaf := cert.Certificate.Leaf
	issued := leaf.NotBefore.Add(ca.Skew)
	life := leaf.NotAfter.Sub(issued)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.bundle, i.asked = cert, id.Bundle, ""
	i.due = issued.Add(life/2 + fraction(life, 0.2) - life/10)
	if now := i.s.opt.Now(); i.due.Before(now) { // one of the clocks is wrong: asking on and on would not mend it
		i.due = now.Add(workloadLast)
	}
	return nil
}

// fraction returns a random part of d, at most share of it: a fleet does not come
// at once.
func fraction(d time.Duration, share float64) time.Duration {
	var b [4]byte
	rand.Read(b[:])
	return time.Duration(share * float64(d) * float64(binary.BigEndian.Uint32(b[:])) / (1 << 32))
}

// tell brings what is given out up to date. A certificate that ended, or was
// revoked, is given out no more; a revoked one is replaced at once, and one from
// before our roots changed soon.
func (i *identity) tell() {
	denied, st, now := i.denied(), i.s.opt.Link.State(), i.s.opt.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	cert := i.cert
	switch {
	case denied != nil:
		i.refuseLocked(denied)
		return
	case cert.ID == "" || !now.Before(cert.NotAfter):
		i.refuseLocked(errNoIdentity())
		return
	case revoked(st.Revoked, cert.Proof):
		i.refuseLocked(errNoIdentity())
		i.due = now
		i.nudge()
		return
	}
	if signs := st.Trust.Signs; signs != "" && signs != cert.Proof.Root && signs != i.asked {
		i.asked = signs
		if soon := now.Add(fraction(cert.NotAfter.Sub(cert.Certificate.Leaf.NotBefore), 0.1)); soon.Before(i.due) {
			i.due = soon
		}
	}
	i.giveLocked(snapshotOf(cert, i.bundle, st.Trust, svid.Domain(cert.ID)))
}

// revoked reports whether a certificate, or an authority above it, was denied.
func revoked(is func(kind, id string, issued time.Time) bool, v svid.Verified) bool {
	var always time.Time // such revocations count whatever the date
	return is(wire.RevokedSerial, v.Issuer()+"."+v.Serial(), always) ||
		slices.ContainsFunc(v.Issuers, func(issuer string) bool { return is(wire.RevokedIssuer, issuer, always) })
}

func (i *identity) nudge() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

func snapshotOf(cert svid.Snapshot, bundle []byte, t wire.Trust, own string) *workload.Snapshot {
	next := &workload.Snapshot{ID: cert.ID, Chain: cert.Certificate.Certificate, Roots: maps.Clone(t.Federated), JWT: t.JWT}
	if next.Roots == nil {
		next.Roots = map[string][]byte{}
	}
	if next.Key, _ = cert.Certificate.PrivateKey.(crypto.Signer); t.Version != 0 {
		bundle = t.Roots
	}
	next.Roots[own] = bundle
	if next.JWT[own] == nil { // ours is always told of (Workload API section 6.2.2)
		next.JWT = maps.Clone(t.JWT)
		if next.JWT == nil {
			next.JWT = map[string][]byte{}
		}
		next.JWT[own] = []byte(`{"keys":[]}`)
	}
	return next
}

// giveLocked puts a state in force unless it is the one that is.
func (i *identity) giveLocked(next *workload.Snapshot) {
	version := uint64(0)
	if old := i.given; old != nil {
		version = old.Version
		if i.why == nil && same(old, next) {
			return
		}
	}
	next.Version = version + 1
	i.given, i.why = next, nil
	i.announceLocked()
}

// refuseLocked has nothing given out, for this reason.
func (i *identity) refuseLocked(why error) {
	if i.why != nil && rampart.KindOf(i.why) == rampart.KindOf(why) {
		return
	}
	i.why = why
	i.announceLocked()
}

func (i *identity) announceLocked() {
	close(i.changed)
	i.changed = make(chan struct{})
}

func same(a, b *workload.Snapshot) bool {
	equal := func(x, y []byte) bool { return slices.Equal(x, y) }
	return slices.EqualFunc(a.Chain, b.Chain, equal) && maps.EqualFunc(a.Roots, b.Roots, equal) && maps.EqualFunc(a.JWT, b.JWT, equal)
}
