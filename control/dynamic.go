package control

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	leaseEvery = time.Second      // between looks at what is to be renewed
	endEvery   = 10 * time.Second // between attempts to revoke one while Vault is away
)

// leasing is a backend that makes a user for each fetch, such as Vault's database
// engine.
type leasing interface {
	secrets.Backend
	secrets.Leaser
	Orphaned(secrets.Secret) bool // it ends before its time, with the login that it was made with
}

// leases are the database users that Vault made for services: each service has
// one of its own for each store, renewed at half its life and replaced before it
// cannot be renewed any more, or when our login at Vault, with which they end, is
// another. Those of a disabled service are revoked. They are kept in memory alone.
// After a restart services get new ones, and what nobody renews Vault drops. Safe
// for concurrent use.
type leases struct {
	now      func() time.Time
	disabled func(ctx context.Context) (func(service string) bool, error)
	open     func(store string) (leasing, secrets.Ref, error) // of a store of the file
	told     func(ctx context.Context, store string) error    // that there is another user
	log      *slog.Logger

	mu   sync.Mutex // guards held
	held map[grant]*leased
}

// leased is one user.
type leased struct {
	mu     sync.Mutex // held while it is fetched or renewed
	secret secrets.Secret
	life   time.Duration // that the first lease had
	renew  time.Time
	retry  time.Time // before then no other attempt to revoke it
	last   int       // version
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

// fetch returns the service's user of a store. When Vault is away it is there to
// its end; when Vault refuses, there is none any more.
func (l *leases) fetch(ctx context.Context, service, store string) (secrets.Secret, error) {
	one := l.of(grant{service, store})
	one.mu.Lock()
	had := !one.secret.IsZero()
	_, err := l.refreshLocked(ctx, store, one)
	s := one.secret
	one.mu.Unlock()
	if !s.IsZero() {
		return s, nil
	}
	if had {
		err = errors.Join(err, l.told(ctx, store))
	}
	return secrets.Secret{}, err
}

// refreshLocked renews or replaces a user whose time has come, and reports
// whether it is another one, or none any more. An outage leaves the one that is
// there, until its end.
func (l *leases) refreshLocked(ctx context.Context, store string, one *leased) (changed bool, err error) {
	now := l.now()
	if end := one.secret.Until(); !end.IsZero() && !now.Before(end) {
		one.secret = secrets.Secret{} // Vault has dropped it
	}
	from, ref, err := l.open(store)
	if err != nil {
		return false, err
	}
	if !one.secret.IsZero() && now.Before(one.renew) && !from.Orphaned(one.secret) {
		return false, nil
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
	if refusal(err) {
		one.secret = secrets.Secret{} // what an answer from before says does not outlive this one
		return true, err
	}
	if err != nil {
		return false, err
	}
	one.last = max(one.last+1, int(now.Unix()))
	one.life = fresh.Until().Sub(now)
	return true, one.keep(fresh, one.last, now)
}

// refusal reports whether a backend has given its answer, and it is no.
func refusal(err error) bool {
	switch rampart.KindOf(err) {
	case rampart.Denied, rampart.NotFound, rampart.Unauthenticated:
		return err != nil
	}
	return false
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
	due := maps.Clone(l.held)
	l.mu.Unlock()
	if len(due) == 0 {
		return
	}
	disabled, err := l.disabled(ctx)
	if err != nil {
		l.warn(ctx, grant{}, err) // they end by themselves, and nothing is renewed that should not be
		return
	}
	for g, one := range due {
		changed, err := l.tend(ctx, g, one, disabled(g.service))
		if changed {
			err = errors.Join(err, l.told(ctx, g.item))
		}
		if err != nil && ctx.Err() == nil {
			l.warn(ctx, g, err)
		}
	}
}

// tend renews one user, or ends it when its service was disabled. Whoever never
// got one is not waiting for it.
func (l *leases) tend(ctx context.Context, g grant, one *leased, disabled bool) (changed bool, err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	switch {
	case one.secret.IsZero():
		return false, nil
	case disabled:
		return l.endLocked(ctx, g.item, one)
	}
	return l.refreshLocked(ctx, g.item, one)
}

// endLocked revokes a user. While Vault is away it is not renewed, and tried again.
func (l *leases) endLocked(ctx context.Context, store string, one *leased) (ended bool, err error) {
	now := l.now()
	if now.Before(one.retry) {
		return false, nil
	}
	from, _, err := l.open(store)
	if err == nil && one.secret.Lease() != "" {
		err = from.Revoke(ctx, one.secret)
	}
	over := !one.secret.Until().IsZero() && !now.Before(one.secret.Until())
	if err != nil && !over {
		one.retry = now.Add(endEvery)
		return false, err
	}
	one.secret, one.retry = secrets.Secret{}, time.Time{}
	return true, nil
}

func (l *leases) warn(ctx context.Context, g grant, err error) {
	l.log.LogAttrs(ctx, slog.LevelWarn, "lease of a database user", slog.String("store", g.item), slog.String("service", g.service), slog.Any("error", err))
}
