package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/rampart-security/rampart/authn/jwks"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
)

// verifiers judge the tokens of a provider by the keys it publishes. They live
// as long as the address of the key set stands.
type verifiers struct {
	id     *jwt.IDToken
	logout *jwt.LogoutToken
}

// verifiersFor returns the verifiers for the key set at address. They fetch
// keys as tokens come: logins are rare enough to wait for it.
func (rp *RelyingParty) verifiersFor(address string) (verifiers, error) {
	keys, err := jwks.New(jwks.Options{
		Issuers: []jwks.Issuer{{Name: rp.opt.Issuer, URL: address, Algorithms: rp.opt.Algorithms}},
		HTTP:    rp.http, Log: rp.opt.Log, Now: rp.opt.Now,
	})
	if err != nil {
		return verifiers{}, err
	}
	opt := jwt.ForeignOptions{
		Keys: keys.Source(rp.opt.Issuer), Issuer: rp.opt.Issuer, Audience: rp.opt.ClientID, Algorithms: rp.opt.Algorithms, Now: rp.opt.Now,
	}
	return verifiers{jwt.NewIDToken(opt), jwt.NewLogoutToken(opt)}, nil
}

// named passes the rule of authn/jwt on that a token broke.
func named(err error) error {
	rule := jwt.Rule(err)
	if rule == "" {
		return err
	}
	return because(rule, "provider's token is not acceptable", err)
}

const (
	ticketLogout = "logout"
	logoutLife   = 15 * time.Minute // longer than any logout token may live
)

// Logout takes a logout token of the provider (OpenID Connect Back-Channel
// Logout section 2.6) and calls end with the sessions it means: those of SID,
// or of Subject where that is "". A token counts once; one whose end failed may
// come again.
func (rp *RelyingParty) Logout(ctx context.Context, token string, end func(context.Context, session.Upstream) error) error {
	p, err := rp.provider(ctx)
	if err != nil {
		return err
	}
	claims, err := p.logout.Verify(ctx, token)
	if err != nil {
		return named(err)
	}
	now, mark := rp.opt.Now(), rp.logoutMark(claims.ID)
	_, err = rp.opt.Tickets.Ticket(ctx, ticketLogout, mark, now)
	if err == nil {
		return refuse("jti", "logout token has come before")
	}
	if !errors.Is(err, ticket.ErrNotFound) {
		return unavailable("store not available", err)
	}
	if err := end(ctx, session.Upstream{Issuer: rp.opt.Issuer, Subject: claims.Subject, SID: claims.Session}); err != nil {
		return err
	}
	err = rp.opt.Tickets.PutTicket(ctx, ticketLogout, mark, nil, now, now.Add(logoutLife))
	if err != nil && !errors.Is(err, ticket.ErrExists) {
		return unavailable("store not available", err)
	}
	return nil
}

// logoutMark names the jti of a token among those of all providers.
func (rp *RelyingParty) logoutMark(jti string) ticket.Hash {
	return sha256.Sum256([]byte("rampart-oidc-logout\n" + rp.opt.Issuer + "\n" + jti))
}
