package spec

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/relay"
)

var (
	flowIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.>-]{0,126}$`)
	headerForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,62}$`)
	pathForm   = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()+,;=:@%/-]*\*?$`)
)

// flowKeys says which kinds of flow take which key. Keys that are not listed
// (id, from, to, carries) belong to all.
var flowKeys = map[string][]flowKind{
	"subject":      {flowEntry},
	"tls":          {flowEntry, flowRoute, flowCall, flowEgress, flowQuery, flowPublish, flowDeliver},
	"authn":        {flowEntry, flowRoute, flowCall},
	"limit":        {flowEntry},
	"validate":     {flowEntry, flowRoute, flowCall},
	"allow":        {flowRoute},
	"authz":        {flowEntry, flowRoute, flowCall},
	"scope":        {flowRoute, flowCall},
	"step_up":      {flowRoute, flowCall},
	"server_owned": {flowRoute, flowCall},
	"idempotency":  {flowRoute},
	"nonce":        {flowRoute},
	"egress":       {flowEgress},
	"inject":       {flowEgress},
	"db":           {flowQuery},
	"topic":        {flowPublish, flowDeliver},
	"message":      {flowPublish, flowDeliver},
	"guard":        {flowDeliver},
	"priority":     {flowRoute},
	"stream":       {flowRoute},
	"upstream":     {flowRoute},
	"cors":         {flowRoute},
	"waf":          {flowRoute},
}

func (c *checker) flows() {
	ids := map[string]int{}
	for i, f := range c.s.Flows {
		key := index("flows", i)
		c.flowID(key, f, ids)
		c.refs(key+".carries", f.Carries, "data item", c.data)
		if !c.between(key, f) {
			continue
		}
		kind := c.s.flowKindOf(f)
		if kind == flowNone {
			c.direction(key, f)
			continue
		}
		c.flowKeys(key, kind)
		c.tls(key, f, kind)
		switch kind {
		case flowEntry:
			c.entry(key, f)
		case flowRoute, flowCall:
			c.internal(key, f)
			if kind == flowRoute {
				c.route(key, f)
			} else {
				c.only(key+".validate", "the gateway does that for what comes from outside", "response", "opaque")
			}
		case flowEgress:
			c.egress(key, f)
		case flowQuery:
			c.query(key, f)
		case flowPublish, flowDeliver:
			c.message(key, f, kind)
		}
	}
	c.distinct()
	c.propagation()
}

func (c *checker) flowID(key string, f Flow, ids map[string]int) {
	if f.ID == "" {
		return // from or to is missing, which between reports
	}
	if c.has(key+".id") && !flowIDForm.MatchString(f.ID) {
		c.bad(key+".id", fmt.Sprintf("%q is no flow id", shorten(f.ID)), "use letters, digits, _, - and ., at most 127")
	}
	if line, dup := ids[f.ID]; dup {
		c.bad(key+".id", fmt.Sprintf("flow %q is already on line %d", shorten(f.ID), line), "give each flow an id of its own, such as id: 2")
		return
	}
	ids[f.ID] = f.Line
}

// between reports whether both ends of a flow are declared.
func (c *checker) between(key string, f Flow) bool {
	to := c.need(key, "to", f.To != "", "NAME") && c.ref(key+".to", f.To, "element", c.ends)
	return c.need(key, "from", f.From != "", "NAME") && c.source(key+".from", f.From) && to
}

// source is ref for the start of a flow, which may also be the principal that
// needs no declaration.
func (c *checker) source(key, name string) bool {
	if c.ends[name] {
		return true
	}
	known := maps.Clone(c.ends)
	known[defaultHuman] = true
	return c.ref(key, name, "element", known)
}

// direction words why no flow may run between these two ends.
func (c *checker) direction(key string, f Flow) {
	from, to := c.s.kindOf(f.From), c.s.kindOf(f.To)
	at, msg, fix := key+".from", "", ""
	switch {
	case from == kindNone || to == kindNone:
		return // a store of no known kind, which stores reports
	case f.From == f.To:
		msg, fix = "a flow from an element to itself", "remove the flow: nothing crosses a boundary"
	case from == kindPrincipal:
		at, msg, fix = key+".to", "principals reach the gateway only", "send the flow to "+cmp.Or(c.s.Gateway(), "the gateway")+" and add one from there"
	case to == kindPrincipal:
		at, msg, fix = key+".to", "a flow cannot end at a principal: answers travel back on the flow of the request", "turn the flow round"
	case to == kindGateway:
		msg, fix = "only principals call the gateway", "call the service itself"
	case from == kindGateway:
		at, msg, fix = key+".to", "the gateway keeps nothing and calls services only", "put a service in between"
	case from == kindExternal:
		msg, fix = "an external party cannot start a flow", "declare it under principals with kind: client"
	case from == kindDatabase:
		msg, fix = "a database cannot start a flow", "turn the flow round: services ask databases"
	case from == kindQueue:
		at, msg, fix = key+".to", "a queue delivers to services only", "send the flow to a service"
	}
	c.bad(at, fmt.Sprintf("%s, and this one goes from %s to %s", msg, from, to), fix)
}

func (c *checker) flowKeys(key string, kind flowKind) {
	for k, kinds := range flowKeys {
		if c.has(key+"."+k) && !slices.Contains(kinds, kind) {
			words := make([]string, len(kinds))
			for i, other := range kinds {
				words[i] = string(other)
			}
			c.bad(key+"."+k, fmt.Sprintf("%s belongs to %s", k, strings.Join(words, " or ")), "remove it here, or move it to such a flow")
		}
	}
}

func (c *checker) tls(key string, f Flow, kind flowKind) {
	c.oneOf(key+".tls.min", f.TLS.Min, tls12, tls13)
	if f.TLS.Min == tls12 && kind != flowEgress {
		c.bad(key+".tls.min", "only flows to an external party may go down to TLS 1.2", `write "1.3", or remove the key`)
	}
	if c.s.Stores[f.To].Kind == "sqlite" {
		c.only(key, "a sqlite store is a file, which has no transport", "tls")
		return
	}
	if kind != flowEntry {
		c.only(key+".tls", "only the edge chooses its certificate", "certificate")
	}
	c.oneOf(key+".tls.certificate", f.TLS.Certificate, "local", "public")
	switch kind {
	case flowEgress:
		c.oneOf(key+".tls.verify", f.TLS.Verify, "public_ca")
	case flowQuery:
		c.oneOf(key+".tls.verify", f.TLS.Verify, "full")
	default:
		c.only(key+".tls", "inside, peers are always verified by their SPIFFE ids", "verify")
	}
}

// entry checks a flow from a principal to the gateway.
func (c *checker) entry(key string, f Flow) {
	c.methods(key, f)
	c.validate(key, f)
	c.permission(key, f)
	if f.Subject != "" && c.ref(key+".subject", f.Subject, "principal", set(c.s.Principals)) {
		if c.s.Principals[f.Subject].Kind != "human" || !slices.Contains(f.Authn.All, "jwt") {
			c.bad(key+".subject", "the subject is the person a JWT names beside the API key", "name a principal of kind human, and add jwt to authn")
		}
	}
	if f.Limit.APIKey != (Rate{}) || f.Limit.Plan {
		if !slices.Contains(f.Authn.All, "api_key") {
			c.bad(key+".limit.api_key", "this flow takes no API key", "remove the limit, or add api_key to authn")
		}
	}
}

func (c *checker) methods(key string, f Flow) {
	methods, p := f.Authn.All, c.s.Principals[f.From]
	for i, m := range methods {
		c.oneOf(index(key+".authn.all", i), m, entryMethods...)
		if slices.Contains(methods[:i], m) {
			c.bad(index(key+".authn.all", i), fmt.Sprintf("%q stands twice", m), "remove one")
		}
	}
	switch has := func(m string) bool { return slices.Contains(methods, m) }; {
	case f.Authn.Pattern != "":
		c.bad(key+".authn", fmt.Sprintf("%q is how identity travels inside; a principal must prove who it is", f.Authn.Pattern), "write session, jwt, or { all: [api_key, jwt] }")
	case len(methods) == 0:
		c.bad(key+".authn", "a client must say how it proves who it is", "write { all: [api_key, jwt] }, jwt or api_key")
	case has("session") && len(methods) > 1:
		c.bad(key+".authn", "a session is a browser's and stands alone", "declare a second flow for the other way")
	case has("session") && p.Kind == "client":
		c.bad(key+".authn", fmt.Sprintf("%q is a client, and sessions are for humans", f.From), "write { all: [api_key, jwt] }, jwt or api_key")
	case has("api_key") && (p.Kind != "client" || p.Plan == ""):
		c.bad(key+".authn", fmt.Sprintf("an API key needs a client with a plan, and %q has none", f.From), fmt.Sprintf("write %s: { kind: client, plan: PLAN } under principals", f.From))
	}
	if f.Authn.Bind == "" {
		return
	}
	if !slices.Contains(methods, "jwt") || !slices.Contains(methods, "api_key") {
		c.bad(key+".authn.bind", "bind ties an API key to a JWT, so both must be there", "write all: [api_key, jwt], or remove bind")
	}
	c.oneOf(key+".authn.bind", f.Authn.Bind, bindClient)
}

// distinct checks that what a request carries says which flow it is on.
func (c *checker) distinct() {
	taken := map[string]Flow{}
	for i, f := range c.s.Flows {
		if c.s.flowKindOf(f) != flowEntry || len(f.Authn.All) == 0 {
			continue
		}
		set := strings.Join(slices.Sorted(slices.Values(f.Authn.All)), " and ")
		if first, dup := taken[set]; dup {
			c.bad(index("flows", i)+".authn", fmt.Sprintf("flow %s already takes %s from %q, so a request would match both", first.ID, set, first.From), "ask for another set of credentials, or merge the two flows")
			continue
		}
		taken[set] = f
	}
}

func (c *checker) validate(key string, f Flow) {
	c.oneOf(key+".validate.openapi", f.Validate.OpenAPI, "strict")
	if f.Validate.MaxBody > 16<<20 {
		c.bad(key+".validate.max_body", "a body is held in memory and is at most 16MiB", "write a smaller size")
	}
}

func (c *checker) permission(key string, f Flow) {
	c.match(key+".authz.require", f.Authz.Require, permissionForm, `write "type:verb", such as "payments:create"`)
	c.refs(key+".authz.ask", f.Authz.Ask, "type", set(c.s.Authz.Types))
	c.refs(key+".authz.search", f.Authz.Search, "type", set(c.s.Authz.Types))
	if c.s.flowKindOf(f) != flowCall && len(f.Authz.Ask)+len(f.Authz.Search) > 0 {
		c.only(key+".authz", "decisions are asked for by services, and this flow does not join two", "ask", "search")
	}
}

// internal checks a flow that reaches a service by request.
func (c *checker) internal(key string, f Flow) {
	c.validate(key, f)
	c.permission(key, f)
	if len(f.Authn.All) > 0 {
		c.bad(key+".authn", fmt.Sprintf("%q is how a principal proves who it is at the gateway", f.Authn.All[0]), "write exchange, per_service or gateway, or remove the key")
	}
	if c.s.Services[f.To].OpenAPI == "" {
		c.only(key+".validate", fmt.Sprintf("service %q has no openapi document to validate against", f.To), "openapi")
	}
	c.allow(key, f.Allow)
	c.scope(key+".scope", f.Scope)
	c.stepUp(key, f)
	c.serverOwned(key, f)
	if f.Idempotency != nil {
		c.ownHeader(key+".idempotency.header", f.Idempotency.Header, "Idempotency-Key")
	}
	if f.Nonce != nil {
		c.ownHeader(key+".nonce.header", f.Nonce.Header, "Rampart-Nonce")
		c.within(key+".nonce.window", f.Nonce.Window, time.Second, maxNonceWindow) // every nonce of the window is held in memory
	}
}

// ownHeader checks the name of a header that clients send for Rampart alone: none
// that carries a credential, belongs to one hop, or is what planes say to each other.
func (c *checker) ownHeader(key, name, usual string) {
	switch {
	case !headerForm.MatchString(name):
		c.bad(key, fmt.Sprintf("%q is not accepted here", shorten(name)), "write a header name, such as "+usual)
	case !strings.EqualFold(name, usual) && !relay.Declarable(name):
		c.bad(key, fmt.Sprintf("the header %q has another use: it carries a credential, belongs to one connection or to Rampart", name), "write a name of its own, such as "+usual)
	}
}

func (c *checker) allow(key string, allow []string) {
	for i, a := range allow {
		kind, name, _ := strings.Cut(a, ":")
		switch {
		case a == "any" && len(allow) == 1:
		case a == "any":
			c.bad(index(key+".allow", i), "any makes the other entries void", "remove it, or the others")
		case kind == "role" && nameForm.MatchString(name):
		case kind == "permission" && permissionForm.MatchString(name) && !strings.HasSuffix(name, "*"):
		default:
			c.bad(index(key+".allow", i), fmt.Sprintf("%q is not accepted here", shorten(a)), `write "role:NAME", "permission:TYPE:VERB" or "any"`)
		}
	}
}

func (c *checker) serverOwned(key string, f Flow) {
	key += ".server_owned"
	if !c.has(key) {
		return
	}
	o := f.ServerOwned
	c.need(key, "fields", len(o.Fields) > 0, "[amount]")
	for i, name := range o.Fields {
		c.match(index(key+".fields", i), name, columnForm, "write the name of a request field, such as amount")
	}
	c.oneOf(key+".mode", o.Mode, "refuse", "strip", "compare")
	if o.Source != "" {
		c.ref(key+".source", o.Source, "data item", c.data)
	}
	if o.Mode == "compare" {
		c.need(key, "source", o.Source != "", "DATA, the item that holds the truth")
	}
}

// propagation checks that a service has what the patterns of its own calls
// hand on.
func (c *checker) propagation() {
	reached := map[string][]string{} // service -> patterns by which it is reached
	for _, f := range c.s.Flows {
		if c.s.flowKindOf(f).internal() {
			reached[f.To] = append(reached[f.To], f.Authn.Pattern)
		}
	}
	for i, f := range c.s.Flows {
		in := reached[f.From]
		if c.s.flowKindOf(f) != flowCall || len(in) == 0 {
			continue
		}
		only := func(p string) bool { return !slices.ContainsFunc(in, func(q string) bool { return q != p }) }
		switch {
		case f.Authn.Pattern == "exchange" && only("gateway"):
			c.bad(index("flows", i)+".authn", fmt.Sprintf("%q is reached only with pattern gateway, so it has no subject token to exchange", f.From), fmt.Sprintf("write exchange on a flow to %q, or gateway here", f.From))
		case f.Authn.Pattern == "per_service" && !slices.Contains(in, "per_service"):
			c.bad(index("flows", i)+".authn", fmt.Sprintf("%q never sees the caller's credential, so it cannot hand it on", f.From), fmt.Sprintf("write per_service on a flow to %q, or exchange here", f.From))
		}
	}
}
