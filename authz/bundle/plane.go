package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
)

// PlaneOptions configure a Plane. Link, State, Name and Record are required; the
// link has its configuration.
type PlaneOptions struct {
	Link    *planelink.Link
	State   *statedir.Dir
	Name    string // "gateway/edge", "sidecar/orders"
	Service string // whose policies count; "" is the gateway
	// Compile makes a decision point of a set. The options that it gets are of
	// the set for the service, with version, clock, age and log filled in; it adds
	// graph and providers. If nil, pdp.New is enough.
	Compile func(set pap.Set, o pdp.Options) (*pdp.PDP, error)
	Test    func(ctx context.Context, set pap.Set, service string) error // see ActivatorOptions
	// Activated is called after each change of the active bundle, and must not
	// block. If nil, nobody is.
	Activated func()
	Clock     func() error // see pdp.Options
	Record    func(ctx context.Context, e Event) error
	Logger    *slog.Logger     // if nil, slog.Default
	Now       func() time.Time // if nil, time.Now
}

// Plane is what one plane decides by: the bundles that its link delivers, taken
// over one after the other, and the log of what they decided. Safe for
// concurrent use. Run must be called, and Close after it.
type Plane struct {
	*Activator
	Log   *decisionlog.Log
	link  *planelink.Link
	ready atomic.Pointer[Activator] // for the log, which opens first
}

// OpenPlane opens the log and the last good bundle of a plane, and judges the
// one that the link has. A plane without a good bundle opens too: it denies.
func OpenPlane(ctx context.Context, o PlaneOptions) (*Plane, error) {
	if o.Link == nil || o.State == nil || o.Name == "" || o.Record == nil || o.Link.State().System == nil {
		return nil, errors.New("bundle: a link that has its configuration, a state folder, the plane's name and an audit log are required")
	}
	if o.Compile == nil {
		o.Compile = func(_ pap.Set, o pdp.Options) (*pdp.PDP, error) { return pdp.New(o) }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Plane{link: o.Link}
	var err error
	p.Log, err = decisionlog.Open(decisionlog.Options{State: o.State, Plane: o.Name, Settings: p.logSettings, Each: p.observed, Wanted: p.compares, Logger: o.Logger, Now: o.Now})
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	p.Activator, err = NewActivator(ctx, ActivatorOptions{
		System: o.Link.State().System.Info.TrustDomain, Service: o.Service, State: o.State, Plane: o.Name,
		Settings: p.settings, Compile: p.compiler(o), Test: o.Test, Activated: o.Activated, Log: p.Log, Record: o.Record, Logger: o.Logger, Now: o.Now,
	})
	if err != nil {
		return nil, errors.Join(err, p.Log.Close())
	}
	p.ready.Store(p.Activator)
	o.Link.OnState(func(s *planelink.State) { p.Offer(s.Policies, s.Shadow) })
	p.Offer(o.Link.State().Policies, o.Link.State().Shadow)
	p.Settle(ctx)
	p.report()
	return p, nil
}

func (p *Plane) compiler(o PlaneOptions) func(pap.Set, uint64) (*pdp.PDP, error) {
	return func(set pap.Set, version uint64) (*pdp.PDP, error) {
		opt := set.Options(o.Service)
		opt.Policy, opt.Now, opt.Clock = version, o.Now, o.Clock
		opt.Fresh = func() error { return p.Fresh() }
		opt.Observe = p.Log.Observe
		return o.Compile(set, opt)
	}
}

// observed is called by the log, which opens first.
func (p *Plane) observed(q pdp.Question, d rampart.Decision) {
	if a := p.ready.Load(); a != nil {
		a.Observed(q, d)
	}
}

// compares reports whether decisions are compared with a candidate's.
func (p *Plane) compares() bool {
	a := p.ready.Load()
	return a != nil && a.shadow.Load() != nil
}

// settings are those of the configuration in force.
func (p *Plane) settings() Settings {
	st := p.link.State()
	b := st.System.Authz.Bundle
	s := Settings{MaxStaleness: time.Duration(b.MaxStaleness), Replay: b.Replay, MaxChanged: b.MaxChanged, Heard: p.link.Heard(), Context: st.System.Bundle().Digest}
	var err error
	if len(b.Keys) > 0 {
		s.Keys, err = ParseKeys(b.Keys)
	} else if st.Keys.Policy != nil {
		s.Keys, err = ParseJWKS(st.Keys.Policy)
	}
	if err != nil {
		s.Keys = nil // trusts nobody
	}
	return s
}

func (p *Plane) logSettings() decisionlog.Settings {
	a := p.link.State().System.Authz
	s := decisionlog.Settings{Deny: a.Log.Overflow == "deny", Keep: time.Duration(a.Log.Keep)}
	if act := p.ready.Load(); act != nil && act.Active() != nil {
		s.Schema = act.Active().Set.Schema
	}
	return s
}

// Run takes over what is delivered, and reports what is in force, until ctx
// ends.
func (p *Plane) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.Activator.Run(ctx) }()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			p.report()
		}
	}
}

func (p *Plane) report() {
	version, d := p.Shadow()
	p.link.ReportPolicies(p.Version(), wire.Shadow{Version: version, Compared: d.Replayed, Allows: d.Allows, Denies: d.Denies}, p.refused())
}

// refused is what a heartbeat has room for.
func (p *Plane) refused() []wire.Refused {
	var out []wire.Refused
	for _, r := range p.Refused() {
		reason := strings.ToValidUTF8(r.Reason[:min(len(r.Reason), wire.MaxReason)], "")
		out = append(out, wire.Refused{Version: r.Version, Code: string(r.Code), Reason: reason})
	}
	return out
}

// Close writes what the log still holds.
func (p *Plane) Close() error { return p.Log.Close() }
