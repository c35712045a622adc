package spec

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/relay"
)

func (c *checker) services() {
	var gateways []string
	for _, name := range inOrder(c, "services", c.s.Services) {
		svc, key := c.s.Services[name], join("services", name)
		c.ref(key+".zone", svc.Zone, "zone", c.zones)
		if svc.Role == roleGateway {
			gateways = append(gateways, name)
			c.gateway(key, svc)
			continue
		}
		c.service(key, svc)
	}
	switch {
	case len(gateways) == 0:
		c.bad("services", "no service has the role gateway", `add gateway: { role: gateway, listen: ":8443" }`)
	case len(gateways) > 1:
		c.bad(join("services", gateways[1])+".role", fmt.Sprintf("%q is already the gateway, and a system has one", gateways[0]), "remove role from one of the two")
	}
	c.ports()
	c.mounts()
}

// inOrder returns the names of a section as the file has them, so that of two
// that clash the later one is reported.
func inOrder[V any](c *checker, section string, m map[string]V) []string {
	list := sortedNames(m)
	slices.SortStableFunc(list, func(a, b string) int {
		x, y := c.where(join(section, a)), c.where(join(section, b))
		return cmp.Or(cmp.Compare(x.line, y.line), cmp.Compare(x.col, y.col))
	})
	return list
}

func (c *checker) gateway(key string, svc Service) {
	c.only(key, "the gateway is Rampart itself: it has no process, document or policy of its own", "upstream", "mount", "openapi", "policy", "policy_tests", "run", "methods", "workload", "secrets")
	host, port, err := net.SplitHostPort(svc.Listen)
	if err != nil || !portNumber(port, 0) || strings.ContainsAny(host, "/@ ") {
		c.bad(key+".listen", fmt.Sprintf("%q is no address to listen on", shorten(svc.Listen)), `write ":8443" or "127.0.0.1:8443"`)
	}
	c.edge(key, svc)
	c.meets(key+".edge", *svc.Edge)
}

func (c *checker) service(key string, svc Service) {
	c.only(key, "only the gateway listens; a service is reached at its upstream", "listen", "names", "acme", "certificate", "edge")
	c.held(key, svc)
	if c.need(key, "upstream", svc.Upstream != "", "http://127.0.0.1:PORT") {
		u, ok := plainURL(svc.Upstream, "http")
		switch {
		case !ok:
			c.bad(key+".upstream", fmt.Sprintf("%q is not plain http to one address", shorten(svc.Upstream)), "write http://127.0.0.1:PORT, without path")
		case !loopback(u.Host):
			c.bad(key+".upstream", fmt.Sprintf("%q is not loopback, so others could reach the service around its sidecar", shorten(svc.Upstream)), "write http://127.0.0.1:PORT")
		}
	}
	c.checkResource(key+".openapi", svc.OpenAPI, ".yaml", ".yml", ".json")
	for i, p := range svc.Policy {
		c.checkResource(index(key+".policy", i), p, ".cedar", ".rego")
	}
	for i, t := range svc.Tests {
		c.testFile(index(key+".policy_tests", i), t)
	}
	c.command(key+".run", svc.Run)
	if svc.OpenAPI != "" {
		c.only(key, "the openapi document already says the methods", "methods")
	}
	for i, m := range svc.Methods {
		c.oneOf(index(key+".methods", i), m, httpMethods...)
	}
	for i, h := range svc.Headers {
		if !relay.Declarable(h) {
			c.bad(index(key+".headers", i), fmt.Sprintf("no service gets the header %q from its callers", shorten(h)), "remove it; who calls is in Rampart-Identity")
		}
	}
}

// command refuses credentials on a command line: every local user can read it.
func (c *checker) command(key string, run []string) {
	for i, arg := range run {
		if secretArgument.MatchString(arg) {
			c.bad(index(key, i), secretMsg+" on a command line", secretFix)
		}
	}
}

// ports checks that no two processes are declared on one loopback port.
func (c *checker) ports() {
	owner := map[string]string{}
	take := func(key, name, hostport string) {
		_, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return
		}
		if first, taken := owner[port]; taken {
			c.bad(key, fmt.Sprintf("port %s is already that of %q", port, first), "give each process a port of its own")
			return
		}
		owner[port] = name
	}
	for _, name := range inOrder(c, "services", c.s.Services) {
		take(join("services", name)+".upstream", name, strings.TrimPrefix(c.s.Services[name].Upstream, "http://"))
	}
	for _, name := range inOrder(c, "external", c.s.External) {
		take(join("external", name)+".stand_in", name, c.s.External[name].StandIn)
	}
}

// mounts checks public path prefixes. Services with a document may share one:
// their routes tell them apart.
func (c *checker) mounts() {
	owner := map[string]string{}
	for _, name := range inOrder(c, "services", c.s.Services) {
		svc, key := c.s.Services[name], join("services", name)+".mount"
		if svc.Role == roleGateway {
			continue
		}
		if !mountForm.MatchString(svc.Mount) {
			c.bad(key, fmt.Sprintf("%q is no path prefix", shorten(svc.Mount)), "start and end it with /, such as /shop/")
			continue
		}
		if slices.ContainsFunc(reserved, func(r string) bool { return strings.HasPrefix(svc.Mount, r) }) {
			c.bad(key, fmt.Sprintf("%q is reserved for Rampart itself", svc.Mount), "mount the service elsewhere, such as mount: /app/")
			continue
		}
		first, taken := owner[svc.Mount]
		if taken && (svc.OpenAPI == "" || c.s.Services[first].OpenAPI == "") {
			c.bad(key, fmt.Sprintf("%q is already mounted there, and without two documents requests cannot be told apart", first), "mount one elsewhere")
		}
		owner[svc.Mount] = name
	}
}

func (c *checker) stores() {
	for name, st := range c.s.Stores {
		key := join("stores", name)
		c.ref(key+".zone", st.Zone, "zone", c.zones)
		c.refs(key+".holds", st.Holds, "data item", c.data)
		c.oneOf(key+".at_rest", st.AtRest, "encrypted")
		c.match(key+".audit_table", st.AuditTable, tableForm, "write a table name in lower case, such as payment_audit")
		c.match(key+".dead_letter", st.DeadLetter, topicForm, "write a subject such as dead.payments, without wildcards")
		if !c.need(key, "kind", st.Kind != "", "sqlite") {
			continue
		}
		switch st.Kind {
		case "sqlite":
			c.only(key, "a sqlite store is a file in the state folder", "url", "password", "ca", "dead_letter", "pooler", "client_cert", "rotate", "dynamic")
		case "postgres":
			c.only(key, "only a queue has dead letters", "dead_letter")
			c.postgres(key, st)
		case "nats":
			c.only(key, "the queue is embedded and needs no such key", "url", "password", "ca", "audit_table", "pooler", "client_cert", "rotate", "dynamic")
		}
	}
}

func (c *checker) postgres(key string, st Store) {
	if c.need(key, "url", st.URL != "", "postgres://USER@HOST:PORT/DB") {
		c.databaseURL(key+".url", st.URL)
	}
	c.access(key, st)
	if c.need(key, "ca", st.CA != "", "db-ca.pem") {
		c.checkResource(key+".ca", st.CA, ".pem", ".crt")
	}
}

func (c *checker) externals() {
	for name, e := range c.s.External {
		key := join("external", name)
		c.ref(key+".zone", e.Zone, "zone", c.zones)
		if c.need(key, "url", e.URL != "", "https://HOST") {
			c.externalURL(key+".url", e.URL)
		}
		if e.StandIn != "" && !loopback(e.StandIn) {
			c.bad(key+".stand_in", fmt.Sprintf("%q is not on this machine", shorten(e.StandIn)), "write 127.0.0.1:PORT or [::1]:PORT")
		}
		if e.StandIn == "" {
			c.only(key, "run starts the stand-in, and there is none", "run")
		}
		c.command(key+".run", e.Run)
	}
}

func (c *checker) externalURL(key, text string) {
	u, ok := plainURL(text, "https")
	switch {
	case !ok:
		c.bad(key, fmt.Sprintf("%q is not https to one host", shorten(text)), "write https://HOST or https://HOST:PORT, without path; paths belong in egress of the flow")
	case privateHost(u.Hostname()):
		c.bad(key, fmt.Sprintf("%q is a private address, and egress never reaches those", u.Hostname()), "name a public host; to play the party locally, add stand_in: 127.0.0.1:PORT")
	case strings.ToLower(u.Host) != u.Host || !hostName(u.Hostname()):
		c.bad(key, fmt.Sprintf("%q is no host name", u.Hostname()), "write it in lower case, in ASCII")
	}
}

// hostName reports whether host is a DNS name in ASCII, or a public address.
func hostName(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= 253 && domainForm.MatchString(host) && !strings.Contains(host, "_") && !strings.Contains(host, "..")
}

// claims checks what only speaks about the model: names of threats and risks
// that somebody accepts.
func (c *checker) claims() {
	elements := words(c.s.elements()...)
	for name, t := range c.s.Threats {
		key := join("threats", name)
		if !titleForm.MatchString(name) {
			c.bad(key, "a threat's name holds letters, digits, _ and -, at most 63", "rename it, such as PAY-1")
		}
		if c.need(key, "is", t.Is != "", "RULE@ELEMENT") {
			c.threat(key+".is", t.Is, elements)
		}
	}
	for i, a := range c.s.Accept {
		key := index("accept", i)
		if c.need(key, "threat", a.Threat != "", "RULE@ELEMENT") {
			c.threat(key+".threat", a.Threat, elements)
		}
		c.need(key, "owner", a.Owner != "", "NAME, who answers for the risk")
		c.need(key, "reason", a.Reason != "", "why the risk is taken")
		c.need(key, "until", !a.Until.IsZero(), "2027-06-30, when it is looked at again")
	}
}

func (c *checker) threat(key, text string, elements map[string]bool) {
	_, element, _ := strings.Cut(text, "@")
	switch {
	case !threatForm.MatchString(text):
		c.bad(key, fmt.Sprintf("%q names no threat", shorten(text)), "write RULE@ELEMENT as rampart threats prints it, such as RT-S-REPLAY@flow-2")
	case !elements[element]:
		c.unknown(key, fmt.Sprintf("element %q is not in this system", shorten(element)), element, elements, "the elements are")
	}
}

func (c *checker) unsafe() {
	c.refs("unsafe.disable", c.s.Unsafe.Disable, "control", words(KnownControls()...))
}
