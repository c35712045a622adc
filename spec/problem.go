package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
)

// maxProblems bounds what one error lists; maxCollected bounds what is kept
// before sorting, so that a hostile file cannot fill memory with complaints.
const (
	maxProblems  = 20
	maxCollected = 1000
)

// Problem is one fault of a rampart.yaml, or one warning about it.
type Problem struct {
	File string // as the caller named it
	Line int    // 1-based; 0 when no line is meant
	Col  int    // 1-based, in characters; 0 when no column is known
	Key  string // path of the key, such as services.orders.upstream, a flow by its id: flows[edge>orders].allow; "" for a fault of the text itself
	Msg  string // the rule that is broken
	Fix  string // what to write instead
}

// String renders p as one line: FILE:LINE:COL: KEY: RULE; FIX, without what is not there.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Line > 0 && p.Col > 0 {
		fmt.Fprintf(&b, ":%d", p.Col)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Msg)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problem returns a fault of the value at a key path, in the form of all
// others, for rules that need more than the file to judge. It stands at the
// nearest key that the file has.
func (s *System) Problem(key, msg, fix string) Problem {
	if s.source == nil {
		return Problem{Key: key, Msg: msg, Fix: fix}
	}
	at := s.source.where(key)
	return Problem{s.source.file, at.line, at.col, s.told(key), msg, fix}
}

// told is a key path as people are told it, with a flow's id in the place of its
// index, which nobody counts: as Change has it. nil tells it as it is.
func (s *System) told(key string) string {
	rest, ok := strings.CutPrefix(key, "flows[")
	place, rest, closed := strings.Cut(rest, "]")
	i, err := strconv.Atoi(place)
	if s == nil || !ok || !closed || err != nil || i < 0 || i >= len(s.Flows) {
		return key
	}
	id := s.Flows[i].ID
	if f := s.Flows[i]; id == "" && f.From != "" && f.To != "" {
		id = f.From + ">" + f.To // not filled yet
	}
	if id == "" {
		return key
	}
	return "flows[" + cut(id, 126) + "]" + rest
}

// Problems is the error of a file that was refused: up to 20 problems, sorted
// by position.
type Problems []Problem

// Error lists the problems, one line each.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes rampart.KindOf answer Invalid.
func (ps Problems) Unwrap() error {
	return rampart.Errorf(rampart.Invalid, "", "rampart.yaml is not valid")
}

// position is a place in the file, 1-based.
type position struct{ line, col int }

// report collects problems and knows where each key of the file stands.
type report struct {
	file string
	at   map[string]position // key path -> place of the key; "" -> start of the file
	zero map[string]bool     // key paths whose number is written as 0: a default must not take its place unnoticed
	list []fault
	sys  *System // as far as it is decoded; nil: flows are told by their place
}

// fault is a problem on its way. The fix of an unknown name is worked out for
// the problems that are shown, since comparing names is the dear part.
type fault struct {
	Problem
	name       string
	candidates map[string]bool // nil: Fix is final
	what       string
	origin     func(name string) string // if not nil: where the name that may be meant comes from
	mended     bool                     // the model has what is likely meant, and can be judged further
}

func newReport(file string) *report {
	return &report{file: file, at: map[string]position{"": {1, 1}}, zero: map[string]bool{}}
}

// bad records that the value at the key path breaks a rule. A key that is not
// in the file is reported at its nearest ancestor that is.
func (r *report) bad(path, msg, fix string) {
	r.badAt(r.where(path), path, msg, fix)
}

func (r *report) badAt(at position, path, msg, fix string) {
	r.add(fault{Problem: Problem{r.file, at.line, at.col, path, msg, fix}})
}

// unknown records that a name is none of the candidates; what introduces the
// list of them when none is near.
func (r *report) unknown(path, msg, name string, candidates map[string]bool, what string) {
	r.add(fault{Problem: r.problem(path, msg), name: name, candidates: candidates, what: what})
}

// problem is one whose fix is worked out later.
func (r *report) problem(path, msg string) Problem {
	at := r.where(path)
	return Problem{r.file, at.line, at.col, path, msg, ""}
}

func (r *report) add(f fault) {
	if len(r.list) < maxCollected {
		r.list = append(r.list, f)
	}
}

// where returns the place of the path, or of its nearest known ancestor.
func (r *report) where(path string) position {
	for {
		if at, ok := r.at[path]; ok || path == "" {
			return at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// has reports whether the file itself says the key, as opposed to a default.
func (r *report) has(path string) bool {
	_, ok := r.at[path]
	return ok
}

// err returns the problems so far as an error, or nil.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	return r.problems()
}

// judgeable reports whether the model is what its author meant, as far as anybody
// can tell: then more of it can be judged, though it will be refused.
func (r *report) judgeable() bool {
	return !slices.ContainsFunc(r.list, func(f fault) bool { return !f.mended })
}

// suggestion is the fix of an unknown name.
func (f fault) suggestion() string {
	list := names(f.candidates)
	fix := suggest(f.name, list, f.what)
	if best, ok := Nearest(f.name, list); ok && f.origin != nil {
		fix += f.origin(best)
	}
	return fix
}

// problems returns the first problems by position.
func (r *report) problems() Problems {
	slices.SortFunc(r.list, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Msg, b.Msg))
	})
	var out Problems
	for _, f := range r.list {
		if f.candidates != nil {
			f.Fix = f.suggestion()
		}
		if len(out) == maxProblems {
			break
		}
		f.Key = r.sys.told(f.Key)
		if len(out) == 0 || out[len(out)-1] != f.Problem {
			out = append(out, f.Problem)
		}
	}
	return out
}
