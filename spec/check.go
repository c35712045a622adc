package spec

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Forms of the names and texts that the file holds.
var (
	nameForm       = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	systemForm     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	domainForm     = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`)
	columnForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,62}$`)
	tableForm      = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	topicForm      = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,15}$`)
	permissionForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}:(\*|[a-z][a-z0-9_-]{0,62})$`)
	secretRefForm  = regexp.MustCompile(`^secret://([a-z][a-z0-9_-]{0,62})/[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,15}(?:#[A-Za-z0-9_.-]{1,64})?$`)
	generateForm   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,16}$`)
	mountForm      = regexp.MustCompile(`^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*$`)
	threatForm     = regexp.MustCompile(`^[A-Z][A-Z0-9-]{1,80}@\S+$`)
	titleForm      = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)
)

// Bounds of a system.
const (
	maxElements = 2000 // of each kind
	maxFlows    = 5000
)

var (
	httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	classes     = []string{"public", "internal", "confidential", "secret"}
	reserved    = []string{"/login/", "/logout/", "/session/", "/sessions/", "/account/", "/oidc/", "/oauth2/", "/.well-known/", "/_rampart/"}
)

// checker holds the rules that a parsed and filled System must keep.
type checker struct {
	*report
	s                                            *System
	data, zones, plans, roles, credentials, ends map[string]bool // what names may refer to
}

// check reports every broken rule of s to r.
func check(s *System, r *report) {
	c := &checker{report: r, s: s, data: set(s.Data), zones: set(s.Zones), plans: set(s.Plans), roles: set(s.Authz.Roles)}
	c.ends = words(slices.Concat(names(s.Principals), names(s.Services), names(s.Stores), names(s.External))...)
	c.credentials = map[string]bool{}
	for name, d := range s.Data {
		if d.Kind == "credential" {
			c.credentials[name] = true
		}
	}
	if !c.bounded() {
		return
	}
	c.system()
	c.names()
	c.items()
	c.principals()
	c.rights()
	c.authz()
	c.services()
	c.stores()
	c.externals()
	c.identity()
	c.trust()
	c.limits()
	c.flows()
	c.queues()
	c.claims()
	c.verify()
	c.demo()
	c.unsafe()
}

// bounded reports whether the system is of a size that every plane can hold.
func (c *checker) bounded() bool {
	ok := true
	for _, part := range []struct {
		key         string
		count, most int
	}{
		{"services", len(c.s.Services), maxElements}, {"stores", len(c.s.Stores), maxElements},
		{"external", len(c.s.External), maxElements}, {"principals", len(c.s.Principals), maxElements},
		{"data", len(c.s.Data), maxElements}, {"authz.roles", len(c.s.Authz.Roles), maxElements},
		{"authz.types", len(c.s.Authz.Types), maxTypes}, {"authz.separate", len(c.s.Authz.Separate), maxSeparations},
		{"authz.providers", len(c.s.Authz.Providers), maxElements}, {"authz.from_token", len(c.s.Authz.FromToken), maxElements},
		{"flows", len(c.s.Flows), maxFlows}, {"secrets", len(c.s.Secrets), maxBackends}, {"trust.federate", len(c.s.Trust.Federate), maxFederated},
	} {
		if part.count > part.most {
			c.bad(part.key, fmt.Sprintf("more than %d entries", part.most), "split the system")
			ok = false
		}
	}
	return ok
}

// oneOf reports a value that is not among the allowed ones; "" is a key left
// out.
func (c *checker) oneOf(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		c.unknown(key, fmt.Sprintf("%q is not accepted here", shorten(value)), value, words(allowed...), "the values are")
	}
}

// among is oneOf for a set whose values look alike, where the nearest one is no
// better a guess than another.
func (c *checker) among(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		c.bad(key, fmt.Sprintf("%q is not accepted here", shorten(value)), "the values are: "+strings.Join(allowed, ", "))
	}
}

// match reports a value that does not have the form; "" is a key left out.
func (c *checker) match(key, value string, form *regexp.Regexp, fix string) {
	if value != "" && !form.MatchString(value) {
		c.bad(key, fmt.Sprintf("%q is not accepted here", shorten(value)), fix)
	}
}

// need reports a required key that the file leaves out.
func (c *checker) need(parent, key string, given bool, example string) bool {
	if !given {
		c.bad(join(parent, key), "the key is missing", "write "+key+": "+example)
	}
	return given
}

// ref reports a name that is declared nowhere.
func (c *checker) ref(key, name, what string, declared map[string]bool) bool {
	if !declared[name] {
		c.unknown(key, fmt.Sprintf("%s %q is not declared", what, shorten(name)), name, declared, "declared are")
	}
	return declared[name]
}

// refs reports names of a list that are declared nowhere or stand twice.
func (c *checker) refs(key string, list []string, what string, declared map[string]bool) {
	seen := map[string]bool{}
	for i, name := range list {
		if c.ref(index(key, i), name, what, declared) && seen[name] {
			c.bad(index(key, i), fmt.Sprintf("%s %q stands twice", what, name), "remove one")
		}
		seen[name] = true
	}
}

// only reports keys of an element that do not belong to its kind.
func (c *checker) only(parent, why string, keys ...string) {
	for _, k := range keys {
		if c.has(parent + "." + k) {
			c.bad(parent+"."+k, why, "remove the key")
		}
	}
}

func (c *checker) system() {
	s := c.s
	if c.need("", "rampart", s.Version != "", "v1") {
		c.oneOf("rampart", s.Version, "v1")
	}
	if c.need("system", "name", s.Info.Name != "", "NAME") {
		c.match("system.name", s.Info.Name, systemForm, "use lower-case letters, digits and dashes, at most 63")
	}
	if c.has("system.trust_domain") {
		c.match("system.trust_domain", s.Info.TrustDomain, domainForm, "write a SPIFFE trust domain such as pay.example")
	}
	if s.Sessions.Idle > s.Sessions.Absolute {
		c.bad("sessions.idle", fmt.Sprintf("longer than the absolute timeout of %s", s.Sessions.Absolute), "shorten idle, or raise absolute")
	}
	c.revocation(s.Revocation)
	for name, z := range s.Zones {
		if z.Trust < 0 || z.Trust > 100 {
			c.bad(join("zones", name)+".trust", "trust is from 0 (hostile) to 100", "write a number from 0 to 100")
		}
	}
	for name, p := range s.Plans {
		c.need(join("plans", name), "api_key", p.APIKey != Rate{}, "60/m")
		c.number(join("plans", name)+".concurrency", p.Concurrency, 1, 10_000)
	}
}

// names checks the form of every name, and that no two elements share one.
func (c *checker) names() {
	s := c.s
	for section, list := range map[string][]string{
		"data": names(s.Data), "zones": names(s.Zones), "principals": names(s.Principals), "plans": names(s.Plans),
		"authz.roles": names(s.Authz.Roles), "services": names(s.Services), "stores": names(s.Stores),
		"external": names(s.External), "demo.users": names(s.Demo.Users), "demo.clients": names(s.Demo.Clients),
		"identity.providers": names(s.Identity.Providers), "authz.providers": names(s.Authz.Providers), "secrets": names(s.Secrets),
	} {
		for _, name := range list {
			if !nameForm.MatchString(name) {
				c.bad(join(section, name), "a name starts with a letter and holds lower-case letters, digits, _ and -, at most 63", "rename it")
			}
		}
	}
	owner := map[string]string{}
	for _, section := range []struct {
		name string
		list []string
	}{{"services", names(s.Services)}, {"stores", names(s.Stores)}, {"external", names(s.External)}, {"principals", names(s.Principals)}} {
		for _, name := range section.list {
			if first, taken := owner[name]; taken {
				c.bad(join(section.name, name), fmt.Sprintf("the name is already taken in %s, so a flow could mean either", first), "rename one of the two")
				continue
			}
			owner[name] = section.name
		}
	}
}

func (c *checker) items() {
	for name, d := range c.s.Data {
		key := join("data", name)
		for i, f := range d.PII {
			c.match(index(key+".pii", i), f, columnForm, "write the name of a field, such as email")
		}
		if d.Kind == "credential" {
			c.credential(key, d)
			continue
		}
		c.only(key, "only a data item of kind credential has this key", "source", "cache", "rotate", "generate")
		c.stored(key, name, d)
	}
}

func (c *checker) credential(key string, d Data) {
	c.only(key, "a credential is kept in the secret store, not in a database", "encrypt", "row_mac", "pii", "shred", "search")
	if c.need(key, "source", d.Source != "", "secret://embedded/PATH") {
		c.secretRef(key+".source", d.Source)
	}
	if d.Generate != "" && !strings.HasPrefix(d.Source, "secret://"+EmbeddedBackend+"/") {
		c.bad(key+".generate", "only the embedded store makes values up", "remove generate, or use secret://embedded/PATH")
	}
	c.match(key+".generate", d.Generate, generateForm, "write a prefix of at most 16 letters, digits, - and _, such as sk_test_")
	if d.Cache < Duration(time.Second) || d.Cache > Duration(time.Hour) { // caches that are cut off keep a value for an hour
		c.bad(key+".cache", fmt.Sprintf("%s is out of bounds", d.Cache), "write 1s to 1h")
	}
	if d.Rotate != 0 && d.Rotate <= d.Cache {
		c.bad(key+".rotate", fmt.Sprintf("not longer than the cache time of %s", d.Cache), "rotate less often, or cache for less time")
	}
}

// stored checks the promises about data at rest: they need a database that
// keeps the item.
func (c *checker) stored(key, name string, d Data) {
	if d.Encrypt != "" && len(d.PII) == 0 {
		c.bad(key+".encrypt", "envelope encryption needs the fields to encrypt", "add pii: [FIELD]")
	}
	if d.Encrypt == "" {
		c.only(key, "it belongs to envelope encryption", "shred", "search")
	}
	c.oneOf(key+".shred", d.Shred, "tenant", ShredSubject)
	for field, how := range d.Search {
		c.ref(join(key+".search", field), field, "field of pii", words(d.PII...))
		c.oneOf(join(key+".search", field), how, "email", "phone", "exact")
		c.searchable(join(key+".search", field), field)
	}
	for _, promise := range []struct {
		key   string
		given bool
	}{{"encrypt", d.Encrypt != ""}, {"row_mac", d.RowMAC}} {
		if promise.given && !c.kept(name) {
			c.bad(key+"."+promise.key, "no database holds this data item, so nothing would keep the promise", "name it in holds of a sqlite or postgres store")
		}
	}
}

// fewValues are words in the names of fields with so few values that an index of
// them is as good as the values: whoever sees how often each occurs knows which is
// which.
var fewValues = words("age", "birth", "birthday", "birthdate", "birthyear", "blood", "boolean", "country", "cvc", "cvc2", "cvv", "cvv2", "dob", "flag",
	"gender", "language", "marital", "month", "nationality", "pin", "race", "religion", "sex", "title", "year", "zip")

func (c *checker) searchable(key, field string) {
	for word := range strings.SplitSeq(strings.ToLower(field), "_") {
		if fewValues[word] {
			c.bad(key, fmt.Sprintf("%q has few values: an index of it would show them", shorten(field)), "remove it from search; look such rows up by another field")
			return
		}
	}
}

func (c *checker) kept(item string) bool {
	for _, st := range c.s.Stores {
		if st.Kind != "nats" && slices.Contains(st.Holds, item) {
			return true
		}
	}
	return false
}

func (c *checker) principals() {
	for name, p := range c.s.Principals {
		key := join("principals", name)
		c.ref(key+".zone", p.Zone, "zone", c.zones)
		if p.Plan != "" {
			c.ref(key+".plan", p.Plan, "plan", c.plans)
		}
		if p.Kind == "human" {
			c.only(key, "a plan belongs to API keys, which only a principal of kind client has", "plan")
		}
	}
}

// roles checks permissions, and that roles do not include each other in a
// circle.
func (c *checker) rights() {
	all := c.s.Authz.Roles
	done := map[string]bool{}
	for _, name := range sortedNames(all) {
		permissions, key := all[name], join("authz.roles", name)
		for i, p := range permissions {
			if other, ok := strings.CutPrefix(p, "role:"); ok {
				c.ref(index(key, i), other, "role", c.roles)
				continue
			}
			c.match(index(key, i), p, permissionForm, `write "type:verb", "type:*" or "role:OTHER"`)
		}
		if circle := roleCircle(all, []string{name}, done); circle != nil {
			c.bad(join("authz.roles", circle[0]), "the role includes itself: "+shorten(strings.Join(circle, " > ")), "remove one of these role: entries")
		}
	}
}

// roleCircle follows the inclusions of the last role of path and returns the
// first circle it meets, or nil. Roles in done were followed before.
func roleCircle(all map[string][]string, path []string, done map[string]bool) []string {
	role := path[len(path)-1]
	if at := slices.Index(path, role); at < len(path)-1 {
		return path[at:]
	}
	if done[role] {
		return nil
	}
	for _, p := range all[role] {
		if other, ok := strings.CutPrefix(p, "role:"); ok {
			if circle := roleCircle(all, append(path, other), done); circle != nil {
				done[role] = true
				return circle
			}
		}
	}
	done[role] = true
	return nil
}

// loopback reports whether hostport is a loopback address, as a number, with a
// port. A name such as localhost could resolve elsewhere.
func loopback(hostport string) bool {
	host, port, err := net.SplitHostPort(hostport)
	return err == nil && (host == "127.0.0.1" || host == "::1") && portNumber(port, 1)
}

func portNumber(port string, least int) bool {
	n, err := strconv.Atoi(port)
	return err == nil && n >= least && n <= 65535 && strconv.Itoa(n) == port
}

// plainURL reports whether text is SCHEME://HOST[:PORT] and nothing more.
func plainURL(text, scheme string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != scheme || u.Hostname() == "" || u.User != nil {
		return nil, false
	}
	bare := u.Path == "" && u.RawQuery == "" && u.Fragment == "" && !strings.ContainsAny(text, "?#")
	return u, bare && (u.Port() == "" || portNumber(u.Port(), 1)) && !strings.HasSuffix(u.Host, ":")
}

// privateHost reports whether a host is written as an address that no egress
// may reach.
func privateHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost" || strings.HasSuffix(host, ".localhost")
	}
	ip = ip.Unmap()
	return !ip.IsGlobalUnicast() || ip.IsPrivate()
}
