package redact

import (
	"slices"
	"strings"
)

// Text is what stands in place of what was taken out.
const Text = "[redacted]"

// prefixes of Rampart's own credentials and of the payment processor's keys.
// They start with r or s: find relies on it.
var prefixes = []string{"rk_", "rat_", "rrt_", "sk_test_", "sk_live_"}

const (
	minSecret = 8 // bytes behind a prefix that make it a credential
	minPAN    = 13
	maxPAN    = 19
)

// Scrub replaces what looks like a credential or a card number in s: keys and
// tokens by their prefix, JWTs by their shape, and 13 to 19 digits, alone or
// grouped by blanks or hyphens, that have the first digit of a card (2 to 6)
// and pass the Luhn check. It takes time in proportion to s.
func Scrub(s string) string {
	spans := find(s)
	if len(spans) == 0 {
		return s
	}
	var b strings.Builder
	at := 0
	for _, sp := range spans {
		b.WriteString(s[at:sp.from])
		b.WriteString(Text)
		at = sp.to
	}
	b.WriteString(s[at:])
	return b.String()
}

// span is a part of a string to take out.
type span struct{ from, to int }

// find returns the spans in order, none touching the one before.
func find(s string) []span {
	var out []span
	for i := 0; i < len(s); {
		if i > 0 && isWord(s[i-1]) && isWord(s[i]) {
			i++
			continue // credentials start at the start of a word
		}
		n := 0
		switch s[i] { // most words need no closer look
		case 'r', 's':
			n = credential(s[i:])
		case 'e':
			n = jwt(s[i:])
		}
		if n > 0 {
			out = append(out, span{i, i + n})
			i += n
			continue
		}
		if !isDigit(s[i]) {
			i++
			continue
		}
		end := digitRun(s, i)
		out = append(out, pans(s, i, end)...)
		i = end
	}
	return out
}

// credential returns the length of a prefixed credential at the start of s, or
// 0.
func credential(s string) int {
	for _, p := range prefixes {
		if !strings.HasPrefix(s, p) {
			continue
		}
		n := len(p)
		for n < len(s) && (isWord(s[n]) || s[n] == '-' || s[n] == '.') {
			n++
		}
		if n-len(p) >= minSecret {
			return n
		}
	}
	return 0
}

// jwt returns the length of a compact JWS or JWE at the start of s, or 0. Its
// header is a JSON object, which base64url spells "eyJ". A missing signature
// counts as well.
func jwt(s string) int {
	if !strings.HasPrefix(s, "eyJ") {
		return 0
	}
	n, dots := 0, 0
	for n < len(s) && (isWord(s[n]) || s[n] == '-' || s[n] == '.') {
		if s[n] == '.' {
			dots++
		}
		n++
	}
	if dots < 2 {
		return 0
	}
	return n
}

// digitRun returns the end of the digits at i, with single blanks and hyphens
// between them.
func digitRun(s string, i int) int {
	for i < len(s) {
		switch {
		case isDigit(s[i]):
			i++
		case isGap(s[i]) && i+1 < len(s) && isDigit(s[i+1]):
			i += 2
		default:
			return i
		}
	}
	return i
}

// pans finds card numbers in a run of digits: from the start of a group to the
// end of a group.
func pans(s string, from, end int) []span {
	var out []span
	for i := from; i < end; {
		to := pan(s, i, end)
		if to > 0 {
			out = append(out, span{i, to})
			i = to
			continue
		}
		for i < end && isDigit(s[i]) {
			i++
		}
		for i < end && isGap(s[i]) {
			i++
		}
	}
	return out
}

// pan returns the end of the longest card number that starts at i, or 0.
func pan(s string, i, end int) int {
	if i >= end || s[i] < '2' || s[i] > '6' {
		return 0
	}
	found := 0
	var digits [maxPAN]byte
	n := 0
	for j := i; j < end; j++ {
		if isGap(s[j]) {
			continue
		}
		if n == maxPAN {
			break
		}
		digits[n] = s[j] - '0'
		n++
		wordEnds := j+1 == len(s) || !isWord(s[j+1])
		if n >= minPAN && wordEnds && luhn(digits[:n]) {
			found = j + 1
		}
	}
	return found
}

// luhn checks ISO/IEC 7812-1 annex B.
func luhn(digits []byte) bool {
	sum, double := 0, false
	for _, d := range slices.Backward(digits) {
		v := int(d)
		if double {
			v *= 2
			if v > 9 {
				v -= 9
			}
		}
		sum += v
		double = !double
	}
	return sum%10 == 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isGap(c byte) bool { return c == ' ' || c == '-' }

// isWord reports whether c belongs to a word: a letter, digit or underscore of
// ASCII. Other bytes end a word, so that no foreign letter hides a credential.
func isWord(c byte) bool {
	return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
}
