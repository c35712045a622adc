package jwt

import (
	"container/list"
	"crypto/sha256"
	"sync"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
)

// InternalCache remembers verified internal tokens, so that a token used for
// many requests costs one signature check. Time, binding, revocation and the
// key's presence in the set are checked at every use. Refused tokens are not
// remembered. Safe for concurrent use.
type InternalCache struct {
	verifier *Internal
	open     opener[InternalClaims] // of verifier
	seen     *lru[InternalClaims]
}

// NewInternalCache returns a cache of at most size tokens; it panics unless
// size is positive and v is not nil.
func NewInternalCache(v *Internal, size int) *InternalCache {
	if v == nil {
		panic("jwt: NewInternalCache needs a verifier")
	}
	return &InternalCache{v, v.open, newLRU[InternalClaims](size)}
}

// Verify is Internal.Verify.
func (c *InternalCache) Verify(token string, peer [32]byte) (InternalClaims, error) {
	e, err := c.seen.open(token, &c.verifier.door, c.open)
	if err != nil {
		return InternalClaims{}, err
	}
	if err := c.verifier.admit(e.claims, peer); err != nil {
		return InternalClaims{}, err
	}
	return e.claims, nil
}

// EdgeCache is InternalCache for access tokens of clients.
type EdgeCache struct {
	verifier *Edge
	open     opener[EdgeClaims] // of verifier
	seen     *lru[EdgeClaims]
}

// NewEdgeCache returns a cache of at most size tokens; it panics unless size
// is positive and v is not nil.
func NewEdgeCache(v *Edge, size int) *EdgeCache {
	if v == nil {
		panic("jwt: NewEdgeCache needs a verifier")
	}
	return &EdgeCache{v, v.open, newLRU[EdgeClaims](size)}
}

// Verify is Edge.Verify.
func (c *EdgeCache) Verify(token string) (EdgeClaims, error) {
	return c.verify(token, bearer)
}

// VerifyBound is Edge.VerifyBound.
func (c *EdgeCache) VerifyBound(token string, proof Confirmation) (EdgeClaims, error) {
	return c.verify(token, bound(proof))
}

func (c *EdgeCache) verify(token string, held possession) (EdgeClaims, error) {
	e, err := c.seen.open(token, &c.verifier.door, c.open)
	if err != nil {
		return EdgeClaims{}, err
	}
	if err := c.verifier.admit(e.claims, held); err != nil {
		return EdgeClaims{}, err
	}
	return e.claims, nil
}

// lru holds the claims of the tokens used last, keyed by the SHA-256 of their
// text so that a dump of the cache holds no token.
type lru[C any] struct {
	size int

	mu      sync.Mutex
	entries map[[32]byte]*list.Element
	order   *list.List // of *entry[C], most recently used first
}

// opener verifies all of a token that does not change with time.
type opener[C any] func(token string) (C, *signed.Key, error)

// entry is what is remembered of a token. It is never changed.
type entry[C any] struct {
	hash   [32]byte
	key    *signed.Key
	claims C
}

func newLRU[C any](size int) *lru[C] {
	if size <= 0 {
		panic("jwt: cache size must be positive")
	}
	return &lru[C]{size: size, entries: make(map[[32]byte]*list.Element), order: list.New()}
}

// open returns what is remembered of token, or what verify finds.
func (l *lru[C]) open(token string, d *ownDoor, verify opener[C]) (*entry[C], error) {
	if len(token) > maxToken {
		claims, key, err := verify(token) // refuses, without hashing a megabyte
		return &entry[C]{key: key, claims: claims}, err
	}
	hash := hashOf(token)
	if e := l.get(hash); e != nil && d.keys().holds(e.key) {
		return e, nil
	}
	claims, key, err := verify(token)
	if err != nil {
		return nil, err
	}
	e := &entry[C]{hash, key, claims}
	l.put(e)
	return e, nil
}

// hashOf hashes tokens of usual length without a copy on the heap.
func hashOf(token string) [32]byte {
	var room [1 << 10]byte
	return sha256.Sum256(append(room[:0], token...))
}

func (l *lru[C]) get(hash [32]byte) *entry[C] {
	l.mu.Lock()
	defer l.mu.Unlock()
	el := l.entries[hash]
	if el == nil {
		return nil
	}
	l.order.MoveToFront(el)
	e, _ := el.Value.(*entry[C])
	return e
}

func (l *lru[C]) put(e *entry[C]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el := l.entries[e.hash]; el != nil {
		el.Value = e
		l.order.MoveToFront(el)
		return
	}
	l.entries[e.hash] = l.order.PushFront(e)
	if l.order.Len() <= l.size {
		return
	}
	last := l.order.Back()
	if old, ok := l.order.Remove(last).(*entry[C]); ok {
		delete(l.entries, old.hash)
	}
}
