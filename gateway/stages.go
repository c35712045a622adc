package gateway

import (
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/network/shed"
)

// maxConcurrent bounds requests in flight; more are shed before they cost
// anything.
const maxConcurrent = 512

// stages is the path of a request through the edge, in order. What the file
// disables in a throw-away system is not there at all.
func (g *Gateway) stages(t *table) []stage {
	all := []struct {
		control string
		stage   stage
	}{
		{"", origin{t.hops}},
		{controlBan, keepOut{g.bans}},
		{"", upgrade{}},
		{"edge.route", canonicalize{g.hosts(t)}},
		{controlCORS, cors{}}, // before what refuses: pages may read why
		{"limit.ip", ipLimit{t.ip}},
		{controlCORS, preflight{}},
		{"edge.route", route{}},
		{"edge.route", upgradable{}},
		{"edge.route", callable{}},
		{"", shedder{shed.New(maxConcurrent), byFlow}},
		{"", caps{}},
		{"", authenticate{g}},
		{"authn.csrf", csrf{http.NewCrossOriginProtection()}},
		{"authn.csrf", sameSite{}},
		{"limit.api_key", planLimit{g.flight}},
		{"limit.user", userLimit{g.flight}},
		{"authz.gateway", authorize{g}},
		{"authn.step_up", stepUp{g.opt.Now}},
		{"", body{}},
		{"", schema{}},
		{controlWAF, g.firewall(t)},
		{"nonce.window", nonceCheck{}},
		{"", forward{g}},
	}
	var out []stage
	for _, s := range all {
		if s.control == "edge.route" || !t.sys.Off(s.control) {
			out = append(out, s.stage)
		}
	}
	return out
}

// hosts are the names that the file gives this gateway.
func (g *Gateway) hosts(t *table) canonical.Hosts {
	return canonical.NewHosts(t.sys.Services[g.opt.Name].Names)
}

// canonicalize settles what host and path are, once, for every later reader.
type canonicalize struct{ hosts canonical.Hosts }

func (s canonicalize) check(c *call) error {
	takeGzip(c)
	if err := canonical.Headers(c.r); err != nil {
		return err
	}
	if err := s.hosts.Check(c.r); err != nil {
		return err
	}
	p, err := canonical.Path(c.r.URL.EscapedPath(), c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	c.path = p
	return nil
}

// shedder bounds what is in flight; the slot is free again when the request
// ends, or turns out to be a stream.
type shedder struct {
	gate     *shed.Gate
	priority func(*call) shed.Priority
}

func byFlow(c *call) shed.Priority  { return priorities(c.target.flow.Priority) }
func important(*call) shed.Priority { return shed.Important }

func (s shedder) check(c *call) error {
	if err := s.gate.Enter(s.priority(c)); err != nil {
		return err
	}
	c.hold(place{gate: s.gate})
	return nil
}

// route finds the operation. Deny by default starts here: what no document
// declares does not exist.
type route struct{}

func (route) check(c *call) error {
	tg, op, params, err := c.table.find(c.r.Method, c.path)
	if err != nil {
		return err
	}
	c.target, c.op, c.params = tg, op, params
	return nil
}

func methodNotAllowed(allowed []string) error {
	return &problem.Details{Status: http.StatusMethodNotAllowed, Allow: allowed,
		Err: rampart.Errorf(rampart.Invalid, "edge.route", "method not allowed here; allowed: %s", strings.Join(allowed, ", "))}
}

// csrf refuses a cross-site request that rides on a browser's cookie. Callers
// that show no cookie have nothing to ride on.
type csrf struct{ rule *http.CrossOriginProtection }

func (s csrf) check(c *call) error {
	if c.cred.kind != sessionKind || c.actsForUser() {
		return nil
	}
	return s.refuse(c)
}

func (s csrf) refuse(c *call) error {
	if err := s.rule.Check(c.r); err != nil {
		return &rampart.Error{Kind: rampart.Denied, Control: "authn.csrf", Msg: "this request comes from another site", Err: err}
	}
	return nil
}

// authorize is layer 1: may this subject use this API at all?
type authorize struct{ g *Gateway }

func (s authorize) check(c *call) error {
	f := &c.target.flow
	c.principal.Scope = rampart.MeetScopes(c.principal.Scope, f.Scope)
	permission := c.target.permission(c.op, c.r.Method)
	d := s.g.policies.PDP().DecideRoute(c.context(), c.principal, pdp.Route{Permission: permission, Allow: f.Allow, Require: f.Authz.Require, Flow: f.ID})
	c.decision = d.ID
	if d.Allowed() {
		return nil
	}
	err := error(&rampart.Error{Kind: rampart.Denied, Control: "authz.gateway", Msg: "you may not do this", Err: decided{d}})
	if d.Code == rampart.CodeScope {
		return problem.Scope(err, permission)
	}
	return err
}

// nonceCheck makes a captured request worthless. It runs before idempotency:
// a retry keeps its key and takes a new nonce.
type nonceCheck struct{}

func (nonceCheck) check(c *call) error {
	f := &c.target.flow
	if f.Nonce == nil || !unsafeMethod(c.r.Method) {
		return nil
	}
	value := c.r.Header.Get(f.Nonce.Header)
	if value == "" {
		return rampart.Errorf(rampart.Invalid, "nonce.window", "header %s is missing: the time in unix seconds, a dot, and 16 random bytes in base64url without padding", f.Nonce.Header)
	}
	return c.table.nonces[f.ID].Check(c.principal.Subject, value)
}

func unsafeMethod(m string) bool {
	return m != http.MethodGet && m != http.MethodHead && m != http.MethodOptions
}
