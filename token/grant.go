package token

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Granted is the answer of the token endpoint to a client.
type Granted struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"` // Bearer, or DPoP (RFC 9449 section 5)
	ExpiresIn    int    `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token,omitzero"`
	Scope        string `json:"scope,omitzero"`
	IDToken      string `json:"id_token,omitzero"`
}

// grant is a request whose client has proved itself.
type grant struct {
	client Client
	form   url.Values
	proof  jwt.DPoPClaims   // to be spent once all else is good; zero: none was shown
	bound  jwt.Confirmation // what the client has proved to hold, for its tokens to be bound to
}

// Grant serves the token endpoint for clients: authorization_code,
// refresh_token and client_credentials. Errors carry an OAuth code, see CodeOf.
func (s *Service) Grant(ctx context.Context, r Request) (Granted, error) {
	client, err := s.authenticate(ctx, r)
	if err != nil {
		return Granted{}, err
	}
	if res := r.Form.Get("resource"); res != "" && res != s.opt.Issuer {
		return Granted{}, refuse("invalid_target", "tokens are for %s alone", s.opt.Issuer)
	}
	kind := r.Form.Get("grant_type")
	serve, ok := map[string]func(context.Context, grant) (Granted, error){
		"authorization_code": s.redeem, "refresh_token": s.refresh, "client_credentials": s.credentials,
	}[kind]
	if !ok {
		return Granted{}, refuse("unsupported_grant_type", "grant_type is not supported")
	}
	if !client.may(kind) {
		return Granted{}, refuse("unauthorized_client", "the client is not registered for this grant_type")
	}
	proof, err := s.proved(r.Proofs)
	if err != nil {
		return Granted{}, err
	}
	bound, err := binding(client, proof, r.Caller)
	if err != nil {
		return Granted{}, err
	}
	out, err := serve(ctx, grant{client, r.Form, proof, bound})
	if err != nil {
		return Granted{}, err // what was minted before an error nobody may hold
	}
	return out, nil
}

// binding returns what the client's tokens are to be bound to.
func binding(client Client, proof jwt.DPoPClaims, c *Caller) (jwt.Confirmation, error) {
	bound := proof.Confirmation()
	if client.Auth == authTLS {
		bound.Thumbprint = jwt.Confirm(c.Fingerprint).Thumbprint
	}
	if client.DPoP && bound == (jwt.Confirmation{}) {
		return bound, refuseBy(dpopControl, "invalid_dpop_proof", "this client's tokens are bound to a key: a DPoP proof is required")
	}
	return bound, nil
}

// redeem trades a code. What can be wrong is checked before the code is spent,
// so that a thief without the verifier cannot burn it for the owner; spending
// is one conditional step, so that of two at once one wins.
func (s *Service) redeem(ctx context.Context, g grant) (Granted, error) {
	code, err := s.code(ctx, g)
	if err != nil {
		return Granted{}, err
	}
	want, err := g.client.registered(scope{code.Scope, code.OpenID, code.Offline})
	if err != nil {
		return Granted{}, err
	}
	p, err := s.person(ctx, code.Subject)
	if err != nil {
		return Granted{}, err
	}
	f, err := s.begin(ctx, g, code, p)
	if err != nil {
		return Granted{}, err
	}
	if err := s.spendProof(ctx, g.proof); err != nil {
		return Granted{}, err
	}
	if err := s.use(ctx, code, f); err != nil {
		return Granted{}, err
	}
	return s.issue(ctx, g, f, p, want, code.Nonce)
}

// code returns the code that the client may redeem.
func (s *Service) code(ctx context.Context, g grant) (Code, error) {
	code, err := s.opt.Store.Code(ctx, s.sum(g.form.Get("code")))
	if errors.Is(err, ErrNotFound) {
		return code, refuse("invalid_grant", "code is not valid")
	}
	if err != nil {
		return code, unavailable(err)
	}
	switch {
	case code.Client != g.client.ID || code.Redirect != g.form.Get("redirect_uri"):
		return code, refuse("invalid_grant", "code is not valid")
	case !proves(g.form.Get("code_verifier"), code.Challenge):
		return code, refuse("invalid_grant", "code_verifier does not match")
	case code.JKT != "" && code.JKT != g.bound.JKT:
		return code, refuseBy(dpopControl, "invalid_grant", "code is bound to a key that was not proved")
	case code.Family != "":
		return code, s.reused(ctx, code)
	case !s.opt.Now().Before(code.Expires):
		return code, refuse("invalid_grant", "code has expired")
	case g.form.Get("scope") != "":
		return code, refuse("invalid_scope", "the scope was settled with the code")
	}
	return code, nil
}

// begin makes the refresh family of a code, if the browser session that it was
// issued from is still there. That counts for offline access too: what a person
// ended begins nothing any more.
func (s *Service) begin(ctx context.Context, g grant, code Code, p rampart.Principal) (Family, error) {
	now := s.opt.Now()
	f := Family{
		ID: random(16), Rotated: now, Client: g.client.ID, Subject: code.Subject, SID: code.SID, Issued: code.Issued,
		AuthTime: code.AuthTime, ACR: code.ACR, AMR: code.AMR, Scope: code.Scope, OpenID: code.OpenID, JKT: g.bound.JKT,
		Absolute: now.Add(maxFamilyLife),
	}
	p.Session, p.Client = code.SID, g.client.ID
	if _, err := s.revoked.issuedAt(p, f.issued(), now); err != nil {
		return f, refuse("invalid_grant", "the session has ended")
	}
	ends, err := s.live(ctx, code.Subject, code.SID)
	if err != nil {
		return f, err
	}
	if code.Offline {
		f.SID = "" // what hangs on no session ends with none
	} else if ends.Before(f.Absolute) {
		f.Absolute = ends
	}
	f.Expires = now.Add(idleFamilyLife)
	if f.Absolute.Before(f.Expires) {
		f.Expires = f.Absolute
	}
	return f, nil
}

// live returns when a browser session ends at the latest, and refuses one that
// has ended.
func (s *Service) live(ctx context.Context, subject, sid string) (time.Time, error) {
	ends, err := s.opt.Directory.Live(ctx, subject, sid)
	if err == nil && ends.IsZero() {
		err = refuse("invalid_grant", "the session has ended")
	}
	return ends, err
}

// use spends the code for the family. Whoever ended the session meanwhile has
// not seen the family: it ends here.
func (s *Service) use(ctx context.Context, code Code, f Family) error {
	err := s.opt.Store.UseCode(ctx, code.Hash, f)
	if errors.Is(err, ErrUsed) {
		if code, err = s.opt.Store.Code(ctx, code.Hash); err == nil {
			return s.reused(ctx, code)
		}
	}
	if err != nil {
		return unavailable(err)
	}
	if _, err := s.live(ctx, code.Subject, code.SID); err != nil {
		if _, failed := s.endFamily(ctx, f.ID); failed != nil {
			return failed
		}
		return err
	}
	return nil
}

// scope is what the family was begun with. One that hangs on no session was
// begun with offline_access.
func (f Family) scope() scope { return scope{f.Scope, f.OpenID, f.SID == ""} }

// issued is what cut-offs of the family are measured against.
func (f Family) issued() time.Time {
	if f.Issued.IsZero() {
		return f.AuthTime
	}
	return f.Issued
}

// reused ends what a code was traded for: two holders mean that one stole it
// (RFC 6749 section 4.1.2).
func (s *Service) reused(ctx context.Context, code Code) error {
	f := Family{ID: code.Family, Client: code.Client, Subject: code.Subject, SID: code.SID}
	return s.theft(ctx, f, "authorization code used twice")
}

// proves checks PKCE S256 (RFC 7636 section 4.6).
func proves(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// refresh takes a refresh token to the same key, client and person alone.
func (s *Service) refresh(ctx context.Context, g grant) (Granted, error) {
	id, generation, ok := s.parseRefresh(g.form.Get("refresh_token"))
	if !ok {
		return Granted{}, refuse("invalid_grant", "refresh token is not valid")
	}
	for range 2 { // the second round is for whoever lost the race of the first
		f, err := s.family(ctx, g, id)
		if err != nil {
			return Granted{}, err
		}
		want, err := again(g.client, f, g.form.Get("scope"))
		if err != nil {
			return Granted{}, err
		}
		p, err := s.person(ctx, f.Subject)
		if err != nil {
			return Granted{}, err
		}
		if err := s.spendProof(ctx, g.proof); err != nil {
			return Granted{}, err
		}
		g.proof = jwt.DPoPClaims{} // once is enough for both rounds
		done, err := s.rotate(ctx, g.client, &f, generation)
		if err != nil {
			return Granted{}, err
		}
		if done {
			return s.issue(ctx, g, f, p, want, "")
		}
	}
	return Granted{}, refuse("invalid_grant", "refresh token is not valid")
}

// family returns the live family of a refresh token, if it is the client's, the
// key that it is bound to was proved, and the session that it hangs on is there.
func (s *Service) family(ctx context.Context, g grant, id string) (Family, error) {
	f, err := s.opt.Store.Family(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return f, refuse("invalid_grant", "refresh token is not valid")
	}
	if err != nil {
		return f, unavailable(err)
	}
	if f.Client != g.client.ID || f.Revoked || !s.opt.Now().Before(f.Expires) {
		return f, refuse("invalid_grant", "refresh token is not valid")
	}
	if f.JKT != "" && f.JKT != g.bound.JKT {
		return f, refuseBy(dpopControl, "invalid_grant", "refresh token is bound to a key that was not proved")
	}
	if f.SID != "" {
		_, err = s.live(ctx, f.Subject, f.SID)
	}
	return f, err
}

// again is the scope of a refreshed access token: that of the family as far as
// the client is still registered for it, or less if the client asks for less
// (RFC 6749 section 6).
func again(c Client, f Family, text string) (scope, error) {
	had, err := c.registered(f.scope())
	if err != nil || text == "" {
		return had, err
	}
	want, err := parseScope(text)
	if err != nil {
		return scope{}, err
	}
	if !within(want.permissions, f.Scope) || want.openid && !had.openid || want.offline && !had.offline {
		return scope{}, refuse("invalid_scope", "the scope is more than was granted")
	}
	if want.permissions, err = c.still(rampart.MeetScopes(want.permissions, f.Scope)); err != nil {
		return scope{}, refuse("invalid_scope", "the client is no longer registered for this scope")
	}
	return want, nil
}

// rotate moves the family on from the generation of the token that was shown,
// and reports false if somebody else just did.
//
// The newest token of the family moves it one generation on. The one before
// yields the same successor again for ten seconds: a client that lost the
// response, or sent two requests at once, goes on, and nothing forks. Any other
// token of ours was used before: somebody has a copy. A client that proves
// itself at every request keeps its one token (RFC 9700 section 4.14.2): with it
// alone a thief gets nowhere.
func (s *Service) rotate(ctx context.Context, client Client, f *Family, generation int) (bool, error) {
	now := s.opt.Now()
	switch {
	case !client.public():
		_, err := s.opt.Store.RotateFamily(ctx, f.ID, f.Generation, now, now.Add(idleFamilyLife)) // moves the idle bound
		f.Generation = generation
		return true, unavailable(err)
	case generation == f.Generation-1 && now.Sub(f.Rotated) <= healWindow:
		return true, nil
	case generation != f.Generation:
		return false, s.theft(ctx, *f, "refresh token used twice")
	}
	won, err := s.opt.Store.RotateFamily(ctx, f.ID, generation, now, now.Add(idleFamilyLife))
	if won {
		f.Generation++
	}
	return won, unavailable(err)
}

// theft ends what two hold though one got it, and the browser session that it
// came from: who could copy the one may have copied the other. It puts that on
// record, for somebody to look at, and refuses.
func (s *Service) theft(ctx context.Context, f Family, what string) error {
	if _, err := s.endFamily(ctx, f.ID); err != nil {
		return err
	}
	if f.SID != "" {
		if err := s.opt.Directory.EndSession(ctx, f.SID); err != nil {
			return err
		}
		if _, err := s.endSession(ctx, f.SID); err != nil {
			return err
		}
	}
	err := s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassAuthentication, Action: "token.theft", Outcome: audit.Refused, Control: rotationControl,
		Code: "reuse", Subject: f.Subject, Actor: "client:" + f.Client, Detail: map[string]string{"error": what, "alert": "true"},
	})
	if err != nil {
		return err
	}
	return refuseBy(rotationControl, "invalid_grant", "token was used before; everything issued with it is void")
}

// person returns the facts of a subject that still exists.
func (s *Service) person(ctx context.Context, subject string) (rampart.Principal, error) {
	p, err := s.opt.Directory.Facts(ctx, subject)
	if err != nil && rampart.KindOf(err) != rampart.Unavailable {
		return rampart.Principal{}, refuse("invalid_grant", "the account is gone")
	}
	return p, err
}

// issue mints an access token of the family, derives its newest refresh token,
// and says who the person is if the client asked for that.
func (s *Service) issue(ctx context.Context, g grant, f Family, p rampart.Principal, sc scope, nonce string) (Granted, error) {
	p.Client, p.Session = f.Client, f.ID
	p.AuthTime, p.ACR, p.AMR = f.AuthTime, f.ACR, f.AMR
	out, err := s.mint(g, p, sc, f.issued(), edgeLife)
	if err != nil {
		return Granted{}, err
	}
	if g.client.may("refresh_token") {
		out.RefreshToken = s.refreshToken(f.ID, f.Generation)
	}
	if sc.openid {
		if out.IDToken, err = s.idToken(g.client, f, out.AccessToken, nonce); err != nil {
			return Granted{}, err
		}
	}
	return out, s.record(ctx, "token.grant", p.Subject, f.Client, g.detail(out))
}

// credentials lets a client in as itself (RFC 6749 section 4.4), which takes
// more than a name.
func (s *Service) credentials(ctx context.Context, g grant) (Granted, error) {
	if g.client.public() {
		return Granted{}, refuse("unauthorized_client", "a public client cannot act as itself")
	}
	sc, err := ask(g.client, g.form.Get("scope"))
	if err != nil {
		return Granted{}, err
	}
	if sc.openid || sc.offline {
		return Granted{}, refuse("invalid_scope", "there is no person here")
	}
	if err := s.spendProof(ctx, g.proof); err != nil {
		return Granted{}, err
	}
	p := g.client.Self()
	out, err := s.mint(g, p, sc, s.opt.Now(), clientLife)
	if err != nil {
		return Granted{}, err
	}
	return out, s.record(ctx, "token.grant", p.Subject, g.client.ID, g.detail(out))
}

// mint signs an access token for p, whose credential was issued at from.
func (s *Service) mint(g grant, p rampart.Principal, sc scope, from time.Time, life time.Duration) (Granted, error) {
	now := s.opt.Now()
	iat, err := s.revoked.issuedAt(p, from, now)
	if err != nil {
		return Granted{}, refuse("invalid_grant", "the login was revoked")
	}
	claims := jwt.EdgeFor(p)
	claims.Scope, claims.ClientPrincipal = sc.claim(), g.client.Principal
	claims.Issuer, claims.Audience, claims.ID = s.opt.Issuer, s.opt.Issuer, random(16)
	claims.IssuedAt, claims.Expires = iat.Unix(), now.Add(life).Unix()
	if g.bound != (jwt.Confirmation{}) {
		claims.Confirm = &g.bound
	}
	text, err := s.edgeSigner().SignEdge(claims)
	if err != nil {
		return Granted{}, err
	}
	out := Granted{AccessToken: text, TokenType: "Bearer", ExpiresIn: int(life / time.Second), Scope: strings.Join(claims.Scope, " ")}
	if g.bound.JKT != "" {
		out.TokenType = "DPoP"
	}
	return out, nil
}

// detail is what the log says of a grant beside who got it.
func (g grant) detail(out Granted) map[string]string {
	return map[string]string{
		"grant_type": g.form.Get("grant_type"), "scope": cut(out.Scope), "token_type": out.TokenType, "client_auth": cmp.Or(g.client.Auth, authNone),
	}
}

func (s *Service) record(ctx context.Context, action, subject, client string, detail map[string]string) error {
	return s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassAuthentication, Action: action, Outcome: audit.Allowed, Control: "authn.jwt", Subject: subject, Actor: "client:" + client, Detail: detail,
	})
}
