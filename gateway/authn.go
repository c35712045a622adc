package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// The cookie of browser sessions; the prefix makes browsers insist on HTTPS,
// the path / and no Domain.
const sessionCookie = "__Host-rampart_sid"

const (
	sessionKind = wire.TypeSession
	maxShown    = 8 << 10 // bytes of one credential
)

// method is one way to show who one is; a set of them is their sum.
type method uint8

const (
	byAPIKey method = 1 << iota
	byJWT
	bySession
)

// methods in the order of verification: an API key names the client before the
// token must name the same one.
var methods = [...]struct {
	method method
	name   string // as in rampart.yaml, and after "authn." the control
}{{byAPIKey, "api_key"}, {byJWT, "jwt"}, {bySession, "session"}}

// authenticate answers "who is this request from?" by the one entry flow whose
// set of credentials equals the set that was shown.
type authenticate struct{ g *Gateway }

func (s authenticate) check(c *call) error { return withChallenge(c.table, s.who(c)) }

// withChallenge says in a 401 which way in there is (RFC 9110, section 15.5.2): tokens,
// unless no flow takes any.
func withChallenge(t *table, err error) error {
	if rampart.KindOf(err) != rampart.Unauthenticated {
		return err
	}
	if d, ok := errors.AsType[*problem.Details](err); ok && d.Challenge != "" {
		return err
	}
	if slices.ContainsFunc(t.entries, func(e entry) bool { return e.need&byJWT != 0 }) {
		return err // the plain Bearer of package problem
	}
	return problem.With(err, problem.Details{Challenge: sessionChallenge})
}

const (
	sessionChallenge = "Session"                      // no registered scheme has a login in a browser
	tokenChallenge   = `Bearer error="invalid_token"` // RFC 6750, section 3.1
)

// invalidToken marks the refusal of a token that was shown.
func invalidToken(m method, err error) error {
	if d, ok := errors.AsType[*problem.Details](err); m != byJWT || rampart.KindOf(err) != rampart.Unauthenticated || ok && d.Challenge != "" {
		return err
	}
	return problem.With(err, problem.Details{Challenge: tokenChallenge})
}

func (s authenticate) who(c *call) error {
	if err := s.g.opt.Link.Bound(c.table.sys, c.target.flow); err != nil {
		return err
	}
	shown, err := credentials(c.r)
	if err != nil {
		return err
	}
	if c.entry, err = entryFor(c.table, shown.set); err != nil {
		return err
	}
	c.bound = shown.bound
	for i, m := range methods {
		if shown.set&m.method == 0 {
			continue
		}
		if err := s.verify(c, m.method, shown.value[i]); err != nil {
			return invalidToken(m.method, err)
		}
		if s.g.opt.Link.State().CredentialRevoked(c.credential()) {
			return invalidToken(m.method, rampart.Errorf(rampart.Unauthenticated, "authn."+m.name, "the credential was revoked"))
		}
	}
	if c.principal.IsZero() {
		return rampart.Errorf(rampart.Unauthenticated, "authn.session", "authentication is required")
	}
	return nil
}

// proof is what a caller shows, by method.
type proof struct {
	set   method
	value [len(methods)]string
	bound bool // the token comes with a DPoP proof
}

// credentials collects what the caller shows.
func credentials(r *http.Request) (proof, error) {
	var p proof
	if v, ok := r.Header["X-Api-Key"]; ok {
		if v[0] == "" {
			return p, rampart.Errorf(rampart.Unauthenticated, "authn.api_key", "the X-Api-Key header is empty")
		}
		p.set, p.value[0] = byAPIKey, v[0]
	}
	if v := first(r.Header["Authorization"]); v != "" {
		scheme, token, _ := strings.Cut(v, " ")
		p.bound = strings.EqualFold(scheme, "DPoP")
		if !p.bound && !strings.EqualFold(scheme, "Bearer") {
			return p, rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "the Authorization scheme must be Bearer or DPoP; an API key goes into the header X-API-Key")
		}
		p.set |= byJWT
		p.value[1] = strings.TrimSpace(token)
	}
	session, sessions := sessionOf(r)
	if sessions > 1 {
		return p, rampart.Errorf(rampart.Unauthenticated, "authn.session", "two session cookies were sent")
	}
	if sessions == 1 {
		p.set |= bySession
		p.value[2] = session
	}
	for i, v := range p.value {
		if len(v) > maxShown {
			return p, rampart.Errorf(rampart.Unauthenticated, "authn."+methods[i].name, "the credential is too long")
		}
	}
	return p, nil
}

// sessionOf returns the session cookie, and how many came, as CookiesNamed has them.
// That reads whatever a browser may send. A single line of plain pairs, which
// most requests have, is read here without it.
func sessionOf(r *http.Request) (value string, n int) {
	lines := r.Header["Cookie"]
	if len(lines) == 0 {
		return "", 0
	}
	plain := len(lines) == 1 && len(lines[0]) <= 4096 // and so no more pairs than net/http takes
	for rest, more := lines[0], plain; more && plain; {
		var pair, name, v string
		pair, rest, more = strings.Cut(rest, ";")
		name, v, plain = strings.Cut(strings.TrimPrefix(pair, " "), "=")
		plain = plain && isPlainText(name) && isPlainText(v)
		if name == sessionCookie {
			if n++; n == 1 {
				value = v
			}
		}
	}
	if plain {
		return value, n
	}
	cookies := r.CookiesNamed(sessionCookie)
	if len(cookies) == 0 {
		return "", 0
	}
	return cookies[0].Value, len(cookies)
}

// isPlainText admits what the value of a cookie and its name can hold, and no reader
// would trim or unquote: letters, digits, and what base64 needs.
func isPlainText(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return s != ""
}

// entryFor picks the flow by which such a caller may come in.
func entryFor(t *table, shown method) (*entry, error) {
	missing := ""
	for i := range t.entries {
		e := &t.entries[i]
		if e.need == shown && shown != 0 {
			return e, nil
		}
		if lacks := lackingOne(e.need, shown); lacks != "" {
			missing = lacks
		}
	}
	switch {
	case missing != "":
		return nil, notEnough(missing)
	case shown&(shown-1) != 0:
		return nil, rampart.Errorf(rampart.Unauthenticated, "authn.session", "this mix of credentials is not accepted")
	}
	return nil, rampart.Errorf(rampart.Unauthenticated, "authn.session", "authentication is required")
}

func notEnough(missing string) error {
	return rampart.Errorf(rampart.Unauthenticated, "authn."+missing, "this credential alone is not enough")
}

// lackingOne names the one method that the shown ones lack, "" if they lack more
// or none, hold one too many, or are none.
func lackingOne(need, shown method) string {
	for _, m := range methods {
		if need&^shown == m.method && shown&^need == 0 && shown != 0 {
			return m.name
		}
	}
	return ""
}

// required is the flow's set of methods. A throw-away system may drop one of
// several, never the last.
func required(sys *spec.System, f spec.Flow) method {
	var all, kept method
	for _, m := range methods {
		if !slices.Contains(f.Authn.All, m.name) {
			continue
		}
		all |= m.method
		if !sys.Off("authn." + m.name) {
			kept |= m.method
		}
	}
	if kept == 0 {
		return all
	}
	return kept
}

func (s authenticate) verify(c *call, m method, value string) error {
	switch m {
	case byAPIKey:
		return s.apiKey(c, value)
	case byJWT:
		return s.bearer(c, value)
	default:
		return s.session(c, value)
	}
}

func (s authenticate) session(c *call, value string) error {
	r, err := s.g.opt.Link.Resolve(c.context(), wire.ResolveRequest{Type: wire.TypeSession, Value: value, IP: c.addr()})
	if err != nil {
		return withControl(err, "authn.session", "the session is not valid; log in again")
	}
	c.principal, c.cred, c.issued = r.Principal, credential{wire.TypeSession, value}, r.Issued
	return nil
}

// apiKey names the client and its plan. Used alone it is the subject too.
func (s authenticate) apiKey(c *call, value string) error {
	r, err := s.g.opt.Link.Resolve(c.context(), wire.ResolveRequest{Type: wire.TypeAPIKey, Value: value, IP: c.addr()})
	if err != nil {
		return withControl(err, "authn.api_key", "the API key is not valid")
	}
	if r.Declared != c.entry.flow.From {
		return rampart.Errorf(rampart.Unauthenticated, "authn.api_key", "the API key is not valid here")
	}
	c.principal, c.plan, c.keyID, c.cred, c.issued = r.Principal, r.Plan, r.KeyID, credential{wire.TypeAPIKey, value}, r.Issued
	return nil
}

// bearer verifies an edge token. Beside an API key the token names the person,
// and must have been issued to the key's own client: else a thief of one
// client's key could ride on a token that another client obtained.
func (s authenticate) bearer(c *call, value string) error {
	claims, err := s.claims(c, value)
	if err != nil {
		return err
	}
	if err := c.table.letsIn(claims.ClientPrincipal, c.entry); err != nil {
		return err
	}
	p := claims.Principal()
	if c.entry.flow.Authn.Bind != "" && p.Client != c.principal.Client && !c.table.sys.Off("authn.api_key_bound_to_jwt") {
		return rampart.Errorf(rampart.Unauthenticated, "authn.api_key_bound_to_jwt", "the token was not issued to this API key's client")
	}
	c.narrowed = c.principal.Scope != nil // by the API key: the token alone does not say so
	p.Scope = rampart.MeetScopes(p.Scope, c.principal.Scope)
	c.principal, c.cred, c.issued, c.tokenID = p, credential{wire.TypeAccess, value}, time.Unix(claims.IssuedAt, 0), claims.ID
	return nil
}

// letsIn refuses a token whose client must not come in by e: tokens outlive the file
// that they were issued under. The empty principal is a client that the file does
// not name.
func (t *table) letsIn(own string, e *entry) error {
	switch {
	case t.keyed[own] && own != e.flow.From:
		return notEnough("api_key") // whoever left the key out would leave its limits and its plan behind
	case own == "" || own == e.flow.From || slices.ContainsFunc(t.entries, func(e entry) bool { return e.flow.From == own && e.need&byJWT != 0 }):
		return nil
	}
	return rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "no flow lets this token's client in")
}

// claims verifies an edge token as the caller presents it: as a bearer's, or
// with a proof that the caller holds the key that it is bound to.
func (s authenticate) claims(c *call, token string) (jwt.EdgeClaims, error) {
	v, err := s.g.edgeVerifier()
	switch {
	case err != nil:
		return jwt.EdgeClaims{}, err
	case c.table.sys.Off("authn.dpop"):
		return v.unbound.VerifySubject(token)
	case c.bound:
		return s.g.dpop.claims(c, v.EdgeCache, token)
	}
	return v.Verify(token)
}

// withControl turns the control plane's answer into what the caller may see.
func withControl(err error, control, msg string) error {
	if rampart.KindOf(err) == rampart.Unavailable {
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "authentication is not possible right now", Err: err}
	}
	return &rampart.Error{Kind: rampart.Unauthenticated, Control: control, Msg: msg, Err: err}
}

// loginRedirect sends a person's browser that lacks a valid session, or one that
// is good enough, to where it gets one instead of showing it a problem document.
func loginRedirect(c *call, err error) (string, bool) {
	navigates := c.r.Method == http.MethodGet && problem.ForPerson(c.r)
	hasSessions := slices.ContainsFunc(c.table.entries, func(e entry) bool { return e.need&bySession != 0 })
	if rampart.KindOf(err) != rampart.Unauthenticated || !navigates || !hasSessions {
		return "", false
	}
	if controlOf(err, "") == "authn.step_up" { // a token cannot be made stronger on a page
		d, ok := errors.AsType[*problem.Details](err)
		return d.StepUp, ok && d.StepUp != ""
	}
	return "/login?next=" + url.QueryEscape(c.r.URL.RequestURI()), true
}
