package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/secretstest"
)

func TestKEKConforms(t *testing.T) {
	secretstest.KEK(t, func(t *testing.T) secretstest.Key {
		k := kek(t)
		return secretstest.Key{KEK: k, Other: kek(t), Rotate: func(t *testing.T) { must(t, k.Rotate()) }}
	})
}

func TestStoreConforms(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		s := NewStore(kek(t), newMemory())
		return secretstest.Place{Backend: s, Name: "embedded", Set: func(t *testing.T, path string, f map[string]string) {
			_, err := s.Put(t.Context(), path, []byte(f[""]), -1)
			must(t, err)
		}}
	})
}

// A key file outlives rotations, restarts, and a program that was killed while
// it wrote the next one.
func TestKeyFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	k, err := OpenKEK(path)
	must(t, err)
	var wrapped [][]byte
	ids := map[string]bool{}
	for range 4 {
		w, err := k.Wrap(t.Context(), []byte("dek"), []byte("aad"))
		must(t, err)
		wrapped, ids[k.KeyID()] = append(wrapped, w), true
		must(t, k.Rotate())
	}
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), ".kek-killed"), []byte("rampart-kek-v1 half"), 0o600))
	again, err := OpenKEK(path)
	must(t, err)
	if len(ids) != 4 || again.KeyID() != k.KeyID() || ids[k.KeyID()] {
		t.Errorf("ids %v, now %s and %s", ids, k.KeyID(), again.KeyID())
	}
	for i, w := range wrapped {
		if got, err := again.Unwrap(t.Context(), w, []byte("aad")); err != nil || string(got) != "dek" {
			t.Errorf("of version %d: %q, %v", i+1, got, err)
		}
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	newest, err := again.Wrap(t.Context(), []byte("dek"), nil)
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1], 0o600))
	older, err := OpenKEK(path)
	must(t, err)
	if _, err := older.Unwrap(t.Context(), newest, nil); err == nil || rampart.KindOf(err) != rampart.Internal {
		t.Errorf("a file from before the rotation: %v", err)
	}
}

// Rewrap leaves every value as it was and nothing under the old key; whoever
// writes meanwhile wins.
func TestRewrap(t *testing.T) {
	k, rows := kek(t), newMemory()
	s := NewStore(k, rows)
	for _, path := range []string{"a", "a", "b", "c"} {
		_, err := s.Put(t.Context(), path, []byte("value of "+path), -1)
		must(t, err)
	}
	must(t, s.Destroy(t.Context(), "b", 0))
	must(t, k.Rotate())
	old := 0
	count := func() {
		old = 0
		must(t, s.Wraps(t.Context(), func(w []byte) {
			if w[0] == wrapV1 {
				old++
			}
		}))
	}
	if count(); old != 3 {
		t.Errorf("%d under the first key", old)
	}
	last := 0
	must(t, s.Rewrap(t.Context(), func(w []byte) bool { last++; return w[0] == wrapV1 }))
	if count(); old != 0 || last != 3 {
		t.Errorf("%d under the first key after %d", old, last)
	}
	for _, path := range []string{"a", "c"} {
		got, err := s.Get(t.Context(), path)
		must(t, err)
		if value(t, got) != "value of "+path {
			t.Errorf("%s has changed", path)
		}
	}
}
