package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/acme"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// edgeSource is where the public certificate comes from. While it has none that
// holds, handshakes fail: nothing is served under a certificate that the file
// did not ask for.
type edgeSource interface {
	// certificate answers a handshake; nil without an error: the name is not ours.
	certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// run keeps the certificate fresh until ctx ends.
	run(ctx context.Context)
	// state is what heartbeats say.
	state() []wire.EdgeCert
}

// openEdge chooses the source that the file names. Names and source are those
// of the start: a gateway is restarted to change them.
func (g *Gateway) openEdge(ctx context.Context, sys *spec.System) (edgeSource, []string, error) {
	svc := sys.Services[g.opt.Name]
	switch {
	case svc.ACME != nil:
		s, err := g.openACME(sys, svc)
		return s, []string{acme.Protocol}, err
	case svc.Cert != nil:
		return newFileCert(*svc.Cert, svc.Names, g.opt.Now, g.edgeEvent), nil, nil
	}
	s := &localCert{link: g.opt.Link, log: g.opt.Logger, now: g.opt.Now}
	if err := s.renew(ctx); err != nil {
		return nil, nil, fmt.Errorf("public certificate: %w", err)
	}
	for _, name := range svc.Names {
		if c := s.cert.Load(); c.Leaf.VerifyHostname(name) != nil {
			g.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "the local CA may not vouch for a public name: add acme or certificate to the gateway", slog.String("name", name))
		}
	}
	return s, nil, nil
}

// tlsConfig is the public listener's.
func (g *Gateway) tlsConfig(sys *spec.System, src edgeSource, protocols []string) *tls.Config {
	cfg := profile.Edge(src.certificate, protocols...)
	if sys.Off("tls.min13") {
		cfg.MinVersion = tls.VersionTLS12
	}
	return cfg
}

// edgeEvent puts on record that a public certificate came, or why none did.
func (g *Gateway) edgeEvent(name string, err error) {
	e := audit.Event{Class: audit.ClassKey, Action: "edge_cert.load", Outcome: audit.Allowed, Control: "tls.min13", Resource: "edge:" + name}
	level, text := slog.LevelInfo, "new public certificate"
	if err != nil {
		e.Outcome, e.Detail = audit.Failed, map[string]string{"error": shortened(err.Error(), 400)}
		level, text = slog.LevelError, "no new public certificate; one that is there already is served while it holds"
	}
	g.opt.Logger.LogAttrs(context.Background(), level, text, slog.String("name", name), slog.Any("error", err))
	if rerr := g.opt.Audit.Record(context.Background(), e); rerr != nil {
		g.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "audit", slog.Any("error", rerr))
	}
}

func shortened(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "?") }

// reportEvery is how often heartbeats learn how the certificates stand.
const reportEvery = 5 * time.Second

// watchEdge tells the control plane how the certificates stand, and warns once a
// day of one that nears its end: a source that works has renewed it long before.
func (g *Gateway) watchEdge(ctx context.Context, src edgeSource) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var warned time.Time
	for {
		state := src.state()
		g.opt.Link.ReportEdge(state)
		if now := g.opt.Now(); now.Sub(warned) > 24*time.Hour {
			for _, c := range state {
				if c.Late(now) {
					warned = now
					g.opt.Logger.LogAttrs(ctx, slog.LevelError, "a public certificate ends soon", slog.String("name", c.Name), slog.Time("end", c.NotAfter), slog.String("error", c.Error))
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// certificateSeconds is how long the public certificate holds that ends first, 0
// when one is missing.
func (g *Gateway) certificateSeconds() int {
	src := g.edge.Load()
	if src == nil {
		return 0
	}
	var first time.Time
	for _, c := range (*src).state() {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
		if c.NotAfter.IsZero() {
			return 0
		}
	}
	return max(0, int(first.Sub(g.opt.Now()).Seconds()))
}

// identitySeconds is how long the gateway's own certificate among the planes
// holds, 0 when it does not.
func (g *Gateway) identitySeconds() int {
	own, err := g.opt.Link.Source().Current()
	if err != nil {
		return 0
	}
	return max(0, int(own.NotAfter.Sub(g.opt.Now()).Seconds()))
}

// acmeCert is the source for a public authority.
type acmeCert struct{ edge *acme.Edge }

func (g *Gateway) openACME(sys *spec.System, svc spec.Service) (edgeSource, error) {
	client, err := acmeClient(sys, *svc.ACME)
	if err != nil {
		return nil, err
	}
	return acmeCert{acme.New(acme.Options{
		Names: svc.Names, Directory: svc.ACME.Directory, Email: svc.ACME.Email, Profile: svc.ACME.Profile, Client: client, HTTP: g.opt.HTTP != "",
		Call: func(ctx context.Context, q wire.EdgeStoreRequest) (a wire.EdgeStoreAnswer, err error) {
			return a, g.opt.Link.Call(ctx, http.MethodPost, wire.PathEdgeStore, q, &a)
		},
		Logger: g.opt.Logger, OnEvent: func(e acme.Event) { g.edgeEvent(e.Name, e.Err) }, Check: g.opt.EdgeCheck, Now: g.opt.Now,
	})}, nil
}

// acmeClient calls the authority's host and no other, over verified TLS, without
// a proxy of the environment's.
func acmeClient(sys *spec.System, a spec.ACME) (*http.Client, error) {
	u, err := url.Parse(a.Directory)
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if a.CA != "" {
		pem, ok := sys.Resource(a.CA)
		if roots = x509.NewCertPool(); !ok || !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", a.CA)
		}
	}
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: profile.External(u.Hostname(), roots, tls.VersionTLS12), ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (a acmeCert) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.edge.Certificate(hello)
}

func (a acmeCert) run(ctx context.Context) { a.edge.Run(ctx) }

func (a acmeCert) state() []wire.EdgeCert {
	var out []wire.EdgeCert
	for _, s := range a.edge.State() {
		c := wire.EdgeCert{Name: s.Name, Source: "acme", NotBefore: s.NotBefore, NotAfter: s.NotAfter}
		if s.Err != nil {
			c.Error = shortened(s.Err.Error(), wire.MaxReason)
		}
		out = append(out, c)
	}
	return out
}

// localCert is the source for localhost: the local CA, whose roots the clients
// of a development machine trust.
type localCert struct {
	link *planelink.Link
	log  *slog.Logger
	now  func() time.Time
	cert atomic.Pointer[tls.Certificate]

	mu   sync.Mutex // guards last
	last error
}

func (l *localCert) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return holding(l.cert.Load(), l.now())
}

// holding refuses to serve a certificate that has expired.
func holding(cert *tls.Certificate, now time.Time) (*tls.Certificate, error) {
	if cert == nil || now.After(cert.Leaf.NotAfter) {
		return nil, rampart.Errorf(rampart.Unavailable, "tls.min13", "tls: there is no certificate that holds")
	}
	return cert, nil
}

// renew fetches the certificate. The key is born here and dies with the process.
func (l *localCert) renew(ctx context.Context) error {
	err := l.fetch(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
	return err
}

func (l *localCert) fetch(ctx context.Context) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	var id wire.Identity
	if err := l.link.Call(ctx, http.MethodPost, wire.PathEdgeCert, wire.RenewRequest{CSR: csr}, &id); err != nil {
		return err
	}
	if len(id.Chain) == 0 {
		return errors.New("the control plane sent no certificate")
	}
	leaf, err := x509.ParseCertificate(id.Chain[0])
	if err != nil {
		return err
	}
	l.cert.Store(&tls.Certificate{Certificate: id.Chain, PrivateKey: key, Leaf: leaf})
	return nil
}

// run renews at half the life, and at a twentieth of it from then on until that
// works; and once when the authority signs with another root.
func (l *localCert) run(ctx context.Context) {
	moved := make(chan struct{}, 1)
	signs := l.link.State().Trust.Signs
	l.link.OnState(func(s *planelink.State) {
		if s.Trust.Signs == signs {
			return
		}
		signs = s.Trust.Signs
		select {
		case moved <- struct{}{}:
		default:
		}
	})
	for {
		leaf := l.cert.Load().Leaf
		issued := leaf.NotBefore.Add(ca.Skew)
		life := leaf.NotAfter.Sub(issued)
		timer := time.NewTimer(max(issued.Add(life/2).Sub(l.now()), life/20, time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-moved:
			timer.Stop()
		}
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.LogAttrs(ctx, slog.LevelError, "public certificate not renewed", slog.Any("error", err))
		}
	}
}

func (l *localCert) state() []wire.EdgeCert {
	l.mu.Lock()
	defer l.mu.Unlock()
	leaf := l.cert.Load().Leaf
	c := wire.EdgeCert{Name: strings.Join(slices.Clone(leaf.DNSNames), " "), Source: "local CA", NotBefore: leaf.NotBefore.Add(ca.Skew), NotAfter: leaf.NotAfter}
	if l.last != nil {
		c.Error = shortened(l.last.Error(), wire.MaxReason)
	}
	return []wire.EdgeCert{c}
}
