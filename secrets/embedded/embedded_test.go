package embedded

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

var (
	_ secrets.Provider = (*Store)(nil)
	_ secrets.Writer   = (*Store)(nil)
	_ secrets.Versions = (*Store)(nil)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func kek(t testing.TB) *FileKEK {
	t.Helper()
	k, err := OpenKEK(filepath.Join(t.TempDir(), "kek"))
	must(t, err)
	return k
}

func TestKeyFileIsCreatedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := OpenKEK(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = k.KeyID()
		})
	}
	wg.Wait()
	if slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] || id == "" }) {
		t.Errorf("more than one key: %v", ids)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	files, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
	if other := kek(t); other.KeyID() == ids[0] {
		t.Error("two files, one key")
	}
}

func TestKeyFileIsRefused(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(path string, data []byte) error
		want  string
	}{
		{"group may read", func(p string, _ []byte) error { return os.Chmod(p, 0o640) }, "chmod 600"},
		{"others may write", func(p string, _ []byte) error { return os.Chmod(p, 0o602) }, "chmod 600"},
		{"a link", func(p string, _ []byte) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p)) }, "too many levels"},
		{"a folder", func(p string, _ []byte) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, "not a regular file"},
		{"empty", func(p string, _ []byte) error { return os.Truncate(p, 0) }, "known version"},
		{"cut", func(p string, _ []byte) error { return os.Truncate(p, 40) }, "damaged"},
		{"another version", func(p string, d []byte) error {
			return os.WriteFile(p, bytes.Replace(d, []byte("v1"), []byte("v2"), 1), 0o600)
		}, "known version"},
		{"one bit of the key", func(p string, d []byte) error { d[20] ^= 1; return os.WriteFile(p, d, 0o600) }, "damaged"},
		{"checksum", func(p string, d []byte) error { d[len(d)-2] ^= 1; return os.WriteFile(p, d, 0o600) }, "checksum"},
		{"more behind", func(p string, d []byte) error { return os.WriteFile(p, append(d, d...), 0o600) }, "damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kek")
			_, err := OpenKEK(path)
			must(t, err)
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, tt.spoil(path, bytes.Clone(data)))
			_, err = OpenKEK(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), string(data[15:30])) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
	if _, err := OpenKEK(filepath.Join(t.TempDir(), "no", "folder", "kek")); err == nil {
		t.Error("a missing folder is an error")
	}
}

func TestWrap(t *testing.T) {
	k, ctx := kek(t), t.Context()
	wrapped, err := k.Wrap(ctx, []byte("dek"), []byte("tenant a"))
	must(t, err)
	if got, err := k.Unwrap(ctx, wrapped, []byte("tenant a")); err != nil || string(got) != "dek" {
		t.Errorf("%q, %v", got, err)
	}
	again, err := k.Wrap(ctx, []byte("dek"), []byte("tenant a"))
	must(t, err)
	if bytes.Equal(wrapped, again) {
		t.Error("the nonce repeats")
	}
	refused := map[string]func() ([]byte, error){
		"other aad": func() ([]byte, error) { return k.Unwrap(ctx, wrapped, []byte("tenant b")) },
		"other key": func() ([]byte, error) { return kek(t).Unwrap(ctx, wrapped, []byte("tenant a")) },
		"empty":     func() ([]byte, error) { return k.Unwrap(ctx, nil, nil) },
		"version":   func() ([]byte, error) { return k.Unwrap(ctx, append([]byte{2}, wrapped[1:]...), []byte("tenant a")) },
	}
	for name, open := range refused {
		if got, err := open(); err == nil || got != nil {
			t.Errorf("%s: opened as %q", name, got)
		}
	}
}

func value(t *testing.T, s secrets.Secret) (v string) {
	t.Helper()
	must(t, s.Use(func(b []byte) error { v = string(b); return nil }))
	return v
}

func TestStore(t *testing.T) {
	rows, ctx, born := newMemory(), t.Context(), time.Unix(1, 0)
	s := NewStore(kek(t), rows)
	s.Now = func() time.Time { return born }
	for i, v := range []string{"one", "two"} {
		version, err := s.Put(ctx, "prod/stripe/api-key", []byte(v), i)
		must(t, err)
		got, err := s.Get(ctx, "prod/stripe/api-key")
		must(t, err)
		if version != i+1 || got.Version() != i+1 || value(t, got) != v {
			t.Errorf("version %d and %d, value %q", version, got.Version(), value(t, got))
		}
	}
	list, err := s.List(ctx, "")
	must(t, err)
	if want := []secrets.Listed{{Path: "prod/stripe/api-key", Version: 2, Created: born}}; !slices.Equal(list, want) {
		t.Errorf("list %v", list)
	}
	if _, err := s.Get(ctx, "prod/none"); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("got %v", err)
	}
	for _, r := range rows.rows {
		if bytes.Contains(r.Sealed, []byte("two")) {
			t.Error("the row is not sealed")
		}
	}
}

func TestStoreRefuses(t *testing.T) {
	s := NewStore(kek(t), newMemory())
	for _, path := range []string{"", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\x00", "ä", strings.Repeat("a", maxPath+1)} {
		if _, err := s.Put(t.Context(), path, []byte("v"), -1); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("Put %q: %v", path, err)
		}
		if _, err := s.Get(t.Context(), path); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("Get %q: %v", path, err)
		}
	}
	for _, v := range [][]byte{nil, make([]byte, maxValue+1)} {
		if _, err := s.Put(t.Context(), "a", v, -1); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%d bytes: %v", len(v), err)
		}
	}
}

// A row that someone with the database, but without the key, has moved or
// changed does not open.
func TestRowsCannotBeSwapped(t *testing.T) {
	tests := map[string]func(a, b, old *Row){
		"another path":    func(a, b, _ *Row) { a.Sealed = b.Sealed },
		"another version": func(a, _, _ *Row) { a.Version++ },
		"an older value":  func(a, _, old *Row) { a.Sealed = old.Sealed },
		"cut":             func(a, _, _ *Row) { a.Sealed = a.Sealed[:20] },
	}
	k := kek(t)
	for name, swap := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			s := NewStore(k, m)
			for _, put := range []string{"a", "b", "b"} {
				_, err := s.Put(t.Context(), put, []byte("first "+put), -1)
				must(t, err)
			}
			_, err := s.Put(t.Context(), "a", []byte("second"), -1)
			must(t, err)
			swap(&m.rows[m.at("a", 0)], &m.rows[m.at("b", 2)], &m.rows[m.at("a", 1)])
			got, err := s.Get(t.Context(), "a")
			if rampart.KindOf(err) != rampart.Internal || err == nil || !got.IsZero() {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

func TestManyWriters(t *testing.T) {
	s := NewStore(kek(t), newMemory())
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[int]bool)
	for range 8 {
		wg.Go(func() {
			v, err := s.Put(t.Context(), "a", []byte("v"), -1)
			if rampart.KindOf(err) == rampart.Conflict && err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[v] {
				t.Errorf("version %d twice, or %v", v, err)
			}
			seen[v] = true
		})
	}
	wg.Wait()
	got, err := s.Get(t.Context(), "a")
	must(t, err)
	if got.Version() != len(seen) {
		t.Errorf("version %d after %d writes", got.Version(), len(seen))
	}
}

func FuzzSealed(f *testing.F) {
	s := NewStore(kek(f), newMemory())
	sealed, err := s.seal(f.Context(), "a", 1, []byte("value"))
	must(f, err)
	f.Add(sealed)
	f.Add(sealed[:10])
	f.Add([]byte{1, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := s.open(t.Context(), "a", 1, data)
		if err == nil && !bytes.Equal(data, sealed) {
			t.Errorf("%x opened as %q", data, value)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	one, two := make([]byte, keySize), bytes.Repeat([]byte{7}, keySize)
	f.Add(formatKeys([][]byte{one}))
	f.Add(formatKeys([][]byte{one, two, one}))
	f.Add([]byte(headV1 + "AAAA 00\n"))
	f.Add(append(formatKeys([][]byte{one}), headV2+"3 AAAA 00\n"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if keys, err := parseKeys(data); err == nil && !bytes.Equal(formatKeys(keys), data) {
			t.Errorf("%q has a second spelling", data)
		}
	})
}
