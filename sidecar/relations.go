package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

const (
	maxPush      = 8 << 20               // bytes of one TuplesPush
	maxChanges   = 2000                  // of one TuplesPush
	maxTuples    = 2_000_000             // of a reset
	pushPatience = 5 * time.Second       // for a server that takes the tuples
	tailPatience = 50 * time.Millisecond // for a revision that is asked for, beside the time of the decision
)

// relations is the graph that this sidecar decides by: what the service behind
// it said of its own relations, over a socket that nobody else can open. The
// service can assert only what its model lets be written and what no token says
// (authz.from_token), and it is believed by no sidecar but its own: whoever owns
// a resource says who may see it, as for attributes. With authz.openfga it is
// believed by all who ask that server.
type relations struct {
	now    func() time.Time
	log    *slog.Logger
	secret func(ctx context.Context, name string) (string, error)

	mu     sync.Mutex // guards below
	keep   keeper     // nil: the service keeps no relations
	model  *rebac.Model
	origin origin
	token  map[string]bool // "type#relation" that a token says
	from   string          // database that the tuples live in
	heard  time.Time
	parts  uint64 // of a reset that is not whole
	whole  bool   // there is none
}

// keeper keeps the tuples that the service tells. Beside questions it has one
// caller at a time.
type keeper interface {
	authz.Graph
	Revision() uint64
	// WaitFor waits until the revision is reached or ctx is over.
	WaitFor(ctx context.Context, revision uint64) error
	begin() // of a reset
	part(ctx context.Context, changes []rebac.Change) error
	end(to uint64) error
	apply(ctx context.Context, from, to uint64, changes []rebac.Change) error
	Fresh(at time.Time)
	close()
}

// origin is what a keeper is made of.
type origin struct {
	model, ca string // texts
	server    spec.OpenFGA
}

func originOf(sys *spec.System) (o origin, err error) {
	model, ok := sys.Resource(sys.Authz.Model)
	if !ok {
		return o, fmt.Errorf("authz.model: %s is not there", sys.Authz.Model)
	}
	o.model = string(model)
	if sys.Authz.OpenFGA != nil {
		o.server = *sys.Authz.OpenFGA
		ca, _ := sys.Resource(o.server.CA)
		o.ca = string(ca)
	}
	return o, nil
}

// prepare returns a keeper for sys, empty unless it is the one that is in force
// already, and nil when sys has no relations.
func (g *relations) prepare(sys *spec.System) (keeper, error) {
	if sys.Authz.Model == "" {
		return nil, nil
	}
	o, err := originOf(sys)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keep != nil && o == g.origin {
		return g.keep, nil
	}
	m, err := rebac.ParseModel(sys.Authz.Model, []byte(o.model))
	if err != nil {
		return nil, fmt.Errorf("authz.model: %w", err)
	}
	if sys.Authz.OpenFGA != nil {
		return g.dial(o)
	}
	return &index{Index: rebac.NewIndex(m, rebac.Options{Now: g.now, MaxStaleness: agent.TuplesStale})}, nil
}

// adopt puts a keeper in force. A new one is empty: the service is asked to tell
// everything again, because a tuple that the old model had no place for may
// count now. Until then, a second at most, what needs a relation is denied.
func (g *relations) adopt(sys *spec.System, keep keeper) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token = map[string]bool{}
	for relation := range sys.Authz.FromToken {
		g.token[relation] = true
	}
	if keep == g.keep {
		return
	}
	g.closeLocked()
	g.keep, g.model, g.origin, g.from, g.heard, g.whole = keep, nil, origin{}, "", time.Time{}, true
	if keep != nil { // prepare has read and parsed the same
		g.origin, _ = originOf(sys)
		g.model, _ = rebac.ParseModel(sys.Authz.Model, []byte(g.origin.model))
	}
}

func (g *relations) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closeLocked()
}

func (g *relations) closeLocked() {
	if g.keep != nil {
		g.keep.close()
	}
}

// writable lists what the service may write; nil when there is no model.
func (g *relations) writable() map[string][]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keep == nil {
		return nil
	}
	out, m := map[string][]string{}, g.model
	for _, typ := range m.Types() {
		free := slices.DeleteFunc(slices.Clone(m.Relations(typ)), func(r string) bool { return g.token[typ+"#"+r] })
		if len(free) > 0 {
			out[typ] = free
		}
	}
	return out
}

// fitsLocked reports why a tuple does not count: the model has no place for it,
// or a token says it.
func (g *relations) fitsLocked(t authz.Tuple) error {
	typ, _, _ := strings.Cut(t.Object, ":")
	if g.token[typ+"#"+t.Relation] {
		return fmt.Errorf("what authz.from_token says of %s#%s nobody else says", typ, t.Relation)
	}
	return g.model.Validate(t)
}

// push takes what the service says. What the model has no place for is left out,
// as it was stored under another model: it could reach nothing. The answer tells.
func (g *relations) push(ctx context.Context, p agent.TuplesPush) (agent.TuplesState, error) {
	ctx, cancel := context.WithTimeout(ctx, pushPatience)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	switch {
	case g.keep == nil:
		return agent.TuplesState{}, rampart.Errorf(rampart.Invalid, "", "rampart.yaml has no relations that a service keeps")
	case p.Source == "" || len(p.Source) > 100 || len(p.Changes) > maxChanges:
		return agent.TuplesState{}, rampart.Errorf(rampart.Invalid, "", "the push is out of bounds")
	case p.Source != g.from && !p.Reset:
		return agent.TuplesState{}, rampart.Errorf(rampart.Conflict, "", "nothing is known of this database yet")
	case p.Source != g.from && now.Sub(g.heard) < agent.TuplesStale:
		return agent.TuplesState{}, rampart.Errorf(rampart.Invalid, "", "the relations of a service live in one database, and there is another")
	}
	changes, rejected := g.changesLocked(p.Changes)
	var err error
	if p.Reset {
		err = g.resetLocked(ctx, p, changes)
	} else {
		err = g.applyLocked(ctx, p, changes)
	}
	if err != nil {
		return agent.TuplesState{}, err
	}
	if !p.More {
		g.heard = now
		g.keep.Fresh(now)
	}
	state := g.stateLocked()
	if rejected.Count > 0 {
		first := rejected.First[0]
		g.log.Warn("relations do not count", slog.Int("count", rejected.Count), slog.String("object", first.Object), slog.String("relation", first.Relation), slog.String("error", first.Reason))
		state.Rejected = &rejected
	}
	return state, nil
}

func (g *relations) resetLocked(ctx context.Context, p agent.TuplesPush, changes []rebac.Change) error {
	if p.From == 0 {
		g.parts, g.whole = 0, false
		g.keep.begin()
	}
	if g.whole || p.From != g.parts {
		g.whole = true
		return rampart.Errorf(rampart.Conflict, "", "a part of the reset is missing")
	}
	g.parts++
	err := g.keep.part(ctx, changes)
	if err == nil && p.More {
		return nil
	}
	g.whole = true
	if err == nil {
		err = g.keep.end(p.To)
	}
	if err == nil {
		g.from = p.Source
	}
	return err
}

func (g *relations) applyLocked(ctx context.Context, p agent.TuplesPush, changes []rebac.Change) error {
	if at := g.keep.Revision(); p.From != at || p.To < p.From || p.To == p.From && len(p.Changes) > 0 {
		return rampart.Errorf(rampart.Conflict, "", "the graph is at revision %d", at)
	}
	if p.To == p.From {
		return nil
	}
	return g.keep.apply(ctx, p.From, p.To, changes)
}

// changesLocked parts what counts from what does not. To delete what could not
// be there changes nothing and is no fault.
func (g *relations) changesLocked(list []agent.TupleWrite) (out []rebac.Change, rejected agent.TuplesRejected) {
	out = make([]rebac.Change, 0, len(list))
	for _, c := range list {
		t := authz.Tuple{Object: c.Object, Relation: c.Relation, Subject: c.Subject, Condition: c.Condition, Context: numbers(c.Context)}
		err := g.fitsLocked(t)
		switch {
		case err == nil:
			out = append(out, rebac.Change{Delete: c.Delete, Tuple: t})
		case !c.Delete:
			rejected.Add(agent.TupleRejected{Object: clip(c.Object), Relation: clip(c.Relation), Subject: clip(c.Subject), Reason: err.Error()})
		}
	}
	return out, rejected
}

func (g *relations) state() agent.TuplesState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stateLocked()
}

func (g *relations) stateLocked() agent.TuplesState {
	if g.keep == nil {
		return agent.TuplesState{}
	}
	return agent.TuplesState{Revision: g.keep.Revision(), Ready: g.from != ""}
}

// await gives the service's news of a revision a moment to arrive. Whether it
// did, the decision finds out.
func (t *table) await(ctx context.Context, revision uint64) {
	if revision == 0 || t.graph == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tailPatience)
	defer cancel()
	_ = t.graph.WaitFor(ctx, revision)
}

func (s *Sidecar) relationState(w http.ResponseWriter, r *http.Request) {
	answer(w, s.relations.state())
}

// pushTuples takes news of relations. What changes who may do what goes on
// record before it counts.
func (s *Sidecar) pushTuples(w http.ResponseWriter, r *http.Request) {
	var p agent.TuplesPush
	err := askWithin(r, maxPush, &p)
	if err == nil {
		err = s.recordPush(r.Context(), p)
	}
	var state agent.TuplesState
	if err == nil {
		state, err = s.relations.push(r.Context(), p)
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	answer(w, state)
}

func (s *Sidecar) recordPush(ctx context.Context, p agent.TuplesPush) error {
	if p.Reset || len(p.Changes) == 0 {
		return nil // a reset tells again what was on record
	}
	self := s.table.Load().id
	e := audit.Event{Class: audit.ClassAdmin, Action: "relations.changed", Outcome: audit.Allowed, Subject: self, Actor: self, Resource: "relations",
		Detail: map[string]string{"from": strconv.FormatUint(p.From, 10), "to": strconv.FormatUint(p.To, 10), "changes": strconv.Itoa(len(p.Changes))}}
	for _, c := range p.Changes[:min(len(p.Changes), 1)] {
		e.Detail["first"] = fmt.Sprintf("delete=%t %s %s %s", c.Delete, clip(c.Object), clip(c.Relation), clip(c.Subject))
	}
	if err := s.opt.Audit.Record(ctx, e); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the change cannot be recorded", Err: err}
	}
	return nil
}

// askWithin reads one JSON question of at most limit bytes.
func askWithin(r *http.Request, limit int64, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, limit))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return &rampart.Error{Kind: rampart.Invalid, Msg: "the question is not valid JSON of the expected shape", Err: err}
	}
	return nil
}

// numbers turns the numbers of a decoded question into those that policies know:
// whole ones are int64, all others float64.
func numbers(m map[string]any) map[string]any {
	for k, v := range m {
		m[k] = number(v)
	}
	return m
}

func number(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // out of range is infinite, which no request may hold
		return f
	case []any:
		for i := range v {
			v[i] = number(v[i])
		}
	case map[string]any:
		return numbers(v)
	}
	return v
}

// clip keeps foreign text short.
func clip(s string) string {
	if len(s) <= 100 {
		return s
	}
	return strings.ToValidUTF8(s[:100], "") + "..."
}
