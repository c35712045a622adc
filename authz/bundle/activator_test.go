package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/statedir"
)

// place is a plane with nothing but its policies.
type place struct {
	t     testing.TB
	state *statedir.Dir
	log   *decisionlog.Log
	*Activator
	told atomic.Pointer[Activator] // the same, for the log's goroutine

	mu       sync.Mutex
	now      time.Time
	settings Settings
	events   []Event
	failing  error // of the tests in the bundle
	silent   error // of the audit log
}

func newPlace(t testing.TB) *place {
	t.Helper()
	state, err := statedir.Open(t.TempDir()+"/state", statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, state: state, now: day, settings: Settings{Keys: trusted("a"), Replay: 100, MaxChanged: 100, MaxStaleness: time.Hour}}
	p.open()
	return p
}

// open starts the plane, again if it ran before.
func (p *place) open() {
	p.t.Helper()
	var err error
	if p.log == nil {
		p.log, err = decisionlog.Open(decisionlog.Options{State: p.state, Plane: "sidecar/orders", Each: func(q pdp.Question, d rampart.Decision) { p.told.Load().Observed(q, d) }})
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { p.log.Close() })
	}
	p.Activator, err = NewActivator(p.t.Context(), ActivatorOptions{
		System: system, Service: "orders", State: p.state, Plane: "sidecar/orders", Log: p.log,
		Settings: func() Settings { p.mu.Lock(); defer p.mu.Unlock(); return p.settings },
		Now:      p.time,
		Logger:   slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, e Event) error {
			if p.silent == nil {
				p.events = append(p.events, e)
			}
			return p.silent
		},
		Test: func(ctx context.Context, _ pap.Set, _ string) error {
			if _, limited := ctx.Deadline(); !limited {
				p.t.Error("the tests of a bundle have no end")
			}
			return p.failing
		},
		Compile: func(set pap.Set, version uint64) (*pdp.PDP, error) {
			o := set.Options("orders")
			o.Policy, o.Observe, o.Timeout, o.Now = version, p.log.Observe, 10*time.Second, p.time
			o.Fresh = func() error { return p.Fresh() }
			return pdp.New(o)
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.told.Store(p.Activator)
}

func (p *place) time() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *place) pass(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

// last returns the newest event as "action code".
func (p *place) last() string {
	if len(p.events) == 0 {
		return ""
	}
	e := p.events[len(p.events)-1]
	return strings.TrimSpace(fmt.Sprintf("%s v%d %s", e.Action, e.Version, e.Code))
}

func question(owner string) authz.Request {
	return authz.Request{
		Layer: rampart.LayerDomain, Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"viewer"}, Organizations: []string{"acme"}},
		Action: "orders:read", Resource: rampart.Resource{Type: "order", ID: "17", Attrs: map[string]any{"owner": owner, "total": 12.5}},
	}
}

func (p *place) decide(owner string) rampart.Decision {
	return p.PDP().Decide(p.t.Context(), question(owner))
}

// tested is a set whose bundle brings tests.
func tested(policy string) pap.Set {
	set := setOf(policy)
	set.Services["orders"] = pap.Service{Policy: []string{"policy/orders.cedar"}, Tests: []string{"policy/orders_test.yaml"}}
	set.Files["policy/orders_test.yaml"] = []byte("rows: []\n")
	return set
}

// TestRefusedBundles: whatever fails, the last good bundle goes on to decide, and
// the log says what failed.
func TestRefusedBundles(t *testing.T) {
	const denyAll = `@id("none") forbid (principal, action, resource);` + "\n"
	for name, row := range map[string]struct {
		raw   func() []byte
		spoil func(p *place)
		want  Code
	}{
		"bad signature": {func() []byte {
			list := entriesOf(t, signed(t, setOf(denyAll), stamp(6), "a"))
			list[1].body = entriesOf(t, signed(t, setOf(denyAll), stamp(7), "a"))[1].body
			return archive(t, list)
		}, nil, CodeSignature},
		"a stranger's":       {func() []byte { return signed(t, setOf(denyAll), stamp(6), "z") }, nil, CodeKey},
		"an older one":       {func() []byte { return signed(t, setOf(denyAll), stamp(4), "a") }, nil, CodeRollback},
		"another of its age": {func() []byte { return signed(t, setOf(denyAll), stamp(5), "a") }, nil, CodeRollback},
		"expired": {func() []byte {
			s := stamp(6)
			s.Expires = day.Add(time.Second)
			return signed(t, setOf(denyAll), s, "a")
		}, nil, CodeExpired},
		"does not compile": {func() []byte { return signed(t, setOf("permit"), stamp(6), "a") }, nil, CodeCompile},
		"its tests fail":   {func() []byte { return signed(t, tested(denyAll), stamp(6), "a") }, func(p *place) { p.failing = errors.New("1 of 3 fails") }, CodeTests},
		"changes too much": {func() []byte { return signed(t, setOf(denyAll), stamp(6), "a") }, func(p *place) { p.settings.MaxChanged = 10 }, CodeReplay},
		"cannot be kept":   {func() []byte { return signed(t, setOf(denyAll), stamp(6), "a") }, func(p *place) { must(t, os.Mkdir(p.state.Path("policies/sidecar_orders", archiveName(6)), 0o700)) }, CodeStorage},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(5), "a")))
			if d := p.decide("user:ann"); !d.Allowed() || d.Revision.Policy != 5 {
				t.Fatalf("before: %+v", d)
			}
			p.pass(time.Minute)
			if row.spoil != nil {
				row.spoil(p)
			}
			if err := p.Activate(t.Context(), row.raw()); codeOf(err) != row.want {
				t.Fatalf("got %v, want %s", err, row.want)
			}
			if e := p.events[len(p.events)-1]; e.Allowed || e.Code != row.want || e.Action != "policy.activate" || e.Detail["active"] != "5" {
				t.Errorf("on record: %+v", e)
			}
			if r := p.Refused(); len(r) != 1 || r[0].Code != row.want || r[0].Reason == "" {
				t.Errorf("told of the refusal: %+v", r)
			}
			n := len(p.events)
			p.Activate(t.Context(), row.raw())
			if len(p.events) != n {
				t.Error("the same refusal is on record twice")
			}
			if d := p.decide("user:ann"); !d.Allowed() || d.Revision.Policy != 5 {
				t.Errorf("afterwards: %+v", d)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestReplayDiff: the diff counts what changes, by action.
func TestReplayDiff(t *testing.T) {
	p := newPlace(t)
	if d := p.decide("user:ann"); d.Allowed() || d.Code != rampart.CodeStale || !strings.Contains(d.Reason, "no policies") {
		t.Fatalf("without a bundle: %+v", d)
	}
	must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(1), "a")))
	for _, owner := range []string{"user:ann", "user:ann", "user:ann", "user:bob"} {
		p.decide(owner)
	}
	const others = `@id("others") permit (principal, action, resource) when { resource.owner != principal.id };` + "\n"
	must(t, p.Activate(t.Context(), signed(t, setOf(others), stamp(2), "a")))
	e := p.events[len(p.events)-1]
	if want := "4 of 4 decisions change: 3 allow to deny, 1 deny to allow (orders:read 4)"; e.Detail["replay"] != want || e.Version != 2 {
		t.Errorf("got %+v, want %q", e, want)
	}
}

// TestStale: policies that cannot be renewed, or have expired, deny; they are
// on record once, and a newer bundle ends it.
func TestStale(t *testing.T) {
	p := newPlace(t)
	raw := signed(t, setOf(ownerPolicy), stamp(5), "a")
	must(t, p.Activate(t.Context(), raw))
	look := func(heard time.Duration) {
		p.mu.Lock()
		p.settings.Heard = day.Add(heard)
		p.mu.Unlock()
		p.Activator.mu.Lock()
		p.lookLocked(t.Context())
		p.Activator.mu.Unlock()
	}
	p.pass(50 * time.Minute)
	look(50 * time.Minute) // the control plane lives and offers nothing newer
	p.pass(50 * time.Minute)
	look(50 * time.Minute) // it is silent
	if d := p.decide("user:ann"); !d.Allowed() {
		t.Fatalf("within an hour of the last word: %+v", d)
	}
	p.pass(11 * time.Minute)
	look(50 * time.Minute)
	if d := p.decide("user:ann"); d.Code != rampart.CodeStale || p.last() != "policy.stale v5 bundle_stale" {
		t.Errorf("after it: %+v, %s", d, p.last())
	}
	p.open() // a restart does not make it young
	look(50 * time.Minute)
	if d := p.decide("user:ann"); d.Code != rampart.CodeStale {
		t.Errorf("after a restart: %+v", d)
	}
	p.offered = raw
	look(110 * time.Minute) // the control plane is back
	if d := p.decide("user:ann"); !d.Allowed() {
		t.Errorf("confirmed again: %+v", d)
	}
	p.pass(24 * time.Hour)
	look(25 * time.Hour)
	if d := p.decide("user:ann"); d.Code != rampart.CodeStale || p.last() != "policy.stale v5 bundle_expired" {
		t.Errorf("expired: %+v, %s", d, p.last())
	}
	next := stamp(6)
	next.Created, next.Expires = day.Add(25*time.Hour), day.Add(50*time.Hour)
	must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), next, "a")))
	if d := p.decide("user:ann"); !d.Allowed() || d.Revision.Policy != 6 {
		t.Errorf("renewed: %+v", d)
	}
}

// TestRestart: the last good bundle is verified again at start; one that was
// touched stays out, and what is older stays out too.
func TestRestart(t *testing.T) {
	p := newPlace(t)
	old, good := signed(t, setOf(ownerPolicy), stamp(5), "a"), signed(t, setOf(ownerPolicy), stamp(6), "a")
	must(t, p.Activate(t.Context(), old))
	must(t, p.Activate(t.Context(), good))
	p.open()
	if d := p.decide("user:ann"); !d.Allowed() || d.Revision.Policy != 6 {
		t.Fatalf("after a restart: %+v", d)
	}
	name := p.state.Path("policies/sidecar_orders", archiveName(6))
	for what, raw := range map[string][]byte{
		"bundle_rollback":  old, // somebody puts the old one in its place
		"bundle_format":    good[:len(good)/2],
		"bundle_key":       signed(t, setOf(ownerPolicy), stamp(6), "z"),
		"bundle_signature": archive(t, append([]item{entriesOf(t, good)[0], entriesOf(t, old)[1]}, entriesOf(t, good)[2:]...)),
	} {
		must(t, os.WriteFile(name, raw, 0o600))
		p.open()
		if d := p.decide("user:ann"); d.Code != rampart.CodeStale || p.last() != "policy.activate v0 "+what {
			t.Errorf("%s: %+v, %s", what, d, p.last())
		}
	}
	if err := p.Activate(t.Context(), old); codeOf(err) != CodeRollback {
		t.Errorf("the older one: %v", err)
	}
	must(t, p.Activate(t.Context(), good))
	if d := p.decide("user:ann"); !d.Allowed() {
		t.Errorf("delivered again: %+v", d)
	}
	must(t, os.WriteFile(p.state.Path("policies/sidecar_orders", floorFile), []byte("{}"), 0o600))
	if _, err := NewActivator(t.Context(), p.opt); err == nil {
		t.Error("a floor that says nothing was taken for the first start")
	}
}

// TestNothingUnrecorded: no bundle comes into force without a record of it, at a
// restart neither; what the audit log or the disk kept out is tried again.
func TestNothingUnrecorded(t *testing.T) {
	old, good := signed(t, setOf(ownerPolicy), stamp(5), "a"), signed(t, setOf(ownerPolicy), stamp(6), "a")
	for name, row := range map[string]struct {
		first  []byte // in force before; nil: none
		broken func(p *place)
		mended func(p *place)
	}{
		"no record":               {old, func(p *place) { p.silent = errors.New("disk full") }, func(p *place) { p.silent = nil }},
		"no record of the first":  {nil, func(p *place) { p.silent = errors.New("disk full") }, func(p *place) { p.silent = nil }},
		"no place in the archive": {old, func(p *place) { must(t, os.Mkdir(p.archived(6), 0o700)) }, func(p *place) { must(t, os.Remove(p.archived(6))) }},
		"no place for the new floor": {old, func(p *place) {
			must(t, os.Remove(p.floorPath()))
			must(t, os.Mkdir(p.floorPath(), 0o700))
		}, func(p *place) { must(t, os.Remove(p.floorPath())) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			before := uint64(0)
			if row.first != nil {
				must(t, p.Activate(t.Context(), row.first))
				before = 5
			}
			row.broken(p)
			p.Offer(good, nil)
			p.Settle(t.Context())
			if p.Version() != before {
				t.Fatalf("version %d is in force", p.Version())
			}
			row.mended(p)
			p.Settle(t.Context())
			if p.Version() != before {
				t.Error("it is tried again without a pause")
			}
			p.pass(retryEvery)
			p.Settle(t.Context())
			if e := p.last(); p.Version() != 6 || e != "policy.activate v6" || !p.events[len(p.events)-1].Allowed {
				t.Errorf("version %d, %s", p.Version(), e)
			}
		})
	}
	t.Run("a restart", func(t *testing.T) {
		p := newPlace(t)
		must(t, p.Activate(t.Context(), old))
		p.silent = errors.New("disk full")
		p.Activate(t.Context(), good)
		p.open()
		if p.Version() != 0 {
			t.Errorf("version %d is in force and not on record", p.Version())
		}
		p.silent = nil
		p.open()
		if e := p.events[len(p.events)-1]; p.Version() != 5 || p.last() != "policy.activate v5" || e.Detail["at"] != "start" {
			t.Errorf("version %d, on record: %+v", p.Version(), e)
		}
	})
}

// TestFloorLost: archives without a floor are no first start.
func TestFloorLost(t *testing.T) {
	p := newPlace(t)
	p.open() // nothing was ever active
	p.silent = errors.New("disk full")
	p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(5), "a"))
	p.silent = nil
	p.open() // an archive that was begun, and a floor that says so
	must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(6), "a")))
	must(t, os.Remove(p.floorPath()))
	if _, err := NewActivator(t.Context(), p.opt); err == nil || !strings.Contains(err.Error(), "put it back") {
		t.Errorf("a lost floor was taken for the first start: %v", err)
	}
}

func (p *place) archived(version uint64) string {
	return p.state.Path("policies/sidecar_orders", archiveName(version))
}

func (p *place) floorPath() string { return p.state.Path("policies/sidecar_orders", floorFile) }

// TestShadow: a candidate decides nothing and is counted.
func TestShadow(t *testing.T) {
	p := newPlace(t)
	must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(1), "a")))
	p.Offer(p.Active().Raw, signed(t, setOf(`@id("none") forbid (principal, action, resource);`), stamp(2), "a"))
	p.Settle(t.Context())
	if p.last() != "policy.shadow v2" {
		t.Fatalf("on record: %s", p.last())
	}
	if d := p.decide("user:ann"); !d.Allowed() || d.Revision.Policy != 1 {
		t.Fatalf("the candidate decides: %+v", d)
	}
	p.decide("user:bob")
	must(t, p.log.Flush(t.Context()))
	must(t, p.log.Flush(t.Context())) // what the first wrote is compared before another is
	if v, d := p.Shadow(); v != 2 || d.Replayed != 2 || d.Denies != 1 || d.Allows != 0 {
		t.Errorf("candidate %d: %+v", v, d)
	}
	p.Offer(p.Active().Raw, nil)
	p.Settle(t.Context())
	if v, _ := p.Shadow(); v != 0 {
		t.Error("the trial did not end")
	}
	p.Offer(p.Active().Raw, signed(t, setOf("permit("), stamp(3), "a"))
	p.Settle(t.Context())
	if r := p.Refused(); len(r) != 1 || r[0].Version != 3 || r[0].Code != CodeCompile {
		t.Errorf("a candidate that does not load: %+v", r)
	}
	p.Offer(signed(t, setOf(ownerPolicy), stamp(4), "a"), nil)
	p.Settle(t.Context())
	if r := p.Refused(); len(r) != 0 || p.Version() != 4 {
		t.Errorf("what was refused is forgotten when it is off: %+v, version %d", r, p.Version())
	}
}

// TestSwapUnderLoad: while 200 bundles follow one another, every decision cites
// policies of the version that it names, and none cites two.
func TestSwapUnderLoad(t *testing.T) {
	p := newPlace(t)
	p.settings.Replay = 0
	policy := func(v uint64) string {
		return fmt.Sprintf("@id(\"v%d-a\")\npermit (principal, action, resource);\n@id(\"v%d-b\")\npermit (principal, action, resource);\n", v, v)
	}
	must(t, p.Activate(t.Context(), signed(t, setOf(policy(1)), stamp(1), "a")))
	var done atomic.Bool
	var seen atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				d := p.decide("user:ann")
				want := []string{fmt.Sprintf("v%d-a", d.Revision.Policy), fmt.Sprintf("v%d-b", d.Revision.Policy)}
				got := []string{}
				for _, ref := range d.Policies {
					got = append(got, ref.ID)
				}
				slices.Sort(got)
				if !d.Allowed() || !slices.Equal(got, want) {
					t.Errorf("a decision of version %d cites %v: %s %s", d.Revision.Policy, got, d.Code, d.Reason)
					return
				}
				seen.Add(1)
				time.Sleep(50 * time.Microsecond) // the activator needs a processor too
			}
		})
	}
	for v := uint64(2); v <= 201; v++ {
		must(t, p.Activate(t.Context(), signed(t, setOf(policy(v)), stamp(v), "a")))
	}
	done.Store(true)
	wg.Wait()
	if p.Version() != 201 || seen.Load() == 0 {
		t.Errorf("version %d after %d decisions", p.Version(), seen.Load())
	}
	if n := len(archived(p.state.Path("policies/sidecar_orders"))); n > maxArchived {
		t.Errorf("%d bundles are kept", n)
	}
}

// TestWhyFromArchive: a decision comes out the same from its own policies, long
// after others decide; and another set gives another answer.
func TestWhyFromArchive(t *testing.T) {
	p := newPlace(t)
	must(t, p.Activate(t.Context(), signed(t, setOf(ownerPolicy), stamp(1), "a")))
	asked := []rampart.Decision{p.decide("user:ann"), p.decide("user:bob"), p.PDP().DecideRoute(t.Context(), question("").Principal, pdp.Route{Permission: "orders:pay"})}
	must(t, p.Activate(t.Context(), signed(t, setOf(`@id("none") forbid (principal, action, resource);`), stamp(2), "a")))
	for _, d := range asked {
		e, err := p.log.Find(t.Context(), d.ID)
		must(t, err)
		for version, same := range map[uint64]bool{1: true, 2: e.Question.Request == nil} {
			set, err := Archived(p.state.Path("policies/sidecar_orders"), system, version, e.Question.At)
			must(t, err)
			r, err := decisionlog.Why(t.Context(), e, set, "orders")
			must(t, err)
			if r.Same != same {
				t.Errorf("version %d: same %v\nwas %s\nnow %s", version, r.Same, r.Was, r.Now)
			}
		}
	}
}
