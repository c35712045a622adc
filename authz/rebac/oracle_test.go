package rebac

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
)

// The oracle knows nothing of graphs. It computes, for one subject, all pairs of
// object and relation that hold for certain (lower) and that may hold (upper),
// by going over every definition until nothing changes any more. What is between
// the two is an error. A "but not" looks at the other set: that is the
// well-founded semantics of negation (Van Gelder, Ross, Schlipf 1991).

// expr is a definition: a leaf or two branches.
type expr struct {
	op   string // "this", "computed", "from", "or", "and", "but not"
	name string
	l, r *expr
}

func (e *expr) String() string {
	switch e.op {
	case "this":
		return e.name
	case "computed":
		return e.name
	case "from":
		return e.name + " from parent"
	}
	return fmt.Sprintf("(%s %s %s)", e.l, e.op, e.r)
}

var worldRelations = map[string][]string{"doc": {"a", "b", "c", "parent"}, "group": {"a", "member"}}

// world is a random model with random tuples.
type world struct {
	defs    map[string]*expr // by "doc#a"
	allowed map[string][]string
	model   string
	tuples  []authz.Tuple
}

func randomWorld(r *rand.Rand) world {
	w := world{defs: map[string]*expr{}, allowed: map[string][]string{}}
	var s strings.Builder
	s.WriteString("model\n  schema 1.1\ntype user\n")
	for _, typ := range []string{"doc", "group"} {
		fmt.Fprintf(&s, "type %s\n  relations\n", typ)
		for _, rel := range worldRelations[typ] {
			name := typ + "#" + rel
			if rel == "parent" {
				w.allowed[name] = []string{"doc", "doc with c"}
				w.defs[name] = &expr{op: "this", name: "[doc, doc with c]"}
			} else {
				w.defs[name] = w.define(r, typ, name)
			}
			fmt.Fprintf(&s, "    define %s: %s\n", rel, strings.TrimSuffix(strings.TrimPrefix(w.defs[name].String(), "("), ")"))
		}
	}
	s.WriteString("condition c(x: int) {\n  x < 10\n}\n")
	w.model = s.String()
	for range 3 + r.IntN(14) {
		w.tuples = append(w.tuples, w.tuple(r))
	}
	return w
}

// define makes a definition whose leftmost leaf may take tuples, as the language
// wants it.
func (w *world) define(r *rand.Rand, typ, name string) *expr {
	e := w.leaf(r, typ)
	if r.IntN(10) > 0 {
		w.allowed[name] = pick(r, "user", "user:*", "group#member", "doc#a", "doc#b", "group#a")
		e = &expr{op: "this", name: "[" + strings.Join(w.allowed[name], ", ") + "]"}
	}
	for range r.IntN(3) {
		op := []string{"or", "or", "or", "and", "but not", "but not"}[r.IntN(6)]
		e = &expr{op: op, l: e, r: w.leaf(r, typ)}
	}
	return e
}

func (w *world) leaf(r *rand.Rand, typ string) *expr {
	if typ == "group" {
		return &expr{op: "computed", name: []string{"a", "member"}[r.IntN(2)]}
	}
	op := []string{"computed", "computed", "from"}[r.IntN(3)]
	return &expr{op: op, name: []string{"a", "b", "c"}[r.IntN(3)]}
}

// pick takes one or more of the names, each once more with a condition.
func pick(r *rand.Rand, names ...string) []string {
	var out []string
	for _, i := range r.Perm(len(names))[:1+r.IntN(len(names))] {
		out = append(out, names[i], names[i]+" with c")
	}
	return out
}

func (w *world) tuple(r *rand.Rand) authz.Tuple {
	for {
		typ := []string{"doc", "doc", "group"}[r.IntN(3)]
		rel := worldRelations[typ][r.IntN(len(worldRelations[typ]))]
		allowed := w.allowed[typ+"#"+rel]
		if len(allowed) == 0 {
			continue
		}
		t := authz.Tuple{Object: fmt.Sprintf("%s:%d", typ, r.IntN(3)), Relation: rel}
		kind, cond, _ := strings.Cut(allowed[r.IntN(len(allowed))], " with ")
		t.Subject, t.Condition = kind, cond
		if name, rel, ok := strings.Cut(kind, "#"); ok {
			t.Subject = fmt.Sprintf("%s:%d#%s", name, r.IntN(3), rel)
		} else if !strings.HasSuffix(kind, "*") {
			t.Subject = fmt.Sprintf("%s:%d", name, r.IntN(3))
		}
		if x := r.IntN(3); cond != "" && x < 2 {
			t.Context = map[string]any{"x": float64(5 + 50*x)}
		}
		return t
	}
}

// answers of the oracle.
type holds map[string]bool // by "doc:1#a"

func (w *world) solve(subject string) (lower, upper holds) {
	upper = w.fixpoint(subject, nil, true)
	for {
		low := w.fixpoint(subject, upper, false)
		up := w.fixpoint(subject, low, true)
		if len(low) == len(lower) && len(up) == len(upper) {
			return low, up
		}
		lower, upper = low, up
	}
}

// fixpoint computes what follows, when a "but not" looks at other. With other
// nil nothing is taken away.
func (w *world) fixpoint(subject string, other holds, mayHold bool) holds {
	now := holds{}
	for changed := true; changed; {
		changed = false
		for name, e := range w.defs {
			typ, rel, _ := strings.Cut(name, "#")
			for i := range 3 {
				obj := fmt.Sprintf("%s:%d", typ, i)
				if !now[obj+"#"+rel] && w.eval(e, obj, rel, subject, now, other, mayHold) {
					now[obj+"#"+rel], changed = true, true
				}
			}
		}
	}
	return now
}

func (w *world) eval(e *expr, obj, rel, subject string, now, other holds, mayHold bool) bool {
	if subject == obj+"#"+rel {
		return true
	}
	switch e.op {
	case "this":
		return w.any(obj, rel, mayHold, func(s string) bool { return matches(s, subject) || now[s] })
	case "computed":
		return now[obj+"#"+e.name] || subject == obj+"#"+e.name
	case "from":
		return w.any(obj, "parent", mayHold, func(s string) bool { return now[s+"#"+e.name] || subject == s+"#"+e.name })
	}
	l := w.eval(e.l, obj, rel, subject, now, other, mayHold)
	switch e.op {
	case "or":
		return l || w.eval(e.r, obj, rel, subject, now, other, mayHold)
	case "and":
		return l && w.eval(e.r, obj, rel, subject, now, other, mayHold)
	}
	return l && (other == nil || !w.eval(e.r, obj, rel, subject, other, now, !mayHold))
}

// any looks at the tuples of a relation. A condition without its parameter may
// hold and may not.
func (w *world) any(obj, rel string, mayHold bool, f func(subject string) bool) bool {
	for _, t := range w.tuples {
		x, given := t.Context["x"].(float64)
		fits := t.Condition == "" || given && x < 10 || !given && mayHold
		if t.Object == obj && t.Relation == rel && fits && f(t.Subject) {
			return true
		}
	}
	return false
}

func matches(s, subject string) bool {
	typ, _, _ := strings.Cut(subject, ":")
	return s == subject || s == typ+":*" && !strings.Contains(subject, "#")
}

// dedup keeps the last of the tuples with the same ends, as an index does.
func dedup(in []authz.Tuple) []authz.Tuple {
	last := map[string]authz.Tuple{}
	for _, t := range in {
		last[misfitKey(t)] = t
	}
	var out []authz.Tuple
	for _, t := range last {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b authz.Tuple) int { return strings.Compare(misfitKey(a), misfitKey(b)) })
	return out
}

func TestOracle(t *testing.T) {
	worlds := 600
	if testing.Short() {
		worlds = 100
	}
	asked, skipped, uncertain := 0, 0, 0
	for seed := range worlds {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		w := randomWorld(r)
		w.tuples = dedup(w.tuples)
		m, err := ParseModel("m", []byte(w.model))
		if err != nil {
			skipped++ // nobody can have the relation
			continue
		}
		p := prober{t: t, w: w, x: NewIndex(m, Options{}), seed: seed}
		p.fill(r)
		for _, subject := range []string{"user:0", "user:1", "user:2", "user:*", "user:stranger", "group:0#member", "doc:1#a", "doc:0"} {
			p.ask(subject)
		}
		p.listSubjects()
		asked, uncertain = asked+p.asked, uncertain+p.uncertain
		if t.Failed() {
			return
		}
	}
	t.Logf("%d questions over %d worlds, %d answers uncertain; %d models that nobody can satisfy", asked, worlds-skipped, uncertain, skipped)
	if skipped > worlds*2/3 || uncertain < asked/100 {
		t.Error("the worlds are too dull")
	}
}

type prober struct {
	t                *testing.T
	w                world
	x                *Index
	also             []authz.Tuple
	seed             int
	asked, uncertain int
}

// fill puts some tuples into the index at once, some by changes with detours,
// and leaves some to the question.
func (p *prober) fill(r *rand.Rand) {
	n := len(p.w.tuples)
	i, j := n/3, n*2/3
	if r.IntN(2) == 0 {
		i, j = n, n
	}
	must(p.t, p.x.Reset(1, slices.Values(p.w.tuples[:i])))
	var changes []Change
	for _, t := range p.w.tuples[i:j] {
		wrong := t
		wrong.Condition, wrong.Context = "", nil
		changes = append(changes, Change{Tuple: wrong}, Change{Tuple: wrong, Delete: true}, Change{Tuple: t})
	}
	must(p.t, p.x.Apply(1, 2, changes))
	noise := p.w.tuple(r)
	if !slices.ContainsFunc(p.w.tuples, func(t authz.Tuple) bool { return misfitKey(t) == misfitKey(noise) }) {
		must(p.t, p.x.Apply(2, 3, []Change{{Tuple: noise}}))
		must(p.t, p.x.Apply(3, 4, []Change{{Tuple: noise, Delete: true}}))
	}
	p.also = p.w.tuples[j:]
}

func (p *prober) ask(subject string) {
	lower, upper := p.w.solve(subject)
	for name := range p.w.defs {
		typ, rel, _ := strings.Cut(name, "#")
		var want []string
		broken := false
		for i := range 3 {
			id := fmt.Sprint(i)
			obj := typ + ":" + id + "#" + rel
			q := authz.RelationQuery{Subject: subject, Relation: rel, Type: typ, ID: id, Also: p.also}
			p.check(q, lower[obj], upper[obj])
			broken = broken || lower[obj] != upper[obj]
			if lower[obj] {
				want = append(want, id)
			}
		}
		got, _, err := p.x.Objects(context.Background(), authz.RelationQuery{Subject: subject, Relation: rel, Type: typ, Also: p.also})
		p.same("objects of "+name+" for "+subject, got, err, want, broken)
	}
}

func (p *prober) check(q authz.RelationQuery, lower, upper bool) {
	p.asked++
	got, err := p.x.Related(context.Background(), q, false)
	why, err2 := p.x.Related(context.Background(), q, true)
	if lower != upper {
		p.uncertain++
	}
	if (err != nil) != (lower != upper) || got.Holds != lower || why.Holds != got.Holds || (err == nil) != (err2 == nil) {
		p.t.Errorf("seed %d: %v: got %v %v, explained %v %v, want certain %v, possible %v\n%s%v", p.seed, q, got.Holds, err, why, err2, lower, upper, p.w.model, p.w.tuples)
	}
	if got.Holds {
		p.path(q, why.Path)
	}
}

// path: whatever is cited as the reason is a tuple.
func (p *prober) path(q authz.RelationQuery, path []string) {
	for _, text := range path {
		if !slices.ContainsFunc(p.w.tuples, func(t authz.Tuple) bool { return t.Object+"#"+t.Relation+"@"+t.Subject == text }) {
			p.t.Errorf("seed %d: %v cites %q", p.seed, q, text)
		}
	}
	if len(path) == 0 && !strings.Contains(q.Subject, "#") {
		p.t.Errorf("seed %d: %v gives no reason", p.seed, q)
	}
}

func (p *prober) same(what string, got []string, err error, want []string, broken bool) {
	if errors.Is(err, authz.ErrTooComplex) || (err != nil) != broken || err == nil && !slices.Equal(got, want) {
		p.t.Errorf("seed %d: %s: got %v %v, want %v, broken %v\n%s%v", p.seed, what, got, err, want, broken, p.w.model, p.w.tuples)
	}
}

// listSubjects: everyone on the list is related; who is related is on the list,
// or "user:*" is.
func (p *prober) listSubjects() {
	who := []string{"user:*", "user:0", "user:1", "user:2"}
	var lowers, uppers []holds
	for _, s := range who {
		l, u := p.w.solve(s)
		lowers, uppers = append(lowers, l), append(uppers, u)
	}
	for name := range p.w.defs {
		typ, rel, _ := strings.Cut(name, "#")
		for i := range 3 {
			obj := fmt.Sprintf("%s:%d#%s", typ, i, rel)
			got, _, err := p.x.Subjects(context.Background(), authz.RelationQuery{Subject: "user", Relation: rel, Type: typ, ID: fmt.Sprint(i), Also: p.also})
			var want []string
			broken := false
			for i, s := range who {
				broken = broken || lowers[i][obj] != uppers[i][obj]
				if lowers[i][obj] && (slices.Contains(got, s) || !slices.Contains(got, "user:*")) {
					want = append(want, s)
				}
			}
			p.same("subjects of "+obj, got, err, want, broken)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
