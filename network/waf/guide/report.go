package guide

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"
	"strings"
)

// Proof is what is known of the values of one field before any request.
type Proof struct {
	Alphabet string `json:"alphabet"` // the characters that such a value can hold
	Proved   int    `json:"proved"`   // how many rules can match no such value
	Left     []int  `json:"left"`     // the rules that are looked for in each value
}

// Prove says which rules can match values of these bytes at a place: where is
// "query", "path", "header", "cookie" or "body", and bit b%64 of word b/64 says
// that a value may hold the byte b. The same is found anew for each value when
// it comes, so nothing depends on a document keeping its word.
func (g *Guide) Prove(where, name string, bytes [4]uint64) (Proof, error) {
	c, err := g.classAt(where, name)
	if err != nil {
		return Proof{}, err
	}
	a := alphabet{[2]uint64{bytes[0], bytes[1]}, bytes[2]|bytes[3] != 0}.coarse()
	var left []int
	for _, step := range c.newPlan(a).steps {
		for _, k := range step.all() {
			left = append(left, k.rule)
		}
	}
	slices.Sort(left)
	left = slices.Compact(left)
	return Proof{a.String(), len(c.checks) - len(left), left}, nil
}

func (g *Guide) classAt(where, name string) (*class, error) {
	switch where {
	case "query":
		return g.query.class(name), nil
	case "path":
		return g.path.class(name), nil
	case "header":
		return g.header.class(name), nil
	case "cookie":
		return g.cookie.class(name), nil
	case "body":
		return g.post.class(name), nil
	}
	return nil, fmt.Errorf("guide: no place is called %q; want query, path, header, cookie or body", where)
}

// Report says how each rule is kept from matching requests that are clean.
type Report struct {
	Version string           `json:"version"` // of the rule set
	Digest  string           `json:"digest"`
	Rules   map[string][]int `json:"rules"`   // ids by kind: value, structural, settled, setup, absent, response, unknown
	Unknown map[int]string   `json:"unknown"` // why a rule is; if there is any, no request is clean
}

// Report lists the rules. The digest covers the rules, their word lists and the
// versions of the engine and of the guide: a proof under another one is void.
func (g *Guide) Report() Report {
	r := Report{Version: g.set.Version, Digest: g.digest(), Rules: map[string][]int{}, Unknown: map[int]string{}}
	seen := map[int]bool{}
	for _, j := range g.rules {
		if seen[j.ID] {
			continue
		}
		seen[j.ID] = true
		r.Rules[string(j.kind)] = append(r.Rules[string(j.kind)], j.ID)
		if j.kind == kindUnknown {
			r.Unknown[j.ID] = j.why
		}
	}
	for _, ids := range r.Rules {
		slices.Sort(ids)
	}
	return r
}

// guideVersion changes with what the guide concludes from the same rules.
const guideVersion = 1

func (g *Guide) digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "guide %d\n", guideVersion)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if strings.HasPrefix(m.Path, "github.com/corazawaf/") {
				fmt.Fprintf(h, "%s %s %s\n", m.Path, m.Version, m.Sum)
			}
		}
	}
	for _, s := range g.set.Sources {
		fmt.Fprintf(h, "%s %d\n%s", s.Name, len(s.Text), s.Text)
	}
	for _, name := range g.wordFiles() {
		text, err := fs.ReadFile(g.set.Data(), name)
		fmt.Fprintf(h, "%s %d %v\n%s", name, len(text), err, text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (g *Guide) wordFiles() []string {
	var out []string
	for _, j := range g.rules {
		for _, l := range j.Links {
			if l.Op == "pmfromfile" || l.Op == "pmf" {
				out = append(out, l.Arg)
			}
		}
	}
	return distinct(out)
}
