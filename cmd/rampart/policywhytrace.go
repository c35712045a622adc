package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
)

// traceID is how a W3C trace id is written.
var traceID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// traced is what the audit log has of one request.
type traced struct {
	events  int
	all     int           // that name a decision
	denied  []string      // decisions that deny, at most maxExplained
	refused []audit.Event // what something else than a policy refused, or what failed; at most maxExplained
}

// see sorts one event in.
func (t *traced) see(e audit.Event) {
	t.events++
	id := e.Detail["decision"]
	if id != "" {
		t.all++
	}
	switch {
	case e.Outcome == audit.Allowed:
	case id != "" && byPolicy(e):
		if !slices.Contains(t.denied, id) && len(t.denied) < maxExplained {
			t.denied = append(t.denied, id)
		}
	case len(t.refused) < maxExplained:
		t.refused = append(t.refused, e)
	}
}

// byPolicy reports whether a decision refused. An event names the decision that was
// made of the request even where something after it refused, the firewall or a
// schema; it has a code or a reason of a decision only where that refused.
func byPolicy(e audit.Event) bool { return e.Code != "" || e.Detail["reason"] != "" }

func traceOf(ctx context.Context, state *statedir.Dir, trace string) (traced, error) {
	var out traced
	only := func(e audit.Event) bool { return e.Trace == trace }
	err := audit.Tail(ctx, state.Path("audit"), audit.TailOptions{Filter: only}, func(e audit.Event, _ audit.Pos) error {
		out.see(e)
		return nil
	})
	if err != nil {
		return out, &exitError{exitFailed, err}
	}
	return out, nil
}

// explainTrace tells why a request was refused: first what no policy decided, then
// each decision that denies.
func explainTrace(cmd *cobra.Command, state *statedir.Dir, trace string, asJSON bool) error {
	t, err := traceOf(cmd.Context(), state, trace)
	switch {
	case err != nil:
		return err
	case t.events == 0:
		return usageError("the audit log has no event of trace %s; was it this system, and this --state?", trace)
	case len(t.refused)+len(t.denied) > 0:
	case t.all == 0:
		return usageError("nothing of trace %s was refused, and it has no decision; rampart audit tail --all --trace %s --since 24h --follow=false shows what there is", trace, trace)
	default:
		return usageError("all %d decisions of trace %s that are on record allow; give the id of one of them", t.all, trace)
	}
	gap := func(i int) {
		if i > 0 && !asJSON {
			fmt.Fprintln(cmd.OutOrStdout())
		}
	}
	var errs []error
	for i, e := range t.refused {
		gap(i)
		errs = append(errs, printRefused(cmd.OutOrStdout(), e, asJSON))
	}
	for i, id := range t.denied {
		gap(i + len(t.refused))
		errs = append(errs, explainID(cmd, state, id, asJSON))
	}
	return errors.Join(errs...)
}

// shownRefusal is what --json prints of a refusal that no decision on record is of.
type shownRefusal struct {
	Refused  audit.Event `json:"refused"`
	ByPolicy bool        `json:"by_policy"`
	Do       string      `json:"do,omitzero"`
}

func printRefused(out io.Writer, e audit.Event, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(shownRefusal{e, byPolicy(e), remedy(e)})
	}
	p := &printer{w: out}
	p.line(string(e.Outcome), plainText(strings.TrimSpace(e.Action+" "+e.Resource)))
	p.line("who", plainText(firstText(e.Subject, e.Actor, e.Peer)))
	p.line("when", e.Time.Local().Format(time.RFC3339)+" at "+e.Plane)
	p.line("control", e.Control)
	p.line("because", plainText(e.Detail["error"]))
	p.line("rules", plainText(e.Detail["rules"]))
	p.line("score", plainText(e.Detail["score"]))
	p.line("fields", plainText(e.Detail["fields"]))
	p.line("do", remedy(e))
	p.line("policies", plainText(besides(e)))
	return p.err
}

// afterwards says what refused a request that a decision allows, and where to read
// more of it; "" if nothing is on record.
func afterwards(ctx context.Context, state *statedir.Dir, id string) (string, error) {
	out := ""
	err := decided(ctx, state, func(e audit.Event) {
		if e.Detail["decision"] == id && e.Outcome != audit.Allowed && !byPolicy(e) {
			out = fmt.Sprintf("the request was %s after it, by %s: rampart policy why %s", e.Outcome, cmp.Or(e.Control, "nothing that has a name"), plainText(e.Trace))
		}
	})
	return out, err
}

// besides says what policies had to do with it.
func besides(e audit.Event) string {
	id := e.Detail["decision"]
	switch {
	case byPolicy(e): // it has no id, or it would be explained
		return "one refused it: " + firstText(e.Detail["reason"], e.Code) + "; its decision is on no log"
	case id != "":
		return "none refused it; decision " + id + " came before"
	}
	return "none refused it"
}

// remedies say what to do about a refusal of a control, or of all of an area.
var remedies = map[string]string{
	"waf":           "if the request is right, exclude these rules for this field: waf.exclude of the flow; rampart waf explain METHOD /path lists fields",
	"validate":      "make the request as the service's OpenAPI document says, or correct the document",
	"field":         "leave out the field: the system sets it",
	"edge.route":    "rampart routes lists what there is; add the operation to the service's OpenAPI document, or the method to methods",
	"edge.cors":     "name the page's origin in cors.origins of the flow",
	"authn":         "sign in, or show a credential that the flow's authn takes and that has not ended",
	"authn.csrf":    "send it from a page of this system",
	"authn.step_up": "sign in anew with the factor that the flow's step_up asks for",
	"token":         "get a new token",
	"nonce":         "send each request with a time of now and a new nonce",
	"idempotency":   "send a retry as the first request was, and another request with a key of its own",
	"limit":         "wait as Retry-After says, or raise limit of the flow",
	"limit.ban":     "rampart ban list shows who is turned away, rampart ban lift ADDRESS ends it",
	"http":          "the bytes are no proper HTTP; look at the client, or at the proxy in front",
}

// remedy says in a word what to do about an event; "" if nobody knows better than
// the event itself.
func remedy(e audit.Event) string {
	area, _, _ := strings.Cut(e.Control, ".")
	if e.Outcome == audit.Failed && area != "audit" {
		return "see rampart status, and the logs of the planes"
	}
	return cmp.Or(remedies[e.Control], remedies[area])
}
