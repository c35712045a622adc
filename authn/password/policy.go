package password

import (
	"crypto/sha256"
	_ "embed" // the blocklist
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// Characters that a new password has at least (SP 800-63B-4 section 3.1.1.2).
const (
	leastAlone = 15 // it must bear everything
	leastWith  = minLength
)

// maxJumps is how often rows of keys may change and still be no password.
const maxJumps = 2

// leastOwn is how many characters must be left of a password when everything
// is taken out that an attacker tries first.
const leastOwn = 4

// Policy judges new passwords. There are no rules of composition and there is
// no expiry: both make passwords worse (SP 800-63B-4 section 3.1.1.2). The
// zero Policy is that of a password beside a second factor.
type Policy struct {
	Alone bool     // no second factor is asked for
	Words []string // of the system and of the user: guessed first
}

// Least is how many characters a password must have.
func (p Policy) Least() int {
	if p.Alone {
		return leastAlone
	}
	return leastWith
}

// Check returns nil for a password that may be chosen, or an error of kind
// Invalid that says what to do about it.
func (p Policy) Check(password string) error {
	pw, err := normalize(password)
	if err != nil {
		return err
	}
	if utf8.RuneCount(pw) < p.Least() {
		return invalid("a password must have at least %d characters; several words make a good one", p.Least())
	}
	text := fold(string(pw))
	if common(text) {
		return invalid("this password is on lists that attackers try first; choose another one")
	}
	if monotonous(text) {
		return invalid("this password repeats itself or follows a row of keys; choose another one")
	}
	if p.named(text) {
		return invalid("this password is little more than a name that attackers try first; choose another one")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, control, format, args...)
}

// fold makes spellings alike that attackers try together.
func fold(text string) string { return strings.ToLower(text) }

// common reports whether text is in the blocklist, or a word of it with digits
// and signs around: "Sunshine2024!" is tried right after "sunshine". A word of
// four letters or less says nothing about the rest.
func common(text string) bool {
	base := strings.TrimFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	return listed(text) || utf8.RuneCountInString(base) > leastOwn && listed(base)
}

// monotonous reports whether text is one short unit again and again, or steps
// from a character to its neighbour almost all the way.
func monotonous(text string) bool {
	r := []rune(text)
	for unit := 1; unit <= len(r)/2; unit++ {
		if repeats(r, unit) {
			return true
		}
	}
	jumps := 0
	for i := 1; i < len(r); i++ {
		if !neighbours(r[i-1], r[i]) {
			jumps++
		}
	}
	return jumps <= maxJumps
}

func repeats(r []rune, unit int) bool {
	for i := unit; i < len(r); i++ {
		if r[i] != r[i-unit] {
			return false
		}
	}
	return true
}

// keyRows are keyboards' rows, in both layouts that are common.
const keyRows = "qwertyuiop asdfghjkl zxcvbnm qwertzuiop yxcvbnm 1234567890"

// neighbours reports whether b follows a in the alphabet, in a row of keys, or
// is the same.
func neighbours(a, b rune) bool {
	if d := a - b; d >= -1 && d <= 1 {
		return true
	}
	if a == ' ' || b == ' ' {
		return false
	}
	return strings.Contains(keyRows, string([]rune{a, b})) || strings.Contains(keyRows, string([]rune{b, a}))
}

// named reports whether too little is left of text without the policy's words,
// digits and signs.
func (p Policy) named(text string) bool {
	rest, found := text, false
	for _, w := range p.Words {
		if w = fold(w); utf8.RuneCountInString(w) >= 3 && strings.Contains(rest, w) {
			rest, found = strings.ReplaceAll(rest, w, ""), true
		}
	}
	own := 0
	for _, r := range rest {
		if unicode.IsLetter(r) {
			own++
		}
	}
	return found && own < leastOwn
}

// filter is a Bloom filter of common passwords: it knows each of them, keeps
// none, and refuses one good password in ten thousand. Its source and licence
// are in bloom/README.md; bloom/main.go makes it.
//
//go:embed bloom/common.bloom
var filter string

// probes is how many bits stand for one password.
const probes = 14

// listed reports whether the filter knows text.
func listed(text string) bool {
	sum := sha256.Sum256([]byte(text))
	at, step := binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])|1
	for range probes {
		bit := at % uint64(len(filter)*8)
		if filter[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
		at += step
	}
	return true
}
