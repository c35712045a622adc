package jwt_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authn/jwt"
)

const tokenLife = 5 * time.Minute

func ringOptions() jwt.RingOptions {
	return jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: tokenLife}
}

func newRing(t *testing.T) *jwt.Ring {
	t.Helper()
	r, err := jwt.NewRing(ringOptions(), nil, noon)
	ok(t, err)
	return r
}

// published returns what a verifier that fetches now knows.
func published(t *testing.T, r *jwt.Ring) *jwt.KeySet {
	t.Helper()
	text, err := r.Public()
	ok(t, err)
	set, err := jwt.ParseKeySet(text)
	ok(t, err)
	return set
}

// TestRotationRefusesNothing lets a hundred days pass, ten seconds at a time.
// At each step a verifier with the newest key set and one with a set of five
// minutes ago take the token minted this instant and the oldest that holds.
func TestRotationRefusesNothing(t *testing.T) {
	const step = 10 * time.Second
	const back = int(5 * time.Minute / step)               // how old a verifier's key set may be
	const oldest = int((tokenLife + 5*time.Second) / step) // how old a token may be, with the leeway
	r, now := newRing(t), noon
	var sets []*jwt.KeySet
	var minted []string
	signers := map[string]bool{}
	set := published(t, r)
	for now.Before(noon.Add(100 * 24 * time.Hour)) {
		changed, err := r.Advance(now)
		ok(t, err)
		if changed {
			set = published(t, r)
		}
		kid := r.Signer(now).KeyID()
		signers[kid] = true
		sets, minted = append(sets, set), append(minted, kid)
		i := len(sets) - 1
		for _, known := range []*jwt.KeySet{sets[i], sets[max(0, i-back)]} {
			if !known.Has(minted[i]) || !known.Has(minted[max(0, i-oldest)]) {
				t.Fatalf("%s after the start a good token is refused", now.Sub(noon))
			}
		}
		now = now.Add(step)
	}
	if len(signers) != 4 {
		t.Errorf("%d keys signed in 100 days, want 4", len(signers))
	}
	if n := len(r.Status(now)); n != 1 {
		t.Errorf("%d keys are left, want the one that signs", n)
	}
}

func TestLifeOfAKey(t *testing.T) {
	r := newRing(t)
	first, due := r.Signer(noon).KeyID(), noon.Add(30*24*time.Hour)
	states := func(now time.Time) string {
		var out []string
		for _, key := range r.Status(now) {
			out = append(out, string(key.State))
		}
		return strings.Join(out, " ")
	}
	for _, tc := range []struct {
		at      time.Time
		changed bool
		states  string
	}{
		{noon, false, "active"},
		{due.Add(-time.Second), false, "active"},
		{due, true, "active pending"},
		{due.Add(10*time.Minute - time.Second), false, "active pending"},
		{due.Add(10 * time.Minute), false, "retired active"},
		{due.Add(10*time.Minute + tokenLife + 65*time.Second), false, "retired active"},
		{due.Add(10*time.Minute + tokenLife + 66*time.Second), true, "active"},
	} {
		changed, err := r.Advance(tc.at)
		ok(t, err)
		if got := states(tc.at); got != tc.states || changed != tc.changed {
			t.Errorf("after %s: %s, changed %v; want %s, %v", tc.at.Sub(noon), got, changed, tc.states, tc.changed)
		}
	}
	if published(t, r).Has(first) {
		t.Error("a key that is gone is published")
	}
}

// TestRevokeIsAtOnce: no set lists the key, and another signs.
func TestRevokeIsAtOnce(t *testing.T) {
	r := newRing(t)
	first := r.Signer(noon).KeyID()
	ok(t, r.Revoke(first, noon))
	second := r.Signer(noon).KeyID()
	if second == first || published(t, r).Has(first) || !published(t, r).Has(second) {
		t.Fatal("the only key was not replaced at once")
	}
	later := noon.Add(time.Hour)
	ok(t, r.Rotate(later))
	ok(t, r.Rotate(later)) // one pending key is enough
	status := r.Status(later)
	if len(status) != 2 {
		t.Fatalf("%d keys after a rotation, want 2", len(status))
	}
	ok(t, r.Revoke(second, later))
	if got := r.Signer(later).KeyID(); got != status[1].ID {
		t.Errorf("%s signs, want the pending key", got)
	}
	ok(t, r.Rotate(later.Add(time.Hour)))
	ok(t, r.Revoke(r.Status(later)[1].ID, later.Add(time.Hour)))
	if got := r.Status(later.Add(time.Hour)); len(got) != 1 || got[0].State != jwt.KeyActive {
		t.Errorf("after revoking a pending key: %v", got)
	}
	if r.Revoke("nobody", later) == nil {
		t.Error("an unknown key was revoked")
	}
}

func TestRingIsStored(t *testing.T) {
	r := newRing(t)
	ok(t, r.Rotate(noon.Add(time.Minute)))
	text, err := r.Marshal()
	ok(t, err)
	back, err := jwt.ParseRing(ringOptions(), text)
	ok(t, err)
	if diff := cmp.Diff(r.Status(noon), back.Status(noon)); diff != "" {
		t.Errorf("ring (-stored +read):\n%s", diff)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, r); got != "jwt.Ring" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	twice := strings.Replace(string(text), `{"keys":[`, `{"keys":[`+strings.TrimSuffix(strings.TrimPrefix(string(text), `{"keys":[`), `]}`)+`,`, 1)
	for name, bad := range map[string]string{
		"empty": `{"keys":[]}`, "not a ring": `[]`, "no key": `{"keys":[{"pkcs8":"AAAA"}]}`, "out of order": twice, "more": `{"keys":[],"x":1}`,
	} {
		if _, err := jwt.ParseRing(ringOptions(), []byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
