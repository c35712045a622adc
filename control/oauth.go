package control

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/token"
)

// oauthRoutes is what clients reach of the token service through the gateway;
// serveToken and serveIntrospect planes reach too.
func (p *Plane) oauthRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /oauth2/authorize":                       p.serveAuthorize,
		"POST /oauth2/revoke":                         p.serveRevoke,
		"GET /oauth2/jwks":                            p.serveJWKS,
		"GET /oauth2/userinfo":                        p.serveUserInfo,
		"POST /oauth2/userinfo":                       p.serveUserInfo,
		"GET /oauth2/logout":                          p.serveRPLogout,
		"POST /oauth2/logout":                         p.serveRPLogout,
		"GET /.well-known/oauth-authorization-server": p.serveMetadata,
		"GET /.well-known/openid-configuration":       p.serveMetadata,
		"GET /.well-known/oauth-protected-resource":   p.serveResource,
	}
}

// serveAuthorize lets a registered client in on behalf of the signed-in
// person, after a login or a stronger one if need be.
func (p *Plane) serveAuthorize(w http.ResponseWriter, r *http.Request) error {
	a, q, err := p.authorization(r)
	if err != nil {
		return err
	}
	who, err := p.who(r)
	if err != nil && rampart.KindOf(err) != rampart.Unauthenticated {
		return err
	}
	if err != nil && !a.Silent {
		return p.redirect(w, "/login?"+url.Values{"next": {comeBack(q)}}.Encode())
	}
	up, needed := p.tokens.Wants(a, who)
	if err != nil || needed && a.Silent {
		return p.redirectTo(w)(p.tokens.Refuse(a, "login_required"))
	}
	if needed {
		return p.redirect(w, stepUp(up, comeBack(q)))
	}
	return p.redirectTo(w)(p.tokens.Authorize(r.Context(), a, who))
}

// comeBack is where a person goes on after the login that a request asked for.
func comeBack(q url.Values) string { return "/oauth2/authorize?" + token.Again(q).Encode() }

// stepUp is the page that raises the session there is.
func stepUp(up token.StepUp, next string) string {
	q := url.Values{"next": {next}}
	if up.ACR != "" {
		q.Set("acr", up.ACR)
	}
	if up.MaxAge > 0 {
		q.Set("max_age", strconv.Itoa(int(up.MaxAge/time.Second)))
	}
	return "/login/step-up?" + q.Encode()
}

// redirectTo sends the browser to an address that may fail to be made.
func (p *Plane) redirectTo(w http.ResponseWriter) func(to string, err error) error {
	return func(to string, err error) error {
		if err != nil {
			return err
		}
		return p.redirect(w, to)
	}
}

// authorization reads the client's request. One that names no client of ours,
// or an address that is not the client's, is a phisher's first step.
func (p *Plane) authorization(r *http.Request) (token.Authorization, url.Values, error) {
	e := audit.Event{Class: audit.ClassAuthentication, Action: "token.authorize", Control: "authn.jwt", Peer: client(r)}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return token.Authorization{}, nil, p.refuse(r.Context(), e, rampart.Errorf(rampart.Invalid, "", "the query does not parse"))
	}
	a, err := p.tokens.ParseAuthorization(r.Context(), q)
	if err != nil {
		e.Code, e.Resource = token.CodeOf(err), clientOf(q)
		return a, nil, p.refuse(r.Context(), e, err)
	}
	return a, q, nil
}

// clientOf is the client that a stranger's form or query names, for the log.
func clientOf(form url.Values) string {
	id := form.Get("client_id")
	return "client:" + id[:min(len(id), maxName)]
}

// request is a client's call as the token service judges it. Only over mutual
// TLS, where nobody forwards, is the certificate the caller's own.
func request(r *http.Request, id identity) token.Request {
	req := token.Request{Form: r.PostForm, Proofs: r.Header.Values("DPoP"), Peer: client(r)}
	if req.Peer == "" {
		c := callerOf(r, id)
		req.Caller, req.Peer = &c, r.RemoteAddr
	}
	return req
}

// callerOf is the plane at the other end as the token service knows it.
func callerOf(r *http.Request, id identity) token.Caller {
	peer, _ := svid.PeerOf(r.TLS)
	return token.Caller{Name: id.name, ID: id.id, Fingerprint: peer.Fingerprint, Issued: peer.NotBefore.Add(ca.Skew), Peer: r.RemoteAddr}
}

// serveToken is the token endpoint. The header that the gateway puts on what
// it forwards keeps the two kinds of caller apart: without it a client could
// have the gateway's certificate ask for an exchange.
func (p *Plane) serveToken(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := parseForm(r); err != nil {
		return err
	}
	forwarded := r.Header.Get(wire.HeaderClientIP) != ""
	if forwarded || r.PostForm.Get("grant_type") == "client_credentials" {
		return p.serveGrant(w, r, id, forwarded)
	}
	if r.PostForm.Get("grant_type") != wire.GrantExchange {
		return oauthError(w, rampart.Errorf(rampart.Invalid, "token.exchange", "token: planes exchange, or ask for a token of their own"))
	}
	x, err := p.tokens.Exchange(r.Context(), callerOf(r, id), r.PostForm)
	if err != nil {
		return oauthError(w, err)
	}
	return writeJSON(w, x)
}

// serveGrant is the token endpoint as clients see it.
func (p *Plane) serveGrant(w http.ResponseWriter, r *http.Request, id identity, forwarded bool) error {
	if forwarded {
		if err := p.fromGateway(r, id); err != nil {
			return err
		}
	}
	granted, err := p.tokens.Grant(r.Context(), request(r, id))
	if len(r.Header.Values("DPoP")) > 0 || token.CodeOf(err) == "use_dpop_nonce" {
		w.Header().Set("DPoP-Nonce", p.tokens.Nonce())
	}
	if err != nil {
		return oauthError(w, p.refuseClient(r, "token.grant", err))
	}
	return writeJSON(w, granted)
}

// refuseClient records what a client was refused, and returns it. A client that
// was told to use a nonce has done nothing wrong.
func (p *Plane) refuseClient(r *http.Request, action string, err error) error {
	code := token.CodeOf(err)
	if code == "use_dpop_nonce" {
		return err
	}
	peer := client(r)
	if peer == "" {
		peer = r.RemoteAddr
	}
	return p.refuse(r.Context(), audit.Event{
		Class: audit.ClassAuthentication, Action: action, Control: "authn.jwt", Code: code, Resource: clientOf(r.PostForm), Peer: peer,
	}, err)
}

// serveIntrospect tells clients and services what a token is good for.
func (p *Plane) serveIntrospect(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := parseForm(r); err != nil {
		return err
	}
	if r.Header.Get(wire.HeaderClientIP) != "" {
		if err := p.fromGateway(r, id); err != nil {
			return err
		}
	}
	answer, err := p.tokens.Introspect(r.Context(), request(r, id))
	if err != nil {
		return oauthError(w, p.refuseClient(r, "token.introspect", err))
	}
	return writeJSON(w, answer)
}

func (p *Plane) serveRevoke(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(r); err != nil {
		return err
	}
	req := token.Request{Form: r.PostForm, Peer: client(r)}
	if err := p.tokens.RevokeToken(r.Context(), req); err != nil {
		return oauthError(w, p.refuseClient(r, "token.revoke", err))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// serveUserInfo says who a token's person is (OpenID Connect Core section 5.3).
func (p *Plane) serveUserInfo(w http.ResponseWriter, r *http.Request) error {
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	info, err := p.tokens.UserInfo(r.Context(), token.Presented{
		Scheme: scheme, Token: text, Proofs: r.Header.Values("DPoP"), Method: r.Method, URL: p.opt.Issuer + "oauth2/userinfo",
	})
	if len(r.Header.Values("DPoP")) > 0 {
		w.Header().Set("DPoP-Nonce", p.tokens.Nonce())
	}
	if err != nil {
		if k := rampart.KindOf(err); k == rampart.Internal || k == rampart.Unavailable {
			return err
		}
		w.Header().Set("WWW-Authenticate", challenge(scheme, token.CodeOf(err)))
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassAuthentication, Action: "token.userinfo", Control: "authn.jwt", Code: token.CodeOf(err), Peer: client(r)}, err)
	}
	return writeJSON(w, info)
}

// challenge is the WWW-Authenticate of a refused access token (RFC 6750 section
// 3, RFC 9449 section 7.1).
func challenge(scheme, code string) string {
	switch code {
	case "use_dpop_nonce", "invalid_dpop_proof", "insufficient_scope":
	default:
		code = "invalid_token"
	}
	if !strings.EqualFold(scheme, "DPoP") {
		return `Bearer error="` + code + `"`
	}
	return `DPoP error="` + code + `", algs="ES256 EdDSA Ed25519"`
}

// serveRPLogout ends the browser's session at a client's wish (OpenID Connect
// RP-Initiated Logout). The cookie is the authority. Any site can send a
// browser here, so the person is asked unless the client shows an ID token of
// this very session.
func (p *Plane) serveRPLogout(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return rampart.Errorf(rampart.Invalid, "", "control: the form does not parse")
	}
	e := audit.Event{Class: audit.ClassAuthentication, Action: "session.logout", Control: "authn.session", Resource: clientOf(r.Form), Peer: client(r)}
	out, err := p.tokens.ParseLogout(r.Context(), r.Form.Get("client_id"), r.Form.Get("id_token_hint"), r.Form.Get("post_logout_redirect_uri"))
	if err != nil {
		e.Code = token.CodeOf(err)
		return p.refuse(r.Context(), e, err)
	}
	who, err := p.who(r)
	if err != nil && rampart.KindOf(err) != rampart.Unauthenticated {
		return err
	}
	if err != nil { // nobody is signed in, and so it shall be
		http.SetCookie(w, session.ClearCookie())
		return p.redirect(w, afterLogout(out, r.Form.Get("state")))
	}
	meant := r.Method == http.MethodPost && r.PostForm.Get("confirmed") != "" && p.sameSite(r) == nil
	if !meant && out.Session != who.Principal.Session {
		return p.showLogout(w, goodbye{Fields: r.Form})
	}
	if err := p.endSession(r, who.Principal); err != nil {
		return err
	}
	http.SetCookie(w, session.ClearCookie())
	if meant { // a form's redirects are bound by form-action: leave it first
		return p.showLogout(w, goodbye{Continue: afterLogout(out, r.Form.Get("state"))})
	}
	return p.redirect(w, afterLogout(out, r.Form.Get("state")))
}

// goodbye is what the page of a logout shows: the question, or where to go on.
type goodbye struct {
	Fields   url.Values // of the request, to be confirmed
	Continue string     // signed out: go here
}

func (p *Plane) showLogout(w http.ResponseWriter, v goodbye) error {
	title := "Sign out?"
	if v.Continue != "" {
		title = "You are signed out"
	}
	return p.render(w, http.StatusOK, "logout", view{Title: title, Refresh: v.Continue, Body: v})
}

// endSession ends a session and everything that hangs on it.
func (p *Plane) endSession(r *http.Request, who rampart.Principal) error {
	if err := p.revoke(r.Context(), "sid", who.Session); err != nil {
		return err
	}
	return p.opt.Audit.Record(r.Context(), audit.Event{
		Class: audit.ClassAuthentication, Action: "session.logout", Outcome: audit.Allowed, Control: "authn.session", Subject: who.Subject, Peer: client(r),
	})
}

// afterLogout is the client's address with its state, or the login page.
func afterLogout(out token.Logout, state string) string {
	u, err := url.Parse(out.Redirect)
	if out.Redirect == "" || err != nil {
		return "/login"
	}
	if state != "" {
		q := u.Query()
		q.Set("state", state)
		u.RawQuery = q.Encode()
	}
	return u.String()
}

func (p *Plane) serveJWKS(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=300")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, err := w.Write(p.tokens.Published())
	return gone(err)
}

func (p *Plane) serveMetadata(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, p.tokens.Metadata())
}

func (p *Plane) serveResource(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, p.tokens.Resource())
}
