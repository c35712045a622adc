// Package planelink is a plane's end of the control stream: it joins, keeps
// the plane's SVID fresh, holds the newest configuration, keys, endpoints and
// revocations, and reports the plane's health once a second.
//
// The control plane may go away: everything last received stays in force, and
// Age tells callers how old it is, so that they can close at their own bound.
package planelink

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/svid"
)

// Control ids of refusals.
const (
	controlBound   = "revocation.bound" // closes flows when revocations may be waiting
	controlPeer    = "mtls.peer_declared"
	controlRevoked = "mtls.revocation" // voids certificates before they end
)

// Options configure a Link. Control, Domain, Roots, Join or Proof, and Plane are
// required.
type Options struct {
	Control    string // host:port of the control plane
	Domain     string // SPIFFE trust domain
	Roots      []byte // PEM of the roots that vouch for the control plane
	Join       string // one-time token; "": Proof lets the plane in
	Proof      *Proof // that lasts; nil: a plane whose certificate expired ends, and needs a new token
	Plane      string // "gateway/NAME", "sidecar/NAME" or "queue/NAME"
	Throwaway  bool   // the plane's state folder is a throw-away one
	Logger     *slog.Logger
	AuditHead  func() (seq uint64, hash [32]byte) // nil: the plane keeps no audit log
	ListenAddr func() string                      // address to publish; nil: none
	Now        func() time.Time                   // nil: time.Now
}

// State is what the control plane last said. It is immutable.
type State struct {
	System    *spec.System
	Keys      wire.Keys // without those that were revoked
	Endpoints wire.Endpoints
	Policies  []byte     // the newest signed policy bundle, nil when there is none; not verified here
	Shadow    []byte     // one to try beside it
	Trust     wire.Trust // in force, as Source().Trust() holds it; version 0 before the first
	Epoch     uint64     // grows with every revocation: caches of older epochs are void
	published wire.Keys
	revoked   map[revokedID]wire.Revocation
	keysLost  bool // a signing key is among the revoked
}

type revokedID struct{ kind, id string }

// Link is a running connection to the control plane. Safe for concurrent use.
type Link struct {
	opt      Options
	instance string
	state    atomic.Pointer[State]
	gen      atomic.Pointer[Generation]
	source   svid.Source  // what listeners show: follows renewals; whom all of this process believe
	lastBeat atomic.Int64 // unix nanoseconds: what was revoked until then is known
	notAfter atomic.Int64
	renewal  renewal
	resolved resolutions
	answers  answers
	called   called
	forget   forgetting

	policies atomic.Pointer[policies]
	edge     atomic.Pointer[[]wire.EdgeCert]
	enforced atomic.Pointer[enforced]
	refused  atomic.Pointer[string] // why the newest configuration is not in State; nil: it is
	bans     atomic.Pointer[func() wire.Bans]
	health   atomic.Pointer[func() wire.EdgeHealth]

	mu       sync.Mutex // guards below
	watchers []func(*State)
	clocks   []func(server time.Time)
}

// Dial joins with the one-time token and returns a link whose first
// configuration has arrived. Run must be called to keep it alive.
func Dial(ctx context.Context, opt Options) (*Link, error) {
	if opt.Logger == nil || opt.Plane == "" || opt.Domain == "" {
		return nil, errors.New("planelink: plane, trust domain and logger are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	id := make([]byte, 8)
	rand.Read(id)
	l := &Link{opt: opt, instance: hex.EncodeToString(id)}
	l.renewal.wake = make(chan struct{}, 1)
	l.source.Deny(l.denied)
	l.state.Store(&State{})
	if err := l.enter(ctx); err != nil {
		return nil, fmt.Errorf("planelink: join: %w", err)
	}
	return l, nil
}

// State returns what is in force now.
func (l *Link) State() *State { return l.state.Load() }

// Now returns the current certificate generation: calls made with it present
// one and the same certificate, so that tokens bound to it fit.
func (l *Link) Now() *Generation { return l.gen.Load() }

// Source returns the SVID source for listeners.
func (l *Link) Source() *svid.Source { return &l.source }

// Age bounds how old this plane's view of revocations is: each that the control
// plane published longer ago is known here.
func (l *Link) Age() time.Duration {
	return l.opt.Now().Sub(time.Unix(0, l.lastBeat.Load()))
}

// Bound refuses a request on a flow whose bound the view of revocations has
// outgrown: the one that matters may be waiting at a control plane that this
// plane cannot hear.
func (l *Link) Bound(sys *spec.System, f spec.Flow) error {
	if l.Age() <= sys.StaleAfter(f) || sys.Off(controlBound) {
		return nil
	}
	err := rampart.Errorf(rampart.Unavailable, controlBound, "it is not known whether you still may do this; try again")
	return problem.With(err, problem.Details{RetryAfter: time.Second})
}

// OnState calls fn for every later state, from the link's own goroutine.
func (l *Link) OnState(fn func(*State)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = append(l.watchers, fn)
}

// OnTime calls fn with the control plane's clock, about once a second, as its
// beats arrive; fn must not block.
func (l *Link) OnTime(fn func(server time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clocks = append(l.clocks, fn)
}

// Heard is when the control plane had sent what this plane heard last, at the
// latest, by this plane's clock. It is long ago before the first state.
func (l *Link) Heard() time.Time { return time.Unix(0, l.lastBeat.Load()) }

// policies is what heartbeats say of policies.
type policies struct {
	version uint64
	shadow  wire.Shadow
	refused []wire.Refused
}

// ReportPolicies tells the control plane, with the next heartbeat, which bundle
// this plane decides by, how one that is tried beside it would decide, and which
// it was offered and refused.
func (l *Link) ReportPolicies(version uint64, shadow wire.Shadow, refused []wire.Refused) {
	l.policies.Store(&policies{version, shadow, refused})
}

// enforced is what heartbeats say of the configuration.
type enforced struct{ digest, why string }

// Enforces tells the control plane, with the next heartbeat, which configuration
// this plane enforces, and why not the newest, nil if it does. A plane that never
// calls it enforces what State has.
func (l *Link) Enforces(sys *spec.System, why error) {
	e := enforced{digest: sys.Bundle().Digest}
	if why != nil {
		e.why = reason(why)
	}
	l.enforced.Store(&e)
}

// reason is an error as far as a heartbeat has room for it.
func reason(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), wire.MaxReason)], "")
}

// sayConfig writes into a heartbeat what this plane enforces.
func (l *Link) sayConfig(hb *wire.Heartbeat) {
	if sys := l.State().System; sys != nil {
		hb.Digest = sys.Bundle().Digest
	}
	if e := l.enforced.Load(); e != nil {
		hb.Digest, hb.Unenforced = e.digest, e.why
	}
	if why := l.refused.Load(); why != nil {
		hb.Unenforced = *why
	}
}

// ReportEdge tells the control plane, with the next heartbeat, how the public
// certificates stand.
func (l *Link) ReportEdge(certs []wire.EdgeCert) { l.edge.Store(&certs) }

// WaitSystem blocks until the configuration has arrived.
func (l *Link) WaitSystem(ctx context.Context) (*spec.System, error) {
	got := make(chan struct{}, 1)
	l.OnState(func(s *State) {
		if s.System != nil {
			select {
			case got <- struct{}{}:
			default:
			}
		}
	})
	for {
		if sys := l.State().System; sys != nil {
			return sys, nil
		}
		select {
		case <-got:
		case <-ctx.Done():
			return nil, fmt.Errorf("planelink: no configuration from the control plane: %w", ctx.Err())
		}
	}
}

// Run keeps the SVID fresh, follows the stream and sends heartbeats until ctx
// ends or the SVID expires for want of a control plane.
func (l *Link) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{l.renewLoop, l.watchLoop, l.beatLoop} {
		wg.Go(func() { cancel(f(ctx)) })
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Revoked reports whether a credential is void: kind and id as in
// wire.Revocation, issued when the credential was minted.
func (s *State) Revoked(kind, id string, issued time.Time) bool {
	r, ok := s.revoked[revokedID{kind, id}]
	return ok && !issued.After(r.NotBefore)
}

// PrincipalRevoked reports whether a credential of p is void that was issued
// then: by its login (the sid of a client's tokens is their refresh family), its
// subject, client or tenant, or because any service that it came through was
// disabled since.
func (s *State) PrincipalRevoked(p rampart.Principal, issued time.Time) bool {
	if len(s.revoked) == 0 {
		return false
	}
	for _, id := range [...]revokedID{
		{"sid", p.Session}, {"family", p.Session}, {"sub", p.Subject}, {"svid", p.Subject}, {"client", p.Client}, {"tenant", p.Tenant},
	} {
		if id.id != "" && s.Revoked(id.kind, id.id, issued) {
			return true
		}
	}
	return slices.ContainsFunc(p.Actors, func(actor string) bool { return s.Revoked("svid", actor, issued) })
}

// tick passes the control plane's time on.
func (l *Link) tick(server time.Time) {
	l.mu.Lock()
	clocks := l.clocks[:len(l.clocks):len(l.clocks)]
	l.mu.Unlock()
	for _, fn := range clocks {
		fn(server)
	}
}

func (l *Link) setState(s *State) {
	l.state.Store(s)
	l.mu.Lock()
	watchers := l.watchers[:len(l.watchers):len(l.watchers)]
	l.mu.Unlock()
	for _, fn := range watchers {
		fn(s)
	}
}
