package control_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// opened reads what planes get, by the keys that they get.
func opened(t testing.TB, h *house, keys *wire.Keys, raw []byte) *bundle.Bundle {
	t.Helper()
	trust, err := bundle.ParseJWKS(keys.Policy)
	must(t, err)
	b, err := bundle.Open(bytes.NewReader(raw), bundle.Trust{System: h.sys.Info.TrustDomain, Keys: trust, Now: h.now()})
	must(t, err)
	return b
}

func pushOf(t testing.TB, set pap.Set, shadow bool) wire.PolicyPush {
	t.Helper()
	text, err := json.Marshal(set)
	must(t, err)
	return wire.PolicyPush{Set: text, Files: set.Files, Shadow: shadow}
}

// TestPoliciesReachThePlanes: from rampart.yaml at the start, by a push, on trial,
// back to older content, and over a restart; a version is never used twice.
func TestPoliciesReachThePlanes(t *testing.T) {
	h := open(t, "")
	updates := h.watch("service/orders")
	keys := next(t, updates, "keys").Keys
	first := opened(t, h, keys, next(t, updates, "policies").Policies)
	if first.Manifest.Version != 1 || len(first.Set.Roles) != 2 {
		t.Fatalf("at the start: %+v", first.Manifest)
	}
	set := pap.FromSystem(h.sys)
	set.Roles = map[string][]string{"customer": {"orders:read", "orders:create"}}
	var st wire.PolicyStatus
	h.mustAdmin(wire.AdminPolicies, pushOf(t, set, false), &st)
	second := opened(t, h, keys, next(t, updates, "policies").Policies)
	if st.Version != 2 || second.Manifest.Version != 2 || len(second.Set.Roles) != 1 || st.From != "push" || !st.Own {
		t.Errorf("pushed: %+v, %+v", st, second.Manifest)
	}
	h.wantEvent("policy.ship", audit.Allowed, "policy.bundle", "")

	h.mustAdmin(wire.AdminPolicies, pushOf(t, pap.FromSystem(h.sys), true), &st)
	if u := next(t, updates, "policies"); st.Shadow != 3 || !bytes.Equal(u.Policies, second.Raw) || opened(t, h, keys, u.Shadow).Manifest.Version != 3 {
		t.Errorf("on trial: %+v", st)
	}
	st = wire.PolicyStatus{}
	h.mustAdmin(wire.AdminPolicies, wire.PolicyPush{Shadow: true}, &st)
	if u := next(t, updates, "policies"); st.Shadow != 0 || u.Shadow != nil {
		t.Errorf("the trial goes on: %+v", st)
	}

	h.mustAdmin(wire.AdminPolicies, wire.PolicyPush{Rollback: 1}, &st)
	if b := opened(t, h, keys, next(t, updates, "policies").Policies); st.Version != 4 || b.Manifest.Version != 4 || len(b.Set.Roles) != 2 {
		t.Errorf("rolled back: %+v", st)
	}
	if err := h.admin(http.MethodPost, wire.AdminPolicies, wire.PolicyPush{Rollback: 77}, nil); statusOf(err) != http.StatusNotFound {
		t.Errorf("back to what never was: %v", err)
	}

	set.Roles = map[string][]string{"a": {"role:a"}}
	if err := h.admin(http.MethodPost, wire.AdminPolicies, pushOf(t, set, false), nil); statusOf(err) == 0 || !strings.Contains(err.Error(), "bundle_compile") {
		t.Errorf("roles in a circle: %v", err)
	}
	must(t, h.call("service/orders", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "sidecar/orders", Instance: "i", Policy: 2,
		Refused: []wire.Refused{{Version: 4, Code: "bundle_replay", Reason: strings.Repeat("x", 1<<12)}, {}, {}}}, nil))
	must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
	if len(st.Planes) != 1 || st.Planes[0].Version != 2 || st.Version != 4 || !slices.Equal(st.Kept, []uint64{2, 1}) {
		t.Errorf("who runs what: %+v", st)
	}

	if r := st.Planes[0].Refused; len(r) != wire.MaxRefused || r[0].Code != "bundle_replay" || len(r[0].Reason) != wire.MaxReason {
		t.Errorf("why a plane is behind: %+v", r)
	}

	h.stop()
	h.start()
	must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
	if st.Version != 4 {
		t.Errorf("a restart with the same file ships version %d", st.Version)
	}
}

// TestPlanesDoNotWaitForTests: while the tests of pushed policies run, which end,
// planes are served.
func TestPlanesDoNotWaitForTests(t *testing.T) {
	h := open(t, "")
	h.stop()
	begun, done := make(chan bool), make(chan struct{})
	h.tests = func(ctx context.Context, _ pap.Set, _ string) error {
		_, limited := ctx.Deadline()
		begun <- limited
		<-done
		return nil
	}
	h.start()
	set := pap.FromSystem(h.sys)
	set.Services["orders"] = pap.Service{Tests: []string{"orders_test.yaml"}}
	set.Files["orders_test.yaml"] = []byte("tests: []\n")
	pushed := make(chan error, 1)
	go func() { pushed <- h.admin(http.MethodPost, wire.AdminPolicies, pushOf(t, set, false), nil) }()
	if limited := <-begun; !limited {
		t.Error("the tests have no end")
	}
	updates := h.watch("service/orders")
	keys := next(t, updates, "keys").Keys
	if b := opened(t, h, keys, next(t, updates, "policies").Policies); b.Manifest.Version != 1 {
		t.Errorf("version %d while the tests of the next one run", b.Manifest.Version)
	}
	close(done)
	must(t, <-pushed)
	if b := opened(t, h, keys, next(t, updates, "policies").Policies); b.Manifest.Version != 2 {
		t.Errorf("version %d afterwards", b.Manifest.Version)
	}
}

// TestPoliciesAreRenewed: before they expire, and when the key that signed them
// is revoked; the file that changed at a restart is the next version.
func TestPoliciesAreRenewed(t *testing.T) {
	h := found(t, "")
	h.sys.Authz.Bundle.Expires = spec.Duration(80 * time.Second)
	h.start()
	t.Cleanup(func() { h.stop() })
	var st wire.PolicyStatus
	must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
	before := st
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "kid", ID: st.Key}, nil)
	must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
	if st.Version != before.Version+1 || st.Key == before.Key {
		t.Errorf("after its key was revoked: %+v", st)
	}
	h.stop()
	h.pass(41 * time.Second)
	h.start()
	before = st
	must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
	if st.Version != before.Version+1 || !st.Expires.After(before.Expires) {
		t.Errorf("after half its life: %+v", st)
	}
}

// TestForeignPolicies: where the file names who signs, the control plane ships
// what they signed, signs nothing itself, and until then there is nothing.
func TestForeignPolicies(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte("k"), ed25519.SeedSize))
	public, _ := key.Public().(ed25519.PublicKey)
	h := found(t, "")
	h.sys.Authz.Bundle = spec.PolicyBundle{Keys: []string{bundle.FormatKey(public)}}
	h.start()
	t.Cleanup(func() { h.stop() })
	updates := h.watch("service/orders")
	if k := next(t, updates, "keys").Keys; k.Policy != nil {
		t.Error("the control plane publishes a key of its own")
	}
	if u := next(t, updates, "policies"); u.Policies != nil {
		t.Error("policies that nobody signed are shipped")
	}
	set := pap.FromSystem(h.sys)
	if err := h.admin(http.MethodPost, wire.AdminPolicies, pushOf(t, set, false), nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("the control plane signs: %v", err)
	}
	sign := func(version uint64, with ed25519.PrivateKey) wire.PolicyPush {
		d, err := bundle.Build(set, bundle.Stamp{System: h.sys.Info.TrustDomain, Version: version, Created: h.now(), Expires: h.now().Add(time.Hour)})
		must(t, err)
		raw, err := d.Sign(with)
		must(t, err)
		return wire.PolicyPush{Bundle: raw}
	}
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte("z"), ed25519.SeedSize))
	if err := h.admin(http.MethodPost, wire.AdminPolicies, sign(9, stranger), nil); err == nil || !strings.Contains(err.Error(), "bundle_key") {
		t.Errorf("a stranger's: %v", err)
	}
	good := sign(9, key)
	h.mustAdmin(wire.AdminPolicies, good, nil)
	if u := next(t, updates, "policies"); !bytes.Equal(u.Policies, good.Bundle) {
		t.Error("planes get something else")
	}
	if err := h.admin(http.MethodPost, wire.AdminPolicies, sign(8, key), nil); err == nil || !strings.Contains(err.Error(), "bundle_rollback") {
		t.Errorf("an older one: %v", err)
	}
	trial := sign(1795957567, key) // what `policy sign` takes by default: the time
	trial.Shadow = true
	h.mustAdmin(wire.AdminPolicies, trial, nil)
	h.mustAdmin(wire.AdminPolicies, wire.PolicyPush{Shadow: true}, nil)
	h.pass(time.Minute)
	if err := h.admin(http.MethodPost, wire.AdminPolicies, sign(1795957567, key), nil); err == nil || !strings.Contains(err.Error(), "bundle_rollback") {
		t.Errorf("another one of the version that was on trial: %v", err)
	}
	var st wire.PolicyStatus
	h.mustAdmin(wire.AdminPolicies, wire.PolicyPush{Bundle: trial.Bundle}, &st)
	if want := []uint64{9}; st.Version != 1795957567 || !slices.Equal(st.Kept, want) || !slices.Equal(st.Keys, []string{bundle.KeyID(public)}) {
		t.Errorf("what was on trial is pushed: %+v", st)
	}
}

// TestKeptPolicies: as many versions as are promised can be shipped again,
// whatever their numbers, and the newest are those that are kept.
func TestKeptPolicies(t *testing.T) {
	h := open(t, "")
	sets := [2]wire.PolicyPush{}
	for i := range sets {
		set := pap.FromSystem(h.sys)
		set.Roles = map[string][]string{"customer": []string{"orders:read", "orders:create"}[:i+1]}
		sets[i] = pushOf(t, set, false)
	}
	var st wire.PolicyStatus
	for i := range 20 {
		h.mustAdmin(wire.AdminPolicies, sets[i%2], &st)
	}
	if st.Version != 21 || len(st.Kept) != 16 || st.Kept[0] != 20 || st.Kept[15] != 5 {
		t.Fatalf("kept: %+v", st)
	}
	h.mustAdmin(wire.AdminPolicies, wire.PolicyPush{Rollback: 5}, &st)
	if st.Version != 22 || st.From != "rollback of 5" {
		t.Errorf("back to the oldest: %+v", st)
	}
	if err := h.admin(http.MethodPost, wire.AdminPolicies, wire.PolicyPush{Rollback: 4}, nil); statusOf(err) != http.StatusNotFound {
		t.Errorf("older than the oldest: %v", err)
	}
}

// TestUnfitPolicies: what the planes of this system would refuse, or must not
// take over, is refused before it is shipped.
func TestUnfitPolicies(t *testing.T) {
	h := open(t, "")
	for name, c := range map[string]struct {
		change func(*pap.Set)
		want   string
	}{
		"the file of another system":               {func(s *pap.Set) { s.System = "shop" }, "bundle_system"},
		"of another trust domain":                  {func(s *pap.Set) { s.Domain = "shop.internal" }, "bundle_system"},
		"of a system that does not say its name":   {func(s *pap.Set) { s.System, s.Domain = "", "" }, "bundle_system"},
		"another model of relations":               {func(s *pap.Set) { s.Model, s.Files["m.fga"] = "m.fga", []byte("model\n  schema 1.1\n") }, "changes with rampart.yaml and a restart"},
		"policies that do not load":                {unparsable("orders"), "service orders"},
		"the same for a service that is not there": {unparsable("later"), "service later"},
	} {
		t.Run(name, func(t *testing.T) {
			set := pap.FromSystem(h.sys)
			c.change(&set)
			for _, shadow := range []bool{false, true} {
				if err := h.admin(http.MethodPost, wire.AdminPolicies, pushOf(t, set, shadow), nil); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("on trial %t: %v, want %q", shadow, err, c.want)
				}
			}
			var st wire.PolicyStatus
			must(t, h.admin(http.MethodGet, wire.AdminPolicies, nil, &st))
			if st.Version != 1 || st.Shadow != 0 {
				t.Errorf("shipped all the same: %+v", st)
			}
		})
	}
}

func unparsable(service string) func(*pap.Set) {
	return func(s *pap.Set) {
		s.Services[service] = pap.Service{Policy: []string{"bad.cedar"}}
		s.Files["bad.cedar"] = []byte("permit(")
	}
}

// TestSubject: a sidecar learns the facts of who may act, of nobody else, and
// nobody else learns them.
func TestSubject(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "app", Principal: "merchant", Redirects: []string{"http://127.0.0.1/cb"}}, nil)
	ask := func(as, subject string) (rampart.Principal, error) {
		var p rampart.Principal
		err := h.call(as, http.MethodPost, wire.PathSubject, wire.SubjectRequest{Subject: subject}, &p)
		return p, err
	}
	if p, err := ask("service/orders", "user:ann"); err != nil || p.Subject != "user:ann" || !p.HasRole("customer") {
		t.Errorf("ann: %+v, %v", p, err)
	}
	if p, err := ask("service/orders", "client:app"); err != nil || p.Subject != "client:app" {
		t.Errorf("the client: %+v, %v", p, err)
	}
	for _, subject := range []string{"user:bob", "client:none", "ann", "", "user:"} {
		if _, err := ask("service/orders", subject); statusOf(err) != http.StatusNotFound {
			t.Errorf("%q: %v", subject, err)
		}
	}
	missed := map[string]bool{}
	for _, e := range h.events("directory.subject") {
		if e.Outcome == audit.Refused && e.Actor == h.sys.ServiceID("orders") {
			missed[e.Subject] = true
		}
	}
	if !missed["user:bob"] || !missed["client:none"] || missed["user:ann"] {
		t.Errorf("who asked for somebody unknown is on record for %v", missed)
	}
	if _, err := ask("gateway/edge", "user:ann"); statusOf(err) != http.StatusForbidden {
		t.Errorf("the gateway asks: %v", err)
	}
	h.mustAdmin(wire.AdminUsers+"/ann"+wire.SubDisable, nil, nil)
	if _, err := ask("service/orders", "user:ann"); statusOf(err) != http.StatusNotFound {
		t.Errorf("a disabled account: %v", err)
	}
}
