package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/store"
)

func dek(item, tenant string, version uint32) store.DEK {
	return store.DEK{Item: item, Tenant: tenant, Version: version, KEK: "k1", Wrapped: bytes.Repeat([]byte{byte(version)}, 61), Created: when()}
}

func subkey(who string, version uint32) store.Subkey {
	return store.Subkey{Item: "payment", Tenant: "acme", Who: who, Version: version, DEK: 1, Wrapped: make([]byte, 61), Created: when()}
}

func testDEKs(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx := t.Context()
	one, two := dek("payment", "acme", 1), dek("payment", "acme", 2)
	for _, d := range []store.DEK{one, two, dek("payment", "globex", 1), dek("contact", "acme", 1)} {
		must(t, st.PutDEK(ctx, d))
	}
	if err := other.PutDEK(ctx, two); !errors.Is(err, store.ErrExists) {
		t.Errorf("second put: %v, want store.ErrExists", err)
	}
	for version, want := range map[uint32]store.DEK{0: two, 1: one, 2: two} {
		got, err := other.DEK(ctx, "payment", "acme", version)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d: -want +got\n%s", version, diff)
		}
	}
	if _, err := st.DEK(ctx, "payment", "initech", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another tenant: %v, want store.ErrNotFound", err)
	}
	testListDEKs(t, st)

	moved := one
	moved.KEK, moved.Wrapped = "k2", bytes.Repeat([]byte{9}, 61)
	for i, want := range []bool{true, false} { // the second finds another key than it read
		if won, err := st.SwapDEK(ctx, moved, one.Wrapped); err != nil || won != want {
			t.Errorf("swap %d: %v, %v", i, won, err)
		}
	}
	var wg sync.WaitGroup
	for _, s := range []store.Store{st, other, st, other} {
		wg.Go(func() {
			if _, err := s.CountMessages(ctx, "payment", "acme", 2, 1000); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if sum, err := st.CountMessages(ctx, "payment", "acme", 2, 0); err != nil || sum != 4000 {
		t.Errorf("counted %d, %v", sum, err)
	}
	if _, err := st.CountMessages(ctx, "payment", "acme", 3, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("count of no key: %v", err)
	}
}

func testListDEKs(t *testing.T, st store.Store) {
	for name, tc := range map[string]struct {
		item, tenant string
		after        store.DEK
		limit        int
		want         []string
	}{
		"all":           {limit: 10, want: []string{"contact acme 1", "payment acme 1", "payment acme 2", "payment globex 1"}},
		"of a tenant":   {tenant: "acme", limit: 10, want: []string{"contact acme 1", "payment acme 1", "payment acme 2"}},
		"of an item":    {item: "contact", limit: 10, want: []string{"contact acme 1"}},
		"after one":     {after: dek("payment", "acme", 1), limit: 10, want: []string{"payment acme 2", "payment globex 1"}},
		"a page":        {limit: 1, want: []string{"contact acme 1"}},
		"of neither":    {item: "contact", tenant: "globex", limit: 10},
		"after a while": {item: "payment", after: dek("payment", "acme", 2), limit: 10, want: []string{"payment globex 1"}},
	} {
		list, err := st.ListDEKs(t.Context(), tc.item, tc.tenant, tc.after, tc.limit)
		must(t, err)
		var got []string
		for _, d := range list {
			got = append(got, fmt.Sprint(d.Item, " ", d.Tenant, " ", d.Version))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// testShred: what was shredded is gone with all below it, does not come back by
// itself or from a backup, and can be begun anew under numbers of its own.
func testShred(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx := t.Context()
	at := when().Add(time.Hour)
	must(t, st.PutDEK(ctx, dek("payment", "acme", 1)))
	must(t, st.PutDEK(ctx, dek("payment", "acme", 2)))
	must(t, st.PutDEK(ctx, dek("payment", "globex", 1)))
	for _, k := range []store.Subkey{subkey("alice", 1), subkey("alice", 2), subkey("bob", 1), subkey("", 1)} {
		must(t, st.PutSubkey(ctx, k))
	}
	if err := st.PutSubkey(ctx, subkey("alice", 2)); !errors.Is(err, store.ErrExists) {
		t.Errorf("second put: %v", err)
	}

	if n, err := other.Shred(ctx, "payment", "acme", "alice", at); err != nil || n != 2 {
		t.Errorf("a person had %d keys, %v", n, err)
	}
	if _, err := st.Subkey(ctx, "payment", "acme", "alice", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a shredded person's key: %v", err)
	}
	if k, err := st.Subkey(ctx, "payment", "acme", "bob", 0); err != nil || k.Version != 1 {
		t.Errorf("another person's key: %+v, %v", k, err)
	}
	if err := st.PutSubkey(ctx, subkey("alice", 3)); !errors.Is(err, store.ErrShredded) {
		t.Errorf("a key after the end: %v", err)
	}
	set, err := st.KeySet(ctx, "payment", "acme", "alice")
	if diff := cmp.Diff(store.KeySet{Item: "payment", Tenant: "acme", Who: "alice", Last: 2, Shredded: at, Closed: true}, set); err != nil || diff != "" {
		t.Errorf("%v: -want +got\n%s", err, diff)
	}
	for i, want := range []bool{true, false} {
		if was, err := st.Reopen(ctx, "payment", "acme", "alice"); err != nil || was != want {
			t.Errorf("reopen %d: %v, %v", i, was, err)
		}
	}
	old, fresh := subkey("alice", 1), subkey("alice", 3)
	fresh.Created = at.Add(1)
	if err := st.PutSubkey(ctx, old); !errors.Is(err, store.ErrShredded) {
		t.Errorf("a key of before, from a backup: %v", err)
	}
	must(t, st.PutSubkey(ctx, fresh))
	testShredTenant(t, st, other, at)
}

func testShredTenant(t *testing.T, st, other store.Store, at time.Time) {
	ctx := t.Context()
	if n, err := other.Shred(ctx, "payment", "acme", "", at); err != nil || n != 2+3 {
		t.Errorf("the tenant had %d keys, %v", n, err)
	}
	for name, put := range map[string]func() error{
		"a key":           func() error { return st.PutDEK(ctx, dek("payment", "acme", 3)) },
		"a person's":      func() error { return st.PutSubkey(ctx, subkey("carol", 1)) },
		"of a search":     func() error { return st.PutSubkey(ctx, subkey("", 2)) },
		"one of a backup": func() error { return st.PutDEK(ctx, dek("payment", "acme", 1)) },
	} {
		if err := put(); !errors.Is(err, store.ErrShredded) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if _, err := st.DEK(ctx, "payment", "acme", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a shredded tenant's key: %v", err)
	}
	if _, err := st.DEK(ctx, "payment", "globex", 0); err != nil {
		t.Errorf("another tenant's key: %v", err)
	}
	if n, err := st.Shred(ctx, "payment", "never", "", at); err != nil || n != 0 {
		t.Errorf("of whom there was nothing: %d, %v", n, err)
	}
	sets, err := st.ListKeySets(ctx, "payment", "", store.KeySet{}, 10)
	must(t, err)
	var got []string
	for _, s := range sets {
		got = append(got, fmt.Sprint(s.Tenant, " ", s.Who, " ", s.Last, " ", s.Closed))
	}
	if diff := cmp.Diff([]string{"acme  2 true", "acme alice 2 false", "globex  1 false", "never  0 true"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	testPutKeySet(t, st)
	testRace(t, st, other)
}

// testPutKeySet: a backup's tombstones count, and lift none.
func testPutKeySet(t *testing.T, st store.Store) {
	ctx := t.Context()
	at := when().Add(2 * time.Hour)
	must(t, st.PutKeySet(ctx, store.KeySet{Item: "payment", Tenant: "acme", Last: 9, Shredded: when()}))
	if k, err := st.KeySet(ctx, "payment", "acme", ""); err != nil || !k.Closed || k.Last != 9 {
		t.Errorf("an older tombstone: %+v, %v", k, err)
	}
	must(t, st.PutKeySet(ctx, store.KeySet{Item: "payment", Tenant: "globex", Last: 1, Shredded: at, Closed: true}))
	if _, err := st.DEK(ctx, "payment", "globex", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("shredded elsewhere: %v", err)
	}
}

// testRace: keys are made while they are shredded, and none is left.
func testRace(t *testing.T, st, other store.Store) {
	ctx := t.Context()
	for i := range 10 {
		tenant := fmt.Sprint("t", i)
		var wg sync.WaitGroup
		for v := range uint32(4) {
			wg.Go(func() {
				if err := st.PutDEK(ctx, dek("payment", tenant, v+1)); err != nil && !errors.Is(err, store.ErrShredded) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if _, err := other.Shred(ctx, "payment", tenant, "", when().Add(time.Hour)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if _, err := st.DEK(ctx, "payment", tenant, 0); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%s has a key: %v", tenant, err)
		}
	}
}

func testNotices(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx := t.Context()
	var ids []uint64
	for i, s := range []store.Store{st, other, st} {
		id, err := s.PutNotice(ctx, fmt.Appendf(nil, `{"n":%d}`, i), when().Add(time.Duration(i)*time.Minute), 90*time.Second)
		must(t, err)
		ids = append(ids, id)
	}
	got, err := other.Notices(ctx, 0)
	must(t, err)
	want := []store.Notice{
		{ID: ids[1], Text: []byte(`{"n":1}`), At: when().Add(time.Minute)},
		{ID: ids[2], Text: []byte(`{"n":2}`), At: when().Add(2 * time.Minute)},
	} // the first was too old when the third came
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got, err := st.Notices(ctx, ids[2]); err != nil || len(got) != 0 {
		t.Errorf("after the last: %v, %v", got, err)
	}
}
