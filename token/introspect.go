package token

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/jws"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Introspect says what a token is good for (RFC 7662): the token's own claims,
// word for word but for a scope that its client has lost a part of, if it is
// active for whoever asks, and nothing else if not.
//
// A client must prove itself, and sees what was issued to it. A service asks
// with its SVID and sees internal tokens that are for it, and clients' tokens
// if the file hands it such.
func (s *Service) Introspect(ctx context.Context, r Request) (map[string]any, error) {
	look, err := s.viewer(ctx, r)
	if err != nil {
		return nil, err
	}
	text := r.Form.Get("token")
	said, err := look(text)
	if k := rampart.KindOf(err); err != nil && (k == rampart.Unavailable || k == rampart.Internal) {
		return nil, err
	}
	if err != nil {
		return map[string]any{"active": false}, nil
	}
	answer, err := claimsOf(text)
	if err != nil {
		return nil, err
	}
	maps.Copy(answer, said)
	answer["active"] = true
	return answer, nil
}

// viewer returns how whoever asks may look at a token. Looking returns what is
// to be said beside the token's claims or in their place, or an error for a
// token that is not active or not theirs to see.
func (s *Service) viewer(ctx context.Context, r Request) (look func(text string) (map[string]any, error), err error) {
	c := r.Caller
	if c != nil && r.Form.Get("client_id") == "" && r.Form.Get("client_assertion") == "" {
		if err := once(r.Form); err != nil {
			return nil, err
		}
		if s.revoked.svid(c.ID, c.Issued) {
			return nil, refuseClient("%s is disabled: its certificate was revoked", c.Name)
		}
		return func(text string) (map[string]any, error) { return s.lookAsService(ctx, *c, text) }, nil
	}
	client, err := s.authenticate(ctx, r)
	if err != nil {
		return nil, err
	}
	if client.public() {
		return nil, refuseClient("introspection takes a client that proves itself")
	}
	return func(text string) (map[string]any, error) { return s.lookAsClient(ctx, client.ID, text) }, nil
}

func (s *Service) lookAsClient(ctx context.Context, client, text string) (map[string]any, error) {
	claims, err := s.edge.VerifySubject(text)
	if err != nil {
		return nil, err
	}
	if client != "" && claims.Client != client {
		return nil, refuse("invalid_grant", "the token was issued to another client")
	}
	sub, err := s.holder(ctx, claims)
	if err != nil {
		return nil, err
	}
	said := map[string]any{"token_type": "Bearer"}
	if claims.Confirm != nil && claims.Confirm.JKT != "" {
		said["token_type"] = "DPoP"
	}
	if left := sub.Principal.Scope; !slices.Equal(left, claims.Principal().Scope) { // the client is registered for less now
		now := scope{left, slices.Contains(claims.Scope, scopeOpenID), slices.Contains(claims.Scope, scopeOffline)}
		said["scope"] = strings.Join(now.claim(), " ")
	}
	return said, nil
}

func (s *Service) lookAsService(ctx context.Context, c Caller, text string) (map[string]any, error) {
	v, ok := s.presented[c.ID]
	if !ok {
		return nil, refuse("invalid_grant", "%s takes no tokens", c.Name)
	}
	claims, err := v.VerifySubject(text)
	if err != nil {
		if s.file.Load().external[c.Name] {
			return s.lookAsClient(ctx, "", text)
		}
		return nil, err
	}
	sub := internalSubject(claims)
	if _, err = s.revoked.issuedAt(sub.Principal, sub.Issued, s.opt.Now()); err != nil {
		return nil, err
	}
	return map[string]any{"token_type": "Bearer"}, nil // with the certificate alone, RFC 8705 section 3
}

// claimsOf decodes the claims of a verified token.
func claimsOf(text string) (map[string]any, error) {
	parts, err := jws.Split(text, maxValue)
	if err != nil {
		return nil, err
	}
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(parts.Payload, &raw); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(raw)+2)
	for name, value := range raw {
		out[name] = value
	}
	return out, nil
}

// RevokeToken serves RFC 7009 for a client's own token. What is no token of
// the client's is no error, and the caller is not told; but it may be a guess,
// and is on record.
func (s *Service) RevokeToken(ctx context.Context, r Request) error {
	client, err := s.authenticate(ctx, r)
	if err != nil {
		return err
	}
	text := r.Form.Get("token")
	if id, _, ok := s.parseRefresh(text); ok {
		f, err := s.opt.Store.Family(ctx, id)
		if errors.Is(err, ErrNotFound) || err == nil && f.Client != client.ID {
			return s.notTheirs(ctx, client.ID, r.Peer)
		}
		if err != nil {
			return unavailable(err)
		}
		_, err = s.endFamily(ctx, id)
		return s.ended(ctx, f.Subject, client.ID, err)
	}
	var claims jwt.EdgeClaims
	if claims, err = s.edge.VerifySubject(text); err != nil || claims.Client != client.ID {
		return s.notTheirs(ctx, client.ID, r.Peer)
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
	return s.record(ctx, "token.revoke", subject, client, nil)
}
