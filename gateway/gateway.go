// Package gateway is the edge: it composes the stages of a request in order
// and enforces what rampart.yaml says of every flow that starts outside.
//
// It holds one key of its own, the public TLS key; it never sees a long-term
// secret, and no external credential crosses it.
package gateway

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
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/frames"
	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/network/http1"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/ratelimit/ban"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

// Bounds of the public listener.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 15 * time.Second
	bodyGrace     = 5 * time.Second
	bodyRate      = 512 // bytes per second
	stallTimeout  = 20 * time.Second
	wholeTimeout  = 10 * time.Minute
	writeTimeout  = 60 * time.Second // until an answer begins
	idleTimeout   = 60 * time.Second
	drainTime     = 5 * time.Second
	maxHeader     = 32 << 10
)

// Options configure a Gateway. All but Clock and Now are required.
type Options struct {
	Name   string // its service name in rampart.yaml
	Listen string // host:port; "" takes rampart.yaml's
	HTTP   string // host:port without TLS: challenges of a public authority, and redirects; "" opens none
	Link   *planelink.Link
	Audit  audit.Recorder
	Idem   idempotency.Store // of this gateway alone; those that share a load keep keys in the file's limits.store
	State  *statedir.Dir     // where policies and decisions are kept
	Logger *slog.Logger
	Clock  func() error     // of pdp.Options; nil trusts the clock
	Now    func() time.Time // nil: time.Now

	EdgeCheck time.Duration // how often certificates of a public authority are looked at for renewal; 0: a minute
}

// Gateway serves the edge. Safe for concurrent use.
type Gateway struct {
	opt      Options
	loading  sync.Mutex // held while a configuration is compiled
	table    atomic.Pointer[table]
	tokens   edgeTokens
	edge     atomic.Pointer[edgeSource]
	dpop     *possession
	once     *idempotency.Guard
	samples  *samples
	policies *bundle.Plane
	limiters *limiters
	bans     *ban.Ladder
	flight   *inflight
	ending   chan struct{} // closed when what stays open must end
	waf      firewalls
	listener atomic.Pointer[profile.Listener]
	pace     pace

	lingering atomic.Int64 // refused requests whose body is still read

	addr  atomic.Pointer[string]
	plain atomic.Pointer[string]
}

// New returns a gateway that enforces the link's configuration.
func New(opt Options) (*Gateway, error) {
	if opt.Link == nil || opt.Audit == nil || opt.Idem == nil || opt.State == nil || opt.Logger == nil {
		return nil, errors.New("gateway: link, audit log, idempotency store, state folder and logger are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	g := &Gateway{opt: opt, once: idempotency.NewGuard(opt.Idem, opt.Now), bans: ban.New(ban.Options{Now: opt.Now}), flight: newInflight(), ending: make(chan struct{}), pace: usualPace()}
	g.limiters = &limiters{g: g}
	g.samples = newSamples()
	var err error
	if g.dpop, err = newPossession(opt); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	opt.Link.OnState(func(*planelink.State) {
		err := g.reload()
		if err != nil {
			opt.Logger.LogAttrs(context.Background(), slog.LevelError, "new configuration refused, the last good one stays", slog.Any("error", err))
		}
		if t := g.table.Load(); t != nil {
			opt.Link.Enforces(t.sys, err)
		}
	})
	if err := g.reload(); err != nil {
		return nil, err
	}
	if g.table.Load() == nil {
		return nil, errors.New("gateway: the link has no configuration yet")
	}
	opt.Link.Enforces(g.table.Load().sys, nil)
	if err := g.openPolicies(context.Background()); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

// reload compiles a changed configuration aside and swaps it in; requests in
// flight finish on the old one.
func (g *Gateway) reload() error {
	g.loading.Lock()
	defer g.loading.Unlock()
	s := g.opt.Link.State()
	if old := g.table.Load(); s.System == nil || old != nil && old.sys == s.System {
		return nil
	}
	return g.enforceLocked(s.System)
}

// enforceLocked has sys enforced, with the counts that there are.
func (g *Gateway) enforceLocked(sys *spec.System) error {
	t, err := g.limiters.compile(sys)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.meet(t)
	t.remember(g.table.Load())
	t.stages, t.public = g.stages(t), g.publicStages(t)
	g.bans.Set(banRule(sys, g.opt.Name))
	g.table.Store(t)
	g.bound(sys)
	return nil
}

// Addr returns the address of the public listener once Run has opened it.
func (g *Gateway) Addr() string {
	if a := g.addr.Load(); a != nil {
		return *a
	}
	return ""
}

// Run serves until ctx ends, then drains for five seconds. It may be called
// once.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.limiters.close()
	defer g.waf.pool.Close()
	defer g.policies.Close()
	follow, stop := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- g.policies.Run(follow) }()
	defer func() { stop(); <-followed }()
	t := g.table.Load()
	listen := g.opt.Listen
	if listen == "" {
		listen = t.sys.Services[g.opt.Name].Listen
	}
	src, protocols, err := g.openEdge(ctx, t.sys)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.edge.Store(&src)
	inner, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	addr := inner.Addr().String()
	g.addr.Store(&addr)
	l := profile.NewListener(door{inner, g.bans}, g.tlsConfig(t.sys, src, protocols), profile.ListenerOptions{
		OnRefuse: g.refusedHandshake, Hop: g.isHop, Origin: g.announced,
	})
	g.listener.Store(l)
	g.bound(g.table.Load().sys)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return g.serve(ctx, l) })
	if g.opt.HTTP != "" {
		all.Go(func() error { return g.servePlain(ctx, src) })
	}
	all.Go(func() error { src.run(ctx); return nil })
	all.Go(func() error { g.judgeSamples(ctx); return nil })
	g.opt.Link.OnHealth(g.health)
	all.Go(func() error { g.watchBans(ctx); return nil })
	all.Go(func() error { g.watchEdge(ctx, src); return nil })
	return all.Wait()
}

// bound has the listener keep to the file's bounds on connections.
func (g *Gateway) bound(sys *spec.System) {
	if l, e := g.listener.Load(), sys.Services[g.opt.Name].Edge; l != nil && e != nil {
		l.SetMax(e.Connections, e.PerIP)
	}
}

// framed has HTTP/1 framed by the letter before anybody reads it.
func (g *Gateway) framed(l net.Listener) net.Listener {
	if g.table.Load().sys.Off("http.framing") {
		return l
	}
	return framing.NewListener(l, framing.Options{
		MaxHead: maxHeader, OnRefuse: g.refusedFraming, Header: func(h http.Header) { harden(h, g.table.Load()) },
	})
}

// guarded returns the connections that speak HTTP/2, whose frames are counted, for
// net/http, and has one serve the others. Without the guard net/http serves all.
func (g *Gateway) guarded(l net.Listener, one *http1.Server) net.Listener {
	if g.table.Load().sys.Off("http.framing") {
		return l
	}
	return frames.NewListener(one.Listen(g.framed(l)), frames.Options{
		OnRefuse: g.refusedFrames, BlockTime: g.pace.header, LongBlock: maxHeader + 1<<10, // more than net/http adds to it
	})
}

// refusedFraming records bytes that never became a request. The log counts those
// of one address: a flood must not fill it.
func (g *Gateway) refusedFraming(peer net.Addr, r framing.Rule) {
	g.count(context.Background(), peerAddr(peer), weighFraming(r), ban.Protocol)
	e := audit.Event{Class: "network", Action: "http.framing " + r.Code(), Outcome: audit.Refused, Control: "http.framing", Code: r.Code(), Peer: peer.String(), Detail: map[string]string{"error": r.String()}}
	if rerr := g.opt.Audit.Record(context.Background(), e); rerr != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "audit", slog.Any("error", rerr))
	}
}

// refusedFrames records an HTTP/2 connection that was ended, or a head too long.
func (g *Gateway) refusedFrames(peer net.Addr, r frames.Rule) {
	g.count(context.Background(), peerAddr(peer), weighFrames(r), ban.Protocol)
	e := audit.Event{Class: "network", Action: "http.framing " + r.Code(), Outcome: audit.Refused, Control: "http.framing", Code: r.Code(), Peer: peer.String(), Detail: map[string]string{"error": r.String()}}
	if rerr := g.opt.Audit.Record(context.Background(), e); rerr != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "audit", slog.Any("error", rerr))
	}
}

// protocols of the edge. Unencrypted HTTP/2 is what net/http takes a connection
// for whose frames are counted: TLS has ended below.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func (g *Gateway) serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:                      http.HandlerFunc(g.handle),
		Protocols:                    protocols(),
		ReadHeaderTimeout:            g.pace.header,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  g.pace.idle,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true, // else OPTIONS * would be answered outside our stages
		ErrorLog:                     slog.NewLogLogger(g.opt.Logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100, MaxReadFrameSize: 16 << 10,
			MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 1 << 20,
			WriteByteTimeout: g.pace.ahead,
		},
	}
	one := http1.New(http1.Options{
		Handler: srv.Handler, Head: g.pace.header, Idle: g.pace.idle, Answer: writeTimeout, MaxHead: maxHeader, Logger: g.opt.Logger,
	})
	srv.RegisterOnShutdown(func() { close(g.ending) })
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		grace, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		var both sync.WaitGroup // at once: neither takes the time of the other
		both.Go(func() {
			if srv.Shutdown(grace) != nil {
				srv.Close()
			}
		})
		both.Go(func() {
			if one.Shutdown(grace) != nil {
				one.Close()
			}
		})
		both.Wait()
	})
	if err := srv.Serve(g.guarded(l, one)); !errors.Is(err, http.ErrServerClosed) {
		stop()
		one.Close()
		return fmt.Errorf("gateway: %w", err)
	}
	<-drained // Serve returns as the drain begins
	return nil
}

// refusedHandshake records a client that never got as far as a request. Those
// that are banned are counted only: a flood must not fill the log.
func (g *Gateway) refusedHandshake(peer net.Addr, err error) {
	if controlOf(err, "") == controlBan {
		return
	}
	g.count(context.Background(), peerAddr(peer), weighHandshake(err), ban.Other)
	e := audit.Event{Class: "network", Action: "handshake", Outcome: audit.Refused, Control: controlOf(err, "tls.min13"), Peer: peer.String(), Detail: map[string]string{"error": err.Error()}}
	if rerr := g.opt.Audit.Record(context.Background(), e); rerr != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "audit", slog.Any("error", rerr))
	}
}

func controlOf(err error, fallback string) string {
	if e, ok := errors.AsType[*rampart.Error](err); ok && e.Control != "" {
		return e.Control
	}
	return fallback
}
