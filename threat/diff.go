package threat

import (
	"maps"
	"slices"
)

// Change is one row in two states.
type Change struct {
	ID     string   `json:"id"`
	Title  string   `json:"title"`
	Sev    Severity `json:"severity,omitempty"` // after the change, or before it when the row is gone
	Before State    `json:"before"`             // NotApplicable when the row was not there
	After  State    `json:"after"`              // NotApplicable when the row is gone
}

// Difference sorts changes by what they mean for a reviewer. Each list is in
// the order of the table.
type Difference struct {
	Opened []Change `json:"opened"` // open now, and not before
	Closed []Change `json:"closed"` // open before, and not now
	Worse  []Change `json:"worse"`
	Better []Change `json:"better"`
}

// Diff compares two models of one system, before and after a change.
func Diff(before, after Model) Difference {
	was := map[string]Row{}
	for _, r := range before.Rows {
		was[r.ID] = r
	}
	var d Difference
	for _, r := range after.Rows {
		old, ok := was[r.ID]
		delete(was, r.ID)
		if !ok {
			old.State = NotApplicable
		}
		d.add(Change{r.ID, r.Title, r.Severity, old.State, r.State})
	}
	gone := slices.SortedFunc(maps.Values(was), func(a, b Row) int { return natural(a.ID, b.ID) })
	for _, r := range gone {
		d.add(Change{r.ID, r.Title, r.Severity, r.State, NotApplicable})
	}
	return d
}

func (d *Difference) add(c Change) {
	switch {
	case c.Before == c.After:
	case c.After == Open:
		d.Opened = append(d.Opened, c)
	case c.Before == Open:
		d.Closed = append(d.Closed, c)
	case c.After.rank() < c.Before.rank():
		d.Worse = append(d.Worse, c)
	default:
		d.Better = append(d.Better, c)
	}
}

// Without returns what would change for the worse if the control were removed
// everywhere: the reverse index from control to threats.
func (m Model) Without(control string) Difference {
	var d Difference
	for _, r := range m.Rows {
		if !slices.ContainsFunc(r.Controls, func(c Control) bool { return c.ID == control && !c.Missing() }) {
			continue
		}
		after, _ := decide(r.Controls, control)
		d.add(Change{r.ID, r.Title, r.Severity, r.State, after})
	}
	return d
}

func sortedKeys[V any](m map[string]V) []string { return slices.SortedFunc(maps.Keys(m), natural) }
