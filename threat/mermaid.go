package threat

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Graph prints the system as a Mermaid flowchart: zones as boxes, flows as
// numbered arrows in the colour of their worst threat, and on each arrow the
// letters that are open or lowered only.
func (m Model) Graph(w io.Writer) error {
	d := &drawing{ids: map[string]string{}, zones: map[string]*box{}}
	for _, f := range m.Flows {
		d.node(f.From)
		d.node(f.To)
	}
	d.buf.WriteString("flowchart LR\n")
	for i, zone := range slices.SortedFunc(maps.Values(d.zones), outermost) {
		fmt.Fprintf(&d.buf, "  subgraph z%d[\"%s\"]\n", i, quote(zone.name))
		for _, line := range zone.nodes {
			d.buf.WriteString("    " + line + "\n")
		}
		d.buf.WriteString("  end\n")
	}
	worst := m.worstByFlow()
	for i, f := range m.Flows {
		at := worst["flow-"+f.ID]
		fmt.Fprintf(&d.buf, "  %s -->|\"%s\"| %s\n", d.ids[f.From.element()], quote(strings.TrimSpace(f.ID+" "+at.letters)), d.ids[f.To.element()])
		if c := stroke[at.state]; c != "" {
			fmt.Fprintf(&d.buf, "  linkStyle %d stroke:%s,stroke-width:2px\n", i, c)
		}
	}
	_, err := w.Write(d.buf.Bytes())
	return err
}

// stroke is the colour of an arrow by the worst state of its threats.
var stroke = map[State]string{
	Open: "#c0392b", Inconclusive: "#7f8c8d", Stale: "#d68910", Partial: "#d68910",
	Declared: "#7f8c8d", Enforced: "#7f8c8d", Proven: "#1e8449",
}

// drawing collects nodes by zone, each under a short id of its own: names of
// the file may hold what Mermaid reads as syntax.
type drawing struct {
	buf   bytes.Buffer
	ids   map[string]string // element -> Mermaid id
	zones map[string]*box
}

// box is a zone with the lines of its nodes.
type box struct {
	name  string
	trust int
	nodes []string
}

// outermost orders boxes from the hostile outside in.
func outermost(a, b *box) int {
	return cmp.Or(cmp.Compare(a.trust, b.trust), natural(a.name, b.name))
}

func (d *drawing) node(n Node) {
	if d.ids[n.element()] != "" {
		return
	}
	id := fmt.Sprintf("n%d", len(d.ids))
	d.ids[n.element()] = id
	shape := map[string][2]string{"principal": {"([", "])"}, "database": {"[(", ")]"}, "queue": {"[[", "]]"}, "external": {"{{", "}}"}}[n.Kind]
	if shape[0] == "" {
		shape = [2]string{"[", "]"}
	}
	z := d.zones[n.Zone.Name]
	if z == nil {
		z = &box{name: n.Zone.Name, trust: n.Zone.Trust}
		d.zones[z.name] = z
	}
	z.nodes = append(z.nodes, id+shape[0]+`"`+quote(n.Name)+`"`+shape[1])
}

type worstOf struct {
	state   State
	letters string
}

func (m Model) worstByFlow() map[string]worstOf {
	out := map[string]worstOf{}
	for _, r := range m.Rows {
		if r.Kind != OnFlow || r.State == NotApplicable || r.Excused() {
			continue
		}
		at, ok := out[r.Element]
		if !ok {
			at.state = r.State
		}
		at.state = worse(at.state, r.State)
		if r.State.rank() <= Partial.rank() && !strings.Contains(at.letters, string(r.Stride)) {
			at.letters += string(r.Stride)
		}
		out[r.Element] = at
	}
	return out
}

func quote(s string) string { return strings.NewReplacer(`"`, "#quot;", "\n", " ").Replace(s) }
