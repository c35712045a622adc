package oidc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/jws"
)

// Bounds of what is taken from claims.
const (
	maxValues      = 1024            // entries of the role claim
	maxEmail       = 254             // bytes, RFC 5321
	maxDepth       = 8               // nesting
	authTimeLeeway = 5 * time.Second // between the provider's clock and ours
)

// oldestProof is what every login asks for at least, since max_age is also
// what makes a provider say auth_time.
const oldestProof = 24 * time.Hour

// client is the OAuth client that we are at p. The way to authenticate is
// chosen from what the provider lists, never tried out: a second try would
// show the secret where it was not asked for.
func (rp *RelyingParty) client(p *provider, secret string) *oauth2.Config {
	style := oauth2.AuthStyleInHeader
	if secret == "" || p.ClientAuth != nil && !slices.Contains(p.ClientAuth, "client_secret_basic") {
		style = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: rp.opt.ClientID, ClientSecret: secret, RedirectURL: rp.opt.Redirect, Scopes: rp.opt.Scopes,
		Endpoint: oauth2.Endpoint{AuthURL: p.Authorization, TokenURL: p.Token, AuthStyle: style},
	}
}

// redeem turns a code into an identity. The provider's access token is used
// for nothing but its own userinfo, and is not kept.
func (rp *RelyingParty) redeem(ctx context.Context, p *provider, h half, code string, start Start) (Identity, error) {
	secret := ""
	if rp.opt.Secret != nil {
		var err error
		if secret, err = rp.opt.Secret(ctx); err != nil {
			return Identity{}, unavailable("client secret is not to be had", err)
		}
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, rp.http)
	tokens, err := rp.client(p, secret).Exchange(ctx, code, oauth2.VerifierOption(h.text("pkce", rp.opt.Issuer)))
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.ErrorCode == "invalid_grant" {
		return Identity{}, because("code", "provider does not take the code", errors.New(refused.ErrorCode))
	}
	if err != nil {
		return Identity{}, unavailable("provider does not answer for the code", cause(err))
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return Identity{}, refuse("id_token", "provider's answer has no ID token")
	}
	token, err := p.id.Verify(ctx, raw, h.text("nonce", rp.opt.Issuer))
	if err != nil {
		return Identity{}, named(err)
	}
	if err := token.CheckAccessToken(tokens.AccessToken); err != nil {
		return Identity{}, named(err)
	}
	c, err := claimsOf(token)
	if err != nil {
		return Identity{}, err
	}
	if err := rp.fresh(&c, start.MaxAge); err != nil {
		return Identity{}, err
	}
	if err := rp.ask(ctx, p, tokens.AccessToken, &c); err != nil {
		return Identity{}, err
	}
	return rp.identity(c), nil
}

// cause keeps the provider's texts, which may repeat what we sent, out of our
// logs.
func cause(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return errors.New("token endpoint: status " + refused.Response.Status)
	}
	return err
}

// claims is what counts of an ID token, and of userinfo.
type claims struct {
	jwt.IDClaims // of the ID token
	person
	rest map[string]jsontext.Value
}

// person is what both say.
type person struct {
	Email    string `json:"email"`
	Verified bool   `json:"email_verified"`
}

func claimsOf(token jwt.Identity) (claims, error) {
	c := claims{IDClaims: token.IDClaims}
	if err := errors.Join(token.Decode(&c.person), token.Decode(&c.rest)); err != nil {
		return claims{}, named(err)
	}
	return c, nil
}

// fresh holds the time of the proof against what was asked for: that the
// provider was asked does not mean that it obeyed (OpenID Connect Core section
// 3.1.3.7, rule 13). One that does not say counts as the oldest proof that our
// question allows.
func (rp *RelyingParty) fresh(c *claims, most time.Duration) error {
	if c.AuthTime > c.IssuedAt {
		c.AuthTime = c.IssuedAt
	}
	if most > 0 && rp.opt.Now().Sub(time.Unix(c.AuthTime, 0)) > most+authTimeLeeway {
		return refuse("auth_time", "provider did not ask the person again")
	}
	if c.AuthTime == 0 {
		c.AuthTime = c.IssuedAt - int64(oldestProof/time.Second)
	}
	return nil
}

// ask adds what the ID token lacks and the file needs from userinfo: many
// providers say e-mail and groups only there.
func (rp *RelyingParty) ask(ctx context.Context, p *provider, access string, c *claims) error {
	roles := rp.opt.RoleClaim != "" && c.rest[rp.opt.RoleClaim] == nil
	email := rp.opt.NeedEmail && c.Email == ""
	if p.UserInfo == "" || !roles && !email {
		return nil
	}
	doc, err := rp.get(ctx, p.UserInfo, access)
	if err != nil {
		return unavailable("provider's userinfo is not to be had", err)
	}
	info, err := parseUserInfo(doc)
	if err != nil {
		return err
	}
	if info.Subject != c.Subject {
		return refuse("userinfo", "userinfo is about somebody else") // OpenID Connect Core section 5.3.2
	}
	if email {
		c.Email, c.Verified = info.Email, info.Verified
	}
	if roles {
		c.rest[rp.opt.RoleClaim] = info.rest[rp.opt.RoleClaim]
	}
	return nil
}

// userInfo is an answer of the userinfo endpoint (OpenID Connect Core section
// 5.3.2). It is not signed: it counts because we asked the provider itself.
type userInfo struct {
	Subject string `json:"sub"`
	person
	rest map[string]jsontext.Value
}

func parseUserInfo(doc []byte) (userInfo, error) {
	var u userInfo
	if err := jws.Decode(doc, &u, maxDepth, false); err != nil {
		return userInfo{}, because("userinfo", "userinfo is malformed", err)
	}
	if err := jws.Decode(doc, &u.rest, maxDepth, false); err != nil {
		return userInfo{}, because("userinfo", "userinfo is malformed", err)
	}
	return u, nil
}

// identity maps what the file maps. What it does not map gives nothing.
func (rp *RelyingParty) identity(c claims) Identity {
	id := Identity{
		Upstream: session.Upstream{Issuer: rp.opt.Issuer, Subject: c.Subject, SID: c.Session},
		Roles:    rp.roles(c.rest[rp.opt.RoleClaim]), ACR: "aal1", AuthTime: time.Unix(c.AuthTime, 0),
	}
	if acr := rp.opt.ACR[c.ACR]; acr != "" {
		id.ACR = acr
	}
	if c.Verified && len(c.Email) <= maxEmail {
		id.Email = c.Email
	}
	return id
}

// roles maps the values of a claim, one string or a list of strings.
func (rp *RelyingParty) roles(claim jsontext.Value) []string {
	var out []string
	for _, v := range stringsOf(claim) {
		if role := rp.opt.Roles[v]; role != "" && !slices.Contains(out, role) {
			out = append(out, role)
		}
	}
	slices.Sort(out)
	return out
}

// Domain returns the part of a verified e-mail address after its @, in lower
// case, or "".
func (id Identity) Domain() string {
	at := strings.LastIndexByte(id.Email, '@')
	if at <= 0 {
		return ""
	}
	return strings.ToLower(id.Email[at+1:])
}

// stringsOf reads a claim that is one string or a list of strings. Anything
// else in it is no string and gives nothing.
func stringsOf(claim jsontext.Value) []string {
	switch claim.Kind() {
	case '"':
		var one string
		if json.Unmarshal(claim, &one) == nil {
			return []string{one}
		}
	case '[':
		var list []jsontext.Value
		if json.Unmarshal(claim, &list) != nil || len(list) > maxValues {
			return nil
		}
		var out []string
		for _, v := range list {
			if v.Kind() == '"' {
				out = append(out, stringsOf(v)...)
			}
		}
		return out
	}
	return nil
}
