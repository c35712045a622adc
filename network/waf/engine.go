package waf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"
)

// Options configure an Engine.
type Options struct {
	Paranoia  int              // level of the rules, 1 to 4; 0 is 1
	Threshold int              // anomaly score that refuses; 0 is 5: one critical finding
	Exclude   []Exclusion      // rules that are off for a field of an operation
	MaxBody   int64            // longer bodies are refused, never looked at in part; 0 is 1 MiB
	Now       func() time.Time // nil: time.Now

	// Standalone engines judge method, host and media type, too. In the gateway
	// the operation's document has decided these before.
	Standalone bool

	// Setup are further variables of the rule set's setup, such as "arg_length":
	// "400". Nil: its defaults.
	Setup map[string]string
}

func (o Options) filled() (Options, error) {
	if o.Paranoia == 0 {
		o.Paranoia = 1
	}
	if o.Threshold == 0 {
		o.Threshold = 5
	}
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Paranoia < 1 || o.Paranoia > 4 || o.Threshold < 1 || o.MaxBody < 0 {
		return o, errors.New("waf: want a paranoia level from 1 to 4, a threshold and a body limit above 0")
	}
	return o, nil
}

// Engine is Coraza with the Core Rule Set 4 at one paranoia level and
// threshold. It is safe for concurrent use.
type Engine struct {
	opt      Options
	set      RuleSet
	compiled func() (*compiled, error)
	exclude  map[string][]exclusion // by route
}

// compiled is what takes a second and 20 MiB to make.
type compiled struct {
	waf   coraza.WAF
	rules map[int]rule
}

// New compiles the rules. An engine of its own is closed with Close; engines
// that differ in threshold and exclusions only are better had of a Pool.
func New(o Options) (*Engine, error) {
	e, err := newEngine(o)
	if err != nil {
		return nil, err
	}
	c, err := compile(e.set)
	if err != nil {
		return nil, err
	}
	e.compiled = func() (*compiled, error) { return c, nil }
	return e, nil
}

func newEngine(o Options) (*Engine, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	set, err := ruleSet(o)
	if err != nil {
		return nil, fmt.Errorf("waf: %w", err)
	}
	exclude, err := parseExclusions(o.Exclude)
	if err != nil {
		return nil, err
	}
	return &Engine{opt: o, set: set, exclude: exclude}, nil
}

func compile(set RuleSet) (*compiled, error) {
	conf := coraza.NewWAFConfig().WithRootFS(set.Data())
	for _, s := range set.Sources {
		conf = conf.WithDirectives(s.Text)
	}
	w, err := coraza.NewWAF(conf)
	if err != nil {
		return nil, fmt.Errorf("waf: the rules do not compile (Coraza wants a writable directory for temporary files, see TMPDIR): %w", err)
	}
	return &compiled{waf: w, rules: set.index()}, nil
}

func (c *compiled) close() {
	if closer, ok := c.waf.(io.Closer); ok {
		_ = closer.Close() // patterns leave the cache; there is nothing to be done about one that does not
	}
}

// Rules returns what the engine was compiled from.
func (e *Engine) Rules() RuleSet { return e.set }

// Close gives the rules' patterns back to the process, which shares them among
// its engines. What is being inspected is not disturbed. An engine of a Pool is
// closed with its Pool.
func (e *Engine) Close() {
	if c, err := e.compiled(); err == nil {
		c.close()
	}
}

// Pool makes engines that share their compiled rules: one set for a paranoia
// level, whatever the number of routes, thresholds, exclusions and reloads.
// They are compiled when the first request needs them. The zero Pool is ready;
// it is safe for concurrent use.
type Pool struct {
	mu     sync.Mutex
	levels map[int]*level
}

type level struct {
	once sync.Once
	c    *compiled
	err  error
}

// Engine returns an engine of o. Rules of a level are shared, so o may ask for
// nothing that changes them.
func (p *Pool) Engine(o Options) (*Engine, error) {
	if o.Standalone || o.Setup != nil {
		return nil, errors.New("waf: an engine of a pool has the pool's rules")
	}
	e, err := newEngine(o)
	if err != nil {
		return nil, err
	}
	l := p.level(e.opt.Paranoia)
	e.compiled = func() (*compiled, error) {
		l.once.Do(func() { l.c, l.err = compile(e.set) })
		return l.c, l.err
	}
	return e, nil
}

func (p *Pool) level(n int) *level {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.levels == nil {
		p.levels = map[int]*level{}
	}
	if p.levels[n] == nil {
		p.levels[n] = &level{}
	}
	return p.levels[n]
}

// Close closes the rules of all levels.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.levels {
		if l.c != nil {
			l.c.close()
		}
	}
	p.levels = nil
}

const bodyVariable = "REQUEST_BODY"

// Inspect runs every rule over r. After an error nothing is known of r: refuse
// it. Its cost grows with the free text of r, some 4 µs a byte, and ctx is
// heeded between the phases of the rules only: bound the body.
func (e *Engine) Inspect(ctx context.Context, r *Request) (Verdict, error) {
	if int64(len(r.Body)) > e.opt.MaxBody {
		f := Finding{Rule: ruleSize, Message: "A longer body than is inspected", Severity: "CRITICAL", Variable: bodyVariable, Fields: []string{bodyVariable}}
		return Verdict{Refuse: true, Status: http.StatusRequestEntityTooLarge, Threshold: e.opt.Threshold, Findings: []Finding{f}, Mode: ModeFull}, nil
	}
	if r.misnamed() {
		return e.judge([]Finding{{Rule: ruleBody, Message: "The body is not what its type says", Severity: "CRITICAL", Variable: bodyVariable, Fields: []string{bodyVariable}}}), nil
	}
	c, err := e.compiled()
	if err != nil {
		return Verdict{}, err
	}
	found, err := c.run(ctx, r)
	if err == nil {
		found, err = e.without(ctx, c, r, found)
	}
	if err != nil {
		return Verdict{}, fmt.Errorf("waf: %w", err)
	}
	return e.judge(found), nil
}

// judge adds up. Rules about what could not be read refuse whatever the score.
func (e *Engine) judge(found []Finding) Verdict {
	v := Verdict{Threshold: e.opt.Threshold, Findings: found, Mode: ModeFull}
	for _, f := range found {
		v.Score += f.Score
		v.Refuse = v.Refuse || unreadable(f.Rule)
	}
	v.Refuse = v.Refuse || v.Score >= e.opt.Threshold
	if v.Refuse {
		v.Status = http.StatusForbidden
	}
	return v
}

// unreadable tells the rules by which a request was not, or not wholly, looked
// at.
func unreadable(id int) bool {
	return id == ruleBody || id == ruleMultipart || id == ruleArguments
}

// run hands r to the rules. A panic of theirs is a request that could not be
// inspected, so its transaction is not used again.
func (c *compiled) run(ctx context.Context, r *Request) (found []Finding, err error) {
	defer func() {
		if v := recover(); v != nil {
			found, err = nil, fmt.Errorf("the rules panicked: %v", v)
		}
	}()
	tx := c.waf.NewTransactionWithID("-")
	head(tx, r)
	tx.ProcessRequestHeaders()
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, tx.Close())
	}
	if err := body(tx, r.Body); err != nil {
		return nil, errors.Join(err, tx.Close())
	}
	found = c.findings(tx.MatchedRules(), r)
	return found, tx.Close()
}

// head says everything but the body.
func head(tx types.Transaction, r *Request) {
	proto := r.Proto
	if proto == "" {
		proto = "HTTP/1.1"
	}
	tx.ProcessConnection(r.Client.String(), 0, "", 0)
	tx.ProcessURI(r.Target, r.Method, proto)
	for _, p := range r.Path {
		tx.AddPathRequestArgument(p.Name, p.Value)
	}
	if r.Host != "" || proto == "HTTP/1.1" { // which no request without the header gets through
		tx.AddRequestHeader("Host", r.Host)
		tx.SetServerName(r.Host)
	}
	for name, values := range r.Header {
		if name == "Content-Type" && len(values) == 1 {
			values = []string{mediaType(r.BodyKind, values[0])}
		}
		for _, v := range values {
			tx.AddRequestHeader(strings.Clone(name), v) // see again: values may not share the memory of their name
		}
	}
	again(tx, r)
}

// mediaType has the rules read the body as the stage did: by a spelling of the
// type that only one of the two knows, the rules could be made to read
// something else.
func mediaType(kind BodyKind, declared string) string {
	lower := strings.ToLower(declared)
	switch {
	case kind == JSONBody && !strings.HasPrefix(lower, "application/json"):
		return "application/json"
	case kind == FormBody && !strings.HasPrefix(lower, "application/x-www-form-urlencoded"):
		return "application/x-www-form-urlencoded"
	}
	return declared
}

// body hands the body over and has the rules of the second phase run. With the
// engine on detection, Coraza takes a part of a body that exceeds its limits;
// that must not count as inspected.
func body(tx types.Transaction, b []byte) error {
	if len(b) > 0 {
		if _, n, err := tx.WriteRequestBody(b); err != nil || n != len(b) {
			return errors.Join(errors.New("the body was not taken whole"), err)
		}
	}
	_, err := tx.ProcessRequestBody()
	return err
}

// findings are the matches that count. Rules that only set things up match
// always and are left out.
func (c *compiled) findings(matched []types.MatchedRule, in *Request) []Finding {
	var out []Finding
	s := &speller{r: in}
	for _, m := range matched {
		meta := m.Rule()
		r := c.rules[meta.ID()]
		if len(r.weights) == 0 && !unreadable(meta.ID()) {
			continue
		}
		out = append(out, Finding{
			Rule: meta.ID(), Message: r.msg, Severity: strings.ToUpper(meta.Severity().String()),
			Variable: names(m.MatchedDatas()), Fields: s.fields(m.MatchedDatas()), Score: r.score(m.MatchedDatas()), Tags: meta.Tags(),
		})
	}
	return out
}

func (r rule) score(matches []types.MatchData) int {
	sum := 0
	for _, w := range r.weights {
		for _, m := range matches {
			if m.ChainLevel() == w.level {
				sum += w.score
			}
		}
	}
	return sum
}

// The bounds of Finding.Variable and Finding.Fields: names come from clients.
const (
	maxName  = 96
	maxNames = 8
)

// isField tells variables of a request from what a rule computed on the way, which is
// nothing that anybody could exclude.
func isField(m types.MatchData) bool {
	v := m.Variable().Name()
	return v != "TX" && v != "UNKNOWN" && !strings.HasPrefix(v, "MATCHED_VAR")
}

// names lists what a rule matched in.
func names(matches []types.MatchData) string {
	return strings.Join(each(matches, func(variable, key string) string {
		if key != "" {
			variable += ":" + key
		}
		return variable[:min(len(variable), maxName)]
	}), " ")
}

func (s *speller) fields(matches []types.MatchData) []string { return each(matches, s.field) }

// each names what is matched in by name, each once, in order, bounded.
func each(matches []types.MatchData, name func(variable, key string) string) (list []string) {
	for _, m := range matches {
		if isField(m) {
			list = append(list, name(m.Variable().Name(), m.Key()))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxNames)]
}
