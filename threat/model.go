// Package threat answers "what can go wrong, and what stands against it?": it
// reads a system as a graph of flows, services, stores, data and zones, asks
// the STRIDE rules of policies/stride about every element, and derives the
// state of each threat from the controls that the file declares, the planes
// report and the probes have proven. Nobody types "mitigated".
package threat

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/policies"
	"github.com/rampart-security/rampart/spec"
)

// State says how far a threat is closed.
type State string

// The states, worst first.
const (
	Open          State = "open"         // it applies and nothing closes it, or a probe got through
	Inconclusive  State = "inconclusive" // the rule could not be evaluated
	Stale         State = "stale"        // the proof is too old, or of another configuration
	Partial       State = "partial"      // lowered, not closed
	Declared      State = "declared"     // the file has the controls
	Enforced      State = "enforced"     // the planes run this very file
	Proven        State = "proven"       // a fresh probe was refused, and is known to get through without the control
	NotApplicable State = "not_applicable"
)

// rank orders states: 0 is the worst. An unknown state is the worst.
func (s State) rank() int {
	return max(0, slices.Index([]State{Open, Inconclusive, Stale, Partial, Declared, Enforced, Proven, NotApplicable}, s))
}

// worse returns the worse of two states.
func worse(a, b State) State {
	if b.rank() < a.rank() {
		return b
	}
	return a
}

// Severity is impact times likelihood, by one table.
type Severity string

// The severities, least first.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// severity is the one table: impact 0 to 3 by likelihood.
func severity(impact int, likelihood string) Severity {
	table := [4]map[string]Severity{
		{"low": Low, "medium": Low, "high": Medium},
		{"low": Low, "medium": Medium, "high": High},
		{"low": Medium, "medium": High, "high": High},
		{"low": High, "medium": High, "high": Critical},
	}
	return table[impact][likelihood]
}

// lower returns the severity one step below s; low stays.
func (s Severity) lower() Severity {
	order := []Severity{Low, Medium, High, Critical}
	return order[max(0, slices.Index(order, s)-1)]
}

// Control is one control in a row.
type Control struct {
	ID      string   `json:"id"`
	Need    string   `json:"need"`              // "all", "any" or "partial"
	At      []string `json:"at,omitempty"`      // elements that have it, as "flow-2"; empty when it is missing
	Default bool     `json:"default,omitempty"` // every instance comes from a safe default
	State   State    `json:"state"`             // Open when it is missing or a probe got through
	Note    string   `json:"note,omitempty"`    // why the state is not better
	Probes  []string `json:"probes,omitempty"`
}

// Missing reports whether the element lacks the control.
func (c Control) Missing() bool { return len(c.At) == 0 }

// Name is the team's own name of a threat.
type Name struct {
	ID    string `json:"id"`
	Title string `json:"title,omitempty"`
}

// Acceptance overlays a row. It never hides the row's state.
type Acceptance struct {
	Owner   string    `json:"owner"`
	Reason  string    `json:"reason"`
	Until   time.Time `json:"until"`
	Expired bool      `json:"expired,omitempty"` // Until is past: the row counts again
}

// Row is one rule's answer about one element.
type Row struct {
	ID         string      `json:"id"` // RULE@ELEMENT, stable when the file is reordered
	Rule       string      `json:"rule"`
	Title      string      `json:"title"`
	Stride     Stride      `json:"stride"`
	Kind       Element     `json:"kind"`
	Element    string      `json:"element"`
	Line       int         `json:"line,omitempty"`  // of the flow in rampart.yaml; 0 for other elements
	Names      []Name      `json:"names,omitempty"` // the team's own names
	Data       []string    `json:"data,omitempty"`  // items the threat is about
	Impact     int         `json:"impact"`          // 0 to 3
	Likelihood string      `json:"likelihood,omitempty"`
	Severity   Severity    `json:"severity,omitempty"` // lowered by one step while the state is Partial
	Controls   []Control   `json:"controls,omitempty"`
	State      State       `json:"state"`
	Reason     string      `json:"reason,omitempty"` // why the state is what it is
	Accepted   *Acceptance `json:"accepted,omitempty"`
}

// Excused reports whether the row is accepted and the acceptance has not
// expired.
func (r Row) Excused() bool { return r.Accepted != nil && !r.Accepted.Expired }

// Doc is what a rule says in words.
type Doc struct {
	Why   string `json:"why"`
	Abuse string `json:"abuse"`
	Fix   string `json:"fix"`
	Refs  Refs   `json:"refs"`
}

// Model is the threat model of one system at one time. It is read-only, and
// its methods may be called by many goroutines at once.
type Model struct {
	System   string             `json:"system"`
	Digest   string             `json:"digest"` // of the file and all it names; "" for a system that was not read from a file
	Time     time.Time          `json:"time"`
	Flows    []Flow             `json:"flows"`
	Rows     []Row              `json:"rows"`  // every rule by every element of its kind; by element, then letter, then rule
	Rules    map[string]Doc     `json:"rules"` // by rule id
	Controls []policies.Control `json:"controls"`
}

// Open lists the rows that must fail a build: open and not excused by an
// acceptance that still counts.
func (m Model) Open() []Row {
	return m.filter(func(r Row) bool { return r.State == Open && !r.Excused() })
}

// Undecided lists the rows of which nothing can be said now: inconclusive or
// stale, and not excused.
func (m Model) Undecided() []Row {
	return m.filter(func(r Row) bool { return (r.State == Inconclusive || r.State == Stale) && !r.Excused() })
}

// Row returns the row with this id, or the row that the team calls so.
func (m Model) Row(id string) (Row, bool) {
	i := slices.IndexFunc(m.Rows, func(r Row) bool {
		return r.ID == id || slices.ContainsFunc(r.Names, func(n Name) bool { return n.ID == id })
	})
	if i < 0 {
		return Row{}, false
	}
	return m.Rows[i], true
}

func (m Model) filter(keep func(Row) bool) []Row {
	var out []Row
	for _, r := range m.Rows {
		if keep(r) {
			out = append(out, r)
		}
	}
	return out
}

// Analyze builds the threat model of sys under the evidence. The zero Evidence
// is none: every closed row is then declared at best.
//
// The error lists what the file says about threats that do not exist, as
// spec.Problems with lines and nearest ids. An error of another type is a
// defect of the embedded rules.
func Analyze(sys *spec.System, ev Evidence) (Model, error) {
	set, err := embeddedRules()
	if err != nil {
		return Model{}, fmt.Errorf("threat: %w", err)
	}
	return set.analyze(sys, ev)
}

// embeddedRules loads what policies brings along.
func embeddedRules() (*ruleSet, error) {
	controls, err := policies.Controls()
	if err != nil {
		return nil, err
	}
	files, err := policies.Stride()
	if err != nil {
		return nil, err
	}
	return loadRules(files, controls)
}

func (set *ruleSet) analyze(sys *spec.System, ev Evidence) (Model, error) {
	g := newGraph(sys)
	j := &judge{cover: newCoverage(sys, g), evidence: ev.of(sys), probes: map[string][]string{}}
	for _, c := range set.controls {
		j.probes[c.ID] = c.Probes
	}
	m := Model{System: sys.Info.Name, Digest: sys.Bundle().Digest, Time: j.evidence.now, Flows: g.flows, Rules: map[string]Doc{}, Controls: set.controls}
	byKind := map[Element][]*Rule{}
	for _, r := range set.rules {
		m.Rules[r.ID] = Doc{r.Why, r.Abuse, r.Fix, r.Refs}
		byKind[r.Element] = append(byKind[r.Element], r)
	}
	count := 0
	for _, n := range g.nodes {
		count += len(byKind[n.kind])
	}
	m.Rows = make([]Row, 0, count)
	for _, n := range g.nodes {
		for _, r := range byKind[n.kind] {
			m.Rows = append(m.Rows, j.row(r, n))
		}
	}
	if err := m.name(sys); err != nil {
		return Model{}, err
	}
	return m, nil
}

// judge makes rows.
type judge struct {
	cover    *coverage
	evidence evidence
	probes   map[string][]string // control id -> probe ids
}

func (j *judge) row(r *Rule, n node) Row {
	row := Row{ID: r.ID + "@" + n.id, Rule: r.ID, Title: r.Title, Stride: r.Stride, Kind: n.kind, Element: n.id, Line: n.line}
	f, err := r.eval(n)
	if err != nil {
		row.State, row.Reason = Inconclusive, "the rule could not be evaluated: "+err.Error()
		return row
	}
	if !f.applies {
		row.State, row.Reason = NotApplicable, r.silence
		return row
	}
	for _, d := range f.about {
		row.Data = append(row.Data, d.Name)
	}
	row.Impact, row.Likelihood = f.impact, f.likelihood
	row.Controls = j.controls(r, n, f.about)
	row.State, row.Reason = decide(row.Controls, "")
	row.Severity = severity(f.impact, f.likelihood)
	if row.State == Partial {
		row.Severity = row.Severity.lower()
	}
	return row
}

func (j *judge) controls(r *Rule, n node, about []Data) []Control {
	var out []Control
	add := func(need string, ids []string) {
		for _, id := range ids {
			c := Control{ID: id, Need: need, Probes: j.probes[id]}
			c.At, c.Default = j.cover.at(n, id, about)
			c.State, c.Note = j.evidence.state(id, c.Missing())
			out = append(out, c)
		}
	}
	add("all", r.Mitigated.All)
	add("any", r.Mitigated.Any)
	add("partial", r.Partial)
	return out
}

// decide derives the state of a row from its controls, as if the control with
// the id without were not there; "" removes none. A row is as good as its
// worst needed control, and as the best of its alternatives.
func decide(controls []Control, without string) (State, string) {
	var needed []Control
	var best Control
	for _, c := range controls {
		if c.ID == without {
			c = Control{ID: c.ID, Need: c.Need, State: Open, Note: missing}
		}
		switch {
		case c.Need == "all":
			needed = append(needed, c)
		case c.Need != "any":
		case best.ID == "" || c.State.rank() > best.State.rank():
			best = c
		}
	}
	if best.ID != "" {
		needed = append(needed, best)
	}
	if len(needed) == 0 {
		return orPartial(Open, controls, without), "no control of the house closes it: change the system, or accept it"
	}
	state := Proven
	for _, c := range needed {
		state = worse(state, c.State)
	}
	return orPartial(state, controls, without), reasons(needed)
}

// reasons words why the controls are not all proven: each note once, with the
// controls it is about unless it is about all.
func reasons(controls []Control) string {
	var notes []string
	about := map[string][]string{}
	for _, c := range controls {
		if c.Note == "" {
			continue
		}
		if about[c.Note] == nil {
			notes = append(notes, c.Note)
		}
		about[c.Note] = append(about[c.Note], c.ID)
	}
	for i, n := range notes {
		if len(about[n]) < len(controls) || n == missing {
			notes[i] = n + ": " + strings.Join(about[n], ", ")
		}
	}
	return strings.Join(notes, "; ")
}

// orPartial turns open into partial when a partial control stands and nothing
// that should have closed the row was seen to fail.
func orPartial(state State, controls []Control, without string) State {
	stands := false
	for _, c := range controls {
		there := c.ID != without && !c.Missing()
		if there && c.State == Open {
			return state
		}
		stands = stands || there && c.Need == "partial"
	}
	if state == Open && stands {
		return Partial
	}
	return state
}

// name applies the file's own names and acceptances.
func (m *Model) name(sys *spec.System) error {
	index := map[string]int{}
	var ids []string
	for i, r := range m.Rows {
		if r.State != NotApplicable {
			index[r.ID] = i
			ids = append(ids, r.ID)
		}
	}
	var bad spec.Problems
	for _, key := range sortedKeys(sys.Threats) {
		t := sys.Threats[key]
		i, ok := index[t.Is]
		if !ok {
			bad = append(bad, unknownThreat("threats."+key+".is", t.Is, t.Line, ids))
			continue
		}
		m.Rows[i].Names = append(m.Rows[i].Names, Name{key, t.Title})
	}
	for n, a := range sys.Accept {
		i, ok := index[a.Threat]
		if !ok {
			bad = append(bad, unknownThreat(fmt.Sprintf("accept[%d].threat", n), a.Threat, a.Line, ids))
			continue
		}
		m.Rows[i].Accepted = &Acceptance{Owner: a.Owner, Reason: a.Reason, Until: a.Until, Expired: !m.Time.Before(a.Until)}
	}
	if len(bad) > 0 {
		slices.SortStableFunc(bad, func(a, b spec.Problem) int { return cmp.Compare(a.Line, b.Line) })
		return bad
	}
	return nil
}

func unknownThreat(key, id string, line int, ids []string) spec.Problem {
	p := spec.Problem{File: "rampart.yaml", Line: line, Col: 1, Key: key, Msg: fmt.Sprintf("%q is no threat of this system", id)}
	if near, ok := spec.Nearest(id, ids); ok {
		p.Fix = fmt.Sprintf("did you mean %q?", near)
		return p
	}
	p.Fix = "rampart threats lists them"
	return p
}

// errUnknown says that nothing bears this id.
func errUnknown(what, id string, ids []string) error {
	if near, ok := spec.Nearest(id, ids); ok {
		return fmt.Errorf("threat: no %s %q; did you mean %q?", what, id, near)
	}
	return errors.New("threat: no " + what + " \"" + id + "\"")
}
