package guide

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// values are the variables whose every value the guide looks at.
var values = map[string]bool{
	"ARGS": true, "ARGS_GET": true, "ARGS_POST": true, "ARGS_NAMES": true, "ARGS_GET_NAMES": true, "ARGS_POST_NAMES": true,
	"REQUEST_COOKIES": true, "REQUEST_COOKIES_NAMES": true, "REQUEST_HEADERS": true, "REQUEST_HEADERS_NAMES": true,
	"REQUEST_URI": true, "REQUEST_URI_RAW": true, "REQUEST_FILENAME": true, "REQUEST_BASENAME": true, "REQUEST_LINE": true,
	"QUERY_STRING": true, "REQUEST_BODY": true, "REQUEST_METHOD": true, "REQUEST_PROTOCOL": true,
}

// compiler makes of the rules that are still open what Clean runs.
type compiler struct {
	fold       *folder
	data       fs.FS
	transforms map[string]transform
	checks     []*check
	chains     []*chain
	distinct   bool // no two arguments may have one name
}

// rule settles how j is kept from matching. What it does not understand is
// unknown.
func (c *compiler) rule(j *judged) {
	err := c.native(j)
	if err == errNoNative {
		err = c.generic(j)
	}
	if err != nil {
		j.unknown(err.Error())
	}
}

var errNoNative = fmt.Errorf("no predicate of its own")

// generic: a chain cannot match if one link cannot. A first link about values
// is looked for in them; one about the shape of a request is decided together
// with the links of its kind that follow.
func (c *compiler) generic(j *judged) error {
	first := j.open[0]
	if c.shape(first) && (len(j.open) > 1 || counts(first)) {
		err := c.chain(j)
		if err == nil || len(j.open) == 1 {
			return err
		}
		first = j.open[len(j.open)-1] // a chain needs its last link, too
	}
	k, err := c.check(j, first)
	if err != nil {
		return err
	}
	c.checks = append(c.checks, k)
	j.kind = kindValue
	if first.Neg || c.shape(first) {
		j.kind = kindStructural
	}
	return nil
}

func (c *compiler) check(j *judged, l *link) (*check, error) {
	for _, t := range l.Targets {
		if !t.Not && (t.Count || !values[t.Var] && !noValues[t.Var]) {
			return nil, fmt.Errorf("target %s is not known to the guide", t.Var)
		}
	}
	op, err := c.operator(l)
	if err != nil {
		return nil, err
	}
	trans, err := c.chainOf(l)
	return &check{rule: j.ID, op: op, trans: trans, multi: l.Multi, targets: l.Targets}, err
}

func (c *compiler) operator(l *link) (operator, error) {
	arg, ok := l.Arg, true
	if l.Op != "rx" { // Coraza expands no macros in expressions
		arg, ok = c.fold.expand(l.Arg)
	}
	if !ok {
		return operator{}, fmt.Errorf("the argument of @%s depends on the request", l.Op)
	}
	return compile(l, arg, c.data)
}

func (c *compiler) chainOf(l *link) ([]transform, error) {
	var out []transform
	for _, name := range l.Trans {
		t, ok := c.transforms[name]
		if !ok {
			return nil, fmt.Errorf("t:%s is not known to the guide", name)
		}
		// With multiMatch Coraza goes on from an entity that it decoded to the
		// same length as if it had not.
		if l.Multi && name == "htmlentitydecode" {
			return nil, fmt.Errorf("t:%s with multiMatch is not known to the guide", name)
		}
		out = append(out, t)
	}
	return out, nil
}

// shape reports whether l looks only at single values and counts that a view
// has at hand.
func (c *compiler) shape(l *link) bool {
	return !slices.ContainsFunc(l.Targets, func(t target) bool {
		return t.Not || t.Regex || !(t.Var == "REQUEST_METHOD" || t.Var == "REQUEST_PROTOCOL" || t.Var == "REQUEST_BODY_LENGTH" ||
			t.Var == "REQUEST_HEADERS" && t.Key != "")
	})
}

func counts(l *link) bool {
	return slices.ContainsFunc(l.Targets, func(t target) bool { return t.Count || t.Var == "REQUEST_BODY_LENGTH" })
}

// chain is a rule that is evaluated on the shape of each request. Links that
// are not of that kind are left out, which makes it match more.
type chain struct {
	rule  int
	links []chainLink
}

type chainLink struct {
	targets []target
	op      operator
	trans   []transform
}

func (c *compiler) chain(j *judged) error {
	out := &chain{rule: j.ID}
	for _, l := range j.open {
		if !c.shape(l) || l.Multi {
			continue
		}
		op, err := c.operator(l)
		if err != nil {
			return err
		}
		trans, err := c.chainOf(l)
		if err != nil {
			return err
		}
		out.links = append(out.links, chainLink{l.Targets, op, trans})
	}
	c.chains = append(c.chains, out)
	j.kind = kindStructural
	return nil
}

// matches reports whether the chain may match v. An operator that has only
// words, or that is not sure, counts as matching.
func (c *chain) matches(v *view, st *scratch) bool {
	for i := range c.links {
		if !c.links[i].matches(v, st) {
			return false
		}
	}
	return true
}

func (l *chainLink) matches(v *view, st *scratch) bool {
	var few [4]string
	for i := range l.targets {
		for _, val := range v.shape(&l.targets[i], few[:0]) {
			if l.holds(val, st) {
				return true
			}
		}
	}
	return false
}

func (l *chainLink) holds(val string, st *scratch) bool {
	ok := true
	for _, t := range l.trans {
		if val, ok = t.apply(val); !ok {
			return true
		}
	}
	if l.op.only {
		return true
	}
	matched, sure := l.op.matches(val, &st.budget)
	return matched || !sure
}

// native finds the rules that take a predicate of their own: those that carry
// text from one link to another by a variable.
func (c *compiler) native(j *judged) error {
	switch {
	case j.ID == 922110:
		return c.multipartNames(j)
	case len(j.Links) == 2 && len(j.open) == 2:
		return c.capture(j)
	}
	return c.distinctNames(j)
}

// multipartNames is rule 922110. It reads the variables whose names hold the
// mark below. In requests without parts, none but those named after a header
// or an argument could: see TX.header_name_% and TX.paramcounter_%.
func (c *compiler) multipartNames(j *judged) error {
	const mark = "multipart_headers_content_types"
	l := j.Links[0]
	if len(l.Targets) != 1 || l.Targets[0].Key != mark+"_*" || !l.Targets[0].Regex {
		return errNoNative
	}
	names := []target{{Var: "REQUEST_HEADERS_NAMES"}, {Var: "ARGS_NAMES"}}
	c.checks = append(c.checks, &check{rule: j.ID, op: pm([]string{mark}, false), targets: names})
	j.kind = kindStructural
	return nil
}

// capture compiles a chain of two in which the second link sees what the first
// captured: by a variable, "tx.name=|%{tx.1}|", then TX:name, or as TX:1. It may
// match a value if the second link matches what that very value leads to; that
// Coraza shows it only the last one makes no difference to whether none matches.
func (c *compiler) capture(j *judged) error {
	first, second := j.Links[0], j.Links[1]
	val, ok := carries(first, second)
	if !ok {
		return errNoNative
	}
	k, err := c.check(j, first)
	if err != nil {
		return err
	}
	// (?-m) and (?m) differ in texts of several lines only, which are refused.
	re, err := regexp.Compile("(?s)" + first.Arg)
	if err != nil || singleBytes(first.Arg) || !within(re, val) {
		return fmt.Errorf("the chain carries text in a way that is not known to the guide")
	}
	then, err := c.then(second, re)
	if err != nil {
		return err
	}
	k.op = carried(re, val, k.op, then)
	c.checks = append(c.checks, k)
	j.kind = kindStructural
	return nil
}

// carries returns what the second link sees, with macros for what the first
// captured.
func carries(first, second *link) (val string, ok bool) {
	if first.Op != "rx" || first.Neg || !first.Capture || first.Multi || len(second.Targets) != 1 || second.Targets[0].Var != "TX" {
		return "", false
	}
	t := second.Targets[0]
	if len(t.Key) == 1 && t.Key[0] >= '0' && t.Key[0] <= '9' && !t.Not && !t.Count && !t.Regex {
		return "%{tx." + t.Key + "}", true
	}
	if len(first.SetVars) != 1 {
		return "", false
	}
	name, val, _ := strings.Cut(first.SetVars[0], "=")
	return val, leadsTo(strings.ToLower(name), t)
}

// within reports whether all macros of s are captures that re sets. Others
// would be an earlier rule's. Coraza sets no tenth.
func within(re *regexp.Regexp, s string) bool {
	for _, m := range captured.FindAllStringSubmatch(s, -1) {
		if n := int(m[1][0] - '0'); n > re.NumSubexp() || n == 9 {
			return false
		}
	}
	return !strings.Contains(captured.ReplaceAllString(s, ""), "%{")
}

// then is what becomes of the carried text. Its submatches are those of the
// first link.
func (c *compiler) then(l *link, re *regexp.Regexp) (func(text string, m []string, st *scratch) bool, error) {
	trans, err := c.chainOf(l)
	if err != nil {
		return nil, err
	}
	if _, err := plain(l.Op, ""); err == nil && len(trans) == 0 && captured.MatchString(l.Arg) && within(re, l.Arg) {
		return func(text string, m []string, _ *scratch) bool {
			fn, _ := plain(l.Op, filled(l.Arg, m))
			return fn(text) != l.Neg
		}, nil
	}
	op, err := c.operator(l)
	if err != nil {
		return nil, err
	}
	link := chainLink{op: op, trans: trans}
	return func(text string, _ []string, st *scratch) bool { return link.holds(text, st) }, nil
}

// leadsTo reports whether a variable of this name is one that t selects.
func leadsTo(name string, t target) bool {
	_, name, _ = strings.Cut(name, ".")
	if !t.Regex {
		return name == t.Key
	}
	prefix, _, macro := strings.Cut(name, "%{")
	return macro && t.Key == "^"+prefix || t.Key == "^"+prefix+"/"
}

var captured = regexp.MustCompile(`(?i)%\{tx\.([0-9])\}`)

// filled puts submatches into the macros of s.
func filled(s string, m []string) string {
	return captured.ReplaceAllStringFunc(s, func(ref string) string { return m[ref[5]-'0'] })
}

func carried(re *regexp.Regexp, val string, first operator, then func(text string, m []string, st *scratch) bool) operator {
	matches := func(s string, budget *int) (bool, bool) {
		if strings.ContainsAny(s, "\n\r") {
			return false, false
		}
		m := re.FindStringSubmatch(s)
		if m == nil {
			return false, true
		}
		return then(filled(val, m), m, &scratch{budget: *budget}), true
	}
	return operator{possible: first.possible, matches: matches, gate: first.gate, folds: first.folds}
}
