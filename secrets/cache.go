package secrets

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

const (
	defaultTTL      = 5 * time.Minute
	defaultMaxStale = time.Hour
	defaultEntries  = 1000
	negativeTTL     = 5 * time.Second // how long a refusal, or an outage beside a stale value, is believed
	fetchTimeout    = 2 * time.Second
)

// CacheOptions of a Cache. The zero value is ready to use.
type CacheOptions struct {
	TTL      time.Duration // how long a value is fresh; if 0, 5 minutes
	MaxStale time.Duration // greatest age of a value served in an outage; if 0, an hour; if negative, none is
	Entries  int           // names remembered, least recently used forgotten first; if 0, 1000
	Now      func() time.Time

	// OnStale, if not nil, is called each time a value is served that is
	// past its TTL, with its age and the error of the provider. It must
	// leave an audit event.
	OnStale func(ctx context.Context, name string, age time.Duration, err error)
}

// Cache is a Provider that remembers the values of another. A value is
// refreshed in the background from 80 % of its TTL on. In an outage (kind
// Unavailable, or no answer within two seconds) the last value is served until
// its age reaches MaxStale; a value that the provider refuses to give, or no
// longer has, is forgotten at once. There is one fetch per name at a time.
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
	secret  Secret    // zero when there is none
	fetched time.Time // when secret was
	err     error     // newest failure, nil after a success
	failed  time.Time // when err was
	flight  *flight   // the fetch under way
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
		opt.MaxStale = defaultMaxStale
	}
	if opt.Entries <= 0 {
		opt.Entries = defaultEntries
	}
	if opt.Now == nil {
		opt.Now = time.Now
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

// Forget drops what is known of names, so that the next Get asks the provider.
// Who waits for a fetch under way gets what it brings; nobody later does.
func (c *Cache) Forget(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if el, ok := c.entries[name]; ok {
			c.recent.Remove(el)
			delete(c.entries, name)
		}
	}
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

// look answers from memory, or returns the flight to wait for. A secret
// together with an error is stale.
func (c *Cache) look(name string) (Secret, time.Duration, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Secret{}, 0, nil, unavailable(errors.New("the cache is closed"))
	}
	e, now := c.entryLocked(name), c.opt.Now()
	age := now.Sub(e.fetched)
	quiet := e.err != nil && now.Sub(e.failed) < negativeTTL // do not ask again yet
	switch {
	case !e.secret.IsZero() && age < c.opt.TTL:
		if age >= c.opt.TTL*4/5 && !quiet {
			c.fetchLocked(e)
		}
		return e.secret, 0, nil, nil
	case quiet && outage(e.err) && !e.secret.IsZero() && age < c.opt.MaxStale:
		return e.secret, age, nil, e.err
	case quiet && final(e.err):
		return Secret{}, 0, nil, e.err
	}
	return Secret{}, 0, c.fetchLocked(e), nil
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
	e := el.Value.(*entry) // the list holds nothing else
	age := c.opt.Now().Sub(e.fetched)
	if e.secret.IsZero() || age >= c.opt.MaxStale {
		return Secret{}, 0, f.err
	}
	return e.secret, age, f.err
}

// entryLocked finds or makes the entry of name and forgets the one that was
// not used for longest when there are too many.
func (c *Cache) entryLocked(name string) *entry {
	if el, ok := c.entries[name]; ok {
		c.recent.MoveToFront(el)
		return el.Value.(*entry)
	}
	if c.recent.Len() >= c.opt.Entries {
		oldest := c.recent.Remove(c.recent.Back()).(*entry)
		delete(c.entries, oldest.name)
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
	c.fetches.Go(func() {
		ctx, cancel := context.WithTimeout(c.base, fetchTimeout)
		defer cancel()
		f.secret, f.err = c.provider.Get(ctx, e.name)
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

// land stores the result of a fetch.
func (c *Cache) land(e *entry, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)
	now := c.opt.Now()
	e.flight, e.err, e.failed = nil, f.err, now
	switch {
	case f.err == nil:
		e.secret, e.fetched = f.secret, now
	case final(f.err):
		e.secret = Secret{}
	}
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

func outage(err error) bool { return err != nil && rampart.KindOf(err) == rampart.Unavailable }

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "secret is not available", Err: err}
}
