package storetest

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
)

// sealedAs is a sealed value whose first byte tells it from others.
func sealedAs(n byte) []byte { return append([]byte{n}, make([]byte, 63)...) }

func testSecrets(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("versions", func(t *testing.T) { testSecretVersions(t, open(t)) })
	t.Run("destroyed", func(t *testing.T) { testSecretDestroyed(t, open(t)) })
	t.Run("swapped", func(t *testing.T) { testSecretSwapped(t, open(t)) })
	t.Run("bounded", func(t *testing.T) { testSecretBounded(t, open(t)) })
}

func testSecretVersions(t *testing.T, st store.Store) {
	ctx := t.Context()
	must(t, st.PutSecret(ctx, "a/b", 1, sealedAs(1), when()))
	must(t, st.PutSecret(ctx, "a/b", 2, sealedAs(2), when()))
	for _, version := range []int{1, 2, 4} {
		if err := st.PutSecret(ctx, "a/b", version, sealedAs(3), when()); rampart.KindOf(err) != rampart.Conflict {
			t.Errorf("version %d after 2: %v, want a conflict", version, err)
		}
	}
	for asked, want := range map[int]int{0: 2, 1: 1, 2: 2} {
		version, got, err := st.GetSecret(ctx, "a/b", asked)
		must(t, err)
		if version != want || int(got[0]) != want {
			t.Errorf("asked for %d: %d %x", asked, version, got[:1])
		}
	}
	for _, q := range []struct {
		path    string
		version int
	}{{"none", 0}, {"a/b", 3}, {"a", 0}} {
		if _, _, err := st.GetSecret(ctx, q.path, q.version); rampart.KindOf(err) != rampart.NotFound {
			t.Errorf("%v: %v, want not found", q, err)
		}
	}
	list, err := st.ListSecrets(ctx)
	must(t, err)
	if diff := cmp.Diff([]secrets.Listed{{Path: "a/b", Version: 2, Created: when()}}, list); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func testSecretDestroyed(t *testing.T, st store.Store) {
	ctx := t.Context()
	for v := 1; v <= 3; v++ {
		must(t, st.PutSecret(ctx, "a", v, sealedAs(byte(v)), when()))
	}
	must(t, st.PutSecret(ctx, "b", 1, sealedAs(9), when()))
	must(t, st.DestroySecret(ctx, "a", 2))
	for version, want := range map[int]bool{1: true, 2: false, 3: true} {
		_, sealed, err := st.GetSecret(ctx, "a", version)
		must(t, err)
		if (len(sealed) > 0) != want {
			t.Errorf("version %d: %d bytes", version, len(sealed))
		}
	}
	must(t, st.DestroySecret(ctx, "a", 0))
	list, err := st.ListSecrets(ctx)
	must(t, err)
	if len(list) != 1 || list[0].Path != "b" {
		t.Errorf("listed %v", list)
	}
	for _, path := range []string{"a", "none"} {
		if err := st.DestroySecret(ctx, path, 0); rampart.KindOf(err) != rampart.NotFound {
			t.Errorf("destroying %s: %v", path, err)
		}
	}
	if version, _, err := st.GetSecret(ctx, "a", 0); err != nil || version != 3 {
		t.Errorf("the number is forgotten: %d, %v", version, err)
	}
	must(t, st.PutSecret(ctx, "a", 4, sealedAs(4), when()))
}

func testSecretSwapped(t *testing.T, st store.Store) {
	ctx := t.Context()
	var want []embedded.Row
	for _, path := range []string{"a", "b", "c"} {
		for v := 1; v <= 2; v++ {
			must(t, st.PutSecret(ctx, path, v, sealedAs(byte(v)), when()))
			want = append(want, embedded.Row{Path: path, Version: v, Sealed: sealedAs(byte(v))})
		}
	}
	must(t, st.DestroySecret(ctx, "b", 1))
	want = append(want[:2], want[3:]...)
	var got []embedded.Row
	for {
		var last embedded.Row
		if len(got) > 0 {
			last = got[len(got)-1]
		}
		rows, err := st.SecretRows(ctx, last, 2)
		must(t, err)
		if len(rows) == 0 {
			break
		}
		got = append(got, rows...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, c := range []struct {
		row  embedded.Row
		old  []byte
		want bool
	}{
		{embedded.Row{Path: "a", Version: 1, Sealed: sealedAs(7)}, sealedAs(1), true},
		{embedded.Row{Path: "a", Version: 1, Sealed: sealedAs(8)}, sealedAs(1), false},
		{embedded.Row{Path: "a", Version: 9, Sealed: sealedAs(8)}, sealedAs(1), false},
	} {
		ok, err := st.SwapSecret(ctx, c.row, c.old)
		must(t, err)
		if ok != c.want {
			t.Errorf("%v: %v", c.row.Path, ok)
		}
	}
	_, sealed, err := st.GetSecret(ctx, "a", 1)
	must(t, err)
	if !bytes.Equal(sealed, sealedAs(7)) {
		t.Errorf("stored is %x", sealed[:1])
	}
}

func testSecretBounded(t *testing.T, st store.Store) {
	ctx := t.Context()
	for v := 1; v <= 60; v++ {
		must(t, st.PutSecret(ctx, "a", v, sealedAs(1), when()))
	}
	kept := 0
	for v := 1; v <= 60; v++ {
		_, _, err := st.GetSecret(ctx, "a", v)
		if err == nil {
			kept++
		}
	}
	if _, _, err := st.GetSecret(ctx, "a", 60); kept != 50 || err != nil {
		t.Errorf("%d versions kept, %v", kept, err)
	}
}
