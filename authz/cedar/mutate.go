package cedar

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/rampart-security/rampart/authz"
)

// Mutant is a policy file with one fault: tests that still pass with it do not
// test what it changes.
type Mutant struct {
	Line int    // of the fault
	What string // what was changed, for example "dropped: resource.owner == principal.id"
	Src  []byte // the whole file
}

// Mutants returns every fault that it knows to make in a file, one at a time:
//
//   - a policy is removed, or permits where it forbade and the reverse
//   - an obligation, a field rule or a mask is dropped
//   - a condition is dropped or negated
//   - a comparison is turned around, && becomes || and the reverse
//   - the scope loses its principal, its action, one action of a list, or the
//     one resource it names
//
// Each mutant parses, keeps its lines and its @ids. One that a schema refuses
// to load is caught by the schema. Left out is what nobody could notice:
//
//   - dropping a guard (`has`) of a permit whose attribute a later condition
//     reads: instead of not matching, the permit fails, and permits no more
//   - `resource is T` in a scope whose actions are named, for they name their
//     type, or before conditions that read the resource, for attributes are
//     their type's
//   - dropping a condition that is always true, and negating what is turned
//     around already
func Mutants(name string, src []byte) ([]Mutant, error) {
	if err := authz.CheckSource(name, src); err != nil {
		return nil, fmt.Errorf("cedar: %v", err)
	}
	list, err := cedar.NewPolicyListFromBytes(name, src)
	if err != nil {
		return nil, fmt.Errorf("cedar: %s: %v", name, err)
	}
	m := &mutation{source: source{text: string(src)}}
	m.tokens = lex(m.text)
	places := m.statements()
	if len(places) != len(list) {
		return nil, fmt.Errorf("cedar: %s: the policies cannot be told apart", name)
	}
	for _, st := range places {
		m.policy(st)
	}
	return m.parsed(), nil
}

// mutation gathers the mutants of one file.
type mutation struct {
	source
	out []Mutant
}

// replace makes a mutant in which text stands for the tokens of e, on as many
// lines as they did.
func (m *mutation) replace(e span, text, what string) { m.change(m.line(e.from), e, text, what) }

func (m *mutation) change(line int, e span, text, what string) {
	if e.from >= len(m.tokens) || e.to <= e.from {
		return
	}
	start, end := m.tokens[e.from].start, m.tokens[min(e.to, len(m.tokens))-1].end
	lines := strings.Count(m.text[start:end], "\n") - strings.Count(text, "\n")
	changed := m.text[:start] + text + strings.Repeat("\n", max(0, lines)) + m.text[end:]
	m.out = append(m.out, Mutant{Line: line, What: what, Src: []byte(changed)})
}

func (m *mutation) policy(st statement) {
	flipped := map[string]string{"permit": "forbid", "forbid": "permit"}[m.at(st.effect)]
	m.replace(span{st.effect, st.effect + 1}, flipped, "now a "+flipped)
	m.change(m.line(st.effect), span{st.end, st.end + 1}, " when { false };", "removed")
	for _, a := range st.annotations {
		if kind, _, _ := strings.Cut(m.at(a.from+1), "_"); kind == "obligation" || kind == "fields" || kind == "mask" {
			m.replace(a, "", "dropped: "+m.cut(a))
		}
	}
	m.scope(st)
	for _, c := range st.clauses {
		m.clause(st, c)
	}
}

// scope drops what the scope demands, one thing at a time.
func (m *mutation) scope(st statement) {
	demands := m.commas(st.scope)
	if len(demands) < 3 {
		return
	}
	for i, word := range []string{"principal", "action", "resource"} {
		e := demands[i]
		if e.to-e.from < 2 || word == "resource" && m.impliedType(st, demands) {
			continue
		}
		m.replace(e, word, "dropped from the scope: "+m.cut(e))
	}
	m.actions(demands[1])
}

// impliedType reports whether a resource's type says no more than the rest of
// the policy: its actions are named, or a condition reads the resource.
func (m *mutation) impliedType(st statement, demands []span) bool {
	action, resource := demands[1], demands[2]
	if m.at(resource.from+1) != "is" || resource.to-resource.from != 3 {
		return false
	}
	return action.to-action.from > 1 || slices.ContainsFunc(st.clauses, func(c clause) bool {
		for i := c.body.from; i < c.body.to; i++ {
			if m.at(i) == "resource" && m.at(i-1) != "." {
				return true
			}
		}
		return false
	})
}

// actions removes one action of a list.
func (m *mutation) actions(e span) {
	if m.at(e.from+2) != "[" {
		return
	}
	list := m.commas(span{e.from + 3, e.to - 1})
	if len(list) < 2 {
		return
	}
	for i, a := range list {
		cut := span{a.from, min(a.to+1, e.to-1)} // with the comma behind it
		if i == len(list)-1 {
			cut = span{a.from - 1, a.to}
		}
		m.replace(cut, " ", "dropped from the scope: "+m.cut(a))
	}
}

// commas splits e at its outer commas.
func (m *mutation) commas(e span) []span {
	var out []span
	from := e.from
	for i := e.from; i < e.to; i++ {
		switch m.at(i) {
		case "(", "[", "{":
			i = m.closing(i)
		case ",":
			out = append(out, span{from, i})
			from = i + 1
		}
	}
	if from < e.to {
		out = append(out, span{from, e.to})
	}
	return out
}

func (m *mutation) clause(st statement, c clause) {
	list := []span{c.body}
	neutral := "false"
	if m.at(c.word) == "when" {
		list, neutral = m.conjuncts(c.body), "true"
	}
	for i, e := range list {
		if text := m.cut(e); text != neutral && !m.guards(st, c, e, list[i+1:]) {
			m.replace(e, neutral, "dropped: "+text)
		}
		if m.isComparison(e) {
			continue // turned around below
		}
		m.replace(e, "!("+m.text[m.tokens[e.from].start:m.tokens[e.to-1].end]+")", "negated: "+m.cut(e))
	}
	m.operators(c.body)
}

// isComparison reports whether an operator of e can be turned around with the
// same effect as negating all of it.
func (m *mutation) isComparison(e span) bool {
	n := 0
	for i := e.from; i < e.to; i++ {
		switch m.at(i) {
		case "&&", "||", "!", "if", "(", "[", "{":
			return false
		}
		if turned[m.at(i)] != "" {
			n++
		}
	}
	return n == 1
}

// guards reports whether e only keeps a later condition of a permit from
// failing: `resource has team && resource.team == ...`.
func (m *mutation) guards(st statement, c clause, e span, later []span) bool {
	if m.at(st.effect) != "permit" || m.at(c.word) != "when" || e.to-e.from < 3 || m.at(e.to-2) != "has" {
		return false
	}
	read := m.cut(span{e.from, e.to - 2}) + "." + strings.Trim(m.at(e.to-1), `"`)
	return slices.ContainsFunc(later, func(l span) bool { return m.reads(l, read) })
}

// reads reports whether a condition reads an attribute whatever else it finds:
// behind the first && or || it may not come to it.
func (m *mutation) reads(e span, attr string) bool {
	n := strings.Count(attr, ".")*2 + 1
	for i := e.from; i+n <= e.to; i++ {
		switch m.at(i) {
		case "||", "&&", "then":
			return false
		}
		if m.cut(span{i, i + n}) == attr {
			return true
		}
	}
	return false
}

// turned are operators and what a slip makes of them.
var turned = map[string]string{
	"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">", "&&": "||", "||": "&&",
}

func (m *mutation) operators(e span) {
	for i := e.from; i < e.to; i++ {
		op := m.at(i)
		if other, ok := turned[op]; ok {
			m.replace(span{i, i + 1}, other, op+" became "+other)
		}
	}
}

// parsed keeps the mutants that are Cedar: what stands in a string or after
// another operator may not be.
func (m *mutation) parsed() []Mutant {
	return slices.DeleteFunc(m.out, func(x Mutant) bool {
		_, err := cedar.NewPolicyListFromBytes("", x.Src)
		return err != nil
	})
}
