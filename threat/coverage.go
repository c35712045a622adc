package threat

import (
	"slices"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

// coverage knows where each control stands, and what it stands for: a control
// protects an element only when nothing gets past it.
type coverage struct {
	g     *graph
	where map[string]map[string]bool // control id -> element id -> it is a default
	in    map[string][]*Flow         // name -> flows that reach it
	out   map[string][]*Flow         // name -> flows that leave it
}

func newCoverage(sys *spec.System, g *graph) *coverage {
	c := &coverage{g: g, where: map[string]map[string]bool{}, in: map[string][]*Flow{}, out: map[string][]*Flow{}}
	for _, i := range sys.Controls() {
		if c.where[i.ID] == nil {
			c.where[i.ID] = map[string]bool{}
		}
		c.where[i.ID][i.Element] = i.Default
	}
	for i := range g.flows {
		f := &g.flows[i]
		c.in[f.To.Name] = append(c.in[f.To.Name], f)
		c.out[f.From.Name] = append(c.out[f.From.Name], f)
	}
	return c
}

// at returns the elements whose instances of a control protect n, as far as
// the data of about is concerned; none when n lacks the control. The second
// result says that all of them are defaults.
func (c *coverage) at(n node, id string, about []Data) ([]string, bool) {
	places := c.places(n, id, about)
	for _, p := range places {
		if !c.where[id][p] {
			return places, false
		}
	}
	return places, len(places) > 0
}

// places tries what can stand for n, nearest first.
func (c *coverage) places(n node, id string, about []Data) []string {
	if n.flow != nil && n.flow.To.Kind == "queue" && strings.HasPrefix(id, "message.") {
		return c.paired(n.flow, id)
	}
	if perItem[id] && len(about) > 0 {
		return c.every(id, dataIDs(about))
	}
	for _, group := range c.groups(n, id, about) {
		if got := c.every(id, group); got != nil {
			return got
		}
	}
	return nil
}

// perItem are the controls that protect one item of data each: one item that
// has it says nothing for its neighbour on the same flow.
var perItem = map[string]bool{"data.envelope": true, "db.row_mac": true}

// groups lists sets of elements, each of which covers n when every member has
// the control.
func (c *coverage) groups(n node, id string, about []Data) [][]string {
	out := [][]string{{n.id}, dataIDs(about)}
	switch v := n.value.(type) {
	case *Flow:
		out = append(out, c.ends(v, id)...)
		out = append(out, ids(c.onward(v, about)), ids(c.upward(v, about)))
	case *Service:
		out = append(out, ids(c.in[v.Name]))
	case *Store:
		out = append(out, ids(c.in[v.Name]))
	case *External:
		out = append(out, ids(c.in[v.Name]))
	case *Principal:
		out = append(out, ids(c.out[v.Name]))
	case *Data:
		out = append(out, ids(c.carrying(v.Name)))
	case *System:
		out = append(out, c.services())
	}
	return out
}

// ends: the receiver stands for a flow; so does the gateway it leaves, and for
// what leaves the system (egress and secrets) the sender.
func (c *coverage) ends(f *Flow, id string) [][]string {
	out := [][]string{{f.To.element()}}
	if f.From.Kind == "gateway" || strings.HasPrefix(id, "egress.") || strings.HasPrefix(id, "secret.") {
		out = append(out, []string{f.From.element()})
	}
	return out
}

// onward returns the flows that take the same data on from the gateway, which
// enforces what the file says of a route.
func (c *coverage) onward(f *Flow, about []Data) []*Flow {
	if f.To.Kind != "gateway" {
		return nil
	}
	return sharing(c.out[f.To.Name], about)
}

// upward returns the flows that bring the same data to the gateway.
func (c *coverage) upward(f *Flow, about []Data) []*Flow {
	if f.From.Kind != "gateway" {
		return nil
	}
	return sharing(c.in[f.From.Name], about)
}

// sharing keeps the flows that may carry one of the items. Where the file does
// not say what is carried, anything may be.
func sharing(flows []*Flow, about []Data) []*Flow {
	unsaid := func(d Data) bool { return d.Name == undeclared().Name }
	var out []*Flow
	for _, f := range flows {
		same := func(d Data) bool {
			return slices.ContainsFunc(about, func(a Data) bool { return a.Name == d.Name })
		}
		if slices.ContainsFunc(f.Carries, same) || slices.ContainsFunc(f.Carries, unsaid) || slices.ContainsFunc(about, unsaid) {
			out = append(out, f)
		}
	}
	return out
}

// carrying returns the flows that carry an item.
func (c *coverage) carrying(item string) []*Flow {
	var out []*Flow
	for i := range c.g.flows {
		f := &c.g.flows[i]
		if slices.ContainsFunc(f.Carries, func(d Data) bool { return d.Name == item }) {
			out = append(out, f)
		}
	}
	return out
}

// paired: a check on messages stands for the flow that fills a queue only when
// every flow that empties it makes the check, and a signature only when there
// is one to check. A signature nobody checks is no control.
func (c *coverage) paired(f *Flow, id string) []string {
	var places []string
	if id == "message.signature" {
		places = append(places, "flow-"+f.ID)
	}
	for _, g := range c.out[f.To.Name] {
		if f.Topic == "" || g.Topic == "" || g.Topic == f.Topic {
			places = append(places, "flow-"+g.ID)
		}
	}
	return c.every(id, places)
}

// every returns the elements if there are any and all have the control.
func (c *coverage) every(id string, elements []string) []string {
	for _, e := range elements {
		if _, ok := c.where[id][e]; !ok {
			return nil
		}
	}
	return elements
}

// services returns every service: the system has what all of them have.
func (c *coverage) services() []string {
	var out []string
	for _, n := range c.g.nodes {
		if n.kind == OnService {
			out = append(out, n.id)
		}
	}
	return out
}

func dataIDs(items []Data) []string {
	var out []string
	for _, d := range items {
		out = append(out, "data-"+d.Name)
	}
	return out
}

func ids(flows []*Flow) []string {
	var out []string
	for _, f := range flows {
		out = append(out, "flow-"+f.ID)
	}
	return out
}
