package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/network/shed"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/validate/strictjson"
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
		{"edge.route", canonicalize{}},
		{"limit.ip", ipLimit{t.ip}},
		{"", shedder{shed.New(maxConcurrent), shed.Normal}},
		{"edge.route", route{}},
		{"", caps{}},
		{"", authenticate{g}},
		{"authn.csrf", csrf{http.NewCrossOriginProtection()}},
		{"limit.api_key", planLimit{}},
		{"limit.user", userLimit{}},
		{"authz.gateway", authorize{g}},
		{"authn.step_up", stepUp{g.opt.Now}},
		{"", body{}},
		{"validate.openapi", schema{}},
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

// canonicalize settles what the path is, once, for every later reader.
type canonicalize struct{}

func (canonicalize) check(c *call) error {
	if err := canonical.Headers(c.r); err != nil {
		return err
	}
	p, err := canonical.Path(c.r.URL.EscapedPath(), c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	c.path = p
	return nil
}

// ipLimit is the first of the four layers: by network address, before anything
// that costs.
type ipLimit struct{ limiter ratelimit.Limiter }

func (s ipLimit) check(c *call) error {
	return limited(c, s.limiter.Allow(ratelimit.IPKey(c.ip), 1), "ip", "limit.ip")
}

func limited(c *call, v ratelimit.Verdict, name, control string) error {
	ratelimit.Headers(c.w.Header(), v, name)
	if v.OK {
		return nil
	}
	return rampart.Errorf(rampart.Limited, control, "too many requests; try again in %d seconds", max(1, int(v.RetryAfter.Seconds()+0.999)))
}

// shedder bounds what is in flight; the slot is free again when the request
// ends.
type shedder struct {
	gate     *shed.Gate
	priority shed.Priority
}

func (s shedder) check(c *call) error {
	if err := s.gate.Enter(s.priority); err != nil {
		return err
	}
	c.after = s.gate.Leave
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

// caps judges what the headers announce, before a byte of body is read.
type caps struct{}

func (caps) check(c *call) error {
	limit := int64(c.target.flow.Validate.MaxBody)
	if c.table.sys.Off("validate.max_body") {
		limit = 64 << 20
	}
	if err := limitBody(c, limit); err != nil {
		return err
	}
	if c.r.Header.Get("Content-Encoding") != "" {
		return unsupported("the body must come without content encoding")
	}
	ct, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if c.r.ContentLength != 0 && c.target.api != nil && !strings.EqualFold(strings.TrimSpace(ct), "application/json") {
		return unsupported("the body must be application/json")
	}
	return nil
}

// limitBody refuses a body that is announced too long, and ends one that turns
// out so.
func limitBody(c *call, limit int64) error {
	if c.r.ContentLength > limit {
		return tooLarge(limit)
	}
	if !c.read {
		c.r.Body = http.MaxBytesReader(c.w, c.r.Body, limit)
	}
	return nil
}

func unsupported(msg string) error {
	return &problem.Details{Status: http.StatusUnsupportedMediaType, Err: rampart.Errorf(rampart.Invalid, "validate.openapi", "%s", msg)}
}

func tooLarge(limit int64) error {
	return &problem.Details{Status: http.StatusRequestEntityTooLarge, Err: rampart.Errorf(rampart.Invalid, "validate.max_body", "the body may have at most %d bytes", limit)}
}

// csrf refuses a cross-site request that rides on a browser's cookie. Callers
// that show no cookie have nothing to ride on.
type csrf struct{ rule *http.CrossOriginProtection }

func (s csrf) check(c *call) error {
	if c.cred.kind != sessionKind {
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

// planLimit is the second layer: what the API key's plan allows.
type planLimit struct{}

func (planLimit) check(c *call) error {
	if c.keyID == "" {
		return nil
	}
	l, ok := c.table.plans[c.plan]
	if !ok {
		return rampart.Errorf(rampart.Denied, "limit.api_key", "the API key has no plan")
	}
	return limited(c, l.Allow(c.keyID, 1), "plan", "limit.api_key")
}

// userLimit is the third layer: by the subject itself, whatever addresses, keys
// and ways in it uses. What the widest way in allows bounds all of them
// together; each is bounded by its own rate besides.
type userLimit struct{}

func (userLimit) check(c *call) error {
	if v := c.table.user.Allow(c.principal.Subject, 1); !v.OK {
		return limited(c, v, "user", "limit.user")
	}
	return limited(c, c.entry.users.Allow(c.principal.Subject, 1), "user", "limit.user")
}

// authorize is layer 1: may this subject use this API at all?
type authorize struct{ g *Gateway }

func (s authorize) check(c *call) error {
	f := &c.target.flow
	c.principal.Scope = rampart.MeetScopes(c.principal.Scope, f.Scope)
	permission := c.target.permission(c.op, c.r.Method)
	d := s.g.policies.PDP().DecideRoute(c.r.Context(), c.principal, pdp.Route{Permission: permission, Allow: f.Allow, Require: f.Authz.Require, Flow: f.ID})
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

// body reads the caller's bytes, now that it has earned it, and settles what
// they say: the value checked is the value forwarded.
type body struct{}

func (body) check(c *call) error {
	if c.read {
		return nil
	}
	raw, err := readAll(c.r)
	if err != nil {
		return bodyError(err)
	}
	c.body, c.hasBody, c.read = raw, len(raw) > 0, true
	return nil
}

// readAll reads the body, in one piece when its length is announced. The limit
// is that of the caps.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(r.Body)
	}
	b := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, b)
	return b, err
}

// schema is structural validation: the OpenAPI document is the whole of what
// is accepted.
type schema struct{}

func (schema) check(c *call) error {
	if c.op == nil {
		return nil
	}
	var doc any
	if c.hasBody {
		v, err := decode(c)
		if err != nil {
			return err
		}
		doc = v
	}
	return c.op.Check(c.params, c.r.URL.Query(), c.r.Header, doc)
}

// decode reads the body strictly and has it forwarded as it was read, so that
// no second parser can find something else in it.
func decode(c *call) (any, error) {
	if c.table.sys.Off("validate.json") {
		var v any
		d := json.NewDecoder(bytes.NewReader(c.body))
		d.UseNumber()
		err := d.Decode(&v)
		return v, err
	}
	v, err := strictjson.Decode(c.body)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Control: "validate.json", Msg: err.Error()}
	}
	c.body, err = strictjson.Encode(v)
	return v, err
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
