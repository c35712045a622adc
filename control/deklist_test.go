package control

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// TestListedByPages: whatever the size of a page, all keys and all that were
// destroyed are listed once, in order and whole.
func TestListedByPages(t *testing.T) {
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Second)
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p := &Plane{}
	p.opt.Store = db
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for _, item := range []string{"card", "order"} {
		for i := range 12 {
			tenant := fmt.Sprintf("t-%02d", i)
			if i == 0 {
				tenant = "" // data without one
			}
			for v := range uint32(i%3 + 1) {
				must(db.PutDEK(ctx, store.DEK{Item: item, Tenant: tenant, Version: v + 1, KEK: "k", Wrapped: make([]byte, 48), Created: now}))
			}
			what := fmt.Sprintf("%s/%s %d", item, tenant, i%3+1)
			if i%4 > 1 || item == "order" && i < 8 { // rows of those that are gone, more than a page of them
				_, err := db.Shred(ctx, item, tenant, "", now.Add(time.Second))
				must(err)
				what = fmt.Sprintf("%s/%s shredded", item, tenant)
			}
			_, err := db.Shred(ctx, item, tenant, "a-person", now.Add(time.Second))
			must(err)
			want = append(want, what)
		}
	}
	for _, limit := range []int{1, 2, 5, 7, 24, 100} {
		var got []string
		var after wire.DEKTarget
		for {
			page, err := p.dekInfos(ctx, wire.DEKTarget{}, after, limit)
			must(err)
			if len(page) == 0 {
				break
			}
			for _, k := range page {
				what := fmt.Sprintf("%s/%s %d", k.Item, k.Tenant, len(k.Versions))
				if !k.Shredded.IsZero() {
					what = fmt.Sprintf("%s/%s shredded", k.Item, k.Tenant)
				}
				got = append(got, what)
			}
			if len(page) > limit || len(got) > 2*len(want) {
				t.Fatalf("a page of %d has %d", limit, len(page))
			}
			after = page[len(page)-1].DEKTarget
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by %d: -want +got\n%s", limit, diff)
		}
	}
}

// TestMadeUpTenants: a service makes so many first keys a minute and no more, and
// has those that are there; others are not held up.
func TestMadeUpTenants(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	keyring := newKeyring(time.Now, held{kek: fileKEK(t), prefix: filePrefix}, nil)
	p := &Plane{keys: &keys{kek: keyring, ring: keyring}}
	p.opt.Store, p.opt.Now = db, func() time.Time { return now }
	p.alive.Store(&living{sys: &spec.System{Data: map[string]spec.Data{"payment": {Shred: spec.ShredSubject}}}})
	p.deks.fresh = ring.New(2*tenantCounts+1, time.Minute, ring.Options{Now: p.opt.Now})
	for _, step := range []struct {
		by, tenant, person string
		pass               time.Duration
		ok                 bool
	}{
		{by: "payments", tenant: "acme", ok: true},
		{by: "payments", tenant: "globex", ok: true},
		{by: "payments", tenant: "made-up", ok: false},
		{by: "payments", tenant: "acme", person: "user:alice", ok: true},
		{by: "payments", tenant: "acme", person: "user:made-up", ok: false},
		{by: "payments", tenant: "acme", ok: true},
		{by: "payments", tenant: "acme", person: "user:alice", ok: true},
		{by: "orders", tenant: "initech", ok: true},
		{by: "payments", tenant: "made-up", pass: 2 * time.Minute, ok: true},
	} {
		now = now.Add(step.pass)
		_, err := p.dataKey(withMaker(t.Context(), step.by), agent.DEKRequest{Item: "payment", Tenant: step.tenant, Subject: step.person})
		if (err == nil) != step.ok || err != nil && rampart.KindOf(err) != rampart.Limited {
			t.Errorf("%+v: %v", step, err)
		}
	}
}
