package rebac

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Mutant is a model with one small change, for mutation testing.
type Mutant struct {
	Line int    // of the change, in the original
	What string // the change in words
	Src  []byte // the changed model, which parses
}

// Mutants returns the models that differ from src in one place: a branch of an
// "or" or an entry of "[...]" taken away, "and" made "or", a "but not" dropped.
// Changes that no longer parse are left out, as is a definition written over
// several lines. A src that does not parse has no mutants.
func Mutants(name string, src []byte) []Mutant {
	if _, err := parse(name, src); err != nil {
		return nil
	}
	var out []Mutant
	at, typ := 0, ""
	for i, line := range bytes.SplitAfter(src, []byte("\n")) {
		text, _, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " #")
		if word, rest, _ := strings.Cut(strings.TrimSpace(text), " "); word == "type" {
			typ = strings.TrimSpace(rest)
		}
		for _, c := range mutations(text) {
			m := Mutant{Line: i + 1, What: typ + "#" + c.what, Src: slices.Concat(src[:at+c.from], []byte(c.with), src[at+c.to:])}
			if _, err := parse(name, m.Src); err == nil {
				out = append(out, m)
			}
		}
		at += len(line)
	}
	return out
}

// mutation replaces a part of a line.
type mutation struct {
	from, to int
	with     string
	what     string
}

func mutations(line string) []mutation {
	head, _, ok := strings.Cut(line, ":")
	relation, isDefine := strings.CutPrefix(strings.TrimSpace(head), "define ")
	if !ok || !isDefine {
		return nil
	}
	p := definition{line: line, at: len(head) + 1, relation: strings.TrimSpace(relation)}
	p.expression(0)
	if p.broken || p.peek() != "" {
		return nil
	}
	return p.found
}

// definition reads one definition and notes what could be changed in it.
type definition struct {
	line     string
	at       int
	relation string
	found    []mutation
	broken   bool
}

// span is a part of the line.
type span struct{ from, to int }

func (p *definition) text(s span) string { return p.line[s.from:s.to] }

func (p *definition) note(from, to int, with, format string, args ...any) {
	p.found = append(p.found, mutation{from, to, with, p.relation + ": " + fmt.Sprintf(format, args...)})
}

func (p *definition) space() {
	for p.at < len(p.line) && (p.line[p.at] == ' ' || p.line[p.at] == '\t') {
		p.at++
	}
}

// peek returns the next token: a bracket, a word, or "" at the end.
func (p *definition) peek() string {
	p.space()
	rest := p.line[p.at:]
	if rest == "" || strings.IndexByte("()[],", rest[0]) >= 0 {
		return rest[:min(1, len(rest))]
	}
	if i := strings.IndexAny(rest, " \t()[],"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// take consumes the next token and returns where it stands.
func (p *definition) take() span {
	t := p.peek()
	s := span{p.at, p.at + len(t)}
	p.at = s.to
	return s
}

func (p *definition) want(token string) span {
	if p.peek() != token {
		p.broken = true
	}
	return p.take()
}

// maxNest bounds the recursion; the parser of the language bounds it too.
const maxNest = 200

// expression reads terms joined by one operator.
func (p *definition) expression(depth int) span {
	terms := []span{p.term(depth)}
	var ops []span
	op := ""
	for op = p.peek(); !p.broken && p.peek() == op && (op == "or" || op == "and" || op == "but"); {
		o := p.take()
		if op == "but" {
			o.to = p.want("not").to
		}
		ops, terms = append(ops, o), append(terms, p.term(depth))
	}
	all := span{terms[0].from, terms[len(terms)-1].to}
	switch {
	case len(ops) == 0 || p.broken:
	case op == "or":
		p.branches(terms)
	case op == "and":
		p.eitherOf(ops, all)
	case op == "but":
		p.note(terms[0].to, all.to, "", "without %q", p.text(span{ops[0].from, all.to}))
	}
	return all
}

func (p *definition) branches(terms []span) {
	for i, t := range terms {
		from, to := t.from, t.to
		if i > 0 {
			from = terms[i-1].to
		} else {
			to = terms[1].from
		}
		p.note(from, to, "", "without the branch %q", p.text(t))
	}
}

// eitherOf makes all "and" of one chain "or": the language does not mix them.
func (p *definition) eitherOf(ops []span, all span) {
	text := p.text(all)
	for _, o := range slices.Backward(ops) {
		text = text[:o.from-all.from] + "or" + text[o.to-all.from:]
	}
	p.note(all.from, all.to, text, "\"or\" instead of \"and\" in %q", p.text(all))
}

func (p *definition) term(depth int) span {
	if depth > maxNest {
		p.broken = true
	}
	if p.broken {
		return span{p.at, p.at}
	}
	switch p.peek() {
	case "(":
		from := p.take().from
		p.expression(depth + 1)
		return span{from, p.want(")").to}
	case "[":
		return p.direct()
	case "", ")", "]", ",":
		p.broken = true
		return span{p.at, p.at}
	}
	s := p.take()
	if p.peek() == "from" {
		p.take()
		s.to = p.take().to
	}
	return s
}

// direct reads "[user, team#member with cond]".
func (p *definition) direct() span {
	all := span{from: p.take().from}
	end := strings.IndexByte(p.line[p.at:], ']')
	if end < 0 {
		p.broken = true
		return all
	}
	entries := strings.Split(p.line[p.at:p.at+end], ",")
	for i, e := range entries {
		if len(entries) > 1 {
			rest := slices.Delete(slices.Clone(entries), i, i+1)
			p.note(p.at, p.at+end, strings.TrimSpace(strings.Join(rest, ",")), "nobody by %q", strings.TrimSpace(e))
		}
	}
	p.at += end + 1
	all.to = p.at
	return all
}
