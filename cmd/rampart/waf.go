package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/network/waf/guide"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

func wafCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "waf",
		Short:   "What the web application firewall looks for, and what a schema spares it",
		Example: "  rampart waf explain\n  rampart waf explain POST /orders",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(wafExplainCmd())
	worded(cmd)
	return cmd
}

func wafExplainCmd() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [METHOD /path]",
		Short: "Per operation and field: which rules no valid value can match, and which remain",
		Long: `explain reads the rules of the firewall and the documents of the services. For
each field it prints the characters that the schema lets through, how many rules
no text over these can match, and those that are looked for in each value.

Nothing rests on the schema alone: the gateway reads the characters of each value
when it comes. A request in which no rule can match is spared the engine; any
other is judged by every rule, as with "waf: { mode: full }".`,
		Example: `  rampart waf explain
  rampart waf explain POST /orders
  rampart waf explain -f rampart.yaml GET /orders/{id} --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return usageError("waf explain takes a method and a path, such as POST /orders, or nothing for all")
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeOperation(file, args), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, err := loadCompiled(file)
			if err != nil {
				return err
			}
			e := &wafExplainer{pool: &waf.Pool{}, guides: map[int]*guide.Guide{}}
			defer e.pool.Close()
			found, err := e.explain(sys, args)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(found)
			}
			tellFirewall(cmd.OutOrStdout(), found)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "rampart.yaml", "the system's file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// completeOperation offers the methods of what is behind a guided firewall, and then
// the paths with that method.
func completeOperation(file string, args []string) []string {
	sys, err := spec.Load(file)
	if err != nil || len(args) > 1 {
		return nil
	}
	ops, _, err := operations(sys)
	if err != nil {
		return nil
	}
	found := map[string]bool{}
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		if f.WAF == nil || f.WAF.Mode != spec.WAFGuided {
			continue
		}
		for _, op := range ops[f.To] {
			switch {
			case len(args) == 0:
				found[op.Method] = true
			case strings.EqualFold(op.Method, args[0]):
				found[op.Path] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// wafFlow is the firewall before one service.
type wafFlow struct {
	Service    string         `json:"service"`
	Mode       string         `json:"mode"`
	Paranoia   int            `json:"paranoia"`
	NoDocument bool           `json:"no_document,omitempty"` // no field is known, so that nothing can be told beforehand
	Report     *guide.Report  `json:"rules,omitempty"`
	Operations []wafOperation `json:"operations"`
}

// wafOperation is what is proved of one operation. Digest names rules, engine,
// guide and document: under another one, this is void.
type wafOperation struct {
	Operation string     `json:"operation"`
	Digest    string     `json:"digest"`
	Fields    []wafField `json:"fields"`
}

type wafField struct {
	Where string `json:"where"`
	Name  string `json:"name"`
	guide.Proof
}

type wafExplainer struct {
	pool   *waf.Pool
	guides map[int]*guide.Guide // by paranoia level
}

func (e *wafExplainer) guide(level int) (*guide.Guide, error) {
	if g := e.guides[level]; g != nil {
		return g, nil
	}
	engine, err := e.pool.Engine(waf.Options{Paranoia: level})
	if err != nil {
		return nil, err
	}
	g, err := guide.New(engine.Rules())
	e.guides[level] = g
	return g, err
}

func (e *wafExplainer) explain(sys *spec.System, want []string) ([]wafFlow, error) {
	ops, _, err := operations(sys)
	if err != nil {
		return nil, err
	}
	var out []wafFlow
	some := len(want) == 0
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		if f.WAF == nil {
			continue
		}
		doc, described := sys.Resource(sys.Services[f.To].OpenAPI)
		flow := wafFlow{Service: f.To, Mode: f.WAF.Mode, Paranoia: f.WAF.Paranoia, Operations: []wafOperation{}, NoDocument: !described}
		if f.WAF.Mode == spec.WAFGuided && described {
			if err := e.flow(&flow, doc, chosen(ops[f.To], want)); err != nil {
				return nil, err
			}
		}
		some = some || len(flow.Operations) > 0
		if len(want) == 0 || len(flow.Operations) > 0 {
			out = append(out, flow)
		}
	}
	if !some {
		return nil, usageError("no service behind a guided firewall has the operation %s in its OpenAPI document; rampart waf explain lists them", strings.Join(want, " "))
	}
	return out, nil
}

func chosen(ops []*openapi.Operation, want []string) []*openapi.Operation {
	if len(want) == 0 {
		return ops
	}
	var out []*openapi.Operation
	for _, op := range ops {
		if strings.EqualFold(op.Method, want[0]) && op.Path == want[1] {
			out = append(out, op)
		}
	}
	return out
}

func (e *wafExplainer) flow(out *wafFlow, doc []byte, ops []*openapi.Operation) error {
	g, err := e.guide(out.Paranoia)
	if err != nil {
		return err
	}
	report := g.Report()
	out.Report = &report
	sum := sha256.Sum256(append([]byte(report.Digest), doc...))
	for _, op := range ops {
		o := wafOperation{Operation: op.Method + " " + op.Path, Digest: hex.EncodeToString(sum[:]), Fields: []wafField{}}
		for _, fact := range op.Facts() {
			if fact.Where == "file" {
				continue // a multipart body goes to the engine
			}
			p, err := g.Prove(fact.Where, fact.Name, fact.Alphabet)
			if err != nil {
				return err
			}
			o.Fields = append(o.Fields, wafField{fact.Where, fact.Name, p})
		}
		out.Operations = append(out.Operations, o)
	}
	return nil
}

// tellFirewall prints what was found, for people.
func tellFirewall(w io.Writer, flows []wafFlow) {
	for _, f := range flows {
		switch {
		case f.Report == nil && f.Mode == spec.WAFGuided:
			fmt.Fprintf(w, "%[1]s: mode guided, and no OpenAPI document: nothing says which fields there are, so nothing is proved of them beforehand; the WAF alone looks at what they hold\n"+
				"  any field with any value comes as far as the WAF; each request with a value that is not provably harmless is judged by every rule\n"+
				"  add openapi: %[1]s.yaml to services.%[1]s: what its schemas do not allow is refused before the WAF, and rampart waf explain lists the fields\n", f.Service)
			continue
		case f.Mode == spec.WAFOff:
			fmt.Fprintf(w, "%s: mode off; no request is looked at\n", f.Service)
			continue
		case f.Report == nil:
			fmt.Fprintf(w, "%s: mode %s; no rule is spared\n", f.Service, f.Mode)
			continue
		}
		r := f.Report.Rules
		fmt.Fprintf(w, "%s: Core Rule Set %s at paranoia level %d, mode %s\n", f.Service, f.Report.Version, f.Paranoia, f.Mode)
		fmt.Fprintf(w, "  rules: %d looked for in values, %d decided from the shape of a request, %d by the settings, %d need parts that no JSON, form or empty body has, %d only set things up\n",
			len(r["value"]), len(r["structural"]), len(r["settled"]), len(r["absent"]), len(r["setup"]))
		for id, why := range f.Report.Unknown {
			fmt.Fprintf(w, "  rule %d is unknown, so that every request goes to the engine: %s\n", id, why)
		}
		fmt.Fprintln(w, "  always judged by every rule: multipart and undeclared bodies, bodies over 64 KiB, over 500 arguments, and any request that some rule might match")
		for _, op := range f.Operations {
			tellOperation(w, op)
		}
	}
}

func tellOperation(w io.Writer, op wafOperation) {
	fmt.Fprintf(w, "%s  (%s)\n", op.Operation, op.Digest[:16])
	for _, f := range op.Fields {
		fmt.Fprintf(w, "  %-7s %-28s %3d proved, %3d left%s  over %s\n", f.Where, f.Name, f.Proved, len(f.Left), few(f.Left), f.Alphabet)
	}
	if len(op.Fields) == 0 {
		fmt.Fprintln(w, "  no declared values")
	}
}

// few names rules where they are few.
func few(ids []int) string {
	if len(ids) == 0 || len(ids) > 6 {
		return ""
	}
	return fmt.Sprint(" ", ids)
}
