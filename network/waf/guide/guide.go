// Package guide proves of requests that no rule of the web application firewall
// can match, so that the engine need not run. It never says what a rule would
// find: in any doubt the engine judges the whole request.
//
// At load it reads the very text that the engine was compiled from and sorts
// each rule: settled by the settings; looked for in every value; decided from
// the shape of the request; or unknown, by which no request is clean any more.
// A release of the rules that it does not understand costs time, not safety.
//
// At run time each value is read once for the characters that it has. What no
// value over these characters can match is proved by the rule's expression and
// remembered for the alphabet; of the rest, rules are left out whose words do
// not occur; what then remains is run.
package guide

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/rampart-security/rampart/network/waf"
)

// Guide is a waf.Guide for one set of rules. It is safe for concurrent use and
// holds some 20 MiB.
type Guide struct {
	set     waf.RuleSet
	rules   []*judged
	checks  []*check
	chains  []*chain // about the head of a request, but for the length of its body
	lengths []*chain // about that length, too
	words   *words
	memo    *memo // of texts that come again: header fields, names, targets
	values  *memo // of short values, so that the many do not crowd out the others
	heads   *memo // of what of a head comes again
	shapes  *memo // of the names in a body
	unknown bool
	// distinct: a rule counts the arguments of each name.
	distinct bool
	scratch  sync.Pool

	line                          map[string]*class // by variable
	inHead                        map[string]bool   // the header fields that heads holds
	headNames                     []string          // the same, sorted
	header, cookie                place
	headerName, cookieName        *class
	query, post, path             place
	queryName, postName, pathName place
	body                          *class
	emptyBody                     bool // REQUEST_BODY is clean where the rules see none
	lengthName                    bool // and the name Content-Length
}

var _ waf.Guide = (*Guide)(nil)

// place is where values stand; some rules look at one key only, or spare it.
type place struct {
	id    byte
	base  *class
	keyed map[string]*class // by key in lower case
}

func (p *place) class(key string) *class {
	if len(p.keyed) == 0 {
		return p.base
	}
	var room [64]byte // names are short, and most are in ASCII: their lower case is no memory of its own
	low := room[:0]
	for i := range len(key) {
		if key[i] >= utf8.RuneSelf || len(low) == cap(low) {
			low = []byte(strings.ToLower(key))
			break
		}
		low = append(low, lower(key[i]))
	}
	if c, ok := p.keyed[string(low)]; ok {
		return c
	}
	return p.base
}

// New reads the rules of an engine. A set that it cannot read at all is an
// error: run without a guide then. One with rules that it does not understand
// gives a guide that finds nothing clean; see Report.
func New(set waf.RuleSet) (*Guide, error) {
	rules, err := parse(set.Sources)
	if err != nil {
		return nil, fmt.Errorf("guide: %w", err)
	}
	fit, err := learnFit()
	if err != nil {
		return nil, fmt.Errorf("guide: %w", err)
	}
	known := transforms(fit)
	c := &compiler{fold: fold(rules, known), data: set.Data(), transforms: known}
	g := &Guide{set: set, rules: c.fold.out, memo: newMemo(), values: newMemo(), heads: newMemo(), shapes: newMemo()}
	for _, j := range g.rules {
		if j.kind == "" {
			c.rule(j)
		}
		g.unknown = g.unknown || j.kind == kindUnknown
	}
	g.checks, g.distinct = c.checks, c.distinct
	join(g.checks)
	g.setChains(c.chains)
	if err := g.number(); err != nil {
		return nil, fmt.Errorf("guide: %w", err)
	}
	g.place()
	g.emptyBody = g.clean(g.body, "", newScratch())
	g.lengthName = g.clean(g.headerName, lengthField, newScratch())
	return g, nil
}

const lengthField = "Content-Length"

// setChains sorts the chains by whether the length of a body, which is often
// another one, has a part in them.
func (g *Guide) setChains(all []*chain) {
	g.inHead = map[string]bool{"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Content-Type": true, "Host": true, "User-Agent": true}
	for _, c := range all {
		length := false
		for _, l := range c.links {
			for _, t := range l.targets {
				length = length || t.Var == "REQUEST_BODY_LENGTH" || t.canonical == lengthField
				if t.canonical != "" {
					g.inHead[t.canonical] = true
				}
			}
		}
		if length {
			g.lengths = append(g.lengths, c)
		} else {
			g.chains = append(g.chains, c)
		}
	}
	delete(g.inHead, lengthField)
	g.headNames = slices.Sorted(maps.Keys(g.inHead))
}

// number gives each check with words a place in the automaton.
func (g *Guide) number() error {
	if len(g.checks) > maxNumber {
		return fmt.Errorf("%d rules look at values, more than %d", len(g.checks), maxNumber)
	}
	var list []wordList
	for i, k := range g.checks {
		k.number = i
		for _, w := range k.op.gate {
			list = append(list, wordList{w, i})
		}
	}
	g.words = newWords(list)
	return nil
}

func (g *Guide) place() {
	g.line = map[string]*class{}
	for _, v := range [...]string{"REQUEST_METHOD", "REQUEST_PROTOCOL", "REQUEST_LINE", "REQUEST_URI", "REQUEST_URI_RAW",
		"REQUEST_FILENAME", "REQUEST_BASENAME", "QUERY_STRING"} {
		g.line[v] = g.classOf("", v)
	}
	g.body = g.classOf("", "REQUEST_BODY")
	g.header, g.headerName = g.placeOf('h', "REQUEST_HEADERS"), g.classOf("", "REQUEST_HEADERS_NAMES")
	g.cookie, g.cookieName = g.placeOf('c', "REQUEST_COOKIES"), g.classOf("", "REQUEST_COOKIES_NAMES")
	g.query, g.queryName = g.placeOf('q', "ARGS", "ARGS_GET"), g.placeOf('Q', "ARGS_NAMES", "ARGS_GET_NAMES")
	g.post, g.postName = g.placeOf('b', "ARGS", "ARGS_POST"), g.placeOf('B', "ARGS_NAMES", "ARGS_POST_NAMES")
	g.path, g.pathName = g.placeOf('p', "ARGS", "ARGS_PATH"), g.placeOf('P', "ARGS_NAMES")
}

// placeOf gathers the checks of vars, and of each key that a rule names.
func (g *Guide) placeOf(id byte, vars ...string) place {
	p := place{id: id, base: g.classOf("", vars...), keyed: map[string]*class{}}
	for _, k := range g.checks {
		for _, t := range k.targets {
			if t.Key != "" && !t.Regex && contains(vars, t.Var) && p.keyed[t.Key] == nil {
				p.keyed[t.Key] = g.classOf(t.Key, vars...)
			}
		}
	}
	return p
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// classOf gathers the checks that look at key of vars; the empty key is any
// that no rule names. Patterns of keys count as any key where they choose, as
// none where they spare: either way more is looked at.
func (g *Guide) classOf(key string, vars ...string) *class {
	c := &class{}
	for _, k := range g.checks {
		for _, v := range vars {
			if k.looksAt(v, key) {
				c.checks = append(c.checks, k)
				break
			}
		}
	}
	return c
}

func (k *check) looksAt(variable, key string) bool {
	looks := false
	for _, t := range k.targets {
		if t.Var != variable {
			continue
		}
		if t.Not && !t.Regex && t.Key != "" && t.Key == key {
			return false
		}
		looks = looks || !t.Not && (t.Key == "" || t.Regex || t.Key == key)
	}
	return looks
}

// Clean reports whether it is proved that no rule can match r. A panic, which
// would be a defect of the guide or of a library, proves nothing.
func (g *Guide) Clean(r *waf.Request) (clean bool) {
	defer func() {
		if recover() != nil {
			clean = false
		}
	}()
	return g.cleanRequest(r)
}

func (g *Guide) cleanRequest(r *waf.Request) bool {
	var v view
	if g.unknown || !v.read(r) {
		return false
	}
	st, _ := g.scratch.Get().(*scratch)
	if st == nil {
		st = &scratch{}
	}
	st.budget, st.joints, st.args = maxSteps, maxSteps, 0
	clean := g.cleanNames(&v, st) && g.cleanLine(&v, st) && g.cleanHead(&v, st) && g.cleanPath(&v, st) && g.cleanBody(&v, st) &&
		st.args <= maxArguments
	st.forget()
	g.scratch.Put(st) // another request has it from here on
	return clean
}

// cleanHead looks at the header, and at the chains, which ask for more than one
// part of a head. What of it seldom changes is remembered together.
func (g *Guide) cleanHead(v *view, st *scratch) bool {
	return g.cleanConstant(v, st) && g.cleanRest(v, st) && !anyMatches(g.lengths, v, st)
}

func anyMatches(chains []*chain, v *view, st *scratch) bool {
	for _, c := range chains {
		if c.matches(v, st) {
			return true
		}
	}
	return false
}

// cleanConstant looks at the fields of inHead. The key has all that the chains read:
// the method, the version, and these fields, those that are missing too.
func (g *Guide) cleanConstant(v *view, st *scratch) bool {
	key := appendText(appendText(appendText(append(st.key[:0], 'H'), v.Method), v.proto), v.Host)
	for _, name := range g.headNames {
		_, values := v.headerValues(name)
		key = binary.AppendUvarint(key, uint64(len(values)))
		for _, s := range values {
			key = appendText(key, s)
		}
	}
	st.key = key
	if len(key) > maxKey {
		return g.lookConstant(v, st)
	}
	return g.heads.or(key, func() bool { return g.lookConstant(v, st) })
}

func (g *Guide) lookConstant(v *view, st *scratch) bool {
	for _, name := range g.headNames {
		if !g.cleanHeaderValues(v, name, st) {
			return false
		}
	}
	return !anyMatches(g.chains, v, st)
}

// cleanRest looks at the other fields. Looking a name up must find all that Coraza
// finds, which ignores case.
func (g *Guide) cleanRest(v *view, st *scratch) bool {
	for name, values := range v.Header {
		switch {
		case g.inHead[name]:
		case name == lengthField:
			for _, s := range values {
				if !g.lengthName || !g.clean(g.header.class(name), s, st) {
					return false
				}
			}
		case name == "" || name != http.CanonicalHeaderKey(name) || !g.cleanHeaderValues(v, name, st):
			return false
		}
	}
	return true
}

// remembered runs fn unless the texts are known to be clean at this place.
func (g *Guide) remembered(st *scratch, at byte, a, b, c string, fn func() bool) bool {
	st.key = append(st.key[:0], at)
	st.key = append(append(append(append(append(st.key, a...), 0), b...), 0), c...)
	if len(st.key) > maxKey {
		return fn()
	}
	return g.memo.or(st.key, fn)
}

// cleanValue is clean for values that may come again, such as identifiers.
func (g *Guide) cleanValue(at byte, c *class, s string, st *scratch) bool {
	if len(s) < minValue || len(s) > maxValue {
		return g.clean(c, s, st)
	}
	st.key = append(append(st.key[:0], at), s...)
	return g.values.or(st.key, func() bool { return g.clean(c, s, st) })
}

// Values of these lengths are remembered: shorter ones are soon looked at, and
// longer ones seldom the same.
const (
	minValue = 8
	maxValue = 64
)

// maxKey is the length up to which a text is worth remembering.
const maxKey = 4 << 10

// cleanLine looks at method, target and version, and at the query.
func (g *Guide) cleanLine(v *view, st *scratch) bool {
	st.args += strings.Count(v.Target, "&") + 1
	return g.remembered(st, 'l', v.Method, v.Target, v.proto, func() bool {
		uri, path, query, ok := targetParts(v.Target)
		if !ok {
			return false
		}
		parts := [...]struct{ variable, value string }{
			{"REQUEST_METHOD", v.Method}, {"REQUEST_PROTOCOL", v.proto}, {"REQUEST_URI_RAW", v.Target}, {"REQUEST_URI", uri},
			{"REQUEST_LINE", v.Method + " " + v.Target + " " + v.proto}, {"REQUEST_FILENAME", path},
			{"REQUEST_BASENAME", basename(path)}, {"QUERY_STRING", query},
		}
		for _, p := range parts {
			if !g.clean(g.line[p.variable], p.value, st) {
				return false
			}
		}
		return g.cleanPairs(&g.query, &g.queryName, query, st)
	})
}

func (g *Guide) cleanPairs(values, names *place, s string, st *scratch) bool {
	for name, val := range pairs(s) {
		// The engine gives values without a name one of its own; see its repeats.
		if name == "" || !g.clean(names.class(name), name, st) || !g.clean(values.class(name), val, st) {
			return false
		}
	}
	return true
}

func (g *Guide) cleanHeaderValues(v *view, name string, st *scratch) bool {
	host, rest := v.headerValues(name)
	if host != "" && !g.cleanField(name, host, st) {
		return false
	}
	for _, s := range rest {
		if !g.cleanField(name, s, st) {
			return false
		}
	}
	return true
}

func (g *Guide) cleanField(name, value string, st *scratch) bool {
	return g.remembered(st, g.header.id, name, value, "", func() bool {
		if !g.clean(g.headerName, name, st) || !g.clean(g.header.class(name), value, st) {
			return false
		}
		return name != "Cookie" || g.cleanCookies(value, st)
	})
}

// cleanCookies leaves cookies that come twice to the engine, which has the rules
// see each of them in a field of its own.
func (g *Guide) cleanCookies(s string, st *scratch) bool {
	if len(waf.RepeatedCookies(s)) > 0 {
		return false
	}
	for name, val := range cookies(s) {
		if !g.clean(g.cookieName, name, st) || !g.clean(g.cookie.class(name), val, st) {
			return false
		}
	}
	return true
}

func (g *Guide) cleanPath(v *view, st *scratch) bool {
	st.args += len(v.Path)
	for _, a := range v.Path {
		if !g.cleanName(&g.pathName, a.Name, st) || !g.clean(g.path.class(a.Name), a.Value, st) {
			return false
		}
	}
	return true
}

func (g *Guide) cleanName(names *place, name string, st *scratch) bool {
	return g.remembered(st, names.id, name, "", "", func() bool { return g.clean(names.class(name), name, st) })
}

func (g *Guide) cleanBody(v *view, st *scratch) bool {
	if len(v.Body) == 0 || v.BodyKind == waf.JSONBody {
		return g.emptyBody && (len(v.Body) == 0 || g.cleanJSON(v, st))
	}
	text := string(v.Body)
	st.args += strings.Count(text, "&") + 1
	return g.clean(g.body, text, st) && g.cleanPairs(&g.post, &g.postName, text, st)
}
