package spec

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Bounds of authz.
const (
	maxTypes       = 500
	maxAttrs       = 200 // per type
	maxSeparations = 200
	maxReplay      = 10_000
)

// Forms of the names that policies use. Types, attributes and relations become
// identifiers of the policy languages, which know no dash.
var (
	actionForm   = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}:[a-z][a-z0-9_-]{0,62}$`)
	nounForm     = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	attrForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	relationForm = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,49}$`)
	usersetForm  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}#[a-z_][a-z0-9_]{0,49}$`)
	storeIDForm  = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)
	sourceForm   = regexp.MustCompile(`^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$`)
)

var (
	attrKinds  = []string{"string", "bool", "long", "decimal", "strings"}
	tokenFacts = []string{"team", "managed_teams", "organizations", "roles"}
	ownAttrs   = []string{"id", "tenant"} // every type has them
)

// The kinds of separation of duty.
const (
	SeparateStatic  = "static"
	SeparateDynamic = "dynamic"
)

// ScopedRole splits a role as a user holds it: "manager@acme" is the role
// manager within the organization acme, "manager" is the role everywhere.
func ScopedRole(text string) (role, organization string, scoped bool) {
	return strings.Cut(text, "@")
}

// Line returns the line at which the file says a key, by its path as problems
// name it: "authz.roles.manager", "flows[3].allow". It is 0 for a System that
// was not read from text, and for a key that the file leaves out.
func (s *System) Line(key string) int {
	if s.source == nil || !s.source.has(key) {
		return 0
	}
	return s.source.at[key].line
}

// attr decodes the short form "string?", or the map.
func (d *decoder) attr(n *yaml.Node, to *AuthzAttr, path string) {
	if n.Kind == yaml.MappingNode {
		d.structure(n, reflect.ValueOf(to).Elem(), path)
		return
	}
	if d.wantTag(n, "!!str", path, "a type or a map", "write string, string? for one that may be absent, or { type: string, class: confidential }") {
		to.Type, to.Optional = strings.CutSuffix(n.Value, "?")
	}
}

// fillAuthz: what the file says of the bundle and the log is kept, a zero too.
func (s *System) fillAuthz() {
	a := &s.Authz
	for i := range a.Separate {
		or(&a.Separate[i].Kind, SeparateStatic)
	}
	each(a.Types, func(_ string, t *AuthzType) {
		each(t.Attrs, func(_ string, attr *AuthzAttr) { or(&attr.Class, "internal") })
	})
	each(a.Providers, func(_ string, p *AttrProvider) {
		or(&p.Path, "/attributes")
		or(&p.Timeout, Duration(100*time.Millisecond))
	})
	or(&a.Bundle.Expires, Duration(30*24*time.Hour))
	or(&a.Bundle.MaxStaleness, Duration(24*time.Hour))
	if !s.source.has("authz.bundle.replay") {
		a.Bundle.Replay = 200
	}
	if !s.source.has("authz.bundle.max_changed") {
		a.Bundle.MaxChanged = 100
	}
	or(&a.Log.Overflow, "block")
	or(&a.Log.Keep, Duration(30*24*time.Hour))
}

// authz checks what decisions rest on, but for the roles (rights) and the
// policies, which their engines check.
func (c *checker) authz() {
	a := c.s.Authz
	c.checkResource("authz.model", a.Model, ".fga")
	for _, name := range inOrder(c, "authz.types", a.Types) {
		c.authzType(join("authz.types", name), name, a.Types[name])
	}
	for i, sep := range a.Separate {
		c.separation(index("authz.separate", i), sep)
	}
	for _, name := range sortedNames(a.FromToken) {
		key := join("authz.from_token", name)
		c.match(key, name, usersetForm, `write "TYPE#RELATION" as in the model, such as "team#member"`)
		c.among(key, a.FromToken[name], tokenFacts...)
		c.needModel(key)
	}
	for _, name := range sortedNames(a.Providers) {
		c.attrProvider(join("authz.providers", name), a.Providers[name])
	}
	c.openfga(a.OpenFGA)
	c.policyBundle(a.Bundle)
	c.oneOf("authz.log.overflow", a.Log.Overflow, "block", "deny")
	c.within("authz.log.keep", a.Log.Keep, time.Hour, maxDuration)
}

func (c *checker) needModel(key string) {
	if c.s.Authz.Model == "" {
		c.bad(key, "relations are not described anywhere", "add model: FILE.fga to authz")
	}
}

func (c *checker) authzType(key, name string, t AuthzType) {
	c.match(key, name, nounForm, "name the type by a noun in the singular, of lower-case letters, digits and _, such as order")
	if len(t.Attrs) > maxAttrs {
		c.bad(key+".attrs", fmt.Sprintf("more than %d entries", maxAttrs), "split the type")
		return
	}
	for i, action := range t.Actions {
		at := index(key+".actions", i)
		c.match(at, action, actionForm, `write "type:verb", such as "orders:read"`)
		if slices.Contains(t.Actions[:i], action) {
			c.bad(at, fmt.Sprintf("%q stands twice", action), "remove one")
		}
	}
	for attr, a := range t.Attrs {
		c.attribute(join(key+".attrs", attr), attr, a)
	}
	for i, relation := range t.Relations {
		c.relation(index(key+".relations", i), relation)
	}
	for action, relation := range t.Grants {
		c.grant(join(key+".grants", action), t, action, relation)
	}
	c.columns(key, t)
}

func (c *checker) attribute(key, name string, a AuthzAttr) {
	c.match(key, name, attrForm, "rename it: letters, digits and _, without a digit in front")
	if slices.Contains(ownAttrs, name) {
		c.bad(key, fmt.Sprintf("every type has %s, beside its attributes", name), "remove it here")
	}
	if c.need(key, "type", a.Type != "", "string") {
		c.among(kindKey(c, key), a.Type, attrKinds...)
	}
	c.oneOf(key+".class", a.Class, classes...)
	if a.Provider != "" {
		c.ref(key+".provider", a.Provider, "provider", set(c.s.Authz.Providers))
	}
}

// kindKey is where an attribute's type stands: the short form has no key.
func kindKey(c *checker, key string) string {
	if c.has(key + ".type") {
		return key + ".type"
	}
	return key
}

func (c *checker) relation(key, name string) {
	c.match(key, name, relationForm, "write the name of a relation of the model, such as viewer: lower-case letters, digits and _")
	c.needModel(key)
}

func (c *checker) grant(key string, t AuthzType, action, relation string) {
	c.match(key, action, actionForm, `write "type:verb", such as "orders:read"`)
	if len(t.Actions) > 0 && actionForm.MatchString(action) {
		c.ref(key, action, "action", words(t.Actions...))
	}
	c.relation(key, relation)
}

// columns checks where a list finds the attributes. What a provider supplies is
// in no row.
func (c *checker) columns(key string, t AuthzType) {
	c.match(key+".table", t.Table, tableForm, "write a table name in lower case, such as orders")
	if len(t.Columns) > 0 && t.Table == "" {
		c.bad(key+".columns", "columns of no table", "add table: NAME")
	}
	known := words(slices.Concat(names(t.Attrs), ownAttrs)...)
	for attr, column := range t.Columns {
		at := join(key+".columns", attr)
		if c.ref(at, attr, "attribute", known) && t.Attrs[attr].Provider != "" {
			c.bad(at, "a provider supplies this attribute, so no row has it", "remove the column, or the provider")
		}
		c.match(at, column, attrForm, "write the name of a column, such as owner_id")
	}
}

func (c *checker) separation(key string, sep Separation) {
	c.oneOf(key+".kind", sep.Kind, SeparateStatic, SeparateDynamic)
	if len(sep.Roles) < 2 {
		c.bad(key+".roles", "one role alone cannot be kept apart", "name two roles or more")
	}
	c.refs(key+".roles", sep.Roles, "role", c.roles)
	for _, role := range sortedNames(c.s.Authz.Roles) {
		if got := c.clash(sep, []string{role}); got != nil {
			c.bad(join("authz.roles", role), fmt.Sprintf("the role includes %s and %s, which authz.separate keeps apart", got[0], got[1]), "include one of them, or separate others")
		}
	}
}

// clash returns two roles of a separation that come together where somebody
// holds all of held, or nil. A role for one organization meets those for the
// same one and those for all.
func (c *checker) clash(sep Separation, held []string) []string {
	in := map[string]map[string]bool{} // organization -> separated roles
	for _, h := range held {
		role, org, _ := ScopedRole(h)
		if in[org] == nil {
			in[org] = map[string]bool{}
		}
		c.reach(role, in[org], map[string]bool{})
	}
	for org := range in {
		var met []string
		for _, role := range sep.Roles {
			if in[org][role] || in[""][role] {
				met = append(met, role)
			}
		}
		if len(met) > 1 {
			return met[:2]
		}
	}
	return nil
}

// reach collects role and all that it includes.
func (c *checker) reach(role string, into, seen map[string]bool) {
	if seen[role] {
		return
	}
	seen[role], into[role] = true, true
	for _, p := range c.s.Authz.Roles[role] {
		if other, ok := strings.CutPrefix(p, "role:"); ok {
			c.reach(other, into, seen)
		}
	}
}

// granted checks the roles that the file itself gives to somebody.
func (c *checker) granted(key string, u DemoUser) {
	for i, text := range u.Roles {
		role, org, scoped := ScopedRole(text)
		at := index(key, i)
		switch {
		case !c.roles[role]:
			c.unknownRole(at, role)
		case scoped && !slices.Contains(u.Organizations, org):
			c.unknown(at, fmt.Sprintf("the user does not belong to organization %q", shorten(org)), org, words(u.Organizations...), "the user's organizations are")
		case slices.Contains(u.Roles[:i], text):
			c.bad(at, fmt.Sprintf("role %q stands twice", text), "remove one")
		}
	}
	for i, sep := range c.s.Authz.Separate {
		if sep.Kind != SeparateStatic {
			continue
		}
		if got := c.clash(sep, u.Roles); got != nil {
			c.bad(key, fmt.Sprintf("nobody is granted both %s and %s (authz.separate, line %d)", got[0], got[1], c.where(index("authz.separate", i)).line), "grant one of them")
		}
	}
}

// unknownRole reports a role that is declared nowhere. The one that may be meant can
// be a slip itself: roles that no authz.roles lists are known from what flows allow.
func (c *checker) unknownRole(key, role string) {
	at := c.where(key)
	c.add(fault{
		Problem: Problem{c.file, at.line, at.col, key, fmt.Sprintf("role %q is not declared", shorten(role)), ""},
		name:    role, candidates: c.roles, what: "declared are", origin: c.allowedAt,
	})
}

// allowedAt says which flow brings a role that authz.roles does not list, "" for one
// that it does.
func (c *checker) allowedAt(role string) string {
	if c.has(join("authz.roles", role)) {
		return ""
	}
	for i, f := range c.s.Flows {
		if j := slices.Index(f.Allow, "role:"+role); j >= 0 {
			at := index(index("flows", i)+".allow", j)
			return fmt.Sprintf(" that one is known from %s alone, line %d", c.s.told(at), c.where(at).line)
		}
	}
	return ""
}

func (c *checker) attrProvider(key string, p AttrProvider) {
	ordinary := c.ordinary()
	if c.need(key, "service", p.Service != "", "NAME") && c.ref(key+".service", p.Service, "service", ordinary) {
		called := slices.ContainsFunc(c.s.FlowsTo(p.Service), func(f Flow) bool { return ordinary[f.From] })
		if !called {
			c.bad(key+".service", fmt.Sprintf("no flow leads from a service to %q, so no sidecar may ask it", p.Service), "add { from: SERVICE, to: "+p.Service+" } to flows")
		}
	}
	c.match(key+".path", p.Path, sourceForm, "begin it with /, without a query, such as /attributes")
	if p.Cache > Duration(24*time.Hour) {
		c.bad(key+".cache", fmt.Sprintf("%s is out of bounds", p.Cache), "write at most 24h")
	}
	c.within(key+".timeout", p.Timeout, time.Millisecond, 10*time.Second)
}

// ordinary are the services that are not the gateway.
func (c *checker) ordinary() map[string]bool {
	out := map[string]bool{}
	for name, svc := range c.s.Services {
		if svc.Role != roleGateway {
			out[name] = true
		}
	}
	return out
}

func (c *checker) openfga(o *OpenFGA) {
	if o == nil {
		return
	}
	const key = "authz.openfga"
	c.needModel(key)
	if c.need(key, "store", o.Store != "", "ID of the store") {
		c.match(key+".store", o.Store, storeIDForm, "write the id that the server gave to the store")
	}
	if o.Token != "" {
		c.secretRef(key+".token", o.Token)
	}
	c.checkResource(key+".ca", o.CA, ".pem", ".crt")
	if !c.need(key, "address", o.Address != "", "HOST:PORT of its gRPC listener") {
		return
	}
	if u, ok := plainURL("grpc://"+o.Address, "grpc"); !ok || u.Port() == "" {
		c.bad(key+".address", fmt.Sprintf("%q is no HOST:PORT", shorten(o.Address)), "write the address of the gRPC listener, such as fga.example:8081")
		return
	}
	if o.CA == "" && !loopback(o.Address) {
		c.bad(key+".ca", "without TLS anybody on the way could change who may do what", "write ca: FILE.pem; only a server at 127.0.0.1 or [::1] does without")
	}
}

func (c *checker) policyBundle(b PolicyBundle) {
	const key = "authz.bundle"
	for i, text := range b.Keys {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			c.bad(index(key+".keys", i), "want an Ed25519 public key", "write its 32 bytes in base64url without padding, 43 characters")
		}
	}
	c.within(key+".expires", b.Expires, time.Hour, 366*24*time.Hour)
	c.within(key+".max_staleness", b.MaxStaleness, time.Minute, 90*24*time.Hour)
	if b.MaxStaleness > b.Expires {
		c.bad(key+".max_staleness", fmt.Sprintf("longer than the %s after which a bundle expires", b.Expires), "shorten it, or raise expires")
	}
	if b.Replay < 0 || b.Replay > maxReplay {
		c.bad(key+".replay", fmt.Sprintf("%d is out of bounds", b.Replay), fmt.Sprintf("write 0 to %d", maxReplay))
	}
	if b.MaxChanged < 0 || b.MaxChanged > 100 {
		c.bad(key+".max_changed", fmt.Sprintf("%d is no percentage", b.MaxChanged), "write 0 to 100")
	}
}

// testFile reports a test of policies that no runner takes for one.
func (c *checker) testFile(key, name string) {
	c.checkResource(key, name, ".yaml", ".rego")
	if !strings.HasSuffix(name, "_test.yaml") && !strings.HasSuffix(name, "_test.rego") {
		c.bad(key, fmt.Sprintf("file %q does not say that it is a test", shorten(name)), "name it NAME_test.yaml or NAME_test.rego")
	}
}
