package envelope

import (
	"container/list"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

const (
	defaultTTL     = 5 * time.Minute
	defaultEntries = 10_000
	fetchTimeout   = 2 * time.Second
	firstBlock     = 1 << 10 // messages; a process that is killed has reserved too many by less than it used
)

// Query asks for one data encryption key.
type Query struct {
	Whose
	Version  uint32 // 0: the active one
	Messages int64  // that the asker may seal with it before it asks again
}

// Fetch gets a data encryption key: 32 bytes, and its version. A key that there
// never was, or that was shredded, is an error of kind NotFound.
type Fetch func(ctx context.Context, q Query) (key []byte, version uint32, err error)

// KeysOptions of NewKeys. The zero value is ready to use.
type KeysOptions struct {
	TTL     time.Duration    // how long a key is remembered; if 0, 5 minutes
	Entries int              // keys remembered, least recently used forgotten first; if 0, 10,000
	Now     func() time.Time // if nil, time.Now
}

// keyName identifies a key; version 0 is the active one, whichever that is.
type keyName struct {
	Whose
	version uint32
}

// cached is a key ready to use, or, until ready is closed, being fetched.
type cached struct {
	name    keyName
	ready   chan struct{}
	version uint32
	aead    cipher.AEAD
	err     error
	until   time.Time
	block   int64        // messages that are reserved at a time
	left    atomic.Int64 // of those reserved
	spent   atomic.Bool  // all of them
}

// Cache implements Keys. It remembers the ready AEAD, not the key, which is
// wiped, and nothing beyond its TTL. There is one fetch at a time for a key, of
// at most two seconds. Messages sealed with a tenant's key are reserved in blocks,
// so that the key can be replaced before random nonces are likely to repeat; of
// one person there are too few to count.
type Cache struct {
	fetch Fetch
	opt   KeysOptions

	mu     sync.Mutex
	byKey  map[keyName]*list.Element // of *cached
	recent *list.List                // most recently used first
}

// NewKeys returns a Cache over fetch, which must not be nil.
func NewKeys(fetch Fetch, opt KeysOptions) *Cache {
	if fetch == nil {
		panic("envelope: nil fetch")
	}
	if opt.TTL <= 0 {
		opt.TTL = defaultTTL
	}
	if opt.Entries <= 0 {
		opt.Entries = defaultEntries
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Cache{fetch: fetch, opt: opt, byKey: make(map[keyName]*list.Element), recent: list.New()}
}

// Active implements Keys.
func (c *Cache) Active(ctx context.Context, of Whose) (uint32, cipher.AEAD, error) {
	for {
		k, err := c.get(ctx, keyName{of, 0})
		if err != nil {
			return 0, nil, err
		}
		if k.left.Add(-1) >= 0 {
			return k.version, k.aead, nil
		}
		k.spent.Store(true)
	}
}

// ByVersion implements Keys.
func (c *Cache) ByVersion(ctx context.Context, of Whose, version uint32) (cipher.AEAD, error) {
	if version == 0 {
		return nil, ErrKey
	}
	k, err := c.get(ctx, keyName{of, version})
	if err != nil {
		return nil, err
	}
	return k.aead, nil
}

// Forget drops all keys of a tenant and item, those of its people too. Whoever
// asks from now on has them fetched anew; what is being fetched is not kept.
func (c *Cache) Forget(item, tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, el := range c.byKey {
		if name.Item == item && name.Tenant == tenant {
			delete(c.byKey, name)
			c.recent.Remove(el)
		}
	}
}

// ForgetAll drops everything.
func (c *Cache) ForgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byKey)
	c.recent.Init()
}

func (c *Cache) get(ctx context.Context, name keyName) (*cached, error) {
	k := c.look(ctx, name)
	select {
	case <-k.ready:
		return k, k.err
	case <-ctx.Done():
		return nil, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "key is not available", Err: ctx.Err()}
	}
}

// look returns the entry of name; if there is none, or an old or spent one, it starts
// to fetch it, on its own time: who started it may hang up while others wait.
func (c *Cache) look(ctx context.Context, name keyName) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	var old *cached
	if el, ok := c.byKey[name]; ok {
		k := el.Value.(*cached) // the list holds nothing else
		if !k.spent.Load() && (k.until.IsZero() || c.opt.Now().Before(k.until)) {
			c.recent.MoveToFront(el)
			return k
		}
		c.dropLocked(k)
		old = k
	}
	return c.startLocked(ctx, name, old)
}

func (c *Cache) startLocked(ctx context.Context, name keyName, old *cached) *cached {
	k := &cached{name: name, ready: make(chan struct{}), block: firstBlock}
	if old != nil && old.spent.Load() {
		k.block = min(2*old.block, agent.MaxMessages)
	}
	c.addLocked(k)
	go c.load(context.WithoutCancel(ctx), k, old)
	return k
}

// load fetches the key of k. It ends with the fetch's time limit.
func (c *Cache) load(ctx context.Context, k, old *cached) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	version, aead, left, err := c.reserve(ctx, k, old)
	if err != nil && ctx.Err() != nil {
		err = &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "key is not available", Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(k.ready)
	k.version, k.aead, k.err = version, aead, err
	k.left.Store(left)
	k.until = c.opt.Now().Add(c.opt.TTL)
	if err != nil {
		c.dropLocked(k) // who waits gets the error, who comes later asks anew
	}
}

// reserve fetches a key, with messages to seal if it is a tenant's active one.
// What is left of the block of an entry that was merely old stays in use.
func (c *Cache) reserve(ctx context.Context, k, old *cached) (version uint32, aead cipher.AEAD, left int64, err error) {
	if k.name.version != 0 || k.name.Subject != "" {
		version, aead, err = c.ask(ctx, k.name, 0)
		return version, aead, math.MaxInt64, err
	}
	if old != nil && old.left.Load() > 0 {
		version, aead, err = c.ask(ctx, k.name, 0)
		if err != nil || version == old.version {
			return version, aead, old.left.Swap(0), err
		}
	}
	version, aead, err = c.ask(ctx, k.name, k.block)
	return version, aead, k.block, err
}

// ask fetches a key, turns it into an AEAD and wipes it.
func (c *Cache) ask(ctx context.Context, name keyName, messages int64) (uint32, cipher.AEAD, error) {
	key, version, err := c.fetch(ctx, Query{name.Whose, name.version, messages})
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		err = fmt.Errorf("%w: %w", ErrKey, err)
	}
	if err != nil {
		return 0, nil, err
	}
	defer clear(key)
	personal := version&agent.SubjectKey != 0
	if len(key) != keySize || version == 0 || name.version != 0 && version != name.version || personal != (name.Subject != "") {
		return 0, nil, ErrKey
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return 0, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return version, aead, err
}

func (c *Cache) addLocked(k *cached) {
	c.byKey[k.name] = c.recent.PushFront(k)
	for c.recent.Len() > c.opt.Entries {
		c.dropLocked(c.recent.Back().Value.(*cached))
	}
}

// dropLocked forgets k, unless its place has been taken already.
func (c *Cache) dropLocked(k *cached) {
	if el, ok := c.byKey[k.name]; ok && el.Value == k {
		delete(c.byKey, k.name)
		c.recent.Remove(el)
	}
}
