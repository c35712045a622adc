package decisionlog

import (
	"errors"
	"fmt"

	"github.com/rampart-security/rampart"
)

// recordBytes is how large one record may be. A decision that rests on more is
// none: whoever asks could write the log full with a few questions.
const recordBytes = 64 << 10

// ErrLarge is in the chain of the error of Observe when the record of a decision
// would be too large.
var ErrLarge = errors.New("decisionlog: the question is too large to keep")

// fits refuses what would make a large record. Most are known to be small from
// the lengths of what they hold; only the others are rendered to be measured.
func (l *Log) fits(e *entry) error {
	// A byte takes six as \u0000 at most, and those eight when they are sealed.
	if 8*e.weight() <= recordBytes {
		return nil
	}
	enc := newEncoder(l.folder.key)
	if err := enc.record(&e.question, &e.decision, l.opt.Settings().Schema); err != nil {
		return fmt.Errorf("%w: %w", ErrLarge, err)
	}
	if n := len(enc.buf); n > recordBytes {
		return fmt.Errorf("%w: its record would have %d bytes, and %d is the most; ask with a smaller context, with fewer or smaller attributes", ErrLarge, n, recordBytes)
	}
	return nil
}

// Of what a record holds beside text: names of members, dates, numbers.
const (
	fixedWeight  = 256
	memberWeight = 4 // of a number, a mark or a name's quotes; eight times that is what it may take
	itemWeight   = 16
)

// weight is what an entry holds, in bytes, as text that needs no escapes.
func (e *entry) weight() int {
	q, d := &e.question, &e.decision
	n := fixedWeight + len(q.ID) + len(q.Tenant) + len(q.Route.Permission) + len(q.Route.Require) + len(q.Route.Flow) + weightOf(q.Route.Allow) + weightOf(q.Path)
	n += principalWeight(&q.Principal) + decisionWeight(d)
	if q.Refused != nil {
		n += decisionWeight(q.Refused)
	}
	if r := q.Request; r != nil {
		n += len(r.Action) + len(r.Resource.Type) + len(r.Resource.ID) + len(r.Resource.Tenant) + weightOf(r.Supported)
		n += principalWeight(&r.Principal) + valueWeight(r.Resource.Attrs) + valueWeight(r.Context)
		for name := range r.Relations {
			n += memberWeight + len(name)
		}
		for name := range r.Resource.Attrs {
			n += memberWeight + len(name) // once more, in the list of what is hidden
		}
		for name := range r.Context {
			n += memberWeight + len(name)
		}
	}
	return n
}

func weightOf(list []string) int {
	n := 0
	for _, s := range list {
		n += memberWeight + len(s)
	}
	return n
}

// valueWeight weighs a JSON-like value, whose depth is bounded by own.
func valueWeight(v any) int {
	switch v := v.(type) {
	case string:
		return memberWeight + len(v)
	case map[string]any:
		n := memberWeight
		for name, e := range v {
			n += memberWeight + len(name) + valueWeight(e)
		}
		return n
	case []any:
		n := memberWeight
		for _, e := range v {
			n += valueWeight(e)
		}
		return n
	case nil, bool, int64, float64:
		return memberWeight
	}
	return recordBytes // of unknown form: to be measured
}

func principalWeight(p *rampart.Principal) int {
	n := itemWeight + len(p.Subject) + len(p.Tenant) + len(p.Team) + len(p.Client) + len(p.Session) + len(p.ACR)
	for _, list := range [...][]string{p.Organizations, p.Roles, p.ManagedTeams, p.AMR, p.Scope, p.Actors} {
		n += weightOf(list)
	}
	return n
}

func decisionWeight(d *rampart.Decision) int {
	n := itemWeight + len(d.ID) + len(d.ReasonUser) + len(d.Reason) + weightOf(d.Path)
	for i := range d.Policies {
		n += refWeight(&d.Policies[i])
	}
	for i := range d.Missing {
		m := &d.Missing[i]
		n += itemWeight + refWeight(&m.Policy) + len(m.Condition) + len(m.Problem)
	}
	for _, o := range d.Obligations {
		n += itemWeight + len(o.ID) + len(o.Type)
		for name, value := range o.Properties {
			n += 2*memberWeight + len(name) + len(value)
		}
	}
	if d.Fields != nil {
		n += itemWeight + weightOf(d.Fields.Only) + weightOf(d.Fields.Mask)
	}
	return n
}

func refWeight(p *rampart.PolicyRef) int {
	return itemWeight + len(p.Engine) + len(p.ID) + len(p.File)
}
