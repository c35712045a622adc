package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/awssm"
	"github.com/rampart-security/rampart/secrets/file"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// secretControl answers for secrets that cannot be had.
const secretControl = "secret.manager"

// accessBackend is under which name the credentials of stores are read that
// nobody keeps in a backend as they are: of roles that take turns, and of those
// that Vault makes. No backend of the file can have it. The path is the store.
const accessBackend = "access:"

// Bounds of calls to backends. Their own clients have shorter ones for one call.
const (
	backendTimeout = 10 * time.Second
	backendDial    = 3 * time.Second
)

// backends reads secrets where the file says they are. Who may have one is
// decided before it is asked: a value that is remembered serves nobody whose
// flows do not grant it. The embedded store is read each time, as files are;
// what is behind a network is remembered.
//
// Safe for concurrent use after assemble.
type backends struct {
	from   map[string]secrets.Backend // by the name in a reference
	places map[string]secrets.Backend // the same without memory, for administrators
	vaults map[string]*vault.Client
	caches map[string]*secrets.Cache
}

// outside is one backend of the file, opened.
type outside struct {
	secrets.Backend
	vault *vault.Client // of kind vault, else nil
	aws   awssm.Account // of kind aws
}

// openBackends opens the backends of the file. It asks none of them: one that is
// away must not keep the control plane from starting.
func openBackends(ctx context.Context, opt Options, own *svid.Source) (map[string]outside, error) {
	out := map[string]outside{}
	for name, b := range opt.System.Secrets {
		ca, _ := opt.System.Resource(b.CA)
		at, err := openBackend(ctx, name, b, ca, own, opt.Now)
		if err != nil {
			return nil, fmt.Errorf("secrets.%s: %w", name, err)
		}
		out[name] = at
	}
	return out, nil
}

func openBackend(ctx context.Context, name string, b spec.Backend, ca []byte, own *svid.Source, now func() time.Time) (outside, error) {
	if b.Kind == "file" {
		return outside{Backend: file.New(name, b.Path)}, nil
	}
	var roots *x509.CertPool // nil: the system's
	if b.CA != "" {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(ca) {
			return outside{}, rampart.Errorf(rampart.Invalid, secretControl, "control: ca holds no certificate in PEM")
		}
	}
	if b.Kind == "aws" {
		a := awssm.Account{Region: b.Region, Endpoint: b.Endpoint, HTTP: outsideClient(func(host string) *tls.Config { return profile.External(host, roots, tls.VersionTLS12) })}
		at, err := awssm.New(ctx, name, a)
		return outside{Backend: at, aws: a}, err
	}
	config := func(host string) *tls.Config { return profile.External(host, roots, tls.VersionTLS12) }
	if b.Login.Method == "cert" {
		config = func(host string) *tls.Config {
			return profile.ExternalWithCert(host, roots, tls.VersionTLS12, own)
		}
	}
	l := *b.Login
	c, err := vault.New(vault.Options{
		Name: name, Address: b.Address, Namespace: b.Namespace, HTTP: outsideClient(config), Now: now,
		Login: vault.Login{Method: l.Method, Mount: l.Mount, Role: l.Role, SecretFile: l.SecretFile, TokenFile: l.TokenFile},
	})
	if err != nil {
		return outside{}, err
	}
	return outside{Backend: c.KV(b.Mount), vault: c}, nil
}

// outsideClient verifies each host by its own name. It knows no proxy, and
// follows no redirect: what it sends are credentials.
func outsideClient(config func(host string) *tls.Config) *http.Client {
	return &http.Client{
		Timeout: backendTimeout,
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				d := tls.Dialer{NetDialer: &net.Dialer{Timeout: backendDial}, Config: config(host)}
				return d.DialContext(ctx, network, addr)
			},
			ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4, TLSHandshakeTimeout: backendDial, ResponseHeaderTimeout: backendTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newBackends lays a memory over what is behind a network.
func (p *Plane) newBackends(embedded secrets.Backend, others map[string]outside) *backends {
	b := &backends{
		from:   map[string]secrets.Backend{spec.EmbeddedBackend: embedded},
		places: map[string]secrets.Backend{spec.EmbeddedBackend: embedded},
		vaults: map[string]*vault.Client{}, caches: map[string]*secrets.Cache{},
	}
	fresh := func(name string) time.Duration { return p.living().fresh(name) } // of the file in force
	for name, at := range others {
		b.places[name], b.from[name] = at.Backend, at.Backend
		if at.vault != nil {
			b.vaults[name] = at.vault
		}
		if _, local := at.Backend.(*file.Backend); local {
			continue
		}
		m := &remembered{vault: at.vault, bound: time.Duration(p.system().Secrets[name].Stale), now: p.opt.Now}
		m.cache = secrets.NewCache(byName{at.Backend}, secrets.CacheOptions{Name: name, MaxStale: m.bound, TTLOf: fresh, Now: p.opt.Now, OnStale: p.servedStale})
		b.from[name], b.caches[name] = m, m.cache
	}
	return b
}

// freshOf says how long values are fresh by the file's cache keys: where items share
// one, as long as the shortest of them. 0 is nothing said.
func freshOf(sys *spec.System) func(name string) time.Duration {
	least := map[string]time.Duration{}
	for _, d := range sys.Data {
		ref, err := secrets.ParseRef(d.Source)
		if err != nil {
			continue
		}
		if old, ok := least[ref.String()]; !ok || time.Duration(d.Cache) < old {
			least[ref.String()] = time.Duration(d.Cache)
		}
	}
	return func(name string) time.Duration { return least[name] }
}

// fetch reads one secret.
func (b *backends) fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	at, ok := b.from[ref.Backend]
	if !ok {
		return secrets.Secret{}, rampart.Errorf(rampart.Unavailable, secretControl, "control: backend %.64q is not open", ref.Backend)
	}
	return at.Fetch(ctx, ref)
}

// forget drops what is remembered of a path.
func (b *backends) forget(ref secrets.Ref) {
	if c, ok := b.caches[ref.Backend]; ok {
		c.Forget(ref.String())
	}
}

// vault returns the client of a backend of kind vault, for its other engines.
func (b *backends) vault(name string) (*vault.Client, bool) {
	c, ok := b.vaults[name]
	return c, ok
}

// close ends fetches that are under way, and gives up what logins got.
func (b *backends) close(ctx context.Context) {
	for _, c := range b.caches {
		c.Close()
	}
	for _, c := range b.vaults {
		_ = c.Close(ctx) // a token that could not be revoked ends by itself
	}
}

// byName lets a cache ask a backend.
type byName struct{ at secrets.Backend }

func (b byName) Get(ctx context.Context, name string) (secrets.Secret, error) {
	ref, err := secrets.ParseRef(name)
	if err != nil {
		return secrets.Secret{}, err
	}
	return b.at.Fetch(ctx, ref)
}

// remembered is a backend with a memory.
type remembered struct {
	cache *secrets.Cache
	vault *vault.Client // nil: of another kind
	bound time.Duration
	now   func() time.Time
}

// Signer returns the PKI engine at mount, which only Vault has.
func (m *remembered) Signer(mount string) (ca.Signer, bool) {
	if m.vault == nil {
		return nil, false
	}
	return m.vault.PKI(mount), true
}

// ageKey is where servedStale leaves the age of what it was called for.
type ageKey struct{}

// Fetch implements secrets.Backend. A value that is served because its backend is
// away ends when the bound is reached: planes remember it too, and must not begin
// to count anew.
func (m *remembered) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	var age time.Duration
	s, err := m.cache.Get(context.WithValue(ctx, ageKey{}, &age), ref.String())
	end := m.now().Add(m.bound - age)
	if err != nil || age == 0 || !s.Until().IsZero() && s.Until().Before(end) {
		return s, err
	}
	var out secrets.Secret
	err = s.Use(func(b []byte) error {
		out = secrets.Make(b, secrets.Meta{Version: s.Version(), User: s.User(), Until: end, Lease: s.Lease()})
		return nil
	})
	return out, err
}

// servedStale puts on record, and warns, each time that a value is served whose
// backend is away. The value is served either way: services work on until the
// bound, and whoever reads this has that long to mend it.
func (p *Plane) servedStale(ctx context.Context, name string, age time.Duration, err error) {
	if at, ok := ctx.Value(ageKey{}).(*time.Duration); ok {
		*at = age
	}
	p.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "a backend is away; secrets are served from memory until their bound", slog.String("secret", name), slog.Duration("age", age), slog.Any("error", err))
	e := audit.Event{Class: audit.ClassSecret, Action: "secret.stale", Outcome: audit.Failed, Control: secretControl, Subject: p.system().ControlID(), Resource: "secret:" + name,
		Detail: map[string]string{"age": age.Round(time.Second).String(), "error": err.Error()}}
	if failed := p.opt.Audit.Record(ctx, e); failed != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", failed))
	}
}
