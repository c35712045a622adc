package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	idemvalkey "github.com/rampart-security/rampart/network/idempotency/valkey"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/quota"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/ratelimit/valkey"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

// Layers of limits.
const (
	layerIP    = "ip"
	layerPlan  = "plan"
	layerUser  = "user"
	layerQuota = "quota"
)

// picker returns the limiter of a layer: name tells several of one layer apart.
type picker func(layer, name string, r spec.Rate) ratelimit.Limiter

// limiters are the counters of all layers. They outlive the tables that use them:
// a reload makes new ones for rates that are new, and changes no other. All
// methods but run's goroutine are for who holds Gateway.loading.
type limiters struct {
	g      *Gateway
	held   map[limiterKey]ratelimit.Limiter
	store  *sharing    // nil: this gateway counts for itself
	quotas *quota.File // nil: no plan of this gateway needed it yet
}

type limiterKey struct {
	layer, name string
	rate        spec.Rate
	shared      bool
}

// sharing is a store in use.
type sharing struct {
	*valkey.Store
	keys   *sharedKeys // nil: each gateway keeps its own
	limits spec.Limits
	ca     string
	stop   context.CancelFunc
	ended  chan struct{}
}

// close ends the store after it was told what was admitted last.
func (s *sharing) close() {
	if s != nil {
		s.keys.close()
		s.stop()
		<-s.ended
	}
}

// compile compiles sys with the limiters that there are and the ones it adds. If
// it refuses, nothing has changed.
func (m *limiters) compile(sys *spec.System) (*table, error) {
	store, err := m.sharing(sys)
	if err != nil {
		return nil, err
	}
	next := map[limiterKey]ratelimit.Limiter{}
	var unmade error
	t, err := compile(sys, m.g.opt.Name, m.g.opt.Now, func(layer, name string, r spec.Rate) ratelimit.Limiter {
		l, failed := m.pick(store, next, limiterKey{layer, name, r, store != nil && layer != layerIP})
		unmade = errors.Join(unmade, failed)
		return l
	})
	if err = errors.Join(err, unmade); err != nil {
		closeOthers(next, m.held)
		if store != m.store {
			store.close()
		}
		return nil, err
	}
	closeOthers(m.held, next)
	if store != m.store {
		m.store.close()
		if store != nil {
			store.keys.check(sys, m.g.opt.Logger)
		}
	}
	m.held, m.store, t.store, t.once = next, store, store, m.once(store)
	return t, nil
}

// closeOthers closes what is in list and not in kept.
func closeOthers(list, kept map[limiterKey]ratelimit.Limiter) {
	for key, l := range list {
		if shared, ok := l.(*valkey.Limiter); ok && kept[key] != l {
			shared.Close()
		}
	}
}

// pick finds the limiter of key, or makes it.
func (m *limiters) pick(store *sharing, next map[limiterKey]ratelimit.Limiter, key limiterKey) (ratelimit.Limiter, error) {
	l, err := next[key], error(nil)
	if l == nil && (!key.shared || store == m.store) {
		l = m.held[key]
	}
	if l == nil {
		l, err = m.make(store, key)
	}
	if err == nil {
		next[key] = l
	}
	return l, err
}

// make makes a limiter. Addresses are counted by each gateway for itself: a
// stranger may choose them, and the store must not pay for that.
func (m *limiters) make(store *sharing, key limiterKey) (ratelimit.Limiter, error) {
	name := key.layer + ":" + key.name
	switch {
	case key.shared && key.layer == layerQuota:
		return store.Calendar(name, key.rate.N, key.rate.Per, 0), nil
	case key.shared:
		return store.Ring(name, key.rate.N, key.rate.Per, 0), nil
	case key.layer == layerQuota:
		if err := m.openQuotas(); err != nil {
			return nil, err
		}
		return m.quotas.Limiter(name, key.rate.N, key.rate.Per), nil
	}
	return newRing(key.rate, m.g.opt.Now), nil
}

func newRing(r spec.Rate, now func() time.Time) ratelimit.Limiter {
	return ring.New(r.N, r.Per, ring.Options{Now: now})
}

// openQuotas opens the file of quotas. Without it no configuration with a quota is
// enforced: closed.
func (m *limiters) openQuotas() error {
	if m.quotas != nil {
		return nil
	}
	name := m.g.opt.State.Path("data", m.g.opt.Name, "quotas")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	var err error
	m.quotas, err = quota.Open(name, quota.Options{Now: m.g.opt.Now})
	return err
}

// sharing returns the store that sys names: the one in use if it is the same.
func (m *limiters) sharing(sys *spec.System) (*sharing, error) {
	if sys.Limits == nil {
		return nil, nil
	}
	ca, _ := sys.Resource(sys.Limits.CA)
	if m.store != nil && m.store.limits == *sys.Limits && m.store.ca == string(ca) {
		return m.store, nil
	}
	u, err := url.Parse(sys.Limits.Store)
	if err != nil {
		return nil, fmt.Errorf("limits.store: %w", err)
	}
	config, err := profile.DatabaseWithCert(ca, u.Hostname(), m.certificate)
	if err != nil {
		return nil, fmt.Errorf("limits.ca: %w", err)
	}
	store, err := valkey.New(valkey.Options{
		URL: sys.Limits.Store, TLS: config, Gateways: sys.Limits.Gateways, Logger: m.g.opt.Logger,
		Prefix: "rampart:limit:" + sys.Info.Name + ":",
	})
	if err != nil {
		return nil, fmt.Errorf("limits.store: %w", err)
	}
	keys, err := m.keysFor(sys, idemvalkey.Options{URL: sys.Limits.Store, TLS: config})
	if err != nil {
		return nil, fmt.Errorf("limits.store: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &sharing{Store: store, keys: keys, limits: *sys.Limits, ca: string(ca), stop: stop, ended: make(chan struct{})}
	go func() { defer close(s.ended); store.Run(ctx) }()
	return s, nil
}

// certificate is the plane's own, of the moment: the store asks for no password.
func (m *limiters) certificate() (*tls.Certificate, error) {
	own, err := m.g.opt.Link.Source().Current()
	if err != nil {
		return nil, err
	}
	return &own.Certificate, nil
}

// close ends the store and closes the file of quotas: limiters refuse from then on,
// or count alone.
func (m *limiters) close() {
	m.g.loading.Lock()
	defer m.g.loading.Unlock()
	m.store.close()
	if m.quotas != nil {
		m.quotas.Close()
	}
}
