package secrets

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// DefaultMaxStale is how long a value is served in an outage unless CacheOptions
// say otherwise. Whoever takes a value away waits for that long for caches that
// are cut off.
const DefaultMaxStale = time.Hour

const (
	defaultTTL     = 5 * time.Minute
	defaultEntries = 1000
	negativeTTL    = 5 * time.Second // how long a refusal, or an outage beside a stale value, is believed; longer if the backend asks for it
	fetchTimeout   = 2 * time.Second
)

// CacheOptions of a Cache. The zero value is ready to use.
type CacheOptions struct {
	Name     string                          // of the backend, for errors; "": they name none
	TTL      time.Duration                   // how long a value without a lease is fresh; if 0, 5 minutes
	TTLOf    func(name string) time.Duration // the same of one name; nil, or 0 of it: TTL
	MaxStale time.Duration                   // greatest age of a value served in an outage; if 0, an hour; if negative, none is
	Entries  int                             // names remembered, least recently used forgotten first; if 0, 1000
	Now      func() time.Time
	Rand     io.Reader // spreads refreshes; if nil, crypto/rand

	// OnStale, if not nil, is called each time a value is served that is
	// past its TTL, with its age and the error of the provider. It must
	// leave an audit event.
	OnStale func(ctx context.Context, name string, age time.Duration, err error)
}

// Cache is a Provider that remembers the values of another.
//
//	a value younger than its TTL         served
//	from 80 to 90 % of the TTL on        refreshed in the background
//	a leased value                       served until its end and never after; from 40 to 50 % of its
//	                                     life on renewed if the provider is a Leaser, or replaced
//	Unavailable, Limited, no answer      the last value is served until its age reaches MaxStale, each
//	in 2 s                               time told to OnStale; then the error says backend, age and bound
//	Limited, with RetryAfter             the provider is not asked before
//	Denied, Unauthenticated, NotFound    the value is forgotten at once; believed for five seconds
//	any other error                      returned; a value that is old is not served
//
// There is one fetch per name at a time, and a fetch has two seconds. What is
// served in an outage is degraded by choice: a service that has its password
// works on. A refusal is never bridged.
//
// A Cache knows nothing of who asks: whoever shares one among principals
// checks their grants before every Get.
type Cache struct {
	provider Provider
	opt      CacheOptions
	base     context.Context // of fetches; ended by Close
	stop     context.CancelFunc
	fetches  sync.WaitGroup

	mu      sync.Mutex
	entries map[string]*list.Element // of *entry
	recent  *list.List               // most recently used first
	closed  bool
}

// entry is what is known of one name. Cache.mu guards it.
type entry struct {
	name    string
	secret  Secret        // zero when there is none
	fetched time.Time     // when the last one was; zero: never, or it is not to be served
	refresh time.Time     // from when on secret is refreshed
	life    time.Duration // of a lease when it was new
	err     error         // newest failure, nil after a success
	quiet   time.Time     // until then that failure is believed
	flight  *flight       // the fetch under way
}

// flight is one fetch and those who wait for it.
type flight struct {
	done   chan struct{} // closed when the rest is set
	secret Secret
	err    error
}

// NewCache returns a cache over p, which must not be nil.
func NewCache(p Provider, opt CacheOptions) *Cache {
	if p == nil {
		panic("secrets: nil provider")
	}
	if opt.TTL <= 0 {
		opt.TTL = defaultTTL
	}
	if opt.MaxStale == 0 {
		opt.MaxStale = DefaultMaxStale
	}
	if opt.Entries <= 0 {
		opt.Entries = defaultEntries
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Rand == nil {
		opt.Rand = rand.Reader
	}
	if opt.OnStale == nil {
		opt.OnStale = func(context.Context, string, time.Duration, error) {}
	}
	base, stop := context.WithCancel(context.Background())
	return &Cache{
		provider: p, opt: opt, base: base, stop: stop,
		entries: make(map[string]*list.Element), recent: list.New(),
	}
}

// Close ends the fetches under way and waits for them. Get fails afterwards.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.fetches.Wait()
}

// Get returns the secret name from memory or from the provider.
func (c *Cache) Get(ctx context.Context, name string) (Secret, error) {
	s, age, f, err := c.look(name)
	if f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
			return Secret{}, unavailable(ctx.Err())
		}
		s, age, err = c.settle(name, f)
	}
	if err == nil || s.IsZero() {
		return s, err
	}
	c.opt.OnStale(ctx, name, age, err)
	return s, nil
}

// Forget drops what is known of names: the next Get asks the provider, also
// when a fetch is under way, which was asked before.
func (c *Cache) Forget(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if el, ok := c.entries[name]; ok {
			c.dropLocked(el)
		}
	}
}

// look answers from memory, or returns the flight to wait for. A secret
// together with an error is stale.
func (c *Cache) look(name string) (Secret, time.Duration, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Secret{}, 0, nil, unavailable(errors.New("the cache is closed"))
	}
	e, now := c.entryLocked(name), c.opt.Now()
	quiet := e.err != nil && now.Before(e.quiet) // do not ask again yet
	switch {
	case c.freshLocked(e, now):
		if !quiet && !now.Before(e.refresh) {
			c.fetchLocked(e)
		}
		return e.secret, 0, nil, nil
	case quiet && outage(e.err) && c.staleLocked(e, now):
		return e.secret, now.Sub(e.fetched), nil, e.err
	case quiet && (final(e.err) || RetryAfter(e.err) > 0):
		return Secret{}, 0, nil, c.closedLocked(e, now, e.err)
	}
	return Secret{}, 0, c.fetchLocked(e), nil
}

// freshLocked reports whether the value may be served as it is.
func (c *Cache) freshLocked(e *entry, now time.Time) bool {
	return !e.secret.IsZero() && (e.secret.Lease() != "" || now.Sub(e.fetched) < c.ttl(e.name)) && !void(e.secret, now)
}

func (c *Cache) ttl(name string) time.Duration {
	if c.opt.TTLOf != nil {
		if d := c.opt.TTLOf(name); d > 0 {
			return d
		}
	}
	return c.opt.TTL
}

// staleLocked reports whether the value may be served in an outage.
func (c *Cache) staleLocked(e *entry, now time.Time) bool {
	return !e.secret.IsZero() && now.Sub(e.fetched) < c.opt.MaxStale && !void(e.secret, now)
}

// void reports whether the value is good for nothing any more.
func void(s Secret, now time.Time) bool { return !s.Until().IsZero() && !now.Before(s.Until()) }

// closedLocked is the error of a name of which nothing may be served. In an
// outage it says why the value from before is not: closed by choice, as it may
// have been revoked long ago.
func (c *Cache) closedLocked(e *entry, now time.Time, err error) error {
	if !outage(err) || e.fetched.IsZero() {
		return err
	}
	e.secret = Secret{}
	of := ""
	if c.opt.Name != "" {
		of = " of " + c.opt.Name
	}
	age := now.Sub(e.fetched).Round(time.Second)
	msg := fmt.Sprintf("secret %q%s cannot be asked for, and the last value is %s old: %s is the most, or it ended", e.name, of, age, max(c.opt.MaxStale, 0))
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: msg, Err: err}
}

// settle turns the end of a flight into an answer: in an outage the value from
// before, if it is young enough.
func (c *Cache) settle(name string, f *flight) (Secret, time.Duration, error) {
	if !outage(f.err) {
		return f.secret, 0, f.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[name]
	if !ok {
		return Secret{}, 0, f.err
	}
	e, now := el.Value.(*entry), c.opt.Now() // the list holds nothing else
	if !c.staleLocked(e, now) {
		return Secret{}, 0, c.closedLocked(e, now, f.err)
	}
	return e.secret, now.Sub(e.fetched), f.err
}

// dropLocked removes an entry.
func (c *Cache) dropLocked(el *list.Element) {
	e := c.recent.Remove(el).(*entry) // the list holds nothing else
	delete(c.entries, e.name)
}

// entryLocked finds or makes the entry of name and forgets the one that was
// not used for longest when there are too many.
func (c *Cache) entryLocked(name string) *entry {
	if el, ok := c.entries[name]; ok {
		c.recent.MoveToFront(el)
		return el.Value.(*entry)
	}
	if c.recent.Len() >= c.opt.Entries {
		c.dropLocked(c.recent.Back())
	}
	e := &entry{name: name}
	c.entries[name] = c.recent.PushFront(e)
	return e
}

// fetchLocked starts a fetch, or returns the one under way. It runs on its own
// time, since the one who started it may hang up while others wait.
func (c *Cache) fetchLocked(e *entry) *flight {
	if e.flight != nil {
		return e.flight
	}
	f := &flight{done: make(chan struct{})}
	e.flight = f
	held, life := e.secret, e.life
	c.fetches.Go(func() {
		ctx, cancel := context.WithTimeout(c.base, fetchTimeout)
		defer cancel()
		f.secret, f.err = c.fetch(ctx, e.name, held, life)
		if f.err != nil {
			f.secret = Secret{}
		}
		if f.err != nil && ctx.Err() != nil {
			f.err = unavailable(f.err)
		}
		c.land(e, f)
	})
	return f
}

// fetch renews the lease of the value at hand, or gets a new one when there is
// none, when it cannot be renewed, or when it nears the most that it may have.
func (c *Cache) fetch(ctx context.Context, name string, held Secret, life time.Duration) (Secret, error) {
	l, ok := c.provider.(Leaser)
	if !ok || held.Lease() == "" || void(held, c.opt.Now()) {
		return c.provider.Get(ctx, name)
	}
	renewed, err := l.Renew(ctx, held, life)
	if outage(err) || err == nil && renewed.Until().Sub(c.opt.Now()) >= life/2 {
		return renewed, err
	}
	s, failed := c.provider.Get(ctx, name)
	if outage(failed) && err == nil {
		return renewed, nil // a short rest is better than none
	}
	return s, failed
}

// land stores the result of a fetch.
func (c *Cache) land(e *entry, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)
	now := c.opt.Now()
	e.flight, e.err, e.quiet = nil, f.err, now.Add(max(negativeTTL, RetryAfter(f.err)))
	switch {
	case f.err == nil:
		if f.secret.Lease() == "" || f.secret.Lease() != e.secret.Lease() {
			e.life = f.secret.Until().Sub(now)
		}
		e.secret, e.fetched, e.refresh = f.secret, now, c.refreshAt(e.name, f.secret, now)
	case final(f.err):
		e.secret, e.fetched = Secret{}, time.Time{}
	}
}

// refreshAt is when a value that came now is refreshed: somewhere in a tenth of
// its life, so that not all are at once.
func (c *Cache) refreshAt(name string, s Secret, now time.Time) time.Time {
	var b [1]byte
	_, _ = io.ReadFull(c.opt.Rand, b[:]) // without it they are all at once
	life, from := c.ttl(name), 8
	if left := s.Until().Sub(now); s.Lease() != "" {
		life, from = left, 4
	} else if !s.Until().IsZero() {
		life = min(life, left)
	}
	return now.Add(life/10*time.Duration(from) + life/10*time.Duration(b[0])/255)
}

// final reports whether the provider has given its answer, which a value from
// before must not outlive.
func final(err error) bool {
	switch rampart.KindOf(err) {
	case rampart.Denied, rampart.NotFound, rampart.Unauthenticated:
		return true
	}
	return false
}

// outage reports whether asking again later may help.
func outage(err error) bool {
	return err != nil && (rampart.KindOf(err) == rampart.Unavailable || rampart.KindOf(err) == rampart.Limited)
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "secret is not available", Err: err}
}
