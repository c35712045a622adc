package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/spec"
)

func policyExplainCmd() *cobra.Command {
	var f askFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "explain SUBJECT ACTION TYPE/ID",
		Short: "Say why somebody may do something, or at which layer, policy and line it ends; nothing has to run",
		Long: `explain asks the decision point that the file makes, layer after layer. SUBJECT is
a name of demo: or of a test file; --role, --org, --team and --manages say it
otherwise. ACTION is orders:read, or read alone. The attributes of TYPE/ID come
from --attrs, --resource, or a test file. Exit code 1 when the answer is no.`,
		Example: `  rampart policy explain alice read order/17 --tenant acme --attrs '{"owner":"user:bob","team_id":"red"}'
  rampart policy explain somebody orders:read order/17 --role customer --org acme --resource order.json --all`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, set, err := f.load()
			if err != nil {
				return err
			}
			w, err := f.policyWorld(sys, set)
			if err != nil {
				return err
			}
			p, err := f.who(cmd, w, args[0])
			if err != nil {
				return err
			}
			ans, err := f.answer(cmd, sys, set, w, p, args[1], args[2])
			if err == nil && all {
				ans.Conditions, err = w.Conditions(cmd.Context(), set, ans.Service, ans.question)
			}
			if err != nil {
				return err
			}
			return ans.tell(cmd, f.json)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "say of each condition whether it held")
	f.add(cmd)
	f.addSubject(cmd)
	f.addFacts(cmd)
	return cmd
}

// answered is one question with what each layer said to it.
type answered struct {
	Subject  string             `json:"subject"`
	Action   rampart.Action     `json:"action"`
	Resource rampart.Resource   `json:"resource"`
	Service  string             `json:"service"`
	Allowed  bool               `json:"allowed"`
	Layers   []rampart.Decision `json:"layers"`        // up to the first denial
	Hint     string             `json:"hint,omitzero"` // what to say, so that there is an answer

	Conditions []policytest.Condition `json:"conditions,omitzero"`

	question policytest.Question
}

// answer asks what the arguments say.
func (f *askFlags) answer(cmd *cobra.Command, sys *spec.System, set pap.Set, w policytest.World, p rampart.Principal, verb, what string) (answered, error) {
	r, err := f.what(cmd, set, w, what)
	if err != nil {
		return answered{}, err
	}
	a, err := action(sys, set, verb, r.Type)
	if err != nil {
		return answered{}, err
	}
	service, err := f.decider(sys, set, a)
	if err != nil {
		return answered{}, err
	}
	q := policytest.Question{Principal: p, Action: a, Resource: r, Now: time.Now()}
	if f.context != "" {
		if q.Context, err = jsonObject("--context", []byte(f.context)); err != nil {
			return answered{}, err
		}
	}
	layers, err := w.Ask(cmd.Context(), set, service, q)
	if err != nil {
		return answered{}, placed(err)
	}
	last := layers[len(layers)-1]
	return answered{Subject: p.Subject, Action: a, Resource: r, Service: service, Allowed: last.Allowed(), Layers: layers, Hint: hintOf(set, r, last), question: q}, nil
}

// hintOf says which attributes a policy could not read because nobody said
// them, "" when that is not why.
func hintOf(set pap.Set, r rampart.Resource, d rampart.Decision) string {
	if d.Layer != rampart.LayerDomain || d.Code != rampart.CodeError || r.Attrs != nil && set.Schema == nil {
		return ""
	}
	missing := []string{}
	if set.Schema != nil {
		for name, a := range set.Schema.Types[r.Type].Attrs {
			if !a.Optional && r.Attrs[name] == nil {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			return ""
		}
	}
	slices.Sort(missing)
	example := map[string]string{}
	for _, name := range missing {
		example[name] = "..."
	}
	text, _ := json.Marshal(example) // of strings: it cannot fail
	return fmt.Sprintf("nothing says the %s of %s/%s: add --attrs '%s', or --resource FILE", firstText(strings.Join(missing, ", "), "attributes"), r.Type, r.ID, text)
}

func (a answered) tell(cmd *cobra.Command, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		if err := json.NewEncoder(w).Encode(a); err != nil {
			return err
		}
	} else {
		a.print(w)
	}
	if !a.Allowed {
		return &exitError{exitFailed, nil}
	}
	return nil
}

func (a answered) print(w io.Writer) {
	verdict := paint(w, red, "no")
	if a.Allowed {
		verdict = paint(w, green, "yes")
	}
	fmt.Fprintf(w, "%s: %s may%s %s %s/%s\n", verdict, a.Subject, map[bool]string{false: " not"}[a.Allowed], a.Action, a.Resource.Type, a.Resource.ID)
	for i, layer := range []rampart.Layer{rampart.LayerGateway, rampart.LayerService, rampart.LayerDomain} {
		if i >= len(a.Layers) {
			fmt.Fprintf(w, "  %-8s not reached\n", layer)
			continue
		}
		printLayer(w, layer, a.Layers[i])
	}
	for _, c := range a.Conditions {
		fmt.Fprintf(w, "  %s  %s:%d: %s%s\n", outcomeOf(w, c), c.File, c.Line, policyWord(c.Policy), c.Text)
	}
	if a.Hint != "" {
		fmt.Fprintf(w, "%s: %s\n", paint(w, yellow, "hint"), a.Hint)
	}
}

// outcomeOf is how one condition went, in words of one width.
func outcomeOf(w io.Writer, c policytest.Condition) string {
	switch {
	case c.Failed > 0:
		return paint(w, red, "fails      ")
	case c.Held > 0:
		return paint(w, green, "holds      ")
	}
	return "not reached"
}

func policyWord(policy string) string {
	if policy == "" {
		return ""
	}
	return policy + ": "
}

func printLayer(w io.Writer, layer rampart.Layer, d rampart.Decision) {
	word := d.Effect.String()
	if d.Code != "" {
		word += " (" + string(d.Code) + ")"
	}
	fmt.Fprintf(w, "  %-8s %s\n", layer, word)
	lines := explained(d)
	if d.Reason != "" {
		lines = append([]string{d.Reason}, lines...)
	}
	for _, o := range d.Obligations {
		lines = append(lines, fmt.Sprintf("obliged by %s: %s %v", o.ID, o.Type, o.Properties))
	}
	if d.Fields != nil {
		lines = append(lines, fmt.Sprintf("shows %s, hides %s", words(d.Fields.Only, "all fields"), words(d.Fields.Mask, "none")))
	}
	for _, line := range lines {
		fmt.Fprintf(w, "           %s\n", line)
	}
}
