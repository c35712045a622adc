// Package literal knows what credentials look like that somebody wrote down as
// they are. rampart.yaml is refused for them, and rampart secret lint finds them
// in any file.
package literal

import (
	"math"
	"regexp"
	"strings"
)

// Rule is one shape of credential.
type Rule struct {
	ID    string // stable, for reports and allow-lists
	Title string // what it is, for people
	form  string
}

// rules are well-known prefixes with something behind them, keys in PEM, JWTs,
// URLs with a password.
func rules() []Rule {
	return []Rule{
		{"stripe-key", "a Stripe key", `\b[sr]k_(live|test)_[0-9A-Za-z]{3,}`},
		{"aws-access-key", "an AWS access key id", `\b(AKIA|ASIA)[0-9A-Z]{12,}`},
		{"github-token", "a GitHub token", `\bgh[pousr]_[0-9A-Za-z]{8,}|\bgithub_pat_[0-9A-Za-z_]{8,}`},
		{"gitlab-token", "a GitLab token", `\bglpat-[0-9A-Za-z_-]{8,}`},
		{"slack-token", "a Slack token", `\bxox[abeprs]-[0-9A-Za-z-]{6,}`},
		{"google-api-key", "a Google API key", `\bAIza[0-9A-Za-z_-]{20,}`},
		{"vault-token", "a Vault token", `\bhv[sb]\.[0-9A-Za-z_-]{12,}`},
		{"jwt", "a JSON Web Token", `\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.`},
		{"private-key", "a private key", `-----BEGIN [A-Z ]*PRIVATE KEY`},
		{"age-key", "an age key", `\bAGE-SECRET-KEY-[0-9A-Z]{20,}`},
		{"rampart-key-file", "a key file of Rampart", `\brampart-kek-v[0-9] [0-9 ]*[A-Za-z0-9+/=]{20,}`},
		{"url-password", "an address with a password", `[a-z][a-z0-9+.-]*://[^/@:\s"']*:[^/@\s"']+@`},
	}
}

// Forms finds credentials by their shape. The zero value finds none; New makes
// one. Safe for concurrent use.
type Forms struct {
	rules []Rule
	each  []*regexp.Regexp
	any   *regexp.Regexp // to tell quickly that there is none
	named *regexp.Regexp // NAME = "VALUE"
}

// New compiles the rules.
func New() *Forms {
	f := &Forms{rules: rules()}
	var all []string
	for _, r := range f.rules {
		f.each, all = append(f.each, regexp.MustCompile(r.form)), append(all, r.form)
	}
	f.any = regexp.MustCompile(strings.Join(all, "|"))
	f.named = regexp.MustCompile(`(?i)(?:pass(?:word|wd|phrase)|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|credentials?)["'\]]?\s{0,4}(?::=|=>|[:=])\s{0,4}["']?([A-Za-z0-9+/=_.~-]{20,200})(?:["'\s,;]|$)`)
	return f
}

// Rules lists what is known, with the one for named values last.
func (f *Forms) Rules() []Rule {
	return append(rules(), Rule{ID: named, Title: "a random value under the name of a secret"})
}

// Match reports whether a text holds a credential by its shape alone.
func (f *Forms) Match(text string) bool { return f.any.MatchString(text) }

// Index returns where the first credential by shape begins, -1 if there is none.
func (f *Forms) Index(text []byte) int {
	if m := f.any.FindIndex(text); m != nil {
		return m[0]
	}
	return -1
}

const named = "named-secret"

// Hit is where in a line something was found. It does not hold the value.
type Hit struct {
	Rule  Rule
	Start int // byte offset
}

// Line finds everything in one line: by shape, and random values that stand under
// the name of a secret.
func (f *Forms) Line(line []byte) []Hit {
	var out []Hit
	if f.any.Match(line) {
		for i, re := range f.each {
			if m := re.FindIndex(line); m != nil {
				out = append(out, Hit{f.rules[i], m[0]})
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, m := range f.named.FindAllSubmatchIndex(line, -1) {
		if Random(string(line[m[2]:m[3]])) {
			out = append(out, Hit{Rule{ID: named, Title: "a random value under the name of a secret"}, m[2]})
		}
	}
	return out
}

// Bounds of Random. English words and names in code have three to four bits a
// character, with few digits; random hex has at most four, base64 at most six.
const (
	hexBits   = 3.0
	otherBits = 4.0
)

// Random reports whether a value looks as if nobody had thought of it.
func Random(value string) bool {
	digits, letters, hex := 0, 0, true
	for _, r := range value {
		switch {
		case r >= '0' && r <= '9':
			digits++
		case r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F':
			letters++
		case r >= 'g' && r <= 'z' || r >= 'G' && r <= 'Z':
			letters, hex = letters+1, false
		default:
			hex = false
		}
	}
	if digits < 2 || letters < 2 || strings.Contains(value, "...") {
		return false
	}
	bits := Entropy(value)
	if hex {
		return len(value) >= 32 && bits >= hexBits
	}
	return bits >= otherBits
}

// Entropy returns the bits per byte that the frequencies of a text's bytes give
// (Shannon); 0 for an empty one.
func Entropy(text string) float64 {
	var count [256]int
	for i := range len(text) {
		count[text[i]]++
	}
	bits := 0.0
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(text))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}
