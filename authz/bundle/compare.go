package bundle

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pdp"
)

// maxActions bounds how many actions a Diff tells apart.
const maxActions = 200

// Diff says how decisions come out under other policies. The zero Diff has
// compared nothing.
type Diff struct {
	Replayed int            `json:"replayed"`
	Changed  int            `json:"changed"`
	Allows   int            `json:"allows"`           // deny before, allow now
	Denies   int            `json:"denies"`           // allow before, deny now
	Actions  map[string]int `json:"actions,omitzero"` // changes by action; "" for a route without one
}

// String tells it in a line: "37 of 200 change: 36 allow to deny, 1 deny to
// allow (orders:read 30, orders:list 7)".
func (d Diff) String() string {
	if d.Changed == 0 {
		return fmt.Sprintf("none of %d decisions changes", d.Replayed)
	}
	out := fmt.Sprintf("%d of %d decisions change: %d allow to deny, %d deny to allow", d.Changed, d.Replayed, d.Denies, d.Allows)
	names := slices.SortedFunc(maps.Keys(d.Actions), func(a, b string) int {
		return cmp.Or(cmp.Compare(d.Actions[b], d.Actions[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, name := range names[:min(len(names), 5)] {
		parts = append(parts, fmt.Sprintf("%s %d", cmp.Or(name, "no action"), d.Actions[name]))
	}
	return out + " (" + strings.Join(parts, ", ") + ")"
}

func (d *Diff) add(action string, before, after rampart.Effect) {
	d.Replayed++
	if before == after {
		return
	}
	d.Changed++
	if after == rampart.Allow {
		d.Allows++
	} else {
		d.Denies++
	}
	if d.Actions == nil {
		d.Actions = map[string]int{}
	}
	if _, known := d.Actions[action]; known || len(d.Actions) < maxActions {
		d.Actions[action]++
	}
}

// Compare asks two decision points what was asked before. Questions that no
// policy was asked about, because a source was down or a clock had jumped, are
// left out. A policy that reads a fact which was not looked up then fails, as it
// does whenever a fact is missing: that counts as a change.
func Compare(ctx context.Context, past []decisionlog.Entry, before, after *pdp.PDP) Diff {
	var d Diff
	for _, e := range past {
		if !denied(e.Question) && ctx.Err() == nil {
			d.add(actionOf(e.Question), before.Answer(ctx, e.Question).Effect, after.Answer(ctx, e.Question).Effect)
		}
	}
	return d
}

func actionOf(q pdp.Question) string {
	if q.Request != nil {
		return string(q.Request.Action)
	}
	return q.Route.Permission
}

// candidate is a bundle that is tried beside the active one and decides nothing.
type candidate struct {
	*Bundle
	pdp *pdp.PDP

	mu   sync.Mutex
	diff Diff
}

// setShadow takes a candidate on, or the present one off when raw is nil. It is
// judged as a bundle that is to become active, but for the floor and the replay.
func (a *Activator) setShadow(ctx context.Context, raw []byte) {
	now := a.shadow.Load()
	if raw == nil {
		a.shadow.Store(nil)
		a.notTried.Store(nil)
		return
	}
	if now != nil && slices.Equal(now.Raw, raw) {
		a.notTried.Store(nil)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := Open(strings.NewReader(string(raw)), a.trust(Floor{}))
	next := &candidate{Bundle: b}
	if err == nil {
		next.pdp, err = a.tried(ctx, b)
	}
	a.notTried.Store(refusal(raw, err))
	if err != nil {
		a.shadow.Store(nil)
		a.refuseLocked(ctx, "policy.shadow", nil, raw, err)
		return
	}
	a.shadow.Store(next)
	a.record(ctx, Event{Action: "policy.shadow", Allowed: true, Version: b.Manifest.Version, Detail: map[string]string{"digest": b.Digest}})
}

// Observed compares a decision with what the candidate says, if there is one. It
// fits decisionlog.Options.Each.
func (a *Activator) Observed(q pdp.Question, d rampart.Decision) {
	c := a.shadow.Load()
	if c == nil || denied(q) {
		return
	}
	got := c.pdp.Answer(context.Background(), q)
	c.mu.Lock()
	c.diff.add(actionOf(q), d.Effect, got.Effect)
	c.mu.Unlock()
	if got.Effect != d.Effect {
		a.opt.Logger.LogAttrs(context.Background(), slog.LevelInfo, "the candidate decides otherwise", slog.Uint64("candidate", c.Manifest.Version),
			slog.String("id", q.ID), slog.String("action", actionOf(q)), slog.String("active", d.Effect.String()), slog.String("candidate_says", got.Effect.String()), slog.String("why", got.Reason))
	}
}

// Shadow returns the candidate's version and how it compares; version 0 is none.
func (a *Activator) Shadow() (version uint64, d Diff) {
	c := a.shadow.Load()
	if c == nil {
		return 0, Diff{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d = c.diff
	d.Actions = maps.Clone(d.Actions)
	return c.Manifest.Version, d
}
