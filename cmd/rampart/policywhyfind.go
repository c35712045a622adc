package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
)

const (
	decisionIDSize = 26 // characters of rand.Text
	maxExplained   = 50 // decisions of one trace
	onlyAudited    = "the audit log alone has it: a list is not decided again"
)

// errNoDecision is of an id that no log of decisions has.
var errNoDecision = errors.New("no such decision")

// meantDecision returns the id that a user means: it, or the only one with such a
// beginning.
func meantDecision(ctx context.Context, state *statedir.Dir, text string) (string, error) {
	if len(text) >= decisionIDSize {
		return text, nil
	}
	if text == "" {
		return "", usageError("an id is missing; rampart audit tail names those of decisions")
	}
	ids, err := decisionsLike(ctx, state, text)
	switch {
	case err != nil:
		return "", &exitError{exitFailed, err}
	case len(ids) == 0:
		return "", noDecision(state, text)
	case len(ids) > 1:
		return "", usageError("more than one decision begins with %q: %s; write more of it", text, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

func noDecision(state *statedir.Dir, text string) error {
	return usageError("no decision %q is in the logs below %s; rampart audit tail names the ids, as `decision ID`", text, state.Path("decisions"))
}

// decisionsLike returns ids with a beginning; two are enough to be too many.
func decisionsLike(ctx context.Context, state *statedir.Dir, prefix string) ([]string, error) {
	folders, err := filepath.Glob(state.Path("decisions", "*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range folders {
		folder, err := decisionlog.OpenFolder(name)
		if err != nil {
			return nil, err
		}
		ids, err := folder.IDs(prefix, 2)
		if err != nil {
			return nil, err
		}
		out = append(out, ids...)
	}
	if len(out) == 0 { // a list
		err = decided(ctx, state, func(e audit.Event) {
			if strings.HasPrefix(e.Detail["decision"], prefix) && len(out) < 2 {
				out = append(out, e.Detail["decision"])
			}
		})
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// decided calls see with all audit events that name a decision.
func decided(ctx context.Context, state *statedir.Dir, see func(audit.Event)) error {
	only := func(e audit.Event) bool { return e.Detail["decision"] != "" }
	return audit.Tail(ctx, state.Path("audit"), audit.TailOptions{Filter: only}, func(e audit.Event, _ audit.Pos) error {
		see(e)
		return nil
	})
}

// explainID explains one decision.
func explainID(cmd *cobra.Command, state *statedir.Dir, id string, asJSON bool) error {
	w, err := findDecision(state, id)
	if errors.Is(err, errNoDecision) {
		return explainEvent(cmd, state, id, asJSON)
	}
	if err != nil {
		return err
	}
	if err := w.replay(cmd, state); err != nil {
		return err
	}
	if asJSON {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(w.shown())
	} else {
		err = w.print(cmd.OutOrStdout())
	}
	if err == nil && !asJSON && w.Decision.Allowed() {
		var note string
		note, err = afterwards(cmd.Context(), state, w.Decision.ID)
		p := &printer{w: cmd.OutOrStdout(), err: err}
		p.line("but", note)
		err = p.err
	}
	if err == nil && !w.Same {
		err = &exitError{exitFailed, errors.New("the decision does not come out the same")}
	}
	return err
}

// explainEvent tells what the audit log has of a decision that no log of
// decisions has.
func explainEvent(cmd *cobra.Command, state *statedir.Dir, id string, asJSON bool) error {
	var found *audit.Event
	err := decided(cmd.Context(), state, func(e audit.Event) {
		if e.Detail["decision"] == id {
			found = &e
		}
	})
	if err != nil {
		return &exitError{exitFailed, err}
	}
	if found == nil {
		return noDecision(state, id)
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(shownEvent(*found))
	}
	return printWhyEvent(cmd.OutOrStdout(), shownEvent(*found))
}

func shownEvent(e audit.Event) shownWhy {
	d := rampart.Decision{ID: e.Detail["decision"], Effect: rampart.Deny, Layer: rampart.Layer(e.Layer), Code: rampart.Code(e.Code), Policies: e.Policies, Reason: e.Detail["reason"]}
	if e.Outcome == audit.Allowed {
		d.Effect = rampart.Allow
	}
	return shownWhy{Plane: e.Plane, At: e.Time, Subject: e.Subject, Action: e.Action, Resource: e.Resource, Decision: d, Only: onlyAudited}
}

func printWhyEvent(out io.Writer, s shownWhy) error {
	d := s.Decision
	p := &printer{w: out}
	p.line("decision", plainText(d.ID))
	p.line("who", plainText(s.Subject))
	p.line("what", plainText(strings.TrimSpace(s.Action+" "+s.Resource)))
	p.line("when", s.At.Local().Format(time.RFC3339)+" at "+s.Plane)
	answer := d.Effect.String()
	if d.Code != "" {
		answer += ", " + string(d.Code)
	}
	p.line("answer", answer+fmt.Sprintf(", at the %s layer", d.Layer))
	p.line("because", plainText(d.Reason))
	for _, ref := range d.Policies {
		p.line("policy", ref.String())
	}
	p.line("replayed", "not: "+s.Only)
	return p.err
}
