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

// proved returns the proof in a client's DPoP header at the token endpoint, or
// the zero one if there is none.
func (s *Service) proved(proofs []string) (jwt.DPoPClaims, error) {
	return s.possession(proofs, jwt.DPoPRequest{Method: http.MethodPost, URL: s.opt.Issuer + "oauth2/token"})
}

// possession judges the proof that came with a request, all but whether it
// came before: see spendProof.
func (s *Service) possession(proofs []string, r jwt.DPoPRequest) (jwt.DPoPClaims, error) {
	if len(proofs) == 0 {
		return jwt.DPoPClaims{}, nil
	}
	if len(proofs) > 1 {
		return jwt.DPoPClaims{}, refuseBy(dpopControl, "invalid_dpop_proof", "one DPoP header is enough")
	}
	claims, err := s.proofs.Verify(proofs[0], r)
	if jwt.Rule(err) == "nonce" {
		return jwt.DPoPClaims{}, &Refusal{Code: "use_dpop_nonce", Err: err}
	}
	if err != nil {
		return jwt.DPoPClaims{}, &Refusal{Code: "invalid_dpop_proof", Err: err}
	}
	return claims, nil
}

// spendProof lets a proof count once, whichever replica it is shown to. That
// leaves a mark in the store, so it comes last, for what is good: else any
// stranger with a key could fill the store.
func (s *Service) spendProof(ctx context.Context, proof jwt.DPoPClaims) error {
	if proof.JKT == "" {
		return nil
	}
	used := refuseBy(dpopControl, "invalid_dpop_proof", "proof was used before")
	return s.spend(ctx, "dpop", proof.JKT+"\n"+proof.ID, proof.Expires(), used)
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
	proof, err := s.possession(r.Proofs, jwt.DPoPRequest{Method: r.Method, URL: r.URL, AccessToken: r.Token})
	if err != nil {
		return jwt.EdgeClaims{}, err
	}
	claims, err := s.edge.VerifyBound(r.Token, proof.Confirmation())
	if err != nil {
		return jwt.EdgeClaims{}, err
	}
	return claims, s.spendProof(ctx, proof)
}
