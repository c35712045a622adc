package gateway

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
)

// maxProofs bounds the proofs that are remembered, each for two minutes.
const maxProofs = 200_000

// dpopChallenge says what a proof must be signed with (RFC 9449, section 7.1).
const dpopChallenge = `DPoP algs="ES256 EdDSA Ed25519", error="`

// possession checks that a caller holds the key that its token is bound to (RFC
// 9449). Nonces and the memory of proofs are those of this process.
type possession struct {
	link    *planelink.Link
	now     func() time.Time
	nonces  *jwt.Nonces
	proofs  *jwt.DPoPProof
	replays *jwt.Replays
}

func newPossession(opt Options) (*possession, error) {
	key := make([]byte, 32)
	rand.Read(key)
	nonces, err := jwt.NewNonces(key)
	if err != nil {
		return nil, err
	}
	return &possession{
		link: opt.Link, now: opt.Now, nonces: nonces,
		proofs:  jwt.NewDPoPProof(jwt.DPoPOptions{Nonces: nonces, Now: opt.Now}),
		replays: jwt.NewReplays(maxProofs),
	}, nil
}

// claims verifies a token with the proof of this very request. Whether the proof
// came before is asked last, of tokens that are good, so that strangers cannot
// fill the memory.
func (p *possession) claims(c *call, v *jwt.EdgeCache, token string) (jwt.EdgeClaims, error) {
	c.w.Header().Set("Dpop-Nonce", p.nonces.Nonce(p.now()))
	proof, err := p.proved(c, token)
	if err != nil {
		return jwt.EdgeClaims{}, err
	}
	claims, err := v.VerifyBound(token, proof.Confirmation())
	if err != nil {
		return jwt.EdgeClaims{}, challenged(err, "invalid_token")
	}
	if err := p.replays.Use(proof, p.now()); err != nil {
		return jwt.EdgeClaims{}, challenged(err, "invalid_dpop_proof")
	}
	return claims, nil
}

func (p *possession) proved(c *call, token string) (jwt.DPoPClaims, error) {
	proofs := c.r.Header.Values("Dpop")
	if len(proofs) != 1 {
		return jwt.DPoPClaims{}, challenged(rampart.Errorf(rampart.Unauthenticated, "authn.dpop", "one DPoP proof is required"), "invalid_dpop_proof")
	}
	claims, err := p.proofs.Verify(proofs[0], jwt.DPoPRequest{Method: c.r.Method, URL: p.address(c), AccessToken: token})
	switch {
	case jwt.Rule(err) == "nonce":
		return claims, challenged(err, "use_dpop_nonce")
	case err != nil:
		return claims, challenged(err, "invalid_dpop_proof")
	}
	return claims, nil
}

// address is the request's URL as the outside knows it: the issuer is the edge,
// and the path has the one reading that all stages share.
func (p *possession) address(c *call) string {
	path := url.URL{Path: c.path}
	return strings.TrimSuffix(p.link.State().Keys.Issuer, "/") + path.EscapedPath()
}

// challenged adds what the client needs to do better.
func challenged(err error, code string) error {
	if problem.Status(err) != http.StatusUnauthorized {
		return err
	}
	return problem.With(err, problem.Details{Challenge: dpopChallenge + code + `"`})
}
