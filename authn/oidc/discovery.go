package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/jws"
	"github.com/rampart-security/rampart/internal/problem"
)

// How long a provider's metadata counts. A provider that does not answer keeps
// what it last said for a day, so that its short outage is not ours; one that
// answers wrongly does not, and neither is asked again before cooldown is over.
const (
	metadataFresh = time.Hour
	metadataStale = 24 * time.Hour
	cooldown      = 10 * time.Second // from the end of a fetch
	patience      = 3 * time.Second  // that a login has with a fetch
	maxListed     = 64               // entries of a list in the metadata
)

// metadata is what we read of a provider's configuration (OpenID Connect
// Discovery section 3, RFC 8414 section 2, RFC 9207 section 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	Keys          string   `json:"jwks_uri"`
	Challenges    []string `json:"code_challenge_methods_supported"`
	ClientAuth    []string `json:"token_endpoint_auth_methods_supported"`
	IssInResponse bool     `json:"authorization_response_iss_parameter_supported"`
}

// parseMetadata reads a configuration document and holds it against the
// issuer that was asked: a document that names another would let one provider
// speak for another (RFC 8414 section 3.3).
func parseMetadata(doc []byte, issuer string) (metadata, error) {
	var m metadata
	if len(doc) > maxBody {
		return m, errTooLarge
	}
	if err := jws.Decode(doc, &m, 8, false); err != nil {
		return metadata{}, fmt.Errorf("document %w", err)
	}
	if m.Issuer != issuer {
		return metadata{}, errors.New("document names another issuer")
	}
	for _, e := range []struct {
		name, address string
		optional      bool
	}{
		{"authorization_endpoint", m.Authorization, false}, {"token_endpoint", m.Token, false},
		{"jwks_uri", m.Keys, false}, {"userinfo_endpoint", m.UserInfo, true},
	} {
		if !endpoint(e.address) && (e.address != "" || !e.optional) {
			return metadata{}, fmt.Errorf("%s is no https address", e.name)
		}
	}
	if len(m.Challenges) > maxListed || len(m.ClientAuth) > maxListed {
		return metadata{}, errors.New("a list is too long")
	}
	// A provider that lists methods without S256 would take the challenge for
	// a plain verifier, or ignore it. One that lists none predates RFC 7636.
	if m.Challenges != nil && !slices.Contains(m.Challenges, "S256") {
		return metadata{}, errors.New("code_challenge_methods_supported lacks S256")
	}
	return m, nil
}

// provider is a provider as we know it now.
type provider struct {
	metadata
	verifiers
	fetched time.Time
}

// flight is one fetch of the metadata, for all who wait for it.
type flight struct {
	began time.Time
	done  chan struct{} // closed at its end
	err   error         // of discover; may be read once done is closed
}

// provider returns the metadata, fetched if need be. A provider that does not
// answer is given patience from the beginning of the fetch, once for all who
// ask: they hold places that other people's logins need.
func (rp *RelyingParty) provider(ctx context.Context) (*provider, error) {
	var err error
	if f := rp.fetch(ctx); f != nil {
		err = rp.await(ctx, f)
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	now := rp.opt.Now()
	if rp.known != nil && now.Sub(rp.known.fetched) < metadataStale {
		return rp.known, nil
	}
	if _, wrong := errors.AsType[*broken](err); wrong {
		return nil, err
	}
	wait := cooldown
	if rp.flight == nil {
		wait -= now.Sub(rp.tried)
	}
	return nil, problem.With(unavailable("provider's configuration is not to be had", err), problem.Details{RetryAfter: max(wait, time.Second)})
}

// await waits for the end of a fetch and returns its error.
func (rp *RelyingParty) await(ctx context.Context, f *flight) error {
	late := time.NewTimer(patience - rp.opt.Now().Sub(f.began))
	defer late.Stop()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return errors.New("no answer yet")
	}
}

// fetch begins a fetch if one is due, or joins the one under way; nil: there is
// nothing to wait for.
func (rp *RelyingParty) fetch(ctx context.Context) *flight {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	now := rp.opt.Now()
	if rp.known != nil && now.Sub(rp.known.fetched) < metadataFresh {
		return nil
	}
	if rp.flight != nil || now.Sub(rp.tried) < cooldown {
		return rp.flight
	}
	rp.flight = &flight{began: now, done: make(chan struct{})}
	go rp.fly(context.WithoutCancel(ctx), rp.flight, rp.known) // for all who wait: nobody breaks it off by leaving
	return rp.flight
}

// fly replaces what is known, which silence leaves alone.
func (rp *RelyingParty) fly(ctx context.Context, f *flight, old *provider) {
	p, err := rp.discover(ctx, old)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if err == nil {
		rp.known = p
	}
	if _, wrong := errors.AsType[*broken](err); wrong {
		rp.known = nil
	}
	rp.flight, rp.tried, f.err = nil, rp.opt.Now(), err
	close(f.done)
}

// discover fetches the metadata. Keys that are known stay with the address of
// their set, so that renewing the one does not ask for the other.
func (rp *RelyingParty) discover(ctx context.Context, old *provider) (*provider, error) {
	doc, err := rp.get(ctx, strings.TrimSuffix(rp.opt.Issuer, "/")+"/.well-known/openid-configuration", "")
	if errors.Is(err, errTooLarge) {
		return nil, because("discovery", "provider's configuration is not acceptable", err)
	}
	if err != nil {
		return nil, err
	}
	m, err := parseMetadata(doc, rp.opt.Issuer)
	if err != nil {
		return nil, because("discovery", "provider's configuration is not acceptable", err)
	}
	p := &provider{metadata: m, fetched: rp.opt.Now()}
	if old != nil && old.Keys == m.Keys {
		p.verifiers = old.verifiers
		return p, nil
	}
	p.verifiers, err = rp.verifiersFor(m.Keys)
	return p, err
}
