package control

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const leaseEvery = time.Second // between looks at what is to be renewed

// leasing is a backend that makes a user for each fetch, such as Vault's database
// engine.
type leasing interface {
	secrets.Backend
	secrets.Leaser
}

// leases are the database users that Vault made for services: each service has
// one of its own for each store, renewed at half its life and replaced before it
// cannot be renewed any more. They are kept in memory alone. After a restart
// services get new ones, and what nobody renews Vault drops. Safe for concurrent
// use.
type leases struct {
	now  func() time.Time
	open func(store string) (leasing, secrets.Ref, error) // of a store of the file
	told func(ctx context.Context, store string) error    // that there is another user
	log  *slog.Logger

	mu   sync.Mutex // guards held
	held map[grant]*leased
}

// leased is one user.
type leased struct {
	mu     sync.Mutex // held while it is fetched or renewed
	secret secrets.Secret
	life   time.Duration // that the first lease had
	renew  time.Time
}

func (l *leases) of(g grant) *leased {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[grant]*leased{}
	}
	if l.held[g] == nil {
		l.held[g] = &leased{}
	}
	return l.held[g]
}

// fetch returns the service's user of a store.
func (l *leases) fetch(ctx context.Context, service, store string) (secrets.Secret, error) {
	one := l.of(grant{service, store})
	one.mu.Lock()
	defer one.mu.Unlock()
	_, err := l.refreshLocked(ctx, store, one)
	if one.secret.IsZero() {
		return secrets.Secret{}, err
	}
	return one.secret, nil // when Vault is away, to its end
}

// refreshLocked renews or replaces a user whose time has come, and reports
// whether it is another one. An error leaves the one that is there, until its end.
func (l *leases) refreshLocked(ctx context.Context, store string, one *leased) (replaced bool, err error) {
	now := l.now()
	if !one.secret.IsZero() && now.Before(one.renew) {
		return false, nil
	}
	if end := one.secret.Until(); !end.IsZero() && !now.Before(end) {
		one.secret = secrets.Secret{} // Vault has dropped it
	}
	from, ref, err := l.open(store)
	if err != nil {
		return false, err
	}
	if !one.secret.IsZero() {
		again, err := from.Renew(ctx, one.secret, one.life)
		if err == nil && again.Until().Sub(now) >= one.life/2 {
			return false, one.keep(again, one.secret.Version(), now)
		}
		if err != nil && rampart.KindOf(err) == rampart.Unavailable {
			one.renew = now.Add(leaseEvery)
			return false, err
		}
	}
	fresh, err := from.Fetch(ctx, ref)
	if err != nil {
		return false, err
	}
	had := one.secret.Version()
	one.life = fresh.Until().Sub(now)
	return true, one.keep(fresh, max(had+1, int(now.Unix())), now)
}

// keep takes a secret over under a version that grows across restarts, too. One
// whose lease has no end is renewed never.
func (o *leased) keep(s secrets.Secret, version int, now time.Time) error {
	o.renew = now.Add(max(s.Until().Sub(now)/2, leaseEvery))
	if s.Until().IsZero() {
		o.renew = now.Add(100 * 365 * 24 * time.Hour)
	}
	return s.Use(func(b []byte) error {
		o.secret = secrets.Make(b, secrets.Meta{Version: version, User: s.User(), Until: s.Until(), Lease: s.Lease()})
		return nil
	})
}

// keepAlive renews what services hold until ctx ends: they ask only for new
// connections.
func (l *leases) keepAlive(ctx context.Context) {
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.renewAll(ctx)
		}
	}
}

func (l *leases) renewAll(ctx context.Context) {
	l.mu.Lock()
	due := map[grant]*leased{}
	for g, one := range l.held {
		due[g] = one
	}
	l.mu.Unlock()
	for g, one := range due {
		one.mu.Lock()
		replaced, err := false, error(nil)
		if !one.secret.IsZero() { // who never got one is not waiting for it
			replaced, err = l.refreshLocked(ctx, g.item, one)
		}
		one.mu.Unlock()
		if err == nil && replaced {
			err = l.told(ctx, g.item)
		}
		if err != nil && ctx.Err() == nil {
			l.log.LogAttrs(ctx, slog.LevelWarn, "lease of a database user", slog.String("store", g.item), slog.String("service", g.service), slog.Any("error", err))
		}
	}
}
