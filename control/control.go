// Package control is the control plane: it holds the keys, says who is who, and
// tells every plane what to enforce. It never faces the internet: planes reach
// it over mutual TLS, people and clients through the gateway alone, and an
// administrator over a Unix socket.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/mfa/passkey"
	"github.com/rampart-security/rampart/authn/password"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/egress"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/secrets/rotate"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/token"
)

// Bounds of the planes' listener.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	maxBody       = 128 << 10 // a secret of 64 KiB in base64
	maxConns      = 4096
	grace         = 3 * time.Second
	sweepEvery    = time.Minute
)

// Options configure a Plane. System, State, Store, Audit, Logger and Listen
// are required.
type Options struct {
	System    *spec.System
	State     *statedir.Dir
	Store     store.Store
	Audit     audit.Recorder
	AuditHead func() (seq uint64, hash [32]byte) // of the control plane's own log; nil: not remembered
	Logger    *slog.Logger
	Now       func() time.Time // nil: time.Now
	Listen    string           // host:port for planes
	Issuer    string           // https://HOST[:PORT]/ of the edge; "": localhost and the port of rampart.yaml
	SVIDTTL   time.Duration    // 10 s to 24 h instead of trust.leaf of the file; 0: that
	Upstream  ca.Signer        // who signs issuing certificates; nil: the backend that trust.upstream names

	// Permissions are all that an operation or a role of the file knows, sorted: a
	// scope must be one of them. None: any of the form "type:verb" is one.
	Permissions []string

	// Examine compiles what only planes use of a file, before one is applied to the
	// running system, and returns its Permissions. If nil, nothing is compiled.
	Examine func(*spec.System) (permissions []string, err error)

	File string // where System was read, for people; "": not known

	// TestPolicies runs the tests that policies bring for a service, before they
	// are shipped. If nil, none are run here; planes run them too.
	TestPolicies func(ctx context.Context, set pap.Set, service string) error

	// RotationHooks carry rotations of generated values to where else they count, by
	// the name of the rotation, "data:NAME". If nil, they count at their readers alone.
	RotationHooks map[string]rotate.Hooks

	// Resolver finds the bundle endpoints of other trust domains. If nil, the
	// system's does.
	Resolver egress.Resolver

	// Replica names this control plane among several on one Store, each with a
	// state folder of its own and the same key file in it. "" is the only one.
	Replica string
}

// Plane is a control plane. Safe for concurrent use.
type Plane struct {
	opt      Options
	alive    atomic.Pointer[living] // the configuration in force
	ids      map[string]identity    // by SPIFFE ID; who is in the file changes with a restart alone
	keys     *keys
	svid     *svid.Source
	sessions *session.Manager
	apikeys  *apikey.Manager
	tokens   *token.Service
	tickets  ticket.Store
	factors  mfa.Store
	hasher   *password.Hasher
	reserve  *password.Hasher // for known devices, when strangers have filled the other's queue
	hub      *hub
	applying applying
	deks     deks
	backends *backends
	guard    *guess.Guard
	policies policies
	planes   planes
	joins    ratelimit.Limiter
	proofs   proofs
	beats    ratelimit.Limiter
	codes    *mfa.Manager
	passkeys *passkey.Manager // nil: the issuer has no host name
	pages    pages
	idps     map[string]*idp // identity providers by name
	public   http.Handler
	rotating sync.Mutex // held while signing keys change

	workloads workloads

	authority authority

	rotations rotations
	leases    *leases
	health    *healthWatch

	mu       sync.Mutex // guards listener and admin
	listener *profile.Listener
	admin    net.Listener

	noticing sync.Mutex // guards noticed
	noticed  uint64     // newest notice that was passed on

	followed atomic.Int64 // when the writes of other control planes were last read, in nanoseconds since 1970
}

// identity is a plane that may join.
type identity struct {
	kind string // "service", "gateway" or "store"
	name string
	id   string // SPIFFE ID
}

// path is how join tokens name the identity, as in the SPIFFE ID.
func (i identity) path() string { return i.kind + "/" + i.name }

// plane is how the identity calls itself in heartbeats and audit logs.
func (i identity) plane() string {
	return map[string]string{"service": "sidecar", "gateway": "gateway", "store": "queue"}[i.kind] + "/" + i.name
}

// New opens the control plane of a state folder. At the first start it creates
// the CA, the KEK, the signing keys and the secrets that the file asks to
// generate, and writes the roots to ca.pem. It opens the listeners; Run serves.
//
// Of the controls that a throw-away file may disable, these live here and are
// left out: limit.login, authn.mfa, secret.acl, token.exchange (declared flow and
// presenter rule), authn.csrf and headers.security of the login page.
func New(opt Options) (*Plane, error) {
	if opt.System == nil || opt.State == nil || opt.Store == nil || opt.Audit == nil || opt.Logger == nil || opt.Listen == "" {
		return nil, errors.New("control: system, state folder, store, audit log, logger and address are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Issuer == "" {
		opt.Issuer = issuerOf(opt.System)
	}
	if err := opt.System.AdmitUnsafe(opt.State.Throwaway()); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	alive, err := compileLiving(opt.System, opt.File)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	alive.permissions = opt.Permissions
	p := &Plane{opt: opt, ids: identities(opt.System), svid: svid.NewSource()}
	p.alive.Store(alive)
	p.policies.trying = make(chan struct{}, 1)
	p.warnUnsafe()
	if err := p.assemble(context.Background()); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if err := p.open(); err != nil {
		p.close()
		return nil, fmt.Errorf("control: %w", err)
	}
	return p, nil
}

// issuerOf derives the edge's public address from the gateway's first name, or
// its listener.
func issuerOf(sys *spec.System) string {
	if names := sys.Services[sys.Gateway()].Names; len(names) > 0 {
		return namedIssuer(names[0], sys.Services[sys.Gateway()].Listen)
	}
	host, port, err := net.SplitHostPort(sys.Services[sys.Gateway()].Listen)
	if err != nil || port == "" {
		return "https://localhost/"
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost"
	}
	return "https://" + net.JoinHostPort(host, port) + "/"
}

// identities derives from the file who may join.
func identities(sys *spec.System) map[string]identity {
	out := map[string]identity{}
	add := func(kind, name, id string) { out[id] = identity{kind, name, id} }
	for name, svc := range sys.Services {
		kind := "service"
		if svc.Role == "gateway" {
			kind = "gateway"
		}
		add(kind, name, sys.ServiceID(name))
	}
	for name, st := range sys.Stores {
		if st.Kind == "nats" {
			add("store", name, sys.StoreID(name))
		}
	}
	return out
}

func (p *Plane) warnUnsafe() {
	if off := p.system().Unsafe.Disable; len(off) > 0 {
		p.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "UNSAFE: CONTROLS ARE OFF in this throw-away system", slog.Any("controls", off))
	}
}

// assemble builds the engines on the store, in order of need.
func (p *Plane) assemble(ctx context.Context) error {
	k, err := openKeys(ctx, p.opt, p.svid)
	if err != nil {
		return err
	}
	p.keys = k
	if err := p.chooseConfig(ctx); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	sys, now := p.system(), p.opt.Now
	others, err := openBackends(ctx, p.opt, p.svid)
	if err != nil {
		return err
	}
	sessionKey, err := k.open(ctx, p.opt, sealedSessionData, randomKey)
	if err != nil {
		return err
	}
	sessions, err := newAtRest(p.opt.Store, sessionKey)
	if err != nil {
		return err
	}
	p.sessions = session.New(session.Options{
		Store: sessions, Key: k.session, Idle: time.Duration(sys.Sessions.Idle), Absolute: time.Duration(sys.Sessions.Absolute), Now: now,
		Ended: p.sessionsEnded,
	})
	p.apikeys = apikey.New(apikey.Options{Store: p.opt.Store, Key: k.apikey, Now: now})
	p.hasher, p.reserve = password.NewHasher(0), password.NewHasher(1)
	p.guard = guess.New(guess.Options{Store: p.opt.Store, Key: k.guess, Now: now})
	p.tickets, p.factors = p.opt.Store, p.opt.Store
	p.hub = newHub(now)
	p.backends = p.newBackends(k.secrets, others)
	p.openRotations()
	p.health = p.newHealthWatch()
	p.deks.fresh = ring.New(keysPerMinute, time.Minute, ring.Options{Now: now})
	p.joins = ring.New(joinsPerMinute, time.Minute, ring.Options{Now: now})
	p.beats = ring.New(beatsPerSecond, time.Second, ring.Options{Now: now})
	p.tokens, err = token.New(ctx, token.Options{
		System: sys, Issuer: p.opt.Issuer, Rings: k.rings, Key: k.token, Store: p.opt.Store, Tickets: p.opt.Store,
		Directory: directory{p}, Audit: p.opt.Audit, OnRevoke: p.revoked, Now: now,
	})
	if err != nil {
		return err
	}
	if p.deks.who, err = k.open(ctx, p.opt, sealedWho, randomKey); err != nil {
		return err
	}
	if err := p.recallNotices(ctx); err != nil {
		return err
	}
	if err := p.openFactors(); err != nil {
		return err
	}
	if p.idps, err = p.newIDPs(); err != nil {
		return err
	}
	if err := p.openPolicies(ctx); err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	p.public = p.publicRoutes()
	if err := p.recall(ctx); err != nil {
		return err
	}
	if err := p.openAuthority(ctx); err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	if err := p.openWorkloads(ctx); err != nil {
		return err
	}
	return p.settle(ctx)
}

// recall puts the endpoints of the last run back, so that a restart of the
// control plane takes no route away from planes that kept serving, and the
// heads of their logs, so that it forgives no cut.
func (p *Plane) recall(ctx context.Context) error {
	heads, err := p.opt.Store.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		p.planes.recall(h)
		p.publishEndpoint(h)
	}
	return nil
}

// open opens both listeners, so that whoever was told their addresses finds
// them even before Run.
func (p *Plane) open() error {
	inner, err := net.Listen("tcp", p.opt.Listen)
	if err != nil {
		return err
	}
	p.svid.Deny(p.deniedPeer)
	p.listener = profile.NewControlListener(inner, p.svid, p.declared, profile.ListenerOptions{
		MaxConns: maxConns, OnRefuse: p.refusedHandshake,
	})
	if p.admin, err = p.openAdmin(); err != nil {
		return err
	}
	return p.openProofs()
}

// declared is asked at each handshake; a store's queue or a service that left
// the file is a stranger.
func (p *Plane) declared(id string) error {
	if _, ok := p.ids[id]; !ok {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %.200s is not in rampart.yaml", id)
	}
	return nil
}

func (p *Plane) close() {
	if p.listener != nil {
		p.listener.Close()
	}
	if p.admin != nil {
		p.admin.Close()
	}
	if p.proofs.socket != nil {
		p.proofs.socket.Close()
	}
}

// Addr returns the address of the planes' listener.
func (p *Plane) Addr() string { return p.listener.Addr().String() }

// AdminSocket returns the path of the admin socket.
func (p *Plane) AdminSocket() string { return p.admin.Addr().String() }

// Run serves until ctx ends, then drains for three seconds. It may be called
// once.
func (p *Plane) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	planes := p.server(p.routes())
	p.listener.Protect(planes, p.refusePeer)
	planes.BaseContext = func(net.Listener) context.Context { return ctx } // ends watches
	admin := p.server(p.adminRoutes())
	admin.ConnContext = withPeer
	attesting := p.server(p.attestRoutes())
	g.Go(func() error { return serve(planes, p.listener) })
	g.Go(func() error { return serve(admin, p.admin) })
	g.Go(func() error { return p.serveProofs(attesting) })
	g.Go(func() error { p.beat(ctx); return nil })
	g.Go(func() error { p.housekeep(ctx); return nil })
	g.Go(func() error { p.turnCredentials(ctx); return nil })
	g.Go(func() error { p.leases.keepAlive(ctx); return nil })
	g.Go(func() error { p.health.run(ctx); return nil })
	g.Go(func() error { p.follow(ctx); return nil })
	g.Go(func() error { p.followPartners(ctx); return nil })
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		return errors.Join(stop(end, planes), stop(end, admin), stop(end, attesting))
	})
	err := g.Wait()
	end, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	p.backends.close(end)
	return err
}

func (p *Plane) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(p.opt.Logger.Handler(), slog.LevelDebug),
	}
}

func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

func stop(ctx context.Context, s *http.Server) error {
	if s.Shutdown(ctx) != nil {
		return s.Close()
	}
	return nil
}

// beat tells watchers once a second that the control plane lives. Nothing that
// may wait for a disk belongs here: planes close when beats stay away.
func (p *Plane) beat(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if p.current() {
				p.hub.beat()
			}
		}
	}
}

// housekeep keeps the own SVID and the issuing certificate fresh, remembers
// the head of the own audit log, and forgets what has expired.
func (p *Plane) housekeep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	swept := p.opt.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.rememberOwnHead(ctx)
		p.refresh(ctx)
		if now := p.opt.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			p.sweep(ctx)
		}
	}
}

// refresh renews the own certificate at half life.
func (p *Plane) refresh(ctx context.Context) {
	own, err := p.svid.Current()
	leaf := own.Certificate.Leaf
	issued := leaf.NotBefore.Add(ca.Skew)
	if err == nil && p.opt.Now().After(issued.Add(leaf.NotAfter.Sub(issued)/2)) {
		err = p.renewOwn(ctx)
	}
	if err != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "certificate renewal failed", slog.Any("error", err))
	}
}

func (p *Plane) sweep(ctx context.Context) {
	p.advanceKeys(ctx)
	p.renewPolicies(ctx)
	p.tendAuthority(ctx)
	p.keys.ring.sweep()
	err := errors.Join(p.sessions.Sweep(ctx), p.tokens.Sweep(ctx), p.guard.Sweep(ctx), p.tickets.SweepTickets(ctx, p.opt.Now()), p.opt.Store.SweepIssued(ctx, p.opt.Now()))
	if err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "sweep failed", slog.Any("error", err))
	}
}
