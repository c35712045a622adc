package jwt

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// replayGeneration is how long a generation of proofs is added to: as long as
// a proof verified now may be verified again.
const replayGeneration = 2*dpopWindow + time.Second

// Replays remembers the DPoP proofs of the last minutes, so that each counts
// once. It is for one process; planes with replicas share a ticket.Store
// instead. Ask it last, of proofs whose access token is good, so that strangers
// cannot fill it. Safe for concurrent use.
type Replays struct {
	size int

	mu            sync.Mutex
	since         time.Time // when young was begun
	young, former map[[sha256.Size]byte]struct{}
}

// NewReplays returns a memory of at most size proofs; it panics unless size is
// at least 2.
func NewReplays(size int) *Replays {
	if size < 2 {
		panic("jwt: NewReplays needs room for two proofs")
	}
	return &Replays{size: size, young: map[[sha256.Size]byte]struct{}{}}
}

// Use marks the proof as used. One that was used already is refused by rule
// "replay"; when the memory is full, every proof is refused as rampart.Limited,
// because to forget one would be to let it come again.
func (r *Replays) Use(c DPoPClaims, now time.Time) error {
	id := sha256.Sum256([]byte(c.JKT + "\n" + c.ID))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turnLocked(now)
	_, isYoung := r.young[id]
	_, isFormer := r.former[id]
	if isYoung || isFormer {
		return under(controlDPoP, refuse("replay", "proof was used before"))
	}
	if len(r.young) >= r.size/2 {
		return rampart.Errorf(rampart.Limited, controlDPoP, "jwt: too many proofs of possession at once")
	}
	r.young[id] = struct{}{}
	return nil
}

// turnLocked forgets the generation of which no proof can be verified again.
func (r *Replays) turnLocked(now time.Time) {
	switch age := now.Sub(r.since); {
	case age >= 2*replayGeneration:
		r.former = nil
	case age >= replayGeneration:
		r.former = r.young
	default:
		return
	}
	r.young, r.since = map[[sha256.Size]byte]struct{}{}, now
}
