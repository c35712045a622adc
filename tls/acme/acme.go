// Package acme gets the edge's certificates from a public authority (RFC 8555)
// and keeps them fresh: one order for all gateways, since account, certificates
// and locks are at the control plane.
//
// Names come from rampart.yaml alone: no handshake makes an order. What is
// served is what the authority signed, never a certificate of our own making:
// while there is none, handshakes fail (closed) and State says why. An authority
// that is away stops nobody as long as the stored certificate holds.
//
// Of certmagic, which does the keeping, no package variable is set and no
// listener, TLS configuration or logger is used; its events come out at OnEvent.
package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	acmeproto "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
)

// Protocol is what the authority offers when it comes to see TLS-ALPN-01 (RFC
// 8737 section 6.2). No request is served over it.
const Protocol = acmez.ACMETLS1Protocol

const control = "tls.min13"

// Pauses between attempts at a name that has no certificate yet. An order that
// was refused counts against the authority's limits, a call that did not arrive
// does not.
const (
	awayFirst, awayMost     = 2 * time.Second, 5 * time.Minute
	refuseFirst, refuseMost = time.Minute, time.Hour
	ordersAtOnce            = 4
	defaultCheck            = time.Minute
)

// Call asks the control plane's store. A key that is not there is an error of
// kind rampart.NotFound.
type Call func(context.Context, wire.EdgeStoreRequest) (wire.EdgeStoreAnswer, error)

// Options configure an Edge. Names, Directory, Client, Call and Logger are
// required.
type Options struct {
	Names     []string     // of the certificates, one for each; lower case. The first is for clients that name none
	Directory string       // URL of the authority
	Email     string       // "" gives none
	Profile   string       // of certificates; "": the authority's default
	Client    *http.Client // for calls to the authority
	Call      Call
	HTTP      bool // HTTP-01 is answered too, by Handler
	Logger    *slog.Logger
	// OnEvent hears of certificates that came and of attempts that failed, from
	// many goroutines, and must not block for long. If nil, nobody does.
	OnEvent func(Event)
	Check   time.Duration    // how often certificates are looked at for renewal; 0: a minute
	Now     func() time.Time // nil: time.Now
}

// Event is one outcome of an order.
type Event struct {
	Name    string
	Renewal bool
	Err     error // nil: a certificate came
}

// State is how one name stands.
type State struct {
	Name      string
	NotBefore time.Time // zero: there is no certificate
	NotAfter  time.Time
	Err       error // of the last attempt; nil: it worked, or none was made
}

// Edge holds the certificates. Safe for concurrent use.
type Edge struct {
	opt        Options
	cache      *certmagic.Cache
	config     *certmagic.Config
	challenges *challenges
	orders     chan struct{} // one slot per running order

	mu   sync.Mutex // guards last
	last map[string]error
}

// New returns an Edge. Run must be called: it ends what New began. It panics
// when a required option is missing.
func New(opt Options) *Edge {
	if len(opt.Names) == 0 || opt.Directory == "" || opt.Client == nil || opt.Call == nil || opt.Logger == nil {
		panic("acme: names, directory, client, store and logger are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Check <= 0 {
		opt.Check = defaultCheck
	}
	key := issuerKey(opt.Directory)
	store := newStorage(opt.Call, key, opt.Now)
	e := &Edge{opt: opt, challenges: newChallenges(store, "acme/"+key+"/challenges", opt.Now), orders: make(chan struct{}, ordersAtOnce), last: map[string]error{}}
	quiet := zap.NewNop() // what matters comes out at OnEvent
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return e.config, nil },
		RenewCheckInterval: opt.Check,
		Logger:             quiet,
	})
	e.config = certmagic.New(e.cache, certmagic.Config{
		Issuers:             []certmagic.Issuer{&issuer{opt: opt, key: key, store: store, challenges: e.challenges}},
		Storage:             store,
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OnEvent:             e.heard,
		DisableStorageCheck: true, // each order writes before it asks: the challenge
		Logger:              quiet,
	})
	return e
}

// Run loads the stored certificates, orders those that are missing, and renews
// all when the authority suggests it (RFC 9773), or a third of their life is
// left, until ctx ends.
func (e *Edge) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range e.opt.Names {
		wg.Go(func() { e.manage(ctx, name) })
	}
	<-ctx.Done()
	wg.Wait()
	e.cache.Stop()
}

// manage tries until the name has a certificate; renewals are the cache's.
func (e *Edge) manage(ctx context.Context, name string) {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := e.begin(ctx, name)
		if err == nil || ctx.Err() != nil {
			return
		}
		e.note(name, err)
		pause := pauseAfter(err, failures)
		e.opt.Logger.LogAttrs(ctx, slog.LevelError, "no certificate from the authority; will try again",
			slog.String("name", name), slog.Any("error", err), slog.Duration("in", pause))
		wait(ctx, pause)
	}
}

func (e *Edge) begin(ctx context.Context, name string) error {
	select {
	case e.orders <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.orders }()
	return e.config.ManageSync(ctx, []string{name})
}

// pauseAfter doubles from attempt to attempt.
func pauseAfter(err error, failures int) time.Duration {
	first, most := awayFirst, awayMost
	if _, refused := errors.AsType[acmeproto.Problem](err); refused {
		first, most = refuseFirst, refuseMost
	}
	return min(most, time.Duration(float64(first)*math.Pow(2, float64(min(failures, 20)))))
}

// heard takes certmagic's events.
func (e *Edge) heard(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch event {
	case "cert_obtained":
		e.note(name, nil)
		e.tell(Event{Name: name, Renewal: renewal})
	case "cert_failed":
		err, _ := data["error"].(error)
		if err == nil {
			err = errors.New("the order failed")
		}
		e.note(name, err)
		e.tell(Event{Name: name, Renewal: renewal, Err: err})
	}
	return nil
}

func (e *Edge) tell(ev Event) {
	if e.opt.OnEvent != nil {
		e.opt.OnEvent(ev)
	}
}

func (e *Edge) note(name string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last[name] = err
}

// State says how each name stands, in the order of Options.
func (e *Edge) State() []State {
	out := make([]State, 0, len(e.opt.Names))
	for _, name := range e.opt.Names {
		s := State{Name: name}
		if cert, ok := e.newest(name); ok {
			s.NotBefore, s.NotAfter = cert.Leaf.NotBefore, cert.Leaf.NotAfter
		}
		e.mu.Lock()
		s.Err = e.last[name]
		e.mu.Unlock()
		out = append(out, s)
	}
	return out
}

// newest is the certificate of a name that lasts longest.
func (e *Edge) newest(name string) (best certmagic.Certificate, ok bool) {
	for _, c := range e.cache.AllMatchingCertificates(name) {
		if c.Leaf != nil && (!ok || c.Leaf.NotAfter.After(best.Leaf.NotAfter)) {
			best, ok = c, true
		}
	}
	return best, ok
}

// Certificate answers a handshake: with the name's certificate, or with the
// proof that the authority came for. A name that is not ours is nil without an
// error, which tells the client so (RFC 6066 section 3).
func (e *Edge) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		name = e.opt.Names[0]
	}
	if !slices.Contains(e.opt.Names, name) {
		return nil, nil
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == Protocol {
		return e.challenges.certificate(contextOf(hello), name)
	}
	cert, ok := e.newest(name)
	switch {
	case !ok:
		return nil, rampart.Errorf(rampart.Unavailable, control, "tls: there is no certificate for %s yet", name)
	case e.opt.Now().After(cert.Leaf.NotAfter):
		return nil, rampart.Errorf(rampart.Unavailable, control, "tls: the certificate of %s has expired", name)
	}
	return &cert.Certificate, nil
}

// contextOf is the handshake's; one that was made by hand has none.
func contextOf(hello *tls.ClientHelloInfo) context.Context {
	if ctx := hello.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// Handler answers HTTP-01 for our names and leaves everything else to next.
func (e *Edge) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.ToLower(hostOf(r.Host))
		if !strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") || !e.opt.HTTP || !slices.Contains(e.opt.Names, name) {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		e.challenges.serve(w, r, name)
	})
}

// hostOf is the host of host[:port].
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}
