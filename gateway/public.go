package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/network/shed"
)

// publicBody bounds a login or token request.
const publicBody = 16 << 10

// publicPaths belong to the control plane, which never faces the internet:
// they are reached only through here.
var publicPaths = []string{"/login", "/login.css", "/logout", "/session", "/sessions", "/account"}

// publicPrefixes are the folders below which every path is public. The file
// check refuses services mounted there.
var publicPrefixes = []string{"/login/", "/sessions/", "/account/", "/oidc/", "/oauth2/", "/.well-known/", "/_rampart/"}

func isPublic(path string) bool {
	below := func(prefix string) bool { return strings.HasPrefix(path, prefix) }
	return slices.Contains(publicPaths, path) || slices.ContainsFunc(publicPrefixes, below)
}

// provesItself reports whether a path's caller authenticates with what it sends
// (a client's credential, a PKCE verifier, a signed logout token) and never with
// a cookie: such calls come from other sites by nature and ride on nothing.
// Nothing else of the public surface is exempt from the CSRF stage.
func provesItself(method, path string) bool {
	if method != http.MethodPost {
		return false
	}
	switch path {
	case "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke":
		return true
	}
	idp, ok := strings.CutSuffix(strings.TrimPrefix(path, "/oidc/"), "/backchannel-logout")
	return ok && strings.HasPrefix(path, "/oidc/") && idp != "" && !strings.Contains(idp, "/")
}

// publicStages is the path of a login or token request.
func (g *Gateway) publicStages(t *table) []stage {
	all := []struct {
		control string
		stage   stage
	}{
		{"", origin{t.hops}},
		{controlBan, keepOut{g.bans}},
		{"edge.route", canonicalize{g.hosts(t)}},
		{"limit.ip", ipLimit{t.ip}},
		{"", publicCaps{}},
		{"", body{}}, // before a slot is taken: a slow stranger must not hold one
		{"", newPublicShares()},
		{"authn.csrf", publicCSRF{csrf{http.NewCrossOriginProtection()}}},
		{"", toControl{g}},
	}
	var out []stage
	for _, s := range all {
		if s.control == "edge.route" || !t.sys.Off(s.control) {
			out = append(out, s.stage)
		}
	}
	return out
}

// publicShares bounds what is in flight. Logins have places of their own, of
// which one network holds an eighth: whoever guesses from there must not turn
// everybody else away.
type publicShares struct {
	login *shed.Shares
	rest  *shed.Gate
}

func newPublicShares() publicShares {
	return publicShares{shed.NewShares(maxConcurrent/4, maxConcurrent/32), shed.New(maxConcurrent / 4)}
}

func (s publicShares) check(c *call) error {
	if c.path != "/login" && !strings.HasPrefix(c.path, "/login/") {
		return shedder{s.rest, important}.check(c)
	}
	if err := s.login.Enter(c.ip, shed.Important); err != nil {
		return err
	}
	c.onEnd(func() { s.login.Leave(c.ip) })
	return nil
}

// publicCSRF guards login, account and logout: they change the browser's session
// whether or not it has one.
type publicCSRF struct{ csrf }

func (s publicCSRF) check(c *call) error {
	if provesItself(c.r.Method, c.path) {
		return nil
	}
	return s.refuse(c)
}

// publicCaps bounds a login or token request.
type publicCaps struct{}

func (publicCaps) check(c *call) error {
	if err := canonical.Body(c.r, false); err != nil {
		return err
	}
	return limitBody(c, publicBody)
}

// toControl hands the request to the control plane with the client's address.
type toControl struct{ g *Gateway }

func (s toControl) check(c *call) error {
	if c.path == "/_rampart/health" {
		return s.health(c)
	}
	if strings.HasPrefix(c.path, "/_rampart/") {
		return rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
	}
	if c.path == "/logout" || c.r.Method == http.MethodDelete {
		for _, ck := range c.r.CookiesNamed(sessionCookie) {
			defer s.g.opt.Link.Forget(ck.Value)
		}
	}
	rt, addr := s.g.opt.Link.Now().Control()
	edit := func(h http.Header) {
		s.rekeyed(c, h)
		harden(h, c.table)
	}
	if err := relay.Send(c.w, controlRequest(c, addr), rt, edit); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "login is not possible right now; try again", Err: err}
	}
	return nil
}

// rekeyed forgets what the caller's cookie stood for when the answer brings
// another: a login, a step-up and a logout make the old one worthless, and the
// browser must not be served by it for as long as the cache would.
func (s toControl) rekeyed(c *call, answer http.Header) {
	set := func(line string) bool { return strings.HasPrefix(line, sessionCookie+"=") }
	if !slices.ContainsFunc(answer["Set-Cookie"], set) {
		return
	}
	for _, ck := range c.r.CookiesNamed(sessionCookie) {
		s.g.opt.Link.Forget(ck.Value)
	}
}

// controlRequest keeps the caller's credentials, which are the control plane's
// to judge, and tells the client's address. A call that proves itself brings no
// cookie: it passed by the CSRF stage.
func controlRequest(c *call, addr string) *http.Request {
	out := relay.Request(c.r, &url.URL{Scheme: "https", Host: addr, Path: c.path, RawQuery: c.r.URL.RawQuery}, func(name string) bool {
		if name == "Cookie" && provesItself(c.r.Method, c.path) {
			return false
		}
		return !strings.HasPrefix(name, "Rampart-") && !strings.HasPrefix(name, "X-Forwarded-") && name != "Forwarded"
	})
	out.Host = c.r.Host
	out.Header.Set(wire.HeaderClientIP, c.peer)
	out.Header.Set(trace.Header, trace.Parent(c.trace))
	out.Body, out.ContentLength = http.NoBody, 0
	if c.hasBody {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
	}
	return out
}

// health says whether this plane enforces a configuration that the control
// plane still vouches for, and can prove who it is: with an expired certificate of
// its own no service lets it in.
func (s toControl) health(c *call) error {
	harden(c.w.Header(), c.table)
	c.w.Header().Set("Content-Type", "application/json")
	age := s.g.opt.Link.Age()
	own := s.g.identitySeconds()
	if age > 10*time.Second || own == 0 {
		c.w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(c.w).Encode(map[string]any{
		"system": c.table.sys.Info.Name, "digest": c.table.sys.Bundle().Digest, "control_age_seconds": int(age.Seconds()),
		"certificate_seconds": s.g.certificateSeconds(), "identity_seconds": own,
	})
}

// edgeVerifier builds the verifier for edge tokens from the keys in force.
func (g *Gateway) edgeVerifier() (edgeVerifier, error) {
	keys := g.opt.Link.State().Keys
	if len(keys.Edge) == 0 {
		return edgeVerifier{}, rampart.Errorf(rampart.Unavailable, "authn.jwt", "authentication is not possible right now")
	}
	return g.tokens.verifier(keys, g.opt.Now)
}

// edgeVerifier checks edge tokens.
type edgeVerifier struct {
	*jwt.EdgeCache
	unbound *jwt.Edge // asks for no proof, for throw-away systems
}

// edgeTokens is the verifier of edge tokens, for as long as its keys are in
// force.
type edgeTokens struct {
	mu     sync.Mutex // guards below
	issuer string
	jwks   string
	cached edgeVerifier
}

func (e *edgeTokens) verifier(keys wire.Keys, now func() time.Time) (edgeVerifier, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cached.EdgeCache != nil && e.jwks == string(keys.Edge) && e.issuer == keys.Issuer {
		return e.cached, nil
	}
	set, err := jwt.ParseKeySet(keys.Edge)
	if err != nil {
		return edgeVerifier{}, &rampart.Error{Kind: rampart.Unavailable, Control: "authn.jwt", Msg: "authentication is not possible right now", Err: err}
	}
	v := jwt.NewEdge(jwt.EdgeOptions{Keys: func() *jwt.KeySet { return set }, Issuer: keys.Issuer, Audience: keys.Issuer, Now: now})
	e.cached = edgeVerifier{jwt.NewEdgeCache(v, 10_000), v}
	e.jwks, e.issuer = string(keys.Edge), keys.Issuer
	return e.cached, nil
}
