package threat

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/policies"
)

// meant finds the row that a person means by id: RULE@ELEMENT, a name that the
// team has given, or the rule alone where it speaks of one element. Letter case
// does not count.
func (m Model) meant(id string) (Row, error) {
	if r, ok := m.Row(id); ok {
		return r, nil
	}
	var found []Row
	var ids []string
	for _, r := range m.Rows {
		named := slices.ContainsFunc(r.Names, func(n Name) bool { return strings.EqualFold(n.ID, id) })
		if strings.EqualFold(r.ID, id) || named || strings.EqualFold(r.Rule, id) && r.State != NotApplicable {
			found, ids = append(found, r), append(ids, r.ID)
		}
	}
	switch len(found) {
	case 0:
		return Row{}, errUnknown("threat", id, m.ids())
	case 1:
		return found[0], nil
	}
	return Row{}, fmt.Errorf("%s speaks of several elements; name one: %s", found[0].Rule, strings.Join(ids, ", "))
}

// Explain prints one threat from rule to evidence. id is RULE@ELEMENT, a name
// that the team has given, or a rule that speaks of one element; an unknown one
// is an error with the nearest.
func (m Model) Explain(w io.Writer, id string) error {
	r, err := m.meant(id)
	if err != nil {
		return err
	}
	doc := m.Rules[r.Rule]
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %s\n", r.ID, r.Title)
	for _, n := range r.Names {
		fmt.Fprintf(&b, "  also      %s %s\n", n.ID, n.Title)
	}
	fmt.Fprintf(&b, "  letter    %s, %s\n", r.Stride, r.Stride.Word())
	if r.Line > 0 {
		fmt.Fprintf(&b, "  place     rampart.yaml line %d\n", r.Line)
	}
	if len(r.Data) > 0 {
		fmt.Fprintf(&b, "  data      %s\n", strings.Join(r.Data, ", "))
	}
	if r.Severity != "" {
		fmt.Fprintf(&b, "  severity  %s: impact %d of 3, likelihood %s%s\n", r.Severity, r.Impact, r.Likelihood, loweredBy(r))
	}
	fmt.Fprintf(&b, "  state     %s%s\n", r.standing(), orNothing(": ", r.Reason))
	if r.Accepted != nil {
		fmt.Fprintf(&b, "  accepted  by %s: %s\n", r.Accepted.Owner, r.Accepted.Reason)
	}
	fmt.Fprintf(&b, "  why       %s\n  abuse     %s\n", doc.Why, doc.Abuse)
	for _, need := range []string{"all", "any", "partial"} {
		m.explainControls(&b, r, need)
	}
	if r.State != Proven && r.State != NotApplicable {
		fmt.Fprintf(&b, "  fix       %s\n", doc.Fix)
	}
	fmt.Fprintf(&b, "  see       %s\n", doc.Refs)
	_, err = w.Write(b.Bytes())
	return err
}

func (m Model) explainControls(b *bytes.Buffer, r Row, need string) {
	head := map[string]string{"all": "  needs all of\n", "any": "  needs one of\n", "partial": "  lowered by\n"}[need]
	for _, c := range r.Controls {
		if c.Need != need {
			continue
		}
		b.WriteString(head)
		head = ""
		p := m.control(c.ID)
		fmt.Fprintf(b, "    %-28s %s%s\n", c.ID, c.State, orNothing(": ", c.Note))
		if need == "partial" && slices.ContainsFunc(r.Controls, func(o Control) bool { return o.ID == c.ID && o.Need != need }) {
			continue // told above
		}
		fmt.Fprintf(b, "      %s\n", p.Title)
		if !c.Missing() {
			fmt.Fprintf(b, "      at %s, enforced by %s/%s\n", strings.Join(c.At, ", "), p.Folder, defaulted(c))
		}
		fmt.Fprintf(b, "      attacked by %s\n", p.AttackedBy())
	}
}

// WhyControl prints what a control carries: which threats open, and which get
// worse, when it is removed. An unknown id is an error with the nearest.
func (m Model) WhyControl(w io.Writer, control string) error {
	c := m.control(control)
	if c.ID == "" {
		var ids []string
		for _, p := range m.Controls {
			ids = append(ids, p.ID)
		}
		return errUnknown("control", control, ids)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %s\n  enforced by %s/, attacked by %s\n  asked for by %s\n", c.ID, c.Title, c.Folder, c.AttackedBy(), strings.Join(c.Seed, "; "))
	d := m.Without(control)
	if len(d.Opened)+len(d.Worse) == 0 {
		b.WriteString("  removing it opens nothing: no threat of this system leans on it\n")
	}
	changes(&b, "  removing it opens", d.Opened)
	changes(&b, "  removing it weakens", d.Worse)
	_, err := w.Write(b.Bytes())
	return err
}

// Print writes the difference as lines for a terminal or a review.
func (d Difference) Print(w io.Writer) error {
	var b bytes.Buffer
	changes(&b, "opened", d.Opened)
	changes(&b, "worse", d.Worse)
	changes(&b, "closed", d.Closed)
	changes(&b, "better", d.Better)
	if b.Len() == 0 {
		b.WriteString("no threat has changed\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

func changes(b *bytes.Buffer, head string, list []Change) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "%s\n", head)
	for _, c := range list {
		fmt.Fprintf(b, "    %-40s %s -> %s  %s\n", c.ID, c.Before, c.After, c.Title)
	}
}

// String lists the references by list.
func (r Refs) String() string {
	var parts []string
	for _, l := range []struct {
		name string
		ids  []string
	}{
		{"", r.CWE}, {"OWASP 2021 ", r.OWASP2021}, {"OWASP 2025 ", r.OWASP2025}, {"API 2023 ", r.API2023}, {"ASVS 5.0 ", r.ASVS}, {"ATT&CK ", r.ATTACK},
	} {
		if len(l.ids) > 0 {
			parts = append(parts, l.name+strings.Join(l.ids, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

func (m Model) control(id string) policies.Control {
	i := slices.IndexFunc(m.Controls, func(c policies.Control) bool { return c.ID == id })
	if i < 0 {
		return policies.Control{}
	}
	return m.Controls[i]
}

func (m Model) ids() []string {
	var out []string
	for _, r := range m.Rows {
		out = append(out, r.ID)
		for _, n := range r.Names {
			out = append(out, n.ID)
		}
	}
	return out
}

func loweredBy(r Row) string {
	if r.State == Partial {
		return ", lowered one step"
	}
	return ""
}

func defaulted(c Control) string {
	if c.Default {
		return " (safe default)"
	}
	return ""
}

func orNothing(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
