package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/jws"
)

// How long a provider's metadata counts. A provider that does not answer keeps
// what it last said for a day, so that its short outage is not ours; one that
// answers wrongly does not, and neither is asked more often than cooldown.
const (
	metadataFresh = time.Hour
	metadataStale = 24 * time.Hour
	cooldown      = 10 * time.Second
	maxListed     = 64 // entries of a list in the metadata
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

// provider returns the metadata, fetched if need be by one caller for all.
func (rp *RelyingParty) provider(ctx context.Context) (*provider, error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	now := rp.opt.Now()
	age := metadataStale
	if rp.known != nil {
		age = now.Sub(rp.known.fetched)
	}
	if age < metadataFresh {
		return rp.known, nil
	}
	if now.Sub(rp.tried) >= cooldown {
		rp.tried = now
		p, err := rp.discover(context.WithoutCancel(ctx)) // for all who wait: nobody breaks it off by leaving
		if err == nil {
			rp.known = p
			return p, nil
		}
		if _, wrong := errors.AsType[*broken](err); wrong {
			rp.known = nil
		}
		if rp.known == nil {
			return nil, err
		}
	}
	if rp.known == nil || age >= metadataStale {
		return nil, unavailable("provider's configuration is not to be had", nil)
	}
	return rp.known, nil
}

// discover fetches the metadata. Keys that are known stay with the address of
// their set, so that renewing the one does not ask for the other. rp.mu is held.
func (rp *RelyingParty) discover(ctx context.Context) (*provider, error) {
	doc, err := rp.get(ctx, strings.TrimSuffix(rp.opt.Issuer, "/")+"/.well-known/openid-configuration", "")
	if errors.Is(err, errTooLarge) {
		return nil, because("discovery", "provider's configuration is not acceptable", err)
	}
	if err != nil {
		return nil, unavailable("provider's configuration is not to be had", err)
	}
	m, err := parseMetadata(doc, rp.opt.Issuer)
	if err != nil {
		return nil, because("discovery", "provider's configuration is not acceptable", err)
	}
	p := &provider{metadata: m, fetched: rp.opt.Now()}
	if rp.known != nil && rp.known.Keys == m.Keys {
		p.verifiers = rp.known.verifiers
		return p, nil
	}
	p.verifiers, err = rp.verifiersFor(m.Keys)
	return p, err
}
