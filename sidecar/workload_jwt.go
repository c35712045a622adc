package sidecar

import (
	"context"
	"net/http"
	"sync"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/workload"
)

// tokensOf mints JWT-SVIDs of the service at the control plane, which has the key,
// and verifies those of others here.
type tokensOf struct {
	s *Sidecar

	mu      sync.Mutex // guards below
	version uint64     // of the trust that sets were read from
	sets    map[string]*jwt.KeySet
}

var _ workload.Tokens = (*tokensOf)(nil)

// Sign implements workload.Tokens.
func (t *tokensOf) Sign(ctx context.Context, audience []string) (string, error) {
	if err := t.s.opt.Link.Disabled(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, workloadAsk)
	defer cancel()
	var out wire.JWTSVID
	err := t.s.opt.Link.Call(ctx, http.MethodPost, wire.PathJWTSVID, wire.JWTSVIDRequest{Audience: audience}, &out)
	return out.Token, err
}

// Verify implements workload.Tokens.
func (t *tokensOf) Verify(token, audience string) (string, map[string]any, error) {
	v := jwt.NewSVID(jwt.SVIDOptions{Keys: t.keys, Now: t.s.opt.Now})
	got, err := v.Verify(token, audience)
	if err != nil {
		return "", nil, err
	}
	all := map[string]any{}
	return got.Subject, all, got.Decode(&all)
}

// keys returns those of one trust domain; nil refuses. What is believed is the
// last trust that this plane heard of: without the control plane tokens verify
// on, as certificates do.
func (t *tokensOf) keys(domain string) *jwt.KeySet {
	trust := t.s.opt.Link.State().Trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.version != trust.Version || t.sets == nil {
		t.version, t.sets = trust.Version, map[string]*jwt.KeySet{}
		for name, text := range trust.JWT {
			if set, err := jwt.ParseSVIDKeySet(text); err == nil { // one bad set is of no use to its own domain alone
				t.sets[name] = set
			}
		}
	}
	return t.sets[domain]
}
