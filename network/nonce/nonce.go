// Package nonce makes a captured request worthless: each request carries a
// nonce that is good once and for a few minutes.
package nonce

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

const (
	ahead       = 30 // seconds that a client's clock may be fast
	randomBytes = 16
	textBytes   = 22 // of them in base64url
	control     = "nonce.window"
)

// DefaultMax is how many nonces a Guard remembers unless told otherwise.
const DefaultMax = 1 << 18

// Options of a Guard.
type Options struct {
	Window time.Duration    // how old a nonce may be; if 0, five minutes; rounded down to seconds
	Now    func() time.Time // if nil, time.Now
	Max    int              // nonces remembered at most; if 0, DefaultMax
}

// Guard remembers the nonces of the recent past. Its methods may be called
// concurrently. It keeps nothing on disk: instead it refuses nonces stamped
// before it was made, since those may have been used in an earlier life.
type Guard struct {
	length int64 // seconds
	start  int64 // first second in which a stamp counts
	max    int
	now    func() time.Time

	mu     sync.Mutex
	used   map[int64]map[mark]struct{} // by stamp
	count  int
	oldest int64 // stamps below have been forgotten
}

// New returns an empty Guard.
func New(opt Options) *Guard {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Window <= 0 {
		opt.Window = 5 * time.Minute
	}
	if opt.Max <= 0 {
		opt.Max = DefaultMax
	}
	start := opt.Now().Unix() + 1 // the second in hand belongs to the earlier life too
	return &Guard{
		length: int64(opt.Window / time.Second),
		start:  start,
		max:    opt.Max,
		now:    opt.Now,
		used:   map[int64]map[mark]struct{}{},
		oldest: start,
	}
}

// SetWindow changes how old a nonce may be, from now on; 0 is five minutes. What was
// used stays used, and what has been forgotten stays refused.
func (g *Guard) SetWindow(d time.Duration) {
	if d <= 0 {
		d = 5 * time.Minute
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.length = int64(d / time.Second)
}

// Check uses up value for scope, the subject that sends it, so that nobody can
// use up another's. The value is the time in Unix seconds, a dot, and 16 random
// bytes in unpadded base64url. Errors are of kind Invalid (malformed, stale or
// from the future), Conflict (used before, or perhaps) or Unavailable (no room to remember:
// then nothing may pass).
func (g *Guard) Check(scope, value string) error {
	stamp, random, err := parse(value)
	if err != nil {
		return err
	}
	m := markOf(scope, random)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Unix()
	g.forgetLocked(now)
	switch {
	case stamp > now+ahead:
		return refuse(rampart.Invalid, "stamped in the future")
	case stamp < g.start:
		return refuse(rampart.Conflict, "stamped before this gateway started and perhaps used then, take a new one")
	case stamp < g.oldest:
		return refuse(rampart.Invalid, "too old, take a new one")
	}
	if _, ok := g.used[stamp][m]; ok {
		return refuse(rampart.Conflict, "already used")
	}
	if g.count >= g.max {
		return refuse(rampart.Unavailable, "too many requests to remember")
	}
	if g.used[stamp] == nil {
		g.used[stamp] = map[mark]struct{}{}
	}
	g.used[stamp][m] = struct{}{}
	g.count++
	return nil
}

// mark stands for a scope and a random part in the bytes of the latter.
type mark [randomBytes]byte

func markOf(scope string, random [randomBytes]byte) mark {
	buf := make([]byte, 0, 128)
	buf = append(append(buf, random[:]...), scope...)
	sum := sha256.Sum256(buf)
	return mark(sum[:randomBytes])
}

// forgetLocked drops the seconds that have left the window. oldest only grows:
// a clock that steps back must not make a forgotten nonce good again.
func (g *Guard) forgetLocked(now int64) {
	first := now - g.length
	if first <= g.oldest {
		return
	}
	for stamp, nonces := range g.used {
		if stamp < first {
			g.count -= len(nonces)
			delete(g.used, stamp)
		}
	}
	g.oldest = first
}

// parse reads a nonce in its one spelling: no leading zero or sign, no padding,
// and no stray bits in the last character, or one nonce would have many names.
func parse(value string) (stamp int64, random [randomBytes]byte, err error) {
	seconds, text, ok := strings.Cut(value, ".")
	if !ok || len(text) != textBytes || !isCount(seconds) {
		return 0, random, malformed()
	}
	stamp, err = strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return 0, random, malformed()
	}
	var raw [textBytes]byte
	copy(raw[:], text)
	n, err := oneSpelling.Decode(random[:], raw[:])
	if err != nil || n != randomBytes {
		return 0, random, malformed()
	}
	return stamp, random, nil
}

// oneSpelling refuses stray bits in the last character.
var oneSpelling = base64.RawURLEncoding.Strict()

// isCount reports whether s is a number of seconds as strconv writes it.
func isCount(s string) bool {
	if s == "" || len(s) > 12 || s[0] == '0' && len(s) > 1 {
		return false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func malformed() error {
	return refuse(rampart.Invalid, "must be unix-seconds, a dot and 22 base64url characters")
}

func refuse(kind rampart.Kind, msg string) error {
	return rampart.Errorf(kind, control, "nonce: %s", msg)
}
