package jwt

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rampart-security/rampart/authn/jwt/internal/signed"
	"github.com/rampart-security/rampart/internal/jws"
)

// The life of a signing key.
const (
	signsFor     = 30 * 24 * time.Hour // then the next key is made
	publishAhead = 10 * time.Minute    // a key is in the key set so long before it signs
	retiredSkew  = futureLeeway + pastLeeway

	maxRing     = 16      // keys
	maxRingText = 1 << 20 // bytes
)

// RingOptions configure a Ring.
type RingOptions struct {
	Generate func() (*Signer, error) // makes a key: GenerateInternal, GenerateEdge or GenerateRSA; required
	MaxLife  time.Duration           // the longest life of a token that the keys sign; required
	Ahead    time.Duration           // a key is published so long before it signs; 0: ten minutes
}

// Ring holds the signing keys of one kind, so that they change without any
// token being refused: a key is published before it signs, and stays published
// until the last token that it signed has expired. A key is pending, then
// active, then retired, by the clock alone; Advance makes and forgets keys. The
// caller stores the ring after each change, and publishes what Public returns.
// Safe for concurrent use; keys are never printed.
type Ring struct {
	opt RingOptions

	mu   sync.RWMutex
	keys []ringKey // at least one, in the order in which they sign
}

type ringKey struct {
	signer    *Signer
	published time.Time
	from      time.Time // when it signs, in place of the one before
}

// KeyState is where a key is in its life.
type KeyState string

// The states of a key in a ring. A key that is gone is not in it.
const (
	KeyPending KeyState = "pending" // published, does not sign yet
	KeyActive  KeyState = "active"  // signs
	KeyRetired KeyState = "retired" // signs no more, but what it signed holds
)

// KeyStatus says how a key of a ring stands.
type KeyStatus struct {
	ID        string
	Algorithm Algorithm
	State     KeyState
	Published time.Time
	From      time.Time // when it signs first
}

// NewRing returns a ring of one key that signs at once: first, or a new one if
// first is nil. It panics when a required option is missing.
func NewRing(opt RingOptions, first *Signer, now time.Time) (*Ring, error) {
	opt.check()
	if first == nil {
		var err error
		if first, err = opt.Generate(); err != nil {
			return nil, err
		}
	}
	return &Ring{opt: opt, keys: []ringKey{{first, now, now}}}, nil
}

func (o *RingOptions) check() {
	if o.Generate == nil || o.MaxLife <= 0 {
		panic("jwt: a ring needs a generator and the longest life of a token")
	}
	if o.Ahead <= 0 {
		o.Ahead = publishAhead
	}
}

// Format prints nothing of the keys under any verb.
func (r *Ring) Format(f fmt.State, _ rune) { fmt.Fprint(f, "jwt.Ring") }

// Signer returns the key that signs now.
func (r *Ring) Signer(now time.Time) *Signer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[r.activeLocked(now)].signer
}

// activeLocked returns the newest key whose time has come; the first signs
// even before its own, for some key must when the clock is set back.
func (r *Ring) activeLocked(now time.Time) int {
	active := 0
	for i, key := range r.keys {
		if !key.from.After(now) {
			active = i
		}
	}
	return active
}

// Public returns the JWK set to publish: the keys in every state.
func (r *Ring) Public() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	signers := make([]*Signer, len(r.keys))
	for i, key := range r.keys {
		signers[i] = key.signer
	}
	return PublicJWKS(signers...)
}

// Status tells of every key, in the order in which they sign.
func (r *Ring) Status(now time.Time) []KeyStatus {
	r.mu.RLock()
	defer r.mu.RUnlock()
	active := r.activeLocked(now)
	out := make([]KeyStatus, len(r.keys))
	for i, key := range r.keys {
		state := KeyState(KeyActive)
		switch cmp.Compare(i, active) {
		case -1:
			state = KeyRetired
		case 1:
			state = KeyPending
		}
		out[i] = KeyStatus{key.signer.id, key.signer.alg, state, key.published, key.from}
	}
	return out
}

// Advance makes the next key when the newest has signed for 30 days, and
// forgets a retired one when what it signed has expired. It reports whether
// something changed: then the ring must be stored, and Public published, within
// 5 min.
func (r *Ring) Advance(now time.Time) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.keys)
	r.keys = slices.Delete(r.keys, 0, r.expiredLocked(now))
	changed := len(r.keys) != before
	if newest := r.keys[len(r.keys)-1]; now.Sub(newest.from) < signsFor {
		return changed, nil
	}
	return true, r.addLocked(now, now.Add(r.opt.Ahead))
}

// Rotate makes the next key now, as Advance does when it is time. One that is
// pending already is enough.
func (r *Ring) Rotate(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.activeLocked(now) < len(r.keys)-1 {
		return nil
	}
	return r.addLocked(now, now.Add(r.opt.Ahead))
}

// expiredLocked counts the keys of which no token holds any more.
func (r *Ring) expiredLocked(now time.Time) int {
	n := 0
	for n+1 < len(r.keys) && now.Sub(r.keys[n+1].from) > r.opt.MaxLife+retiredSkew {
		n++
	}
	return n
}

func (r *Ring) addLocked(now, from time.Time) error {
	if len(r.keys) >= maxRing {
		return fmt.Errorf("jwt: ring has %d keys already", maxRing)
	}
	signer, err := r.opt.Generate()
	if err != nil {
		return err
	}
	r.keys = append(r.keys, ringKey{signer, now, latest(from, r.keys[len(r.keys)-1].from)})
	return nil
}

// latest keeps the keys in order when the clock was set back.
func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Revoke forgets a key at once, because it may be in other hands: everything
// that it signed is refused by whoever has the new key set. If it signs now, a
// pending key takes its place, else a new one that nobody has seen yet.
func (r *Ring) Revoke(kid string, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.keys, func(key ringKey) bool { return key.signer.id == kid })
	if i < 0 {
		return errors.New("jwt: kid names no key of the ring")
	}
	active := r.activeLocked(now)
	if i == active && active == len(r.keys)-1 {
		if err := r.addLocked(now, now); err != nil {
			return err
		}
	}
	if i == active {
		r.keys[i+1].from = latest(now, r.keys[i].from)
	}
	r.keys = slices.Delete(r.keys, i, i+1)
	return nil
}

// ringText is the stored form.
type ringText struct {
	Keys []ringKeyText `json:"keys"`
}

type ringKeyText struct {
	PKCS8     []byte    `json:"pkcs8"`
	Published time.Time `json:"published"`
	From      time.Time `json:"from"`
}

// Marshal returns the ring with its private keys in the clear: the caller
// seals it.
func (r *Ring) Marshal() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	text := ringText{make([]ringKeyText, len(r.keys))}
	for i, key := range r.keys {
		der, err := key.signer.MarshalKey()
		if err != nil {
			return nil, err
		}
		text.Keys[i] = ringKeyText{der, key.published, key.from}
	}
	out, err := json.Marshal(text)
	if err != nil {
		return nil, fmt.Errorf("jwt: encode ring: %v", err)
	}
	return out, nil
}

// ParseRing reads what Marshal wrote.
func ParseRing(opt RingOptions, data []byte) (*Ring, error) {
	opt.check()
	if len(data) > maxRingText {
		return nil, errors.New("jwt: ring is too long")
	}
	var text ringText
	if err := jws.Decode(data, &text, signed.MaxDepth, true); err != nil {
		return nil, fmt.Errorf("jwt: ring %v", err)
	}
	if len(text.Keys) == 0 || len(text.Keys) > maxRing {
		return nil, fmt.Errorf("jwt: ring must have 1 to %d keys", maxRing)
	}
	r := &Ring{opt: opt}
	for i, key := range text.Keys {
		signer, err := ParseSigner(key.PKCS8)
		if err != nil {
			return nil, err
		}
		if i > 0 && key.From.Before(text.Keys[i-1].From) {
			return nil, errors.New("jwt: ring is not in order")
		}
		r.keys = append(r.keys, ringKey{signer, key.Published, key.From})
	}
	return r, nil
}
