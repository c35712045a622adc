package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Authorization is a client's request to act for a person (RFC 6749 section
// 4.1.1) whose client and redirect have been verified.
type Authorization struct {
	Client   string
	Redirect string

	challenge string
	state     string
	problem   string // OAuth error to send back to the client; "" if none
}

// ParseAuthorization verifies client and redirect, so that everything else
// that is wrong can safely be said to the client. An error here is for the
// person alone: nobody is redirected to an unverified address (RFC 9700 §4.11).
func (s *Service) ParseAuthorization(ctx context.Context, q url.Values) (Authorization, error) {
	for name, values := range q {
		if len(values) != 1 || len(values[0]) > maxValue {
			return Authorization{}, refuse("invalid_request", "%.64q must come once", name)
		}
	}
	client, err := s.client(ctx, q.Get("client_id"))
	if err != nil {
		return Authorization{}, err
	}
	redirect := q.Get("redirect_uri")
	if !slices.ContainsFunc(client.Redirects, func(want string) bool { return sameRedirect(want, redirect) }) {
		return Authorization{}, refuse("invalid_request", "redirect_uri is not registered for this client")
	}
	a := Authorization{Client: client.ID, Redirect: redirect, challenge: q.Get("code_challenge"), state: q.Get("state")}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(a.challenge)
	switch {
	case q.Get("response_type") != "code":
		a.problem = "unsupported_response_type"
	case q.Get("scope") != "":
		a.problem = "invalid_scope"
	case q.Get("code_challenge_method") != "S256" || err != nil || len(raw) != sha256.Size:
		a.problem = "invalid_request" // PKCE is not optional here, and plain is no PKCE
	}
	return a, nil
}

// Authorize answers the request for a signed-in person: it returns the address
// to redirect the browser to, with a code or an error, and the issuer (RFC 9207).
func (s *Service) Authorize(ctx context.Context, a Authorization, who Subject) (string, error) {
	answer := url.Values{"iss": {s.opt.Issuer}}
	if a.state != "" {
		answer.Set("state", a.state)
	}
	if a.problem != "" {
		answer.Set("error", a.problem)
		return withQuery(a.Redirect, answer)
	}
	code, now := "rac_"+random(32), s.opt.Now()
	err := s.opt.Store.PutCode(ctx, Code{
		Hash: s.sum(code), Client: a.Client, Redirect: a.Redirect, Challenge: a.challenge,
		Subject: who.Principal.Subject, SID: who.Principal.Session, AuthTime: who.Principal.AuthTime, Expires: now.Add(codeLife),
	})
	if err != nil {
		return "", unavailable(err)
	}
	if err := s.record(ctx, "token.authorize", who.Principal.Subject, a.Client); err != nil {
		return "", err
	}
	answer.Set("code", code)
	return withQuery(a.Redirect, answer)
}

func withQuery(address string, answer url.Values) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", refuse("invalid_request", "redirect_uri does not parse")
	}
	q := u.Query()
	for name, values := range answer {
		q[name] = values
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// sameRedirect compares byte for byte, but for the port of a native client's
// loopback address, which it cannot know in advance (RFC 8252 section 7.3).
func sameRedirect(registered, got string) bool {
	if registered == got {
		return true
	}
	a, errA := parseRedirect(registered)
	b, errB := parseRedirect(got)
	return errA == nil && errB == nil && a.scheme == "http" && b.port != "" && a.scheme == b.scheme && a.host == b.host && a.rest == b.rest
}

// CheckRedirect says whether an address may be registered: https, or http on a
// loopback address, absolute and without fragment (RFC 6749 section 3.1.2), in
// the one spelling that is compared.
func CheckRedirect(text string) error {
	_, err := parseRedirect(text)
	return err
}

// redirect is an address cut into pieces that nothing has been done to: a
// parser that lower-cases, decodes or drops would find two addresses equal that
// a browser tells apart.
type redirect struct {
	scheme string // "https", or "http" for a loopback address
	host   string
	port   string // "" or 1 to 65535
	rest   string // path and query
}

func parseRedirect(text string) (redirect, error) {
	bad := rampart.Errorf(rampart.Invalid, control, "token: a redirect is https, or http on a loopback address, without fragment")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Contains(text, "#") {
		return redirect{}, bad
	}
	r := redirect{scheme: u.Scheme, host: u.Host}
	if i := strings.LastIndexByte(u.Host, ':'); i > strings.LastIndexByte(u.Host, ']') {
		r.host, r.port = u.Host[:i], u.Host[i+1:]
		if n, err := strconv.ParseUint(r.port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != r.port {
			return redirect{}, bad
		}
	}
	var whole bool
	if r.rest, whole = strings.CutPrefix(text, u.Scheme+"://"+u.Host); !whole || r.host == "" {
		return redirect{}, bad // another spelling of scheme or host
	}
	if r.scheme == "https" {
		return r, nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if r.scheme != "http" || err != nil || !ip.IsLoopback() {
		return redirect{}, bad
	}
	return r, nil
}

func (s *Service) client(ctx context.Context, id string) (Client, error) {
	if id == "" || len(id) > maxID {
		return Client{}, refuse("invalid_client", "client is not registered")
	}
	c, err := s.opt.Store.Client(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Client{}, refuse("invalid_client", "client is not registered")
	}
	if err != nil {
		return Client{}, unavailable(err)
	}
	return c, nil
}

// Granted is the answer of the token endpoint to a client.
type Granted struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
}

// Grant serves grant_type authorization_code and refresh_token. Clients are
// public: client_id names them, PKCE and rotation prove them. Errors carry an
// OAuth code, see CodeOf.
func (s *Service) Grant(ctx context.Context, form url.Values) (Granted, error) {
	for name, values := range form {
		if len(values) != 1 || len(values[0]) > maxValue {
			return Granted{}, refuse("invalid_request", "%.64q must come once", name)
		}
	}
	if form.Get("scope") != "" {
		return Granted{}, refuse("invalid_scope", "no scopes are defined")
	}
	client, err := s.client(ctx, form.Get("client_id"))
	if err != nil {
		return Granted{}, err
	}
	switch form.Get("grant_type") {
	case "authorization_code":
		return s.redeem(ctx, client, form)
	case "refresh_token":
		return s.refresh(ctx, client, form.Get("refresh_token"))
	}
	return Granted{}, refuse("unsupported_grant_type", "grant_type is not supported")
}

// redeem trades a code. What can be wrong is checked before the code is spent,
// so that a thief without the verifier cannot burn it for the owner; spending
// is one conditional step, so that of two at once one wins.
func (s *Service) redeem(ctx context.Context, client Client, form url.Values) (Granted, error) {
	code, err := s.opt.Store.Code(ctx, s.sum(form.Get("code")))
	if errors.Is(err, ErrNotFound) {
		return Granted{}, refuse("invalid_grant", "code is not valid")
	}
	if err != nil {
		return Granted{}, unavailable(err)
	}
	now := s.opt.Now()
	switch {
	case code.Client != client.ID || code.Redirect != form.Get("redirect_uri"):
		return Granted{}, refuse("invalid_grant", "code is not valid")
	case !proves(form.Get("code_verifier"), code.Challenge):
		return Granted{}, refuse("invalid_grant", "code_verifier does not match")
	case code.Family != "":
		return Granted{}, s.reused(ctx, code)
	case !now.Before(code.Expires):
		return Granted{}, refuse("invalid_grant", "code has expired")
	}
	p, err := s.person(ctx, code.Subject)
	if err != nil {
		return Granted{}, err
	}
	f := Family{
		ID: random(16), Rotated: now, Client: client.ID, Subject: code.Subject, SID: code.SID, AuthTime: code.AuthTime,
		Expires: now.Add(idleFamilyLife), Absolute: now.Add(maxFamilyLife),
	}
	// The browser session may have ended since the code was issued.
	old := p
	old.Session, old.Client = code.SID, client.ID
	if _, err := s.revoked.issuedAt(old, code.AuthTime, now); err != nil {
		return Granted{}, refuse("invalid_grant", "the session has ended")
	}
	err = s.opt.Store.UseCode(ctx, code.Hash, f)
	if errors.Is(err, ErrUsed) {
		if code, err = s.opt.Store.Code(ctx, code.Hash); err == nil {
			return Granted{}, s.reused(ctx, code)
		}
	}
	if err != nil {
		return Granted{}, unavailable(err)
	}
	return s.grant(ctx, f, p)
}

// reused ends what a code was traded for: two holders mean that one stole it
// (RFC 6749 section 4.1.2).
func (s *Service) reused(ctx context.Context, code Code) error {
	if _, err := s.endFamily(ctx, code.Family); err != nil {
		return err
	}
	return s.theft(ctx, code.Subject, code.Client, "authorization code used twice")
}

// proves checks PKCE S256 (RFC 7636 section 4.6).
func proves(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// refresh rotates. The newest token of the family moves it one generation on.
// The one before yields the same successor again for ten seconds: a client
// that lost the response, or sent two requests at once, goes on, and nothing
// forks. Any other token of ours was used before: somebody has a copy.
func (s *Service) refresh(ctx context.Context, client Client, text string) (Granted, error) {
	id, generation, ok := s.parseRefresh(text)
	if !ok {
		return Granted{}, refuse("invalid_grant", "refresh token is not valid")
	}
	for range 2 { // the second round is for whoever lost the race of the first
		f, err := s.opt.Store.Family(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return Granted{}, refuse("invalid_grant", "refresh token is not valid")
		}
		if err != nil {
			return Granted{}, unavailable(err)
		}
		now := s.opt.Now()
		if f.Client != client.ID || f.Revoked || !now.Before(f.Expires) {
			return Granted{}, refuse("invalid_grant", "refresh token is not valid")
		}
		p, err := s.person(ctx, f.Subject)
		if err != nil {
			return Granted{}, err
		}
		switch {
		case generation == f.Generation-1 && now.Sub(f.Rotated) <= healWindow:
			return s.grant(ctx, f, p)
		case generation != f.Generation:
			if _, err := s.endFamily(ctx, f.ID); err != nil {
				return Granted{}, err
			}
			return Granted{}, s.theft(ctx, f.Subject, f.Client, "refresh token used twice")
		}
		won, err := s.opt.Store.RotateFamily(ctx, id, generation, now, now.Add(idleFamilyLife))
		if err != nil {
			return Granted{}, unavailable(err)
		}
		if won {
			f.Generation++
			return s.grant(ctx, f, p)
		}
	}
	return Granted{}, refuse("invalid_grant", "refresh token is not valid")
}

func (s *Service) theft(ctx context.Context, subject, client, what string) error {
	err := s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassAuthentication, Action: "token.theft", Outcome: audit.Refused, Control: "authn.jwt",
		Code: "reuse", Subject: subject, Actor: "client:" + client, Detail: map[string]string{"error": what},
	})
	if err != nil {
		return err
	}
	return refuse("invalid_grant", "token was used before; everything issued with it is void")
}

// person returns the facts of a subject that still exists.
func (s *Service) person(ctx context.Context, subject string) (rampart.Principal, error) {
	p, err := s.opt.Directory.Facts(ctx, subject)
	if err != nil && rampart.KindOf(err) != rampart.Unavailable {
		return rampart.Principal{}, refuse("invalid_grant", "the account is gone")
	}
	return p, err
}

// grant mints an access token of the family and derives its newest refresh
// token.
func (s *Service) grant(ctx context.Context, f Family, p rampart.Principal) (Granted, error) {
	now := s.opt.Now()
	p.Client, p.Session = f.Client, f.ID
	iat, err := s.revoked.issuedAt(p, f.AuthTime, now)
	if err != nil {
		return Granted{}, refuse("invalid_grant", "the login was revoked")
	}
	p.AuthTime = f.AuthTime
	claims := jwt.EdgeFor(p)
	claims.Issuer, claims.Audience, claims.ID = s.opt.Issuer, s.opt.Issuer, random(16)
	claims.IssuedAt, claims.Expires = iat.Unix(), now.Add(edgeLife).Unix()
	text, err := s.opt.Edge.SignEdge(claims)
	if err != nil {
		return Granted{}, err
	}
	if err := s.record(ctx, "token.grant", p.Subject, f.Client); err != nil {
		return Granted{}, err
	}
	return Granted{AccessToken: text, TokenType: "Bearer", ExpiresIn: int(edgeLife / time.Second), RefreshToken: s.refreshToken(f.ID, f.Generation)}, nil
}

func (s *Service) record(ctx context.Context, action, subject, client string) error {
	return s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassAuthentication, Action: action, Outcome: audit.Allowed, Control: "authn.jwt", Subject: subject, Actor: "client:" + client,
	})
}

// RevokeToken serves RFC 7009 for a client's own token. What is no token of
// the client's is no error, and the caller at peer ("ip:port") is not told; but
// it may be a guess, and is on record.
func (s *Service) RevokeToken(ctx context.Context, form url.Values, peer string) error {
	client, err := s.client(ctx, form.Get("client_id"))
	if err != nil {
		return err
	}
	text := form.Get("token")
	if id, _, ok := s.parseRefresh(text); ok {
		f, err := s.opt.Store.Family(ctx, id)
		if errors.Is(err, ErrNotFound) || err == nil && f.Client != client.ID {
			return s.notTheirs(ctx, client.ID, peer)
		}
		if err != nil {
			return unavailable(err)
		}
		_, err = s.endFamily(ctx, id)
		return s.ended(ctx, f.Subject, client.ID, err)
	}
	claims, err := s.edge.Verify(text)
	if err != nil || claims.Client != client.ID {
		return s.notTheirs(ctx, client.ID, peer)
	}
	_, err = s.revoke(ctx, "jti", claims.ID)
	return s.ended(ctx, claims.Subject, client.ID, err)
}

func (s *Service) notTheirs(ctx context.Context, client, peer string) error {
	return s.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassAuthentication, Action: "token.revoke", Outcome: audit.Refused, Control: "authn.jwt",
		Code: "unknown_token", Resource: "client:" + client, Peer: peer, Detail: map[string]string{"error": "no token of this client"},
	})
}

func (s *Service) ended(ctx context.Context, subject, client string, err error) error {
	if err != nil {
		return err
	}
	return s.record(ctx, "token.revoke", subject, client)
}

// Metadata returns the issuer's metadata (RFC 8414). It lists what is on.
func (s *Service) Metadata() map[string]any {
	base := s.opt.Issuer
	return map[string]any{
		"issuer":                                         base,
		"authorization_endpoint":                         base + "oauth2/authorize",
		"token_endpoint":                                 base + "oauth2/token",
		"revocation_endpoint":                            base + "oauth2/revoke",
		"jwks_uri":                                       base + "oauth2/jwks",
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          []string{"none"},
		"revocation_endpoint_auth_methods_supported":     []string{"none"},
		"authorization_response_iss_parameter_supported": true,
	}
}
