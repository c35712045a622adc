package verify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/threat"
)

// WriteJSON writes one object per probe, one a line.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, o := range r.Probes {
		if err := enc.Encode(o); err != nil {
			return err
		}
	}
	return nil
}

// TableOptions say how a table looks. The zero value is plain text, 100 wide.
type TableOptions struct {
	Color bool
	Width int // columns; 0 is 100
}

// words and colours of the verdicts; colour never stands alone.
var faces = map[Verdict]struct{ word, color string }{
	Pass:          {"PASS", "\x1b[32m"},
	Fail:          {"FAIL", "\x1b[31m"},
	Inconclusive:  {"UNSURE", "\x1b[33m"},
	NotApplicable: {"N/A", "\x1b[90m"},
	Accepted:      {"ACCEPTED", "\x1b[34m"},
}

// Table writes the report for people, grouped by section of the mission.
func (r Report) Table(w io.Writer, opt TableOptions) error {
	if opt.Width <= 0 {
		opt.Width = 100
	}
	var b strings.Builder
	section := ""
	for _, o := range r.bySection() {
		if s := sectionOf(o.SeedRow); s != section {
			section = s
			fmt.Fprintf(&b, "\n%s\n", section)
		}
		b.WriteString(Line(o, opt))
	}
	fmt.Fprintf(&b, "\n%s\n", r.Summary())
	_, err := io.WriteString(w, b.String())
	return err
}

// Line is one outcome in one line, with a second one for what a verdict other
// than pass was found by.
func Line(o Outcome, opt TableOptions) string {
	face := faces[o.Verdict]
	word := fmt.Sprintf("%-8s", face.word)
	if opt.Color {
		word = face.color + word + "\x1b[0m"
	}
	room := max(20, opt.Width-49)
	text := fmt.Sprintf("  %s %-5s %-*s %s\n", word, o.ID, room, clip(o.Title, room), o.Control)
	if o.Verdict != Pass {
		text += fmt.Sprintf("           %-5s %s\n", "", clip(o.Signal, max(40, opt.Width*2-20)))
	}
	return text
}

func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// Summary counts the verdicts.
func (r Report) Summary() string {
	count := map[Verdict]int{}
	for _, o := range r.Probes {
		count[o.Verdict]++
	}
	text := fmt.Sprintf("%d probes: %d passed, %d failed, %d inconclusive, %d not applicable", len(r.Probes), count[Pass], count[Fail], count[Inconclusive], count[NotApplicable])
	if count[Accepted] > 0 {
		text += fmt.Sprintf(", %d accepted", count[Accepted])
	}
	return fmt.Sprintf("%s, in %s (system %s, configuration %.12s)", text, r.Finished.Sub(r.Started).Round(100*time.Millisecond), r.System, r.Digest)
}

// bySection keeps the order of the probes within a section, and the order in
// which sections first appear.
func (r Report) bySection() []Outcome {
	rank := map[string]int{}
	for _, o := range r.Probes {
		if s := sectionOf(o.SeedRow); rank[s] == 0 {
			rank[s] = len(rank) + 1
		}
	}
	out := slices.Clone(r.Probes)
	slices.SortStableFunc(out, func(a, b Outcome) int {
		return cmp.Compare(rank[sectionOf(a.SeedRow)], rank[sectionOf(b.SeedRow)])
	})
	return out
}

// sectionOf names the section of the mission that a row stands in.
func sectionOf(row string) string {
	area, _, _ := strings.Cut(row, ":")
	name, ok := map[string]string{
		"tls": "TLS everywhere", "checklist": "Security architecture checklist", "owasp": "OWASP Top 10", "authn": "Authentication", "authz": "Authorization",
		"stride": "STRIDE", "validation": "Input validation boundaries", "limits": "Multi-layer rate limiting", "secrets": "Secrets management", "payment": "Threats of the payment table",
	}[area]
	if !ok {
		return area
	}
	return name
}

// Proofs says for each control whether it was proven: the probes that are about
// it passed, and none failed. falsified names the controls whose probes were
// seen to fail without them; a probe with a test of its own shows it itself. A
// control of which a probe could not judge has no proof.
func (r Report) Proofs(falsified map[string]bool) map[string]threat.Proof {
	out := map[string]threat.Proof{}
	unsure := map[string]bool{}
	for _, o := range r.Probes {
		for i, c := range o.Controls {
			p, seen := out[c]
			p.Time, p.Digest = r.Finished, r.Digest
			switch {
			case o.Verdict == Pass:
				p.Passed = p.Passed || !seen
				p.Falsified = p.Falsified || falsified[c] || o.SelfTest != ""
			case o.Verdict == Fail && i == 0:
				p.Passed = false
			case o.Verdict == Inconclusive && i == 0:
				unsure[c] = true
				continue
			default:
				continue
			}
			out[c] = p
		}
	}
	maps.DeleteFunc(out, func(c string, p threat.Proof) bool { return unsure[c] && p.Passed })
	return out
}
