package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/internal/statedir"
)

// policyWhyCommand replays a decision of a plane's log.
func policyWhyCommand() *cobra.Command {
	var stateDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why ID",
		Short: "Explain a decision that was made, and make it again",
		Long: `why finds a decision in the logs of the planes by its id, which audit tail and
denied answers name, or the beginning of one. It says what the decision rested on,
and decides again from the same question and the policies of that time. The exit
code is 1 when the two differ. Of a trace id (32 hex digits), which every refusal
tells its caller, it first says what no policy refused: the firewall, a schema, a
limit, a route or a login, and what to do; then it explains every decision that
denies. A list is not decided again: its audit event is all there is of it. Values
of classified attributes stay hidden.`,
		Example: `  rampart audit tail --follow=false            # each event names its decision
  rampart policy why WQ7S2KXJ4ZPB5T3MNLFA6DCREU
  rampart policy why WQ7S2K                    # the beginning, when it is the only one
  rampart policy why 4bf92f3577b34da6a3ce929d0e0e4736   # why a request was refused`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := statedir.Open(stateDir, statedir.Options{})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if traceID.MatchString(args[0]) {
				return explainTrace(cmd, state, args[0], asJSON)
			}
			id, err := meantDecision(cmd.Context(), state, args[0])
			if err != nil {
				return err
			}
			return explainID(cmd, state, id, asJSON)
		},
	}
	stateFlag(cmd, &stateDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// why is a decision that was found, and made again.
type why struct {
	decisionlog.Replayed
	plane string // as its folder is called: "sidecar_orders"
}

// findDecision looks through the logs of all planes, twice: who asks at once may be
// faster than the writer of the log.
func findDecision(state *statedir.Dir, id string) (why, error) {
	w, err := lookFor(state, id)
	if errors.Is(err, errNoDecision) {
		time.Sleep(decisionlog.Lag)
		w, err = lookFor(state, id)
	}
	return w, err
}

func lookFor(state *statedir.Dir, id string) (why, error) {
	folders, err := filepath.Glob(state.Path("decisions", "*"))
	if err != nil {
		return why{}, err
	}
	for _, name := range folders {
		folder, err := decisionlog.OpenFolder(name)
		if err != nil {
			return why{}, err
		}
		e, err := folder.Find(id)
		if errors.Is(err, decisionlog.ErrNotFound) {
			continue
		}
		if err != nil {
			return why{}, &exitError{exitFailed, fmt.Errorf("%s: %w", filepath.Base(name), err)}
		}
		return why{decisionlog.Replayed{Entry: e}, filepath.Base(name)}, nil
	}
	return why{}, errNoDecision
}

func (w *why) replay(cmd *cobra.Command, state *statedir.Dir) error {
	system, err := systemOf(state, w.plane, w.Decision.Revision.Policy)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	set, err := bundle.Archived(state.Path("policies", w.plane), system, w.Decision.Revision.Policy, w.Question.At)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	service, _ := strings.CutPrefix(w.plane, "sidecar_")
	if service == w.plane {
		service = "" // the gateway
	}
	w.Replayed, err = decisionlog.Why(cmd.Context(), w.Entry, set, service)
	return err
}

// systemOf returns the trust domain that a bundle in the archive claims; its
// signature is checked when it is opened.
func systemOf(state *statedir.Dir, plane string, version uint64) (string, error) {
	f, err := os.Open(bundle.ArchivePath(state.Path("policies", plane), version))
	if err != nil {
		return "", fmt.Errorf("the policies of version %d are not in the archive any more: %w", version, err)
	}
	defer f.Close()
	return bundle.Claimed(f)
}

// shownWhy is what --json prints.
type shownWhy struct {
	Plane    string           `json:"plane"`
	At       time.Time        `json:"at"`
	Subject  string           `json:"subject"`
	Action   string           `json:"action"`
	Resource string           `json:"resource,omitzero"`
	Tenant   string           `json:"tenant,omitzero"` // the organization that was acted for, at the service layer
	Values   map[string]any   `json:"values,omitzero"` // of the question; hidden ones are "(hidden)"
	Relation map[string]bool  `json:"relations,omitzero"`
	Decision rampart.Decision `json:"decision"`
	Same     bool             `json:"same"`
	Now      json.RawMessage  `json:"now,omitzero"` // when it is not the same
	// Only is set when the decision was not made again: what there is of it.
	Only string `json:"only,omitzero"`
}

const hiddenValue = "(hidden)"

func (w *why) shown() shownWhy {
	q := w.Question
	out := shownWhy{Plane: strings.Replace(w.plane, "_", "/", 1), At: q.At, Subject: q.Principal.Subject, Action: q.Route.Permission, Tenant: q.Tenant, Decision: w.Decision, Same: w.Same}
	if !w.Same {
		out.Now = w.Now
	}
	r := q.Request
	if r == nil {
		return out
	}
	out.Action, out.Resource, out.Relation, out.Values = string(r.Action), r.Resource.Type+"/"+r.Resource.ID, r.Relations, map[string]any{}
	for kind, values := range map[string]map[string]any{"attrs.": r.Resource.Attrs, "context.": r.Context} {
		for name, v := range values {
			if slices.Contains(w.Hidden, kind+name) {
				v = hiddenValue
			}
			out.Values[kind+name] = v
		}
	}
	return out
}

func (w *why) print(out io.Writer) error {
	s, d := w.shown(), w.Decision
	p := &printer{w: out}
	p.line("decision", d.ID)
	p.line("who", who(w.Question.Principal))
	p.line("what", strings.TrimSpace(s.Action+" "+s.Resource))
	p.line("for", s.Tenant)
	p.line("when", s.At.Local().Format(time.RFC3339)+" at "+s.Plane)
	answer := d.Effect.String()
	if d.Code != "" {
		answer += ", " + string(d.Code)
	}
	p.line("answer", answer+", at the "+string(d.Layer)+" layer")
	p.line("because", d.Reason)
	for _, ref := range d.Policies {
		p.line("policy", ref.String())
	}
	for _, m := range d.Missing {
		p.line("came close", missed(m))
	}
	for _, o := range d.Obligations {
		p.line("obliges to", strings.TrimSpace(o.Type+" "+pairs(o.Properties)+" (from "+o.ID+")"))
	}
	if d.Fields != nil {
		p.line("fields", fmt.Sprintf("only %s, masked %s", words(d.Fields.Only, "all"), words(d.Fields.Mask, "none")))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Relation)) {
		p.line("relation", fmt.Sprintf("%s: %t", name, s.Relation[name]))
	}
	for _, step := range d.Path {
		p.line("path", step)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Values)) {
		p.line("value", fmt.Sprintf("%s = %v", name, s.Values[name]))
	}
	p.line("policies", fmt.Sprintf("version %d, relations at revision %d", d.Revision.Policy, d.Revision.Relations))
	if w.Same {
		p.line("replayed", "the same, byte for byte")
		return p.err
	}
	p.line("replayed", "NOT THE SAME")
	p.line("was", string(w.Was))
	p.line("is now", string(w.Now))
	return p.err
}

// printer writes a name and what there is to say of it, if anything.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(name, text string) {
	if text == "" || p.err != nil {
		return
	}
	_, p.err = fmt.Fprintf(p.w, "%-11s %s\n", name, text)
}

func who(p rampart.Principal) string {
	out := p.Subject
	if len(p.Roles) > 0 {
		out += " as " + strings.Join(p.Roles, ", ")
	}
	if p.Client != "" {
		out += " through " + p.Client
	}
	return out
}

func missed(m rampart.NearMiss) string {
	out := fmt.Sprintf("%s: %s %s", m.Policy, m.Condition, m.Problem)
	if m.Line > 0 {
		out += fmt.Sprintf(" (line %d)", m.Line)
	}
	return out
}

func pairs(m map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, name+"="+m[name])
	}
	return strings.Join(out, " ")
}
