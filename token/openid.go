package token

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/authn/jwt"
)

// idToken says to a client who logged in, when and how (OpenID Connect Core
// section 2). Its sid is the browser session's, so that a client can tell which
// of its logins a logout ends.
func (s *Service) idToken(client Client, f Family, access, nonce string) (string, error) {
	signer, now := s.idSigner(client), s.opt.Now()
	return signer.SignIDToken(jwt.IDClaims{
		Issuer: s.opt.Issuer, Subject: f.Subject, Audience: jwt.Audience{client.ID}, Nonce: nonce, AtHash: jwt.AtHash(signer.Algorithm(), access),
		IssuedAt: now.Unix(), Expires: now.Add(idLife).Unix(), AuthTime: f.AuthTime.Unix(), ACR: f.ACR, AMR: f.AMR, Session: f.SID,
	})
}

// UserInfo are the claims of the userinfo endpoint (OpenID Connect Core section
// 5.3): who the person is, and no more.
type UserInfo struct {
	Subject string `json:"sub"`
	Name    string `json:"name"`
	ACR     string `json:"acr,omitzero"`
}

// UserInfo serves the userinfo endpoint to a token with the scope openid.
func (s *Service) UserInfo(ctx context.Context, r Presented) (UserInfo, error) {
	claims, err := s.bearer(ctx, r)
	if err != nil {
		return UserInfo{}, err
	}
	if !slices.Contains(claims.Scope, scopeOpenID) {
		return UserInfo{}, refuseBy("authn.jwt", "insufficient_scope", "the token lacks the scope openid")
	}
	sub, err := s.holder(ctx, claims)
	if err != nil {
		return UserInfo{}, err
	}
	return UserInfo{Subject: sub.Principal.Subject, Name: strings.TrimPrefix(sub.Principal.Subject, "user:"), ACR: sub.Principal.ACR}, nil
}

// Logout is a client's wish to end a person's session (OpenID Connect
// RP-Initiated Logout section 2).
type Logout struct {
	Client   string // "" if none is named
	Redirect string // where to go then, registered for Client; "": nowhere
	Session  string // sid of the ID token that came as hint; "" if none did
}

// ParseLogout verifies what a logout request says. The session to end is the
// browser's own, whatever the hint says: the hint names the client alone, and
// may have expired.
func (s *Service) ParseLogout(ctx context.Context, client, hint, redirect string) (Logout, error) {
	out := Logout{Client: client}
	if hint != "" {
		claims, err := s.hints.Verify(hint)
		if err != nil {
			return Logout{}, err
		}
		if client != "" && claims.Audience[0] != client {
			return Logout{}, refuse("invalid_request", "id_token_hint is another client's")
		}
		out.Client, out.Session = claims.Audience[0], claims.Session
	}
	if redirect == "" {
		return out, nil
	}
	c, err := s.client(ctx, out.Client)
	if err != nil {
		return Logout{}, err
	}
	if !slices.ContainsFunc(c.Redirects, func(want string) bool { return sameRedirect(want, redirect) }) {
		return Logout{}, refuse("invalid_request", "post_logout_redirect_uri is not registered for this client")
	}
	out.Redirect = redirect
	return out, nil
}

// Metadata returns the issuer's metadata (RFC 8414, OpenID Connect Discovery).
// It lists what is on for whoever comes through the gateway.
func (s *Service) Metadata() map[string]any {
	base, proofs := s.opt.Issuer, []string{"ES256", "EdDSA", "Ed25519"}
	assertions := []string{"ES256", "EdDSA", "Ed25519", "PS256", "RS256"}
	return map[string]any{
		"issuer":                                                   base,
		"authorization_endpoint":                                   base + "oauth2/authorize",
		"token_endpoint":                                           base + "oauth2/token",
		"introspection_endpoint":                                   base + "oauth2/introspect",
		"revocation_endpoint":                                      base + "oauth2/revoke",
		"userinfo_endpoint":                                        base + "oauth2/userinfo",
		"end_session_endpoint":                                     base + "oauth2/logout",
		"jwks_uri":                                                 base + "oauth2/jwks",
		"response_types_supported":                                 []string{"code"},
		"response_modes_supported":                                 []string{"query"},
		"grant_types_supported":                                    []string{"authorization_code", "refresh_token", "client_credentials"},
		"code_challenge_methods_supported":                         []string{"S256"},
		"scopes_supported":                                         s.scopes(),
		"token_endpoint_auth_methods_supported":                    []string{authNone, authJWT},
		"token_endpoint_auth_signing_alg_values_supported":         assertions,
		"revocation_endpoint_auth_methods_supported":               []string{authNone, authJWT},
		"revocation_endpoint_auth_signing_alg_values_supported":    assertions,
		"introspection_endpoint_auth_methods_supported":            []string{authJWT},
		"introspection_endpoint_auth_signing_alg_values_supported": assertions,
		"dpop_signing_alg_values_supported":                        proofs,
		"subject_types_supported":                                  []string{"public"},
		"id_token_signing_alg_values_supported":                    []string{"RS256", "ES256"},
		"claims_supported":                                         []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "acr", "amr", "sid", "name"},
		"acr_values_supported":                                     []string{"aal1", "aal2"},
		"prompt_values_supported":                                  []string{"none", "login", "select_account", "consent"},
		"authorization_response_iss_parameter_supported":           true,
		"claims_parameter_supported":                               false,
		"request_parameter_supported":                              false,
		"request_uri_parameter_supported":                          false,
	}
}

// Resource returns the metadata of the APIs behind the edge (RFC 9728).
func (s *Service) Resource() map[string]any {
	return map[string]any{
		"resource":                          s.opt.Issuer,
		"resource_name":                     s.system().Info.Name,
		"authorization_servers":             []string{s.opt.Issuer},
		"scopes_supported":                  s.scopes(),
		"bearer_methods_supported":          []string{"header"},
		"dpop_signing_alg_values_supported": []string{"ES256", "EdDSA", "Ed25519"},
	}
}

// scopes are the permissions that some role of the file has, and the scopes of
// the protocol.
func (s *Service) scopes() []string {
	have := map[string]bool{scopeOpenID: true, scopeOffline: true}
	for _, permissions := range s.system().Authz.Roles {
		for _, p := range permissions {
			if isPermission(p) && !strings.HasPrefix(p, "role:") {
				have[p] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(have))
}
