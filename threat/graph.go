package threat

import (
	"cmp"
	"maps"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/spec"
)

// Element is the kind of thing a rule speaks of.
type Element string

// The kinds of element, in the order of the table.
const (
	OnFlow      Element = "flow"
	OnService   Element = "service"
	OnStore     Element = "store"
	OnExternal  Element = "external"
	OnData      Element = "data"
	OnZone      Element = "zone"
	OnPrincipal Element = "principal"
	OnSystem    Element = "system"
)

// kinds lists every Element once, in the order of the table.
func kinds() []Element {
	return []Element{OnFlow, OnService, OnStore, OnExternal, OnData, OnZone, OnPrincipal, OnSystem}
}

// The types below are what rules may speak of: a rule names a field by its cel
// tag, and a name that is not here is an error when the rule is loaded. They
// hold facts of the system, never its controls, so that a rule's condition
// cannot depend on its own mitigation.

// Zone is the inside of a trust boundary.
type Zone struct {
	Name    string `cel:"name" json:"name"`
	Trust   int    `cel:"trust" json:"trust"` // 0 (hostile) to 100
	Private bool   `cel:"private" json:"private"`
	Stores  []Data `cel:"stored" json:"-"` // what the stores in it hold
}

// Data is one kind of information.
type Data struct {
	Name       string `cel:"name" json:"name"`
	Class      string `cel:"class" json:"class"`
	Rank       int    `cel:"rank" json:"rank"`           // public 0 to secret 3
	Integrity  string `cel:"integrity" json:"integrity"` // "normal", "high" or "critical"
	PCI        bool   `cel:"pci" json:"pci,omitempty"`
	Personal   bool   `cel:"personal" json:"personal,omitempty"`     // it has fields that identify people
	Credential bool   `cel:"credential" json:"credential,omitempty"` // it opens something
	Rotates    bool   `cel:"rotates" json:"rotates,omitempty"`       // a credential with a highest age
	Stored     bool   `cel:"stored" json:"stored,omitempty"`         // some database holds it
	Carried    bool   `cel:"carried" json:"carried,omitempty"`       // some flow carries it
	Exposure   string `cel:"exposure" json:"exposure"`               // the highest of the flows that carry it
}

// impact is the rank of d, raised by one when its integrity is critical.
func (d Data) impact() int {
	if d.Integrity == "critical" {
		return min(d.Rank+1, 3)
	}
	return d.Rank
}

// Node is one end of a flow.
type Node struct {
	Name string `cel:"name" json:"name"`
	Kind string `cel:"kind" json:"kind"` // "principal", "gateway", "service", "database", "queue" or "external"
	File bool   `cel:"file" json:"file"` // a database that is a file of its service: nothing passes over a network
	Zone Zone   `cel:"zone" json:"zone"`
}

// element returns the id of the element that n is.
func (n Node) element() string {
	switch n.Kind {
	case "gateway":
		return "service-" + n.Name
	case "database", "queue":
		return "store-" + n.Name
	}
	return n.Kind + "-" + n.Name
}

// Flow is one edge of the graph.
type Flow struct {
	ID        string   `cel:"id" json:"id"`
	From      Node     `cel:"from" json:"from"`
	To        Node     `cel:"to" json:"to"`
	Subject   string   `cel:"subject" json:"subject,omitempty"` // the person behind a client, "" if none is named
	Crosses   bool     `cel:"crosses_boundary" json:"crosses_boundary"`
	Carries   []Data   `cel:"carries" json:"carries"`
	MaxRank   int      `cel:"max_rank" json:"max_rank"`
	Authn     []string `cel:"authn" json:"authn,omitempty"`     // "session", "jwt", "api_key"
	Pattern   string   `cel:"pattern" json:"pattern,omitempty"` // between services: "gateway", "per_service" or "exchange"
	Topic     string   `cel:"topic" json:"topic,omitempty"`
	Edge      bool     `cel:"edge" json:"edge"`                     // from a principal into the system
	Federated bool     `cel:"federated" json:"federated,omitempty"` // people may come by way of an identity provider
	Inside    bool     `cel:"inside" json:"inside"`                 // from the gateway or a service to a service
	Input     bool     `cel:"input" json:"input"`                   // its receiver takes bodies or parameters
	Opaque    []string `cel:"opaque" json:"opaque,omitempty"`       // kinds of bodies that pass without validation
	Exposure  string   `cel:"exposure" json:"exposure"`             // "high" from a zone below trust 30, "medium" over a boundary, else "low"
	Line      int      `cel:"-" json:"line"`                        // in rampart.yaml; 0 when unknown
}

// Service is one process of the system, the gateway included.
type Service struct {
	Name     string `cel:"name"`
	Gateway  bool   `cel:"gateway"`
	Apart    bool   `cel:"apart"` // the file names roles that nobody may hold together
	Zone     Zone   `cel:"zone"`
	Callers  int    `cel:"callers"` // flows that reach it
	Calls    int    `cel:"calls"`   // flows that leave it
	Carries  []Data `cel:"carries"`
	Exposure string `cel:"exposure"`
}

// Store is a database or a queue.
type Store struct {
	Name     string `cel:"name"`
	Queue    bool   `cel:"queue"`
	Engine   string `cel:"engine"` // "sqlite", "postgres" or "nats"
	Zone     Zone   `cel:"zone"`
	Holds    []Data `cel:"holds"`
	AtRest   string `cel:"at_rest"` // "" or "encrypted"
	Exposure string `cel:"exposure"`
}

// External is a party outside the system.
type External struct {
	Name     string `cel:"name"`
	Zone     Zone   `cel:"zone"`
	Callers  int    `cel:"callers"`
	Receives []Data `cel:"receives"`
	Exposure string `cel:"exposure"`
}

// Principal is a kind of caller outside the system.
type Principal struct {
	Name     string `cel:"name"`
	Kind     string `cel:"kind"` // "human" or "client"
	Zone     Zone   `cel:"zone"`
	Browser  bool   `cel:"browser"` // it comes with a browser session
	Sends    []Data `cel:"sends"`
	Exposure string `cel:"exposure"`
}

// System is the whole.
type System struct {
	Name        string `cel:"name"`
	Criticality string `cel:"criticality"`
	Callers     int    `cel:"callers"` // flows that come in from principals
	Holds       []Data `cel:"holds"`
	Exposure    string `cel:"exposure"`
}

// node is one element of the graph as rules see it.
type node struct {
	id    string // "flow-1"
	kind  Element
	value any    // *Flow, *Service, ...: the CEL variable named after kind
	data  []Data // the items a rule's "about" chooses from
	expo  string
	flow  *Flow // when kind is OnFlow
	line  int
}

// graph is a system as elements. It is read-only once built.
type graph struct {
	nodes []node // by kind, then by natural order of the id
	flows []Flow // in natural order of the id
	zones map[string]Zone
	data  map[string]Data
}

// undeclared stands for what a flow carries when the file does not say: it is
// of the default class, so that silence lowers no guard.
func undeclared() Data {
	return Data{Name: "undeclared", Class: string(rampart.ClassInternal), Rank: rampart.ClassInternal.Rank(), Integrity: "normal"}
}

func newGraph(sys *spec.System) *graph {
	g := &graph{zones: map[string]Zone{}, data: map[string]Data{}}
	for name, z := range sys.Zones {
		g.zones[name] = Zone{Name: name, Trust: z.Trust, Private: z.Private}
	}
	for name, d := range sys.Data {
		g.data[name] = newData(name, d)
	}
	g.exposeData(sys)
	for _, f := range sys.Flows {
		g.flows = append(g.flows, g.newFlow(sys, f))
	}
	slices.SortFunc(g.flows, func(a, b Flow) int { return natural(a.ID, b.ID) })
	g.collect(sys)
	return g
}

func newData(name string, d spec.Data) Data {
	class := rampart.Class(d.Class)
	return Data{
		Name: name, Class: d.Class, Rank: class.Rank(), Integrity: d.Integrity,
		PCI: d.PCI, Personal: len(d.PII) > 0, Credential: d.Kind == "credential", Rotates: d.Rotate > 0,
		Exposure: "low",
	}
}

// exposeData tells each item whether a database holds it, and how far out the
// flows that carry it reach.
func (g *graph) exposeData(sys *spec.System) {
	for _, st := range sys.Stores {
		for _, name := range st.Holds {
			if d, ok := g.data[name]; ok {
				d.Stored = d.Stored || st.Kind != "nats"
				g.data[name] = d
			}
		}
	}
	for _, f := range sys.Flows {
		e := exposure(g.node(sys, f.From), g.node(sys, f.To))
		for _, name := range f.Carries {
			if d, ok := g.data[name]; ok {
				d.Exposure, d.Carried = higher(d.Exposure, e), true
				g.data[name] = d
			}
		}
	}
}

func (g *graph) newFlow(sys *spec.System, f spec.Flow) Flow {
	from, to := g.node(sys, f.From), g.node(sys, f.To)
	out := Flow{
		ID: f.ID, From: from, To: to, Subject: f.Subject, Line: f.Line,
		Crosses: from.Zone.Name != to.Zone.Name, Carries: g.items(f.Carries), Topic: f.Topic,
		Authn: f.Authn.All, Pattern: f.Authn.Pattern, Exposure: exposure(from, to),
		Edge:      from.Kind == "principal",
		Federated: from.Kind == "principal" && len(sys.Identity.Providers) > 0 && (slices.Contains(f.Authn.All, "session") || slices.Contains(f.Authn.All, "jwt")),
		Inside:    (from.Kind == "gateway" || from.Kind == "service") && to.Kind == "service",
		Input:     takesInput(sys.Services[f.To]),
		Opaque:    f.Validate.Opaque,
	}
	for _, d := range out.Carries {
		out.MaxRank = max(out.MaxRank, d.Rank)
	}
	return out
}

// takesInput: a service with a document takes parameters; one without takes
// input only when it allows more than reading.
func takesInput(s spec.Service) bool {
	if s.OpenAPI != "" {
		return true
	}
	return slices.ContainsFunc(s.Methods, func(m string) bool { return m != "GET" && m != "HEAD" })
}

// items resolves names, each once, in order; none at all is one undeclared
// item.
func (g *graph) items(names []string) []Data {
	if len(names) == 0 {
		return []Data{undeclared()}
	}
	out := make([]Data, 0, len(names))
	for _, n := range names {
		d, ok := g.data[n]
		if !ok {
			d = undeclared()
			d.Name = n
		}
		out = append(out, d)
	}
	return unique(out)
}

func (g *graph) node(sys *spec.System, name string) Node {
	if s, ok := sys.Services[name]; ok {
		if s.Role == "gateway" {
			return Node{Name: name, Kind: "gateway", Zone: g.zones[s.Zone]}
		}
		return Node{Name: name, Kind: "service", Zone: g.zones[s.Zone]}
	}
	if s, ok := sys.Stores[name]; ok {
		kind := "database"
		if s.Kind == "nats" {
			kind = "queue"
		}
		return Node{Name: name, Kind: kind, File: s.Kind == "sqlite", Zone: g.zones[s.Zone]}
	}
	if x, ok := sys.External[name]; ok {
		return Node{Name: name, Kind: "external", Zone: g.zones[x.Zone]}
	}
	return Node{Name: name, Kind: "principal", Zone: g.zones[sys.Principals[name].Zone]}
}

func exposure(from, to Node) string {
	switch {
	case from.Zone.Trust < 30:
		return "high"
	case from.Zone.Name != to.Zone.Name:
		return "medium"
	}
	return "low"
}

// higher returns the worse of two exposures.
func higher(a, b string) string {
	if a == "high" || b == "high" {
		return "high"
	}
	if a == "medium" || b == "medium" {
		return "medium"
	}
	return "low"
}

// collect fills g.nodes, ordered by kind and id, so that the order of the file
// never shows.
func (g *graph) collect(sys *spec.System) {
	for i := range g.flows {
		f := &g.flows[i]
		g.nodes = append(g.nodes, node{id: "flow-" + f.ID, kind: OnFlow, value: f, data: f.Carries, expo: f.Exposure, flow: f, line: f.Line})
	}
	for _, name := range slices.Sorted(maps.Keys(sys.Services)) {
		g.addService(sys, name)
	}
	for _, name := range slices.Sorted(maps.Keys(sys.Stores)) {
		st := sys.Stores[name]
		n := g.node(sys, name)
		v := &Store{Name: name, Queue: n.Kind == "queue", Engine: st.Kind, Zone: n.Zone, Holds: g.items(st.Holds), AtRest: st.AtRest}
		_, _, v.Exposure = g.around(name)
		g.add(OnStore, name, v, v.Holds, v.Exposure)
	}
	for _, name := range slices.Sorted(maps.Keys(sys.External)) {
		v := &External{Name: name, Zone: g.node(sys, name).Zone}
		in, _, e := g.around(name)
		v.Callers, v.Receives, v.Exposure = len(in), carried(in), e
		g.add(OnExternal, name, v, v.Receives, e)
	}
	for _, name := range slices.Sorted(maps.Keys(g.data)) {
		d := g.data[name]
		g.add(OnData, name, &d, []Data{d}, d.Exposure)
	}
	g.addZones(sys)
	for _, name := range slices.Sorted(maps.Keys(sys.Principals)) {
		g.addPrincipal(sys, name)
	}
	all := make([]Data, 0, len(g.data))
	for _, name := range slices.Sorted(maps.Keys(g.data)) {
		all = append(all, g.data[name])
	}
	callers := 0
	for _, f := range g.flows {
		if f.Edge {
			callers++
		}
	}
	v := &System{Callers: callers, Name: sys.Info.Name, Criticality: sys.Info.Criticality, Holds: all, Exposure: "medium"}
	g.add(OnSystem, sys.Info.Name, v, all, v.Exposure)
}

func (g *graph) add(kind Element, name string, value any, data []Data, expo string) {
	g.nodes = append(g.nodes, node{id: string(kind) + "-" + name, kind: kind, value: value, data: data, expo: expo})
}

func (g *graph) addService(sys *spec.System, name string) {
	in, out, e := g.around(name)
	n := g.node(sys, name)
	v := &Service{Name: name, Gateway: n.Kind == "gateway", Apart: len(sys.Authz.Separate) > 0, Zone: n.Zone, Callers: len(in), Calls: len(out), Exposure: e}
	v.Carries = carried(slices.Concat(in, out))
	g.add(OnService, name, v, v.Carries, e)
}

func (g *graph) addZones(sys *spec.System) {
	for name := range sys.Stores {
		z := g.node(sys, name).Zone
		held := g.zones[z.Name]
		held.Name, held.Trust, held.Private = z.Name, z.Trust, z.Private
		held.Stores = append(held.Stores, g.items(sys.Stores[name].Holds)...)
		g.zones[z.Name] = held
	}
	for _, name := range slices.Sorted(maps.Keys(g.zones)) {
		z := g.zones[name]
		z.Stores = unique(z.Stores)
		g.add(OnZone, name, &z, z.Stores, "medium")
	}
}

func (g *graph) addPrincipal(sys *spec.System, name string) {
	_, out, e := g.around(name)
	v := &Principal{Name: name, Kind: sys.Principals[name].Kind, Zone: g.node(sys, name).Zone, Sends: carried(out), Exposure: e}
	for _, f := range out {
		v.Browser = v.Browser || slices.Contains(f.Authn, "session")
	}
	g.add(OnPrincipal, name, v, v.Sends, e)
}

// around returns the flows into and out of an element and the worst exposure
// of those that reach it; an element nobody reaches is as exposed as what it
// sends.
func (g *graph) around(name string) (in, out []Flow, expo string) {
	for _, f := range g.flows {
		if f.To.Name == name {
			in = append(in, f)
			expo = higher(expo, f.Exposure)
		}
		if f.From.Name == name {
			out = append(out, f)
		}
	}
	if len(in) > 0 {
		return in, out, expo
	}
	for _, f := range out {
		expo = higher(expo, f.Exposure)
	}
	return in, out, cmp.Or(expo, "low")
}

// carried returns the items of all flows, each once, by name.
func carried(flows []Flow) []Data {
	var all []Data
	for _, f := range flows {
		all = append(all, f.Carries...)
	}
	return unique(all)
}

func unique(in []Data) []Data {
	slices.SortFunc(in, func(a, b Data) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(in, func(a, b Data) bool { return a.Name == b.Name })
}
