package token

import (
	"context"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

// dpopControl is the control of proofs of possession (RFC 9449).
const dpopControl = "authn.dpop"

// Nonce returns the nonce that clients are to put into their next proof.
func (s *Service) Nonce() string { return s.nonces.Nonce(s.opt.Now()) }

// proved returns the key that a client's DPoP header at the token endpoint
// proves, or nothing if there is none.
func (s *Service) proved(ctx context.Context, proofs []string) (jwt.Confirmation, error) {
	return s.possession(ctx, proofs, jwt.DPoPRequest{Method: http.MethodPost, URL: s.opt.Issuer + "oauth2/token"})
}

// possession judges the proof that came with a request. Each counts once,
// whichever replica it is shown to.
func (s *Service) possession(ctx context.Context, proofs []string, r jwt.DPoPRequest) (jwt.Confirmation, error) {
	if len(proofs) == 0 {
		return jwt.Confirmation{}, nil
	}
	if len(proofs) > 1 {
		return jwt.Confirmation{}, refuseBy(dpopControl, "invalid_dpop_proof", "one DPoP header is enough")
	}
	claims, err := s.proofs.Verify(proofs[0], r)
	if jwt.Rule(err) == "nonce" {
		return jwt.Confirmation{}, &Refusal{Code: "use_dpop_nonce", Err: err}
	}
	if err != nil {
		return jwt.Confirmation{}, &Refusal{Code: "invalid_dpop_proof", Err: err}
	}
	used := refuseBy(dpopControl, "invalid_dpop_proof", "proof was used before")
	return claims.Confirmation(), s.spend(ctx, "dpop", claims.JKT+"\n"+claims.ID, claims.Expires(), used)
}

// Presented is a client's request with an access token, as it came.
type Presented struct {
	Scheme string   // of the Authorization header, as sent
	Token  string   // the rest of it
	Proofs []string // values of the DPoP header
	Method string
	URL    string // absolute
}

// bearer returns the claims of an access token that a client shows to the
// service itself. A bound one needs its proof (RFC 9449 section 7.1).
func (s *Service) bearer(ctx context.Context, r Presented) (jwt.EdgeClaims, error) {
	switch {
	case strings.EqualFold(r.Scheme, "Bearer") && len(r.Proofs) == 0:
		return s.edge.Verify(r.Token)
	case !strings.EqualFold(r.Scheme, "DPoP"):
		return jwt.EdgeClaims{}, rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "token: an access token is required")
	case len(r.Proofs) == 0:
		return jwt.EdgeClaims{}, rampart.Errorf(rampart.Unauthenticated, dpopControl, "token: a DPoP proof is required")
	}
	bound, err := s.possession(ctx, r.Proofs, jwt.DPoPRequest{Method: r.Method, URL: r.URL, AccessToken: r.Token})
	if err != nil {
		return jwt.EdgeClaims{}, err
	}
	return s.edge.VerifyBound(r.Token, bound)
}
