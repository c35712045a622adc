package envelope

import (
	"container/list"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

const (
	defaultTTL     = 5 * time.Minute
	defaultEntries = 10_000
	fetchTimeout   = 2 * time.Second
)

// Fetch gets the data encryption key of a data item and tenant: 32 bytes, and
// its version. Version 0 asks for the active one.
type Fetch func(ctx context.Context, item, tenant string, version uint32) (key []byte, ver uint32, err error)

// KeysOptions of NewKeys. The zero value is ready to use.
type KeysOptions struct {
	TTL     time.Duration    // how long a key is remembered; if 0, 5 minutes
	Entries int              // keys remembered, least recently used forgotten first; if 0, 10,000
	Now     func() time.Time // if nil, time.Now
}

// NewKeys returns Keys over fetch, which must not be nil. They remember the
// ready AEAD, not the key, which is wiped, and nothing beyond its TTL: a key
// that was shredded is gone everywhere by then. There is one fetch at a time
// for a key, of at most two seconds.
func NewKeys(fetch Fetch, opt KeysOptions) Keys {
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
	return &cache{fetch: fetch, opt: opt, byKey: make(map[keyName]*list.Element), recent: list.New()}
}

// keyName identifies a key; version 0 is the active one, whichever that is.
type keyName struct {
	tenant, item string
	version      uint32
}

// cached is a key ready to use, or, until ready is closed, being fetched.
type cached struct {
	name    keyName
	ready   chan struct{}
	version uint32
	aead    cipher.AEAD
	err     error
	until   time.Time
}

// cache implements Keys.
type cache struct {
	fetch Fetch
	opt   KeysOptions

	mu     sync.Mutex
	byKey  map[keyName]*list.Element // of *cached
	recent *list.List                // most recently used first
}

func (c *cache) Active(ctx context.Context, tenant, item string) (uint32, cipher.AEAD, error) {
	return c.get(ctx, keyName{tenant, item, 0})
}

func (c *cache) ByVersion(ctx context.Context, tenant, item string, version uint32) (cipher.AEAD, error) {
	if version == 0 {
		return nil, ErrKey
	}
	_, aead, err := c.get(ctx, keyName{tenant, item, version})
	return aead, err
}

func (c *cache) get(ctx context.Context, name keyName) (uint32, cipher.AEAD, error) {
	k := c.look(ctx, name)
	select {
	case <-k.ready:
		return k.version, k.aead, k.err
	case <-ctx.Done():
		return 0, nil, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "key is not available", Err: ctx.Err()}
	}
}

// look returns the entry of name; if there is none, or an old one, it starts
// to fetch it, on its own time: who started it may hang up while others wait.
func (c *cache) look(ctx context.Context, name keyName) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[name]; ok {
		k := el.Value.(*cached) // the list holds nothing else
		if k.until.IsZero() || c.opt.Now().Before(k.until) {
			c.recent.MoveToFront(el)
			return k
		}
		c.dropLocked(k)
	}
	k := &cached{name: name, ready: make(chan struct{})}
	c.addLocked(k)
	go c.load(context.WithoutCancel(ctx), k)
	return k
}

// load fetches the key of k. It ends with the fetch's time limit.
func (c *cache) load(ctx context.Context, k *cached) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	version, aead, err := c.ask(ctx, k.name)
	if err != nil && ctx.Err() != nil {
		err = &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "key is not available", Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(k.ready)
	k.version, k.aead, k.err = version, aead, err
	k.until = c.opt.Now().Add(c.opt.TTL)
	if err != nil {
		c.dropLocked(k) // who waits gets the error, who comes later asks anew
	}
}

// ask fetches a key, turns it into an AEAD and wipes it.
func (c *cache) ask(ctx context.Context, name keyName) (uint32, cipher.AEAD, error) {
	key, version, err := c.fetch(ctx, name.item, name.tenant, name.version)
	if err != nil {
		return 0, nil, err
	}
	defer clear(key)
	if len(key) != keySize || version == 0 || name.version != 0 && version != name.version {
		return 0, nil, ErrKey
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return 0, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return version, aead, err
}

func (c *cache) addLocked(k *cached) {
	c.byKey[k.name] = c.recent.PushFront(k)
	for c.recent.Len() > c.opt.Entries {
		c.dropLocked(c.recent.Back().Value.(*cached))
	}
}

// dropLocked forgets k, unless its place has been taken already.
func (c *cache) dropLocked(k *cached) {
	if el, ok := c.byKey[k.name]; ok && el.Value == k {
		delete(c.byKey, k.name)
		c.recent.Remove(el)
	}
}
