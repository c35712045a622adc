package guide

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart/network/waf"
)

// target is one variable of a rule: what its operator looks at.
type target struct {
	Var   string // upper case
	Key   string // lower case; empty is every key
	Regex bool   // Key is a pattern
	Count bool   // the number of values, not the values
	Not   bool   // an exception

	canonical string // Key as net/http spells header names
}

// link is one SecRule; a rule is a chain of one or more.
type link struct {
	Targets []target
	Op, Arg string // Op is empty for SecAction, which always matches
	Neg     bool
	Trans   []string // lower case, after t:none has been obeyed
	Multi   bool     // operators see every step of Trans
	Capture bool     // what @rx matched is left in TX:0 to TX:8; else these are an earlier rule's
	SetVars []string
	Ctls    []string
}

// rule is a chain with the actions of its first link.
type rule struct {
	ID        int
	Phase     int
	Links     []*link
	SkipAfter string
	Skip      int
	NoLog     bool
	Pass      bool
	Marker    string   // a SecMarker; all else is empty
	Strange   []string // what the parser does not know: nothing is proved of the rule
}

// parse reads the sources in load order. What it cannot read at all is an
// error; a rule that it reads and does not understand is marked Strange.
func parse(sources []waf.Source) ([]*rule, error) {
	p := &parser{}
	for _, s := range sources {
		if err := p.source(s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	if p.open {
		return nil, fmt.Errorf("the last chain has no end")
	}
	return p.rules, nil
}

type parser struct {
	rules []*rule
	open  bool // the last rule expects another link
}

func (p *parser) source(s waf.Source) error {
	var line strings.Builder
	for raw := range strings.Lines(s.Text) {
		t := strings.TrimSpace(raw)
		if t == "" || t[0] == '#' {
			continue
		}
		if t[len(t)-1] == '`' {
			return fmt.Errorf("data sets are not supported")
		}
		if head, more := strings.CutSuffix(t, `\`); more {
			line.WriteString(head)
			continue
		}
		line.WriteString(t)
		if err := p.directive(line.String()); err != nil {
			return err
		}
		line.Reset()
	}
	if line.Len() > 0 {
		return fmt.Errorf("the last line goes on")
	}
	return nil
}

// settings are the directives that change no rule and no variable that rules
// read in requests as the stage hands them over.
var settings = map[string]bool{
	"secruleengine": true, "seccomponentsignature": true, "seccollectiontimeout": true,
	"secrequestbodyaccess":        true,
	"secrequestbodyinmemorylimit": true, "secrequestbodylimitaction": true,
	"secresponsebodyaccess": true, "secresponsebodymimetype": true, "secresponsebodylimit": true,
	"secresponsebodylimitaction": true, "secauditengine": true, "secauditlog": true,
	"secauditlogrelevantstatus": true, "secauditlogparts": true, "secauditlogtype": true,
	"secauditlogformat": true, "secauditlogstoragedir": true, "secdebuglog": true, "secdebugloglevel": true,
	"secdatadir": true, "sectmpdir": true, "secuploaddir": true, "secuploadkeepfiles": true,
	"secrxprefilter": true, "secservertokens": true, "secwebappid": true, "secsensorid": true,
	// Fewer rules: what cannot match the whole set cannot match less.
	"secruleremovebytag": true, "secruleremovebymsg": true,
}

// atLeast are the limits of the engine below which a view stays.
var atLeast = map[string]int{
	"secargumentslimit": maxArguments, "secrequestbodyjsondepthlimit": maxDepth,
	"secrequestbodylimit": maxBody, "secrequestbodynofileslimit": maxBody,
}

func (p *parser) directive(l string) error {
	name, rest, _ := strings.Cut(l, " ")
	rest = strings.TrimSpace(rest)
	switch name = strings.ToLower(name); {
	case name == "secrule":
		return p.secRule(rest)
	case name == "secaction":
		return p.add(&link{}, unquote(rest))
	case name == "secmarker":
		p.rules = append(p.rules, &rule{Marker: unquote(rest)})
		return nil
	case name == "secdefaultaction":
		return defaultAction(unquote(rest))
	case name == "secruleupdatetargetbyid":
		return p.updateTarget(rest)
	case name == "secruleremovebyid":
		return p.remove(rest)
	case settings[name]:
		return nil
	case atLeast[name] > 0:
		if n, err := strconv.Atoi(rest); err != nil || n < atLeast[name] {
			return fmt.Errorf("%s must be at least %d for the guide", name, atLeast[name])
		}
		return nil
	}
	return fmt.Errorf("directive %s is not known to the guide", name)
}

// defaultAction accepts defaults that change no match.
func defaultAction(s string) error {
	for _, a := range splitActions(s) {
		switch a.key {
		case "phase", "log", "auditlog", "nolog", "noauditlog", "pass", "deny", "block", "status", "tag":
		default:
			return fmt.Errorf("SecDefaultAction with %s is not known to the guide", a.key)
		}
	}
	return nil
}

// remove takes out the rules with these ids. It leaves ranges in: less removed
// is more looked for.
func (p *parser) remove(ids string) error {
	for id := range strings.FieldsSeq(ids) {
		n, err := strconv.Atoi(unquote(id))
		p.rules = slices.DeleteFunc(p.rules, func(r *rule) bool { return err == nil && r.Marker == "" && r.ID == n })
	}
	return nil
}

// updateTarget obeys exceptions. Anything that widens a rule is refused.
func (p *parser) updateTarget(s string) error {
	id, list, _ := strings.Cut(s, " ")
	n, err := strconv.Atoi(unquote(id))
	targets := splitTargets(unquote(strings.TrimSpace(list)))
	if err != nil || slices.ContainsFunc(targets, func(t target) bool { return !t.Not }) {
		return fmt.Errorf("SecRuleUpdateTargetById %s adds targets or ranges, which the guide does not follow", s)
	}
	for _, r := range p.rules {
		if r.ID == n && r.Marker == "" {
			r.Links[0].Targets = append(r.Links[0].Targets, targets...)
		}
	}
	return nil
}

func (p *parser) secRule(s string) error {
	vars, rest, ok := strings.Cut(s, " ")
	op, rest, quoted := cutQuoted(strings.TrimLeft(rest, " "))
	if !ok || !quoted {
		return fmt.Errorf("SecRule %.40q is not variables, operator, actions", s)
	}
	l := &link{Targets: splitTargets(vars)}
	l.Op, l.Arg, l.Neg = splitOperator(strings.ReplaceAll(op, `\"`, `"`))
	return p.add(l, unquote(strings.TrimSpace(rest)))
}

// cutQuoted takes the quoted string that s begins with, without its quotes.
func cutQuoted(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", s, false
	}
	for i, escaped := 1, false; i < len(s); i++ {
		switch {
		case escaped:
			escaped = false
		case s[i] == '\\':
			escaped = true
		case s[i] == '"':
			return s[1:i], s[i+1:], true
		}
	}
	return "", s, false
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

func splitOperator(s string) (op, arg string, neg bool) {
	s, neg = strings.CutPrefix(s, "!")
	if !strings.HasPrefix(s, "@") {
		return "rx", strings.TrimSpace(s), neg
	}
	op, arg, _ = strings.Cut(s[1:], " ")
	return strings.ToLower(op), strings.TrimSpace(arg), neg
}

// splitTargets reads A|&B:key|!C:/pattern/. A pattern may hold |.
func splitTargets(s string) []target {
	var out []target
	for s != "" {
		one, rest := cutTarget(s)
		out, s = append(out, one), rest
	}
	return out
}

func cutTarget(s string) (target, string) {
	var t target
	s, t.Not = strings.CutPrefix(s, "!")
	s, t.Count = strings.CutPrefix(s, "&")
	end := strings.IndexAny(s, ":|")
	if end < 0 || s[end] == '|' {
		name, rest, _ := strings.Cut(s, "|")
		t.Var = strings.ToUpper(name)
		return t, rest
	}
	t.Var = strings.ToUpper(s[:end])
	key, rest := cutKey(s[end+1:])
	if pattern, ok := strings.CutPrefix(key, "/"); ok && strings.HasSuffix(pattern, "/") && t.Var != "XML" {
		t.Regex, key = true, strings.TrimSuffix(pattern, "/")
	}
	t.Key, t.canonical = strings.ToLower(key), http.CanonicalHeaderKey(key)
	return t, rest
}

func cutKey(s string) (key, rest string) {
	if !strings.HasPrefix(s, "/") {
		key, rest, _ = strings.Cut(s, "|")
		return unquote(key), rest
	}
	for i := 1; i < len(s); i++ {
		if s[i] == '/' && s[i-1] != '\\' && (i+1 == len(s) || s[i+1] == '|') {
			return s[:i+1], strings.TrimPrefix(s[i+1:], "|")
		}
	}
	key, rest, _ = strings.Cut(s, "|")
	return key, rest
}

type action struct{ key, val string }

// splitActions reads a list such as id:1,msg:'a, b',chain.
func splitActions(s string) []action {
	var out []action
	quoted, start := false, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && (s[i] != ',' || quoted) {
			if s[i] == '\'' && (i == 0 || s[i-1] != '\\') {
				quoted = !quoted
			}
			continue
		}
		key, val, _ := strings.Cut(s[start:i], ":")
		if key = strings.ToLower(strings.TrimSpace(key)); key != "" {
			out = append(out, action{key, unquote(strings.TrimSpace(val))})
		}
		start = i + 1
	}
	return out
}

// add makes l the next link of the open chain, or a rule of its own.
func (p *parser) add(l *link, actions string) error {
	if !p.open {
		p.rules = append(p.rules, &rule{Phase: 2})
	}
	r := p.rules[len(p.rules)-1]
	if r.Marker != "" {
		return fmt.Errorf("a marker stands in a chain")
	}
	r.Links = append(r.Links, l)
	p.open = false
	for _, a := range splitActions(actions) {
		p.apply(r, l, a)
	}
	return nil
}

// silent are actions that neither decide whether a rule matches nor change
// what a later rule sees.
var silent = map[string]bool{
	"msg": true, "logdata": true, "tag": true, "ver": true, "severity": true, "rev": true, "maturity": true,
	"accuracy": true, "block": true, "deny": true, "drop": true, "status": true, "log": true, "auditlog": true,
	"noauditlog": true, "allow": true, "initcol": true,
}

func (p *parser) apply(r *rule, l *link, a action) {
	number := func() int {
		n, err := strconv.Atoi(a.val)
		if err != nil {
			r.Strange = append(r.Strange, a.key+":"+a.val)
		}
		return n
	}
	switch a.key {
	case "id":
		r.ID = number()
	case "phase":
		r.Phase = phase(r, a.val)
	case "chain":
		p.open = true
	case "t":
		l.transform(a.val)
	case "multimatch":
		l.Multi = true
	case "capture":
		l.Capture = true
	case "setvar":
		l.SetVars = append(l.SetVars, a.val)
	case "ctl":
		l.Ctls = append(l.Ctls, a.val)
	case "skipafter":
		r.SkipAfter = a.val
	case "skip":
		r.Skip = number()
	case "nolog":
		r.NoLog = true
	case "pass":
		r.Pass = true
	default:
		if !silent[a.key] {
			r.Strange = append(r.Strange, "action "+a.key)
		}
	}
}

func phase(r *rule, s string) int {
	if n, ok := map[string]int{"1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "request": 2, "response": 4, "logging": 5}[s]; ok {
		return n
	}
	r.Strange = append(r.Strange, "phase:"+s)
	return 2
}

func (l *link) transform(name string) {
	if name = strings.ToLower(name); name == "none" {
		l.Trans = nil
		return
	}
	l.Trans = append(l.Trans, name)
}
