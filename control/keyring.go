package control

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// Formats of a keyring. What begins otherwise the key file wrapped by itself,
// before there was one.
const (
	ringHead     = 0xE1
	ringDirect   = 0 // the key encryption key wrapped the content
	ringEnvelope = 1 // it wrapped a key, and that the content
)

const (
	maxDirect   = 64   // bytes; longer content gets a key of its own, as no remote key takes it
	maxRingID   = 255  // bytes, as one says how many
	maxOpened   = 4096 // unwrapped keys that are remembered
	openedFresh = 5 * time.Minute
	openedStale = time.Hour
	ringKeyLen  = 32
)

// keyring is the key encryption key of this control plane, and, while it moves
// from one place to another, the one before it too. All that it wraps says which
// key wrapped it, so that what is left under an old one can be counted without
// asking it. Content may have any size.
//
// Keys that live elsewhere are asked once in five minutes for the same content.
// When they do not answer, what was opened within the last hour still opens:
// planes work on, and whoever takes the key away on purpose waits no longer than
// that. Nothing new is opened or wrapped meanwhile. What is older than that, was
// shredded, or the key refuses to open again is wiped. Safe for concurrent use.
type keyring struct {
	now     func() time.Time
	current held
	before  atomic.Pointer[held] // nil: nothing moves

	mu     sync.Mutex // guards opened and wiped
	opened map[[32]byte]openedKey
	wiped  int // how often something was forgotten: what was asked for before is not remembered after
}

// held is a key encryption key and how ids of its versions begin.
type held struct {
	kek    secrets.KEK
	prefix string
	remote bool
}

type openedKey struct {
	plain []byte
	at    time.Time
	aad   []byte // says whose it is
}

var (
	_ secrets.KEK       = (*keyring)(nil)
	_ secrets.Rewrapper = (*keyring)(nil)
)

func newKeyring(now func() time.Time, current held, before *held) *keyring {
	k := &keyring{now: now, current: current, opened: map[[32]byte]openedKey{}}
	k.before.Store(before)
	return k
}

// KeyID implements secrets.KEK.
func (k *keyring) KeyID() string { return k.current.kek.KeyID() }

// Wrap implements secrets.KEK.
func (k *keyring) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	if len(plain) <= maxDirect {
		wrapped, err := k.current.kek.Wrap(ctx, plain, aad)
		if err != nil {
			return nil, err
		}
		return append(k.head(ringDirect), wrapped...), nil
	}
	key := make([]byte, ringKeyLen)
	rand.Read(key)
	defer clear(key)
	wrapped, err := k.current.kek.Wrap(ctx, key, aad)
	if err != nil {
		return nil, err
	}
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint16(k.head(ringEnvelope), uint16(len(wrapped)))
	return aead.Seal(append(out, wrapped...), nil, plain, aad), nil
}

func sealer(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// head is 0xE1 || format || length of the id || id.
func (k *keyring) head(format byte) []byte {
	id := k.KeyID()
	id = id[:min(len(id), maxRingID)]
	return append([]byte{ringHead, format, byte(len(id))}, id...)
}

// parts is something wrapped, taken apart.
type parts struct {
	id      string // "": from before there was a keyring
	format  byte
	wrapped []byte // by the key encryption key
	box     []byte // of an envelope
}

func partsOf(text []byte) (parts, error) {
	broken := rampart.Errorf(rampart.Internal, secretControl, "control: what is wrapped is not in a known format")
	if len(text) == 0 || text[0] != ringHead {
		return parts{wrapped: text}, nil
	}
	if len(text) < 3 || len(text) < 3+int(text[2]) || text[1] > ringEnvelope {
		return parts{}, broken
	}
	p := parts{id: string(text[3 : 3+int(text[2])]), format: text[1], wrapped: text[3+int(text[2]):]}
	if p.format == ringDirect {
		return p, nil
	}
	if len(p.wrapped) < 2 || len(p.wrapped) < 2+int(binary.BigEndian.Uint16(p.wrapped)) {
		return parts{}, broken
	}
	n := 2 + int(binary.BigEndian.Uint16(p.wrapped))
	p.wrapped, p.box = p.wrapped[2:n], p.wrapped[n:]
	return p, nil
}

// begins reports whether an id is of a key whose ids begin so.
func begins(id, prefix string) bool {
	return id == prefix || strings.HasPrefix(id, prefix+":")
}

// holders finds who may open it. What no id stands on the key file wrapped. Two
// servers may have keys of one name while a key moves from one to the other.
func (k *keyring) holders(p parts) ([]held, error) {
	id := p.id
	if id == "" {
		id = filePrefix
	}
	var out []held
	for _, h := range []*held{&k.current, k.before.Load()} {
		if h != nil && begins(id, h.prefix) {
			out = append(out, *h)
		}
	}
	if len(out) == 0 {
		return nil, rampart.Errorf(rampart.Internal, secretControl, "control: key %.100s wrapped this, and kek of rampart.yaml is another: put the old one back, restart, and move with rampart kek rewrap", id)
	}
	return out, nil
}

// Unwrap implements secrets.KEK.
func (k *keyring) Unwrap(ctx context.Context, text, aad []byte) ([]byte, error) {
	p, err := partsOf(text)
	if err != nil {
		return nil, err
	}
	able, err := k.holders(p)
	if err != nil {
		return nil, err
	}
	var plain []byte
	for _, h := range able {
		if plain, err = k.ask(ctx, h, p.wrapped, aad); err == nil {
			break
		}
	}
	if err != nil || p.format == ringDirect {
		return plain, err
	}
	defer clear(plain)
	aead, err := sealer(plain)
	if err != nil {
		return nil, err
	}
	if plain, err = aead.Open(nil, nil, p.box, aad); err != nil {
		return nil, rampart.Errorf(rampart.Internal, secretControl, "control: what is wrapped does not open")
	}
	return plain, nil
}

// ask unwraps, by what is remembered where the key is elsewhere.
func (k *keyring) ask(ctx context.Context, h held, wrapped, aad []byte) ([]byte, error) {
	if !h.remote {
		return h.kek.Unwrap(ctx, wrapped, aad)
	}
	id, now := openedID(h.prefix, wrapped, aad), k.now()
	if plain, ok := k.known(id, now, openedFresh); ok {
		return plain, nil
	}
	k.mu.Lock()
	wiped := k.wiped
	k.mu.Unlock()
	plain, err := h.kek.Unwrap(ctx, wrapped, aad)
	switch {
	case err == nil:
		k.remember(id, wiped, openedKey{plain: bytes.Clone(plain), at: now, aad: bytes.Clone(aad)})
	case rampart.KindOf(err) == rampart.Unavailable:
		if plain, ok := k.known(id, now, openedStale); ok {
			return plain, nil
		}
	default: // the key was taken away: what it opened is not served in the next outage
		k.wipe(func(i [32]byte, _ openedKey) bool { return i == id })
	}
	return plain, err
}

// known returns a copy of what was opened and is younger than an age.
func (k *keyring) known(id [32]byte, now time.Time, age time.Duration) ([]byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o, ok := k.opened[id]
	if !ok || now.Sub(o.at) >= age {
		return nil, false
	}
	return bytes.Clone(o.plain), true
}

func openedID(prefix string, wrapped, aad []byte) [32]byte {
	text := binary.BigEndian.AppendUint64([]byte(prefix), uint64(len(wrapped)))
	return sha256.Sum256(append(append(text, wrapped...), aad...))
}

// remember forgets everything when there is too much: what is used comes back
// with one call each. What was wiped while the key was asked stays wiped.
func (k *keyring) remember(id [32]byte, wiped int, o openedKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wiped != wiped {
		clear(o.plain)
		return
	}
	if len(k.opened) >= maxOpened {
		k.wipeLocked(func([32]byte, openedKey) bool { return true })
	}
	k.opened[id] = o
}

// sweep wipes what is too old to be served even in an outage.
func (k *keyring) sweep() {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wipeLocked(func(_ [32]byte, o openedKey) bool { return now.Sub(o.at) >= openedStale })
}

// forget wipes what was opened for something that begins so, such as all versions
// of a tenant's key, and what is being opened meanwhile.
func (k *keyring) forget(aad []byte) {
	k.wipe(func(_ [32]byte, o openedKey) bool { return bytes.HasPrefix(o.aad, aad) })
}

func (k *keyring) wipe(due func(id [32]byte, o openedKey) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wiped++
	k.wipeLocked(due)
}

func (k *keyring) wipeLocked(due func(id [32]byte, o openedKey) bool) {
	for id, o := range k.opened {
		if due(id, o) {
			clear(o.plain)
			delete(k.opened, id)
		}
	}
}

// Rewrap implements secrets.Rewrapper: within one key that can do so, nothing is
// opened here.
func (k *keyring) Rewrap(ctx context.Context, text, aad []byte) ([]byte, error) {
	p, err := partsOf(text)
	if err != nil {
		return nil, err
	}
	inside, ok := k.current.kek.(secrets.Rewrapper)
	if !ok || k.before.Load() != nil || !begins(p.id, k.current.prefix) {
		plain, err := k.Unwrap(ctx, text, aad)
		if err != nil {
			return nil, err
		}
		defer clear(plain)
		return k.Wrap(ctx, plain, aad)
	}
	wrapped, err := inside.Rewrap(ctx, p.wrapped, aad)
	if err != nil {
		return nil, err
	}
	if p.format == ringDirect {
		return append(k.head(ringDirect), wrapped...), nil
	}
	out := binary.BigEndian.AppendUint16(k.head(ringEnvelope), uint16(len(wrapped)))
	return append(append(out, wrapped...), p.box...), nil
}

// wrappedBy is the id of the key that wrapped something, for a count.
func wrappedBy(text []byte) string {
	p, err := partsOf(text)
	if err != nil || p.id == "" {
		return filePrefix
	}
	return p.id
}
