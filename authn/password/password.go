// Package password hashes and checks passwords with argon2id (RFC 9106),
// stored in PHC string form. It judges new ones by a Policy, and takes over
// hashes of other schemes until their owners log in.
//
// One hash takes 46 MiB and some 30 ms of a core, so hashing stands behind a
// bounded number of slots and a bounded queue: a flood of logins is refused
// early and cannot exhaust memory. Rate limits come before this package.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

const control = "authn.password"

// Bounds on a password (NIST SP 800-63B-4 section 3.1.1.2). Length counts
// code points and is checked when a password is chosen, not when it is tried.
const (
	minLength = 8
	maxBytes  = 1024
)

// Bounds on the parameters of a stored hash: below is too weak to accept,
// above would let a written row exhaust memory.
const (
	minMemory, maxMemory   = 8 << 10, 512 << 10 // KiB
	minTime, maxTime       = 1, 10
	minThreads, maxThreads = 1, 16
	minSalt, maxSalt       = 8, 64 // bytes
	minTag, maxTag         = 16, 64
	maxPHC                 = 256
	queuePerSlot           = 8
)

// busyFor is when to come back to a full queue: it has drained by then.
const busyFor = time.Second

// params are what argon2id was run with.
type params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

func current() params { return params{memory: 47104, time: 1, threads: 1} }

const (
	saltLen = 16
	tagLen  = 32
)

// Hasher runs argon2id within its bounds. The zero Hasher refuses everything.
// Safe for concurrent use.
type Hasher struct {
	slots chan struct{} // one per running hash
	queue chan struct{} // one per hash that runs or waits
}

// NewHasher returns a Hasher that runs at most slots hashes at once, each with
// 46 MiB, while eight times as many may wait. slots 0 or less means one per
// CPU.
func NewHasher(slots int) *Hasher {
	if slots <= 0 {
		slots = runtime.NumCPU()
	}
	return &Hasher{
		slots: make(chan struct{}, slots),
		queue: make(chan struct{}, slots*(1+queuePerSlot)),
	}
}

// Hash returns the PHC string of a new password with a fresh salt. A password
// of less than 8 characters or more than 1024 bytes is of kind Invalid; a full
// queue is of kind Unavailable, with a time to wait.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	pw, err := normalize(password)
	if err != nil {
		return "", err
	}
	if utf8.RuneCount(pw) < minLength {
		return "", rampart.Errorf(rampart.Invalid, control, "password: must have at least %d characters", minLength)
	}
	return h.hash(ctx, pw)
}

// Rehash is Hash for a password that Verify has just accepted: chosen under
// older rules, it may be shorter than today's.
func (h *Hasher) Rehash(ctx context.Context, password string) (string, error) {
	pw, err := normalize(password)
	if err != nil {
		return "", err
	}
	return h.hash(ctx, pw)
}

func (h *Hasher) hash(ctx context.Context, pw []byte) (string, error) {
	salt := make([]byte, saltLen)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("password: make a salt: %v", err)
	}
	s := stored{current(), salt, nil}
	if err := h.run(ctx, func() { s.tag = s.derive(pw, tagLen) }); err != nil {
		return "", err
	}
	return s.String(), nil
}

// Verify reports whether password is the one behind phc. rehash says that it
// is, but was hashed with other parameters than today's: store Hash again. The
// comparison takes the same time wherever the tags differ. An unreadable phc
// is an error of kind Internal, after the time of a real check.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (ok, rehash bool, err error) {
	if len(password) > maxBytes || !utf8.ValidString(password) {
		return false, false, nil // no password of ours, so it matches none
	}
	v, parseErr := read(phc)
	if parseErr != nil {
		if err := h.VerifyNone(ctx, password); err != nil {
			return false, false, err
		}
		return false, false, parseErr
	}
	err = h.run(ctx, func() { ok = v.matches(password) })
	return ok && err == nil, ok && err == nil && !v.fresh(), err
}

// VerifyNone does the work of Verify for a user who does not exist, so that
// time does not tell who does. Its only errors are those of a full queue and
// of ctx.
func (h *Hasher) VerifyNone(ctx context.Context, password string) error {
	pw, err := normalize(password)
	if err != nil {
		return nil // Verify is as quick about it
	}
	decoy := stored{current(), make([]byte, saltLen), nil}
	return h.run(ctx, func() { decoy.derive(pw, tagLen) })
}

// run does the work in a slot, or fails when too many wait already.
func (h *Hasher) run(ctx context.Context, work func()) error {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return &problem.Details{RetryAfter: busyFor, Err: rampart.Errorf(rampart.Unavailable, control, "too many logins at once; try again")}
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "password: gave up waiting", Err: ctx.Err()}
	}
	work()
	return nil
}

// normalize makes the same password typed on two keyboards the same bytes.
func normalize(password string) ([]byte, error) {
	if len(password) > maxBytes {
		return nil, rampart.Errorf(rampart.Invalid, control, "password: must have at most %d bytes", maxBytes)
	}
	if !utf8.ValidString(password) {
		return nil, rampart.Errorf(rampart.Invalid, control, "password: must be UTF-8")
	}
	return norm.NFKC.Bytes([]byte(password)), nil
}

// verifier is a stored hash of some scheme, taken apart and within bounds.
type verifier interface {
	matches(password string) bool // takes the same time wherever they differ
	fresh() bool                  // it is what Hash would make today
}

// read takes a stored hash of any scheme apart.
func read(hash string) (verifier, error) {
	if len(hash) > maxPHC {
		return nil, malformed("is too long")
	}
	if v, err := readImported(hash); v != nil || err != nil {
		return v, err
	}
	s, err := parse(hash)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// stored is a PHC string of argon2id taken apart.
type stored struct {
	params
	salt, tag []byte
}

func (s stored) derive(pw []byte, length int) []byte {
	return argon2.IDKey(pw, s.salt, s.time, s.memory, s.threads, uint32(length))
}

func (s stored) matches(password string) bool {
	pw, err := normalize(password)
	return err == nil && subtle.ConstantTimeCompare(s.derive(pw, len(s.tag)), s.tag) == 1
}

func (s stored) fresh() bool {
	return s.params == current() && len(s.salt) == saltLen && len(s.tag) == tagLen
}

// String returns the PHC string. It is what the database keeps; it never
// prints for the sake of a log.
func (s stored) String() string {
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, s.memory, s.time, s.threads, enc(s.salt), enc(s.tag))
}

func malformed(rule string) error {
	return rampart.Errorf(rampart.Internal, control, "password: stored hash %s", rule)
}

// parse reads exactly the form that String writes, within the bounds.
func parse(phc string) (stored, error) {
	f := strings.Split(phc, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return stored{}, malformed("is not argon2id of version 19")
	}
	p, err := parseParams(f[3])
	if err != nil {
		return stored{}, err
	}
	salt, err := decode(f[4], minSalt, maxSalt)
	if err != nil {
		return stored{}, err
	}
	tag, err := decode(f[5], minTag, maxTag)
	if err != nil {
		return stored{}, err
	}
	return stored{p, salt, tag}, nil
}

func parseParams(text string) (params, error) {
	f := strings.Split(text, ",")
	if len(f) != 3 {
		return params{}, malformed("must have parameters m, t and p")
	}
	m, okM := number(f[0], "m=", minMemory, maxMemory)
	t, okT := number(f[1], "t=", minTime, maxTime)
	p, okP := number(f[2], "p=", minThreads, maxThreads)
	if !okM || !okT || !okP {
		return params{}, malformed("has parameters out of bounds")
	}
	return params{memory: uint32(m), time: uint32(t), threads: uint8(p)}, nil
}

// number reads a decimal in its one canonical spelling.
func number(text, prefix string, lowest, highest uint64) (uint64, bool) {
	digits, ok := strings.CutPrefix(text, prefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	return n, ok && err == nil && n >= lowest && n <= highest && strconv.FormatUint(n, 10) == digits
}

func decode(text string, shortest, longest int) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, malformed("is not canonical base64")
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < shortest || len(b) > longest {
		return nil, malformed("has a salt or tag out of bounds")
	}
	return b, nil
}
