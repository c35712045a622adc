package sidecar

import (
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
)

// cachedTokens is how many verified tokens of each kind are remembered.
const cachedTokens = 10_000

// verifiers hold what checks tokens, made anew when the keys change.
type verifiers struct {
	now func() time.Time

	mu       sync.Mutex // guards below
	keys     wire.Keys
	audience string
	bound    *jwt.InternalCache // internal tokens, bound to the peer's certificate
	unbound  *jwt.Internal      // the same without the binding, for throw-away systems
	edge     *jwt.EdgeCache
	held     *jwt.Edge // of edge: asks for no proof of possession
}

// renew builds the verifiers for these keys unless it has them already.
func (v *verifiers) renew(keys wire.Keys, audience string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bound != nil && v.audience == audience && v.keys.Issuer == keys.Issuer && string(v.keys.Internal) == string(keys.Internal) && string(v.keys.Edge) == string(keys.Edge) {
		return nil
	}
	internal, err := jwt.ParseKeySet(keys.Internal)
	if err != nil {
		return noKeys(err)
	}
	edge, err := jwt.ParseKeySet(keys.Edge)
	if err != nil {
		return noKeys(err)
	}
	v.unbound = jwt.NewInternal(jwt.InternalOptions{Keys: func() *jwt.KeySet { return internal }, Issuer: keys.Issuer, Audience: audience, Now: v.now})
	v.bound = jwt.NewInternalCache(v.unbound, cachedTokens)
	v.held = jwt.NewEdge(jwt.EdgeOptions{Keys: func() *jwt.KeySet { return edge }, Issuer: keys.Issuer, Audience: keys.Issuer, Now: v.now})
	v.edge = jwt.NewEdgeCache(v.held, cachedTokens)
	v.keys, v.audience = keys, audience
	return nil
}

func noKeys(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: "token.exchange", Msg: "tokens cannot be checked yet", Err: err}
}

// internal checks a token that was made for audience and for the peer whose
// certificate has this fingerprint.
func (v *verifiers) internal(keys wire.Keys, audience, text string, peer [32]byte, binding bool) (jwt.InternalClaims, error) {
	if err := v.renew(keys, audience); err != nil {
		return jwt.InternalClaims{}, err
	}
	v.mu.Lock()
	bound, unbound := v.bound, v.unbound
	v.mu.Unlock()
	if !binding {
		return unbound.VerifySubject(text)
	}
	return bound.Verify(text, peer)
}

// external checks an edge token again, under the pattern per_service. Whether the
// client holds the key of a bound one the gateway has judged: the proof was for
// the request that it got.
func (v *verifiers) external(keys wire.Keys, audience, text string) (jwt.EdgeClaims, error) {
	if err := v.renew(keys, audience); err != nil {
		return jwt.EdgeClaims{}, err
	}
	v.mu.Lock()
	edge, held := v.edge, v.held
	v.mu.Unlock()
	claims, err := edge.Verify(text)
	if jwt.Rule(err) == "cnf" {
		return held.VerifySubject(text)
	}
	return claims, err
}
