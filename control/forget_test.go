package control

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// behind is what a backend holds.
type behind struct{ value string }

func (b *behind) Get(context.Context, string) (secrets.Secret, error) {
	return secrets.New([]byte(b.value), 1), nil
}

// memoryOf is a control plane of several, as far as it remembers things.
func memoryOf(t *testing.T, db store.Store, b *behind, kek *farKEK) *Plane {
	t.Helper()
	ref := secrets.Ref{Backend: "vault", Path: "prod/hook", Field: "key"}
	c := secrets.NewCache(b, secrets.CacheOptions{Name: "vault"})
	t.Cleanup(c.Close)
	ring := newKeyring(time.Now, held{kek: kek, prefix: kek.id, remote: true}, nil)
	p := &Plane{
		hub: newHub(time.Now), keys: &keys{kek: ring, ring: ring},
		backends: &backends{from: map[string]secrets.Backend{"vault": &remembered{cache: c, bound: time.Hour, now: time.Now}}, caches: map[string]*secrets.Cache{"vault": c}},
	}
	p.alive.Store(&living{grants: grants{known: map[string]secrets.Ref{"hook": ref}}})
	p.opt.Store, p.opt.Now = db, time.Now
	return p
}

// A secret that changes at one control plane, and a key that is shredded there,
// are not in the memory of the others when their planes hear of it.
func TestOtherControlPlanesForget(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at, kek := &behind{"leaked"}, &farKEK{KEK: fileKEK(t), id: "aws:key", wrapped: map[string][]byte{}}
	here, there := memoryOf(t, db, at, kek), memoryOf(t, db, at, kek)
	ref, d := here.living().grants.known["hook"], store.DEK{Item: "payment", Tenant: "acme", Version: 1}
	if kek.wrapped["acme"], err = here.keys.ring.Wrap(t.Context(), []byte("dek"), dekAAD(d)); err != nil {
		t.Fatal(err)
	}
	read := func(p *Plane) (out string) {
		s, err := p.backends.fetch(t.Context(), ref)
		if err == nil {
			err = s.Use(func(b []byte) error { out = string(b); return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, p := range []*Plane{here, there} {
		if _, err := kek.try(p.keys.ring, d); err != nil || read(p) != "leaked" || len(p.keys.ring.opened) != 1 {
			t.Fatalf("nothing is remembered: %v", err)
		}
	}
	at.value = "new"
	if err := here.secretChanged(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := here.forget(t.Context(), wire.Forget{DEKs: []wire.DEKTarget{{Item: "payment", Tenant: "acme"}}}); err != nil {
		t.Fatal(err)
	}
	if err := there.passNotices(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Plane{"here": here, "there": there} {
		if got := read(p); got != "new" || len(p.keys.ring.opened) != 0 {
			t.Errorf("%s: %q, and %d opened keys", name, got, len(p.keys.ring.opened))
		}
	}
}

// A gateway that stores while everything moves under another key wins, and what it
// deletes stays deleted, whatever locks there are.
func TestRewrapLeavesWhatGatewaysStore(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, now, key := t.Context(), time.Now(), "certificates/ca/shop/shop.key"
	old := held{kek: fileKEK(t), prefix: filePrefix}
	far := &farKEK{KEK: fileKEK(t), id: "aws:key"}
	moving := newWraps(db, newKeyring(time.Now, held{kek: far, prefix: far.id}, &old))
	put := func(ring *keyring, value string) {
		t.Helper()
		sealed, err := sealEdge(ctx, ring, key, []byte(value))
		if err == nil {
			err = db.PutEdge(ctx, store.EdgeValue{Key: key, Sealed: sealed, Modified: now}, 0, 9)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		meanwhile func()
		want      string // "": nothing
	}{
		"nothing else":      {func() {}, "old"},
		"it is stored anew": {func() { put(moving.ring, "new") }, "new"},
		"it is deleted":     {func() { db.DeleteEdge(ctx, key, 0, now) }, ""},
		"its lock was left": {func() { db.LockEdge(ctx, "certificates/ca/shop", "gone", now.Add(time.Hour), now) }, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			defer db.UnlockEdge(ctx, "certificates/ca/shop", "gone")
			put(newKeyring(time.Now, old, nil), "old")
			err := moving.eachEdge(ctx, func(w wrappedThing) error { tc.meanwhile(); return w.move(ctx) })
			if err != nil {
				t.Fatal(err)
			}
			v, err := db.EdgeValue(ctx, key)
			if tc.want == "" {
				if err == nil {
					t.Error("it is back")
				}
				return
			}
			got, failed := unsealEdge(ctx, moving.ring, key, v.Sealed)
			if err != nil || failed != nil || string(got) != tc.want || !bytes.Contains(v.Sealed, []byte(far.id)) || !v.Modified.Equal(now) {
				t.Errorf("%q of %v, %v, %v", got, v.Modified, err, failed)
			}
		})
	}
}
