package jwt_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/rampart-security/rampart/authn/jwt"
)

// BenchmarkVerifyCold is everything that is asked of a token seen for the first
// time. Compare with BenchmarkBareEd25519: the check may cost half as much
// again as the signature alone.
func BenchmarkVerifyCold(b *testing.B) {
	k := newIssuer(b)
	token, err := k.internal.SignInternal(validClaims())
	ok(b, err)
	v := k.verifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token, peer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareEd25519(b *testing.B) {
	k := newIssuer(b)
	token, err := k.internal.SignInternal(validClaims())
	ok(b, err)
	sig := ed25519.Sign(k.ed, []byte(token))
	public := k.ed.Public().(ed25519.PublicKey)
	b.ReportAllocs()
	for b.Loop() {
		if !ed25519.Verify(public, []byte(token), sig) {
			b.Fatal("not valid")
		}
	}
}

// BenchmarkVerifyCached is a token seen before: time, binding and revocation.
func BenchmarkVerifyCached(b *testing.B) {
	k := newIssuer(b)
	token, err := k.internal.SignInternal(validClaims())
	ok(b, err)
	revoked := map[string]bool{"other": true}
	v := jwt.NewInternalCache(jwt.NewInternal(jwt.InternalOptions{
		Keys: k.keys, Issuer: issuer, Audience: orders, Now: clock,
		Revoked: func(c jwt.InternalClaims) bool { return revoked[c.Session] || revoked[c.ID] || revoked[c.Subject] },
	}), 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token, peer); err != nil {
			b.Fatal(err)
		}
	}
}

// TestEdgeCachedAllocates: the same of a client's token, whose key is not compared by
// its numbers.
func TestEdgeCachedAllocates(t *testing.T) {
	k := newIssuer(t)
	token, err := k.edge.SignEdge(edgeClaims())
	ok(t, err)
	v := jwt.NewEdgeCache(k.edgeVerifier(), 10)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// TestCachedAllocates: a token seen before is looked up without a copy of it.
func TestCachedAllocates(t *testing.T) {
	k := newIssuer(t)
	token, err := k.internal.SignInternal(validClaims())
	ok(t, err)
	v := jwt.NewInternalCache(jwt.NewInternal(jwt.InternalOptions{Keys: k.keys, Issuer: issuer, Audience: orders, Now: clock}), 10)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(token, peer); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations, want 2: the text of the peer's fingerprint", n)
	}
}

func BenchmarkVerifyColdES256(b *testing.B) {
	k := newIssuer(b)
	token, err := k.edge.SignEdge(edgeClaims())
	ok(b, err)
	v := k.edgeVerifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareES256(b *testing.B) {
	k := newIssuer(b)
	sum := sha256.Sum256([]byte("a token"))
	sig, err := ecdsa.SignASN1(rand.Reader, k.ec, sum[:])
	ok(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.VerifyASN1(&k.ec.PublicKey, sum[:], sig) {
			b.Fatal("not valid")
		}
	}
}

func BenchmarkVerifyProof(b *testing.B) {
	k := newIssuer(b)
	proof := k.forgeEC(k.dpopHead(), dpopBody())
	v := jwt.NewDPoPProof(jwt.DPoPOptions{Now: clock})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(proof, jwt.DPoPRequest{Method: "GET", URL: resource}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignInternal(b *testing.B) {
	k := newIssuer(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.internal.SignInternal(validClaims()); err != nil {
			b.Fatal(err)
		}
	}
}
