// Package sidecar stands beside one service: inbound it is the policy
// enforcement point behind mutual TLS, outbound it is the only way out, and on
// a Unix socket it answers the service's own questions (may this subject touch
// this very object, which secret, which key).
//
// It composes; every judgement is a domain's.
package sidecar

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// Options configure a Sidecar. All but those behind State are required.
type Options struct {
	Service  string // its name in rampart.yaml
	Link     *planelink.Link
	Audit    audit.Recorder
	Logger   *slog.Logger
	Inbound  net.Listener // mutual TLS is laid over it
	Outbound net.Listener // loopback TCP, for services in any language
	Socket   string       // path of the Unix socket, for the SDK
	Workload string       // path of the Unix socket of the SPIFFE Workload API; required when the file says workload
	Upstream string       // http://127.0.0.1:PORT of the service
	StandIns string       // folder where stand-ins of externals leave their CA as NAME.pem
	DataDir  string       // folder for the service's own embedded stores
	// SecretsDir is a folder in memory, of mode 0700, for secrets that rampart.yaml
	// delivers by file; "" where there is none.
	SecretsDir string
	State      *statedir.Dir // where policies and decisions are kept
	Now        func() time.Time
	Clock      func() error // of pdp.Options; nil trusts the clock
	// Observe, of pdp.Options, gets each decision beside the decision log; nil: nobody does.
	Observe func(ctx context.Context, q pdp.Question, d rampart.Decision) error
	// Decisions is how many one asker gets in any second, over the decision point or
	// many at once; 0: 5000.
	Decisions int
	// TestPolicies runs the tests that a bundle brings, before it is put in force;
	// nil runs none.
	TestPolicies func(ctx context.Context, set pap.Set, service string) error
	// WorkloadUIDs are the users whose processes get the service's certificate at
	// Workload; none: the one that this process runs as.
	WorkloadUIDs []uint32
}

// Sidecar serves one service. Safe for concurrent use.
type Sidecar struct {
	opt            Options
	loading        sync.Mutex // held while a configuration is compiled
	table          atomic.Pointer[table]
	reloaded       chan struct{} // holds one when a new table waits for consume
	identityKey    ed25519.PrivateKey
	identityPublic ed25519.PublicKey // of identityKey, for the service
	upstream       *url.URL
	secrets        *secrets.Cache
	forgets        *forgets
	keysOut        keysOut
	inUse          *inUse
	files          *files // nil: no secret is delivered by file
	handles        handles
	tokens         verifiers
	queues         queues
	pdpHandler     http.Handler // OpenID AuthZEN
	relations      relations
	policies       *bundle.Plane
	asks           ratelimit.Limiter // decisions by who asks
}

// New returns a sidecar that enforces the link's configuration.
func New(opt Options) (*Sidecar, error) {
	if opt.Link == nil || opt.Audit == nil || opt.Logger == nil || opt.Inbound == nil || opt.Outbound == nil || opt.State == nil {
		return nil, errors.New("sidecar: link, audit log, logger, state folder and listeners are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	s := &Sidecar{opt: opt, reloaded: make(chan struct{}, 1), handles: handles{now: opt.Now}, tokens: verifiers{now: opt.Now},
		relations: relations{now: opt.Now, log: opt.Logger}, asks: newAsks(opt.Decisions, opt.Now)}
	var err error
	if s.identityPublic, s.identityKey, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	s.pdpHandler = s.decisionPoint()
	if s.upstream, err = url.Parse(opt.Upstream); err != nil || s.upstream.Host == "" {
		return nil, fmt.Errorf("sidecar: upstream %q is no address", opt.Upstream)
	}
	s.keysOut = keysOut{state: opt.State, file: filepath.Join("handed", opt.Service), now: opt.Now}
	s.forgets, s.inUse = newForgets(opt.Now, s.keysOut.until()), newInUse(opt.Now)
	s.secrets = secrets.NewCache(secretsOf{opt.Link, s.inUse.fetched}, secrets.CacheOptions{TTLOf: s.cacheTime, Now: opt.Now, OnStale: s.staleSecret})
	s.relations.secret = s.secretText
	opt.Link.OnState(func(*planelink.State) {
		err := s.reload()
		if err != nil {
			opt.Logger.LogAttrs(context.Background(), slog.LevelError, "new configuration refused, the last good one stays", slog.Any("error", err))
		}
		if t := s.table.Load(); t != nil {
			opt.Link.Enforces(t.sys, err)
		}
	})
	if err := s.reload(); err != nil {
		return nil, err
	}
	if s.table.Load() == nil {
		return nil, errors.New("sidecar: the link has no configuration yet")
	}
	opt.Link.Enforces(s.table.Load().sys, nil)
	if err := s.openPolicies(context.Background()); err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	if s.files, err = s.openFiles(); err != nil {
		return nil, err
	}
	s.obey()
	return s, nil
}

func (s *Sidecar) reload() error {
	s.loading.Lock()
	defer s.loading.Unlock()
	st := s.opt.Link.State()
	if old := s.table.Load(); st.System == nil || old != nil && old.sys == st.System {
		return nil
	}
	t, err := s.compile(st.System)
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	s.relations.adopt(t.sys, t.graph)
	s.table.Store(t)
	select {
	case s.reloaded <- struct{}{}:
	default: // one waits already
	}
	return nil
}

// Run serves until ctx ends, then drains for five seconds. When one of its
// listeners fails, all end: half a sidecar is none.
func (s *Sidecar) Run(ctx context.Context) error {
	sock, err := listenUnix(s.opt.Socket)
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	inbound := profile.NewMTLSListener(s.opt.Inbound, s.opt.Link.Source(), s.allowPeer, profile.ListenerOptions{
		OnRefuse: s.refusedHandshake, MaxConns: 4096, MaxPerIP: 4096, Now: s.opt.Now,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx, inbound, http.HandlerFunc(s.inbound)) })
	g.Go(func() error { return s.serve(ctx, s.opt.Outbound, notBrowsers(s.outboundMux())) })
	if s.files != nil {
		first, cancel := context.WithTimeout(ctx, firstFiles)
		s.files.renew(first)
		cancel()
		g.Go(func() error { return s.files.run(ctx) })
	}
	g.Go(func() error { return s.serve(ctx, ownPeers{sock}, s.agentMux()) })
	g.Go(func() error { return s.consume(ctx) })
	g.Go(func() error { return s.policies.Run(ctx) })
	if s.table.Load().svc.Envoy {
		g.Go(func() error { return s.serveEnvoy(ctx) })
	}
	if s.table.Load().svc.Workload {
		g.Go(func() error { return s.serveWorkload(ctx) })
	}
	defer s.relations.close()
	return errors.Join(g.Wait(), s.policies.Close())
}

// listenUnix makes the socket readable by its owner alone, from the first
// moment on.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600) // the folder around it is 0700 already
}

func (s *Sidecar) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            5 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               maxHead,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.opt.Logger.Handler(), slog.LevelDebug),
		HTTP2:                        streams(),
	}
	switch inner := l.(type) {
	case *profile.Listener:
		inner.Protect(srv, s.refusePeer)
		l = s.guarded(inner)
	case ownPeers:
		srv.ConnContext = withConn
	}
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("sidecar: %w", err)
	}
	<-drained // Serve returns as the drain begins
	return nil
}

// guarded frames HTTP/1 as the gateway does: who speaks mutual TLS may still be
// in the wrong hands.
func (s *Sidecar) guarded(l net.Listener) net.Listener {
	if s.table.Load().sys.Off("http.framing") {
		return l
	}
	return framing.NewListener(l, framing.Options{MaxHead: maxHead, OnRefuse: func(peer net.Addr, r framing.Rule) {
		s.record(context.Background(), audit.Event{Class: "network", Action: "http.framing " + r.Code(), Outcome: audit.Refused, Control: "http.framing",
			Code: r.Code(), Peer: peer.String(), Detail: map[string]string{"error": r.String()}})
	}})
}

// maxHead bounds the head of a request.
const maxHead = 64 << 10

// allowPeer lets in only those whom a declared flow leads here.
func (s *Sidecar) allowPeer(id string) error {
	t := s.table.Load()
	if _, ok := t.callers[id]; ok || t.sys.Off("mtls.peer_declared") {
		return nil
	}
	return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "no flow leads from %s to %s", id, s.opt.Service)
}

// refusePeer answers a request on a connection whose peer is not welcome any more.
func (s *Sidecar) refusePeer(w http.ResponseWriter, r *http.Request, err error) {
	a := &arrival{table: s.table.Load(), trace: trace.Of(r.Header)}
	a.r = r.WithContext(rampart.WithTrace(r.Context(), a.trace))
	if peer, ok := svid.PeerOf(r.TLS); ok {
		a.caller = peer.ID
	}
	s.refuse(w, a, err)
}

func (s *Sidecar) refusedHandshake(peer net.Addr, err error) {
	control := "mtls.required"
	if e, ok := errors.AsType[*rampart.Error](err); ok && e.Control != "" {
		control = e.Control
	}
	s.record(context.Background(), audit.Event{Class: "network", Action: "handshake", Outcome: audit.Refused, Control: control,
		Peer: peer.String(), Detail: map[string]string{"error": err.Error()}})
}

// record writes an event whose loss must not change an answer that is a
// refusal anyway.
func (s *Sidecar) record(ctx context.Context, e audit.Event) {
	if err := s.opt.Audit.Record(ctx, e); err != nil {
		s.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
}
