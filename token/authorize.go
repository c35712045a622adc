package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart/spec"
)

const (
	maxNonce   = 512            // bytes
	freshLogin = time.Minute    // a login that a client just forced counts as new for so long
	maxMaxAge  = 24 * time.Hour // a greater max_age is taken for this
)

// Authorization is a client's request to act for a person (RFC 6749 section
// 4.1.1, OpenID Connect Core section 3.1.2.1) whose client and redirect have
// been verified.
type Authorization struct {
	Client   string
	Redirect string
	Silent   bool // prompt=none: answer at once, with an error if the person must do anything

	scope     scope
	challenge string
	jkt       string // of the DPoP key that alone may redeem the code
	state     string
	nonce     string
	again     bool          // the person must log in again
	maxAge    time.Duration // since the newest proof; 0: any
	acr       string        // assurance wanted; "": any
	problem   flaw          // to say to the client; zero: none
}

// flaw is what is wrong with a request, in OAuth's word for it and in ours.
type flaw struct{ code, why string }

// ParseAuthorization verifies client and redirect, so that everything else
// that is wrong can safely be said to the client. An error here is for the
// person alone: nobody is redirected to an unverified address (RFC 9700 §4.11).
func (s *Service) ParseAuthorization(ctx context.Context, q url.Values) (Authorization, error) {
	if err := once(q); err != nil {
		return Authorization{}, err
	}
	client, err := s.client(ctx, q.Get("client_id"))
	if err != nil {
		return Authorization{}, err
	}
	redirect := q.Get("redirect_uri")
	if !slices.ContainsFunc(client.Redirects, func(want string) bool { return sameRedirect(want, redirect) }) {
		return Authorization{}, refuse("invalid_request", "redirect_uri is not registered for this client")
	}
	a := Authorization{
		Client: client.ID, Redirect: redirect, challenge: q.Get("code_challenge"), jkt: q.Get("dpop_jkt"), state: q.Get("state"), nonce: q.Get("nonce"),
	}
	a.problem = s.problem(client, q)
	a.askPerson(q)
	if a.scope, err = ask(client, q.Get("scope")); err != nil && a.problem == (flaw{}) {
		a.problem = flaw{"invalid_scope", "scope names what is unknown or not registered for this client"}
	}
	return a, nil
}

// problem returns what is wrong with a request by a verified client.
func (s *Service) problem(client Client, q url.Values) flaw {
	switch {
	case !client.may("authorization_code"):
		return flaw{"unauthorized_client", "the client is not registered for the code flow"}
	case q.Get("response_type") != "code":
		return flaw{"unsupported_response_type", "response_type must be code"}
	case q.Get("request") != "":
		return flaw{"request_not_supported", "request objects are not taken"}
	case q.Get("request_uri") != "":
		return flaw{"request_uri_not_supported", "request_uri is not taken"} // it would have to be fetched
	case q.Get("resource") != "" && q.Get("resource") != s.opt.Issuer:
		return flaw{"invalid_target", "resource must be the issuer, or be left out"}
	case q.Get("response_mode") != "" && q.Get("response_mode") != "query":
		return flaw{"invalid_request", "response_mode must be query"}
	case q.Get("code_challenge_method") != "S256" || !isHash(q.Get("code_challenge")):
		return flaw{"invalid_request", "PKCE is required: code_challenge with code_challenge_method S256"} // plain is no PKCE
	case q.Get("dpop_jkt") != "" && !isHash(q.Get("dpop_jkt")):
		return flaw{"invalid_request", "dpop_jkt must be a SHA-256 thumbprint in base64url"}
	case len(q.Get("nonce")) > maxNonce:
		return flaw{"invalid_request", "nonce is too long"}
	}
	return flaw{}
}

// isHash reports whether text is SHA-256 in unpadded base64url.
func isHash(text string) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && len(raw) == sha256.Size
}

// askPerson reads what the client wants of the person: prompt, max_age and
// acr_values. A prompt for consent asks for nothing here: who registered the
// client has consented.
func (a *Authorization) askPerson(q url.Values) {
	for _, p := range strings.Fields(q.Get("prompt")) {
		switch p {
		case "none":
			a.Silent = true
		case "login", "select_account":
			a.again = true
		case "consent":
		default:
			a.problem = flaw{"invalid_request", "prompt is made of none, login, select_account and consent"}
		}
	}
	if a.Silent && a.again {
		a.problem = flaw{"invalid_request", "prompt=none goes with no other prompt"}
	}
	if text := q.Get("max_age"); text != "" {
		seconds, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			a.problem = flaw{"invalid_request", "max_age must be a number of seconds"}
		}
		a.maxAge = min(time.Duration(seconds)*time.Second, maxMaxAge)
		a.again = a.again || seconds == 0
	}
	for _, acr := range strings.Fields(q.Get("acr_values")) {
		if spec.AssuranceMeets(acr, "aal1") { // the first that is known is the one preferred
			a.acr = acr
			return
		}
	}
}

// StepUp is what a person must prove before a client's request is answered.
type StepUp struct {
	ACR    string        // at least; "": any
	MaxAge time.Duration // since the newest proof; 0: any
}

// Wants reports what the request asks of the signed-in person beyond the login
// there is.
func (s *Service) Wants(a Authorization, who Subject) (StepUp, bool) {
	p, up := who.Principal, StepUp{ACR: a.acr, MaxAge: a.maxAge}
	if a.again {
		up.MaxAge = freshLogin
		return up, true
	}
	stale := a.maxAge > 0 && s.opt.Now().Sub(p.AuthTime) > a.maxAge
	return up, stale || !spec.AssuranceMeets(p.ACR, a.acr)
}

// Again is the request to come back with from a login: what it was, but that a
// login of the last minute is new enough. Else the person would never be done.
func Again(q url.Values) url.Values {
	out := url.Values{}
	for name, values := range q {
		out[name] = slices.Clone(values)
	}
	out.Del("prompt")
	seconds, err := strconv.ParseUint(q.Get("max_age"), 10, 31)
	forced := slices.ContainsFunc(strings.Fields(q.Get("prompt")), func(p string) bool { return p == "login" || p == "select_account" })
	if forced || q.Get("max_age") != "" && err == nil && time.Duration(seconds)*time.Second < freshLogin {
		out.Set("max_age", strconv.Itoa(int(freshLogin/time.Second)))
	}
	return out
}

// Refuse answers the request with an error: the address to redirect to.
func (s *Service) Refuse(a Authorization, code string) (string, error) {
	if a.problem != (flaw{}) {
		return s.back(a, a.problem)
	}
	f := flaw{code: code}
	if code == "login_required" {
		f.why = "the person must sign in or prove more, which prompt=none forbids"
	}
	return s.back(a, f)
}

// back tells the client what is wrong (RFC 6749 section 4.1.2.1).
func (s *Service) back(a Authorization, f flaw) (string, error) {
	q := url.Values{"error": {f.code}}
	if f.why != "" {
		q.Set("error_description", f.why)
	}
	return s.answer(a, q)
}

// Authorize answers the request for a signed-in person: it returns the address
// to redirect the browser to, with a code or an error, and the issuer (RFC 9207).
func (s *Service) Authorize(ctx context.Context, a Authorization, who Subject) (string, error) {
	if a.problem != (flaw{}) {
		return s.back(a, a.problem)
	}
	p := who.Principal
	code, now := "rac_"+random(32), s.opt.Now()
	row := Code{
		Hash: s.sum(code), Client: a.Client, Redirect: a.Redirect, Challenge: a.challenge, JKT: a.jkt,
		Subject: p.Subject, SID: p.Session, Issued: who.Issued, AuthTime: p.AuthTime, ACR: p.ACR, AMR: p.AMR,
		Scope: a.scope.permissions, OpenID: a.scope.openid, Offline: a.scope.offline, Nonce: a.nonce, Expires: now.Add(codeLife),
	}
	if err := s.opt.Store.PutCode(ctx, row); err != nil {
		return "", unavailable(err)
	}
	if err := s.record(ctx, "token.authorize", p.Subject, a.Client, nil); err != nil {
		return "", err
	}
	return s.answer(a, url.Values{"code": {code}})
}

// answer adds parameters, state and issuer to the client's address.
func (s *Service) answer(a Authorization, more url.Values) (string, error) {
	u, err := url.Parse(a.Redirect)
	if err != nil {
		return "", refuse("invalid_request", "redirect_uri does not parse")
	}
	q := u.Query()
	q.Set("iss", s.opt.Issuer)
	maps.Copy(q, more)
	if a.state != "" {
		q.Set("state", a.state)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}
