package threat

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// TableOptions says how to print a table. The zero value prints 120 columns
// without colour, and leaves out what does not apply.
type TableOptions struct {
	Width int  // columns; 0 is 120, the least is 80
	Color bool // ANSI colours; the state is a word in any case
	All   bool // also the rows that do not apply, with the reason
}

// column widths: element, letter, severity and state are fixed; threat and
// mitigation share the rest.
const (
	wElement, wLetter, wSeverity, wState = 16, 1, 8, 14
	gap                                  = "  "
)

// Table prints the threats as a person reads them: where, what, which letter,
// how bad, what stands against it, and how far that is true. Last comes a line
// of sums.
func (m Model) Table(w io.Writer, opt TableOptions) error {
	if opt.Width == 0 {
		opt.Width = 120
	}
	opt.Width = max(opt.Width, 80)
	rest := opt.Width - wElement - wLetter - wSeverity - wState - 5*len(gap)
	t := table{color: opt.Color, widths: []int{wElement, rest * 11 / 20, wLetter, wSeverity, rest - rest*11/20, wState}}
	t.line([]string{"FLOW", "THREAT", "S", "SEVERITY", "MITIGATION", "STATE"}, "")
	t.rule()
	place, last := m.places(), ""
	for _, r := range m.Rows {
		if r.State == NotApplicable && !opt.All {
			continue
		}
		where := ""
		if r.Element != last {
			where = place(r)
		}
		last = r.Element
		t.line([]string{where, r.label(), string(r.Stride), string(r.Severity), r.mitigation(), r.standing()}, r.colour())
	}
	t.rule()
	fmt.Fprintln(&t.buf, m.Summary())
	_, err := w.Write(t.buf.Bytes())
	return err
}

// places names the elements for a person: "1 merchant → gateway", "store
// events".
func (m Model) places() func(Row) string {
	flows := map[string]string{}
	for _, f := range m.Flows {
		ends := f.From.Name + " → " + f.To.Name
		if f.ID != f.From.Name+">"+f.To.Name {
			ends = f.ID + " " + ends
		}
		flows["flow-"+f.ID] = ends
	}
	return func(r Row) string {
		if text, ok := flows[r.Element]; ok {
			return text
		}
		return strings.Replace(r.Element, "-", " ", 1)
	}
}

// Summary is one line of sums: "81 threats: 2 open, 3 partial, 76 declared".
func (m Model) Summary() string {
	count := map[State]int{}
	total, excused := 0, 0
	for _, r := range m.Rows {
		if r.State == NotApplicable {
			continue
		}
		total++
		count[r.State]++
		if r.Excused() {
			excused++
		}
	}
	var parts []string
	for _, s := range []State{Open, Inconclusive, Stale, Partial, Declared, Enforced, Proven} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	text := fmt.Sprintf("%d threats: %s", total, strings.Join(parts, ", "))
	if excused > 0 {
		text += fmt.Sprintf(" (%d of them accepted)", excused)
	}
	return text
}

// label is the team's name and title where it has given them, then the rule.
func (r Row) label() string {
	if len(r.Names) == 0 {
		return r.Title + " (" + r.Rule + ")"
	}
	var parts []string
	for _, n := range r.Names {
		title := n.Title
		if title == "" {
			title = r.Title
		}
		parts = append(parts, n.ID+" "+title)
	}
	return strings.Join(parts, "; ") + " (" + r.Rule + ")"
}

// mitigation lists the controls that stand, then those that lack; a row
// without any says why.
func (r Row) mitigation() string {
	if r.State == NotApplicable || r.State == Inconclusive {
		return r.Reason
	}
	var have, lack []string
	for _, c := range r.Controls {
		switch {
		case !c.Missing() && !slices.Contains(have, c.ID):
			have = append(have, c.ID)
		case c.Missing() && c.Need == "all":
			lack = append(lack, c.ID)
		}
	}
	parts := []string{strings.Join(have, ", ")}
	if len(lack) > 0 {
		parts = append(parts, "missing: "+strings.Join(lack, ", "))
	}
	text := strings.TrimPrefix(strings.Join(parts, "; "), "; ")
	if text == "" {
		return "none"
	}
	return text
}

// standing is the state, with the acceptance laid over it.
func (r Row) standing() string {
	switch {
	case r.Accepted == nil:
		return strings.ReplaceAll(string(r.State), "_", " ")
	case r.Accepted.Expired:
		return fmt.Sprintf("%s (accepted until %s, expired)", r.State, r.Accepted.Until.Format("2006-01-02"))
	}
	return fmt.Sprintf("ACCEPTED until %s (%s)", r.Accepted.Until.Format("2006-01-02"), r.State)
}

// colour returns the ANSI code of the state: red, amber, grey, green, blue.
func (r Row) colour() string {
	if r.Excused() {
		return "\x1b[34m"
	}
	switch r.State {
	case Open:
		return "\x1b[31m"
	case Stale, Partial:
		return "\x1b[33m"
	case Proven:
		return "\x1b[32m"
	}
	return "\x1b[90m"
}

// table lays out cells that wrap within their column.
type table struct {
	buf    bytes.Buffer
	widths []int
	color  bool
}

func (t *table) rule() {
	n := (len(t.widths) - 1) * len(gap)
	for _, w := range t.widths {
		n += w
	}
	t.buf.WriteString(strings.Repeat("─", n) + "\n")
}

// line prints one row of cells, as many lines as the longest needs; colour is
// for the last cell.
func (t *table) line(cells []string, colour string) {
	wrapped := make([][]string, len(cells))
	height := 0
	for i, c := range cells {
		wrapped[i] = wrap(c, t.widths[i])
		height = max(height, len(wrapped[i]))
	}
	for h := range height {
		var b strings.Builder
		for i := range cells {
			cell := ""
			if h < len(wrapped[i]) {
				cell = wrapped[i][h]
			}
			pad := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell))
			if t.color && colour != "" && i == len(cells)-1 && cell != "" {
				cell = colour + cell + "\x1b[0m"
			}
			b.WriteString(cell + pad + gap)
		}
		t.buf.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
}

// wrap breaks text at blanks into lines of at most width characters; a longer
// word is cut.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for utf8.RuneCountInString(word) > width {
			room := width
			if line != "" {
				lines = append(lines, line)
				line = ""
			}
			runes := []rune(word)
			lines = append(lines, string(runes[:room]))
			word = string(runes[room:])
		}
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
