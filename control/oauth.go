package control

import (
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

// oauthRoutes is what clients reach of the token service; the token endpoint
// itself is serveToken, which planes call too.
func (p *Plane) oauthRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /oauth2/authorize":                       p.serveAuthorize,
		"POST /oauth2/revoke":                         p.serveRevoke,
		"GET /oauth2/jwks":                            p.serveJWKS,
		"GET /.well-known/oauth-authorization-server": p.serveMetadata,
	}
}

// serveAuthorize lets a registered client in on behalf of the signed-in
// person, after a login if need be.
func (p *Plane) serveAuthorize(w http.ResponseWriter, r *http.Request) error {
	a, err := p.authorization(r)
	if err != nil {
		return err
	}
	who, err := p.who(r)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return p.redirect(w, "/login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode())
	}
	if err != nil {
		return err
	}
	to, err := p.tokens.Authorize(r.Context(), a, who)
	if err != nil {
		return err
	}
	return p.redirect(w, to)
}

// authorization reads the client's request. One that names no client of ours,
// or an address that is not the client's, is a phisher's first step.
func (p *Plane) authorization(r *http.Request) (token.Authorization, error) {
	e := audit.Event{Class: audit.ClassAuthentication, Action: "token.authorize", Control: "authn.jwt", Peer: client(r)}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return token.Authorization{}, p.refuse(r.Context(), e, rampart.Errorf(rampart.Invalid, "", "the query does not parse"))
	}
	a, err := p.tokens.ParseAuthorization(r.Context(), q)
	if err != nil {
		e.Code, e.Resource = token.CodeOf(err), clientOf(q)
		return a, p.refuse(r.Context(), e, err)
	}
	return a, nil
}

// clientOf is the client that a stranger's form or query names, for the log.
func clientOf(form url.Values) string {
	id := form.Get("client_id")
	return "client:" + id[:min(len(id), maxName)]
}

// serveGrant is the token endpoint as clients see it.
func (p *Plane) serveGrant(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := p.fromGateway(r, id); err != nil {
		return err
	}
	granted, err := p.tokens.Grant(r.Context(), r.PostForm)
	if err != nil {
		return oauthError(w, p.refuse(r.Context(), audit.Event{
			Class: audit.ClassAuthentication, Action: "token.grant", Control: "authn.jwt", Code: token.CodeOf(err), Peer: client(r),
		}, err))
	}
	return writeJSON(w, granted)
}

func (p *Plane) serveRevoke(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(r); err != nil {
		return err
	}
	if err := p.tokens.RevokeToken(r.Context(), r.PostForm, client(r)); err != nil {
		return oauthError(w, p.refuse(r.Context(), audit.Event{
			Class: audit.ClassAuthentication, Action: "token.revoke", Control: "authn.jwt", Code: token.CodeOf(err), Resource: clientOf(r.PostForm), Peer: client(r),
		}, err))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (p *Plane) serveJWKS(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=300")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, err := w.Write(p.tokens.Keys().Edge)
	return gone(err)
}

func (p *Plane) serveMetadata(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, p.tokens.Metadata())
}
