package jwt_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
)

// TestIncompleteOptionsPanic: a verifier that would check less than it says
// does not come into being.
func TestIncompleteOptionsPanic(t *testing.T) {
	k := newIssuer(t)
	foreign := k.foreign()
	without := func(change func(*jwt.ForeignOptions)) jwt.ForeignOptions {
		opt := foreign
		change(&opt)
		return opt
	}
	for name, build := range map[string]func(){
		"internal without issuer": func() { jwt.NewInternal(jwt.InternalOptions{Keys: k.keys, Audience: orders}) },
		"edge without audience":   func() { jwt.NewEdge(jwt.EdgeOptions{Keys: k.keys, Issuer: issuer}) },
		"external without keys":   func() { jwt.NewExternal(without(func(o *jwt.ForeignOptions) { o.Keys = nil })) },
		"ID token without issuer": func() { jwt.NewIDToken(without(func(o *jwt.ForeignOptions) { o.Issuer = "" })) },
		"logout without audience": func() { jwt.NewLogoutToken(without(func(o *jwt.ForeignOptions) { o.Audience = "" })) },
		"external without algs":   func() { jwt.NewExternal(without(func(o *jwt.ForeignOptions) { o.Algorithms = nil })) },
		"external with HS256": func() {
			jwt.NewExternal(without(func(o *jwt.ForeignOptions) { o.Algorithms = []jwt.Algorithm{"HS256"} }))
		},
		"external with none": func() {
			jwt.NewExternal(without(func(o *jwt.ForeignOptions) { o.Algorithms = []jwt.Algorithm{"none"} }))
		},
		"assertions for nobody":     func() { jwt.NewClientAssertion(jwt.ClientAssertionOptions{}) },
		"cache of nothing":          func() { jwt.NewInternalCache(nil, 1) },
		"edge cache of nothing":     func() { jwt.NewEdgeCache(nil, 1) },
		"cache without room":        func() { jwt.NewEdgeCache(k.edgeVerifier(), 0) },
		"replays without room":      func() { jwt.NewReplays(1) },
		"ring without a generator":  func() { jwt.NewRing(jwt.RingOptions{MaxLife: time.Minute}, nil, noon) },
		"ring without a token life": func() { jwt.NewRing(jwt.RingOptions{Generate: jwt.GenerateEdge}, nil, noon) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("was built")
				}
			}()
			build()
		})
	}
}

// TestClocksRunByThemselves: without a clock of the test, tokens of noon in
// some other year have expired.
func TestClocksRunByThemselves(t *testing.T) {
	k, ctx := newIssuer(t), context.Background()
	foreign := k.foreign()
	foreign.Now = nil
	keys := func(string) (*jwt.KeySet, error) { return k.set, nil }
	_, err := jwt.NewInternal(jwt.InternalOptions{Keys: k.keys, Issuer: issuer, Audience: orders}).Verify(k.forge(k.header(), claims()), peer)
	refused(t, err, "exp")
	_, err = jwt.NewExternal(foreign).Verify(ctx, k.forgeEC(k.head("at+jwt"), externalBody()))
	refused(t, err, "exp")
	_, err = jwt.NewClientAssertion(jwt.ClientAssertionOptions{Audiences: []string{issuer}}).Verify(k.forgeEC(k.head("JWT"), assertionBody()), keys)
	refusedBy(t, err, "exp", "token.client_auth")
	_, err = jwt.NewDPoPProof(jwt.DPoPOptions{}).Verify(k.forgeEC(k.dpopHead(), dpopBody()), jwt.DPoPRequest{Method: "GET", URL: resource})
	refusedBy(t, err, "iat", "authn.dpop")
}

func TestAudienceOnTheWire(t *testing.T) {
	for text, want := range map[string]bool{`"a"`: true, `["a","b"]`: true, `["a"]`: false, `[]`: false, `1`: false, `null`: false} {
		var a jwt.Audience
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			if want {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if back, err := json.Marshal(a); err != nil || (string(back) == text) != want {
			t.Errorf("%s is written as %s, error %v", text, back, err)
		}
	}
}
