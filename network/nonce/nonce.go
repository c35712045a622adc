// Package nonce makes a captured request worthless: each request carries a
// nonce that is good once and for a few minutes.
package nonce

import (
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
	control     = "nonce.window"
)

// DefaultMax is how many nonces a Window remembers unless told otherwise.
const DefaultMax = 1 << 18

// Options of a Window.
type Options struct {
	Window time.Duration    // how old a nonce may be; if 0, five minutes; rounded down to seconds
	Now    func() time.Time // if nil, time.Now
	Max    int              // nonces remembered at most; if 0, DefaultMax
}

// Window remembers the nonces of the recent past. Its methods may be called
// concurrently. It keeps nothing on disk: instead it refuses nonces stamped
// before it was made, since those may have been used in an earlier life.
type Window struct {
	length int64 // seconds
	start  int64 // first second in which a stamp counts
	max    int
	now    func() time.Time

	mu     sync.Mutex
	used   map[int64]map[[randomBytes]byte]struct{} // by stamp
	count  int
	oldest int64 // stamps below have been forgotten
}

// New returns an empty Window.
func New(opt Options) *Window {
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
	return &Window{
		length: int64(opt.Window / time.Second),
		start:  start,
		max:    opt.Max,
		now:    opt.Now,
		used:   map[int64]map[[randomBytes]byte]struct{}{},
		oldest: start,
	}
}

// Check uses up value, which is the time in Unix seconds, a dot, and 16 random
// bytes in unpadded base64url. Errors are of kind Invalid (malformed, stale or
// from the future), Conflict (used before) or Unavailable (no room to remember:
// then nothing may pass).
func (w *Window) Check(value string) error {
	stamp, random, err := parse(value)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().Unix()
	w.forgetLocked(now)
	switch {
	case stamp > now+ahead:
		return refuse(rampart.Invalid, "stamped in the future")
	case stamp < w.start:
		return refuse(rampart.Invalid, "stamped before this gateway started, take a new one")
	case stamp < w.oldest:
		return refuse(rampart.Invalid, "too old, take a new one")
	}
	if _, ok := w.used[stamp][random]; ok {
		return refuse(rampart.Conflict, "already used")
	}
	if w.count >= w.max {
		return refuse(rampart.Unavailable, "too many requests to remember")
	}
	if w.used[stamp] == nil {
		w.used[stamp] = map[[randomBytes]byte]struct{}{}
	}
	w.used[stamp][random] = struct{}{}
	w.count++
	return nil
}

// forgetLocked drops the seconds that have left the window. oldest only grows:
// a clock that steps back must not make a forgotten nonce good again.
func (w *Window) forgetLocked(now int64) {
	first := now - w.length
	if first <= w.oldest {
		return
	}
	for stamp, nonces := range w.used {
		if stamp < first {
			w.count -= len(nonces)
			delete(w.used, stamp)
		}
	}
	w.oldest = first
}

// parse reads a nonce in its one spelling: no leading zero or sign, no padding,
// and no stray bits in the last character, or one nonce would have many names.
func parse(value string) (stamp int64, random [randomBytes]byte, err error) {
	malformed := refuse(rampart.Invalid, "must be unix-seconds, a dot and 22 base64url characters")
	seconds, text, ok := strings.Cut(value, ".")
	if !ok || len(seconds) > 12 || len(text) != 22 {
		return 0, random, malformed
	}
	stamp, err = strconv.ParseInt(seconds, 10, 64)
	if err != nil || strconv.FormatInt(stamp, 10) != seconds {
		return 0, random, malformed
	}
	n, err := base64.RawURLEncoding.Strict().Decode(random[:], []byte(text))
	if err != nil || n != randomBytes {
		return 0, random, malformed
	}
	return stamp, random, nil
}

func refuse(kind rampart.Kind, msg string) error {
	return rampart.Errorf(kind, control, "nonce: %s", msg)
}
