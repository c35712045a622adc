package file_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/file"
	"github.com/rampart-security/rampart/secrets/secretstest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, folder, path, value string, mode os.FileMode) {
	t.Helper()
	name := filepath.Join(folder, path)
	must(t, os.MkdirAll(filepath.Dir(name), 0o700))
	must(t, os.RemoveAll(name))
	must(t, os.WriteFile(name, []byte(value), 0o600))
	must(t, os.Chmod(name, mode))
}

func TestBackend(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		folder := filepath.Join(t.TempDir(), "mount")
		return secretstest.Place{
			Backend: file.New("pod", folder), Name: "pod", Max: 64 << 10,
			Set:  func(t *testing.T, path string, f map[string]string) { put(t, folder, path, f[""], 0o600) },
			Deny: func(t *testing.T, path string) { must(t, os.Chmod(filepath.Join(folder, path), 0o644)) },
			Down: func(down bool) {
				from, to := folder, folder+".away"
				if !down {
					from, to = to, from
				}
				must(t, os.Rename(from, to))
			},
		}
	})
}

func TestWhatIsTaken(t *testing.T) {
	folder := t.TempDir()
	put(t, folder, "plain", "value", 0o400)
	put(t, folder, "line", "value\n", 0o440)
	put(t, folder, "pem", "-----BEGIN\n-----END\n", 0o600)
	put(t, folder, "empty", "", 0o600)
	put(t, folder, "world", "value", 0o604)
	put(t, folder, "group-writes", "value", 0o660)
	put(t, t.TempDir(), "outside", "value", 0o600)
	must(t, os.Symlink("plain", filepath.Join(folder, "link")))
	must(t, os.Symlink("/etc/hostname", filepath.Join(folder, "out")))
	must(t, os.Symlink("loop", filepath.Join(folder, "loop")))
	must(t, syscall.Mkfifo(filepath.Join(folder, "fifo"), 0o600))
	for path, want := range map[string]struct {
		value string
		kind  rampart.Kind
	}{
		"plain":        {"value", 0},
		"line":         {"value", 0},
		"pem":          {"-----BEGIN\n-----END\n", 0},
		"link":         {"value", 0},
		"empty":        {"", rampart.Internal},
		"world":        {"", rampart.Denied},
		"group-writes": {"", rampart.Denied},
		"out":          {"", rampart.Denied},
		"loop":         {"", rampart.Denied},
		"fifo":         {"", rampart.Denied},
		"..data":       {"", rampart.Invalid},
	} {
		t.Run(path, func(t *testing.T) {
			s, err := file.New("pod", folder).Fetch(t.Context(), secrets.Ref{Backend: "pod", Path: path})
			if want.value == "" {
				if err == nil || rampart.KindOf(err) != want.kind {
					t.Fatalf("got %v, want kind %v", err, want.kind)
				}
				return
			}
			must(t, err)
			must(t, s.Use(func(b []byte) error {
				if string(b) != want.value {
					t.Errorf("got %q", b)
				}
				return nil
			}))
		})
	}
}

// Kubernetes changes a Secret by pointing ..data elsewhere: whoever reads in
// between gets the old or the new, whole.
func TestSwappedWhileRead(t *testing.T) {
	folder := t.TempDir()
	put(t, folder, "..1/key", strings.Repeat("a", 1000), 0o440)
	put(t, folder, "..2/key", strings.Repeat("b", 1000), 0o440)
	must(t, os.Symlink("..1", filepath.Join(folder, "..data")))
	must(t, os.Symlink("..data/key", filepath.Join(folder, "key")))
	b, stop := file.New("pod", folder), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		next := filepath.Join(folder, "..data_tmp")
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if os.Symlink([]string{"..2", "..1"}[i%2], next) != nil || os.Rename(next, filepath.Join(folder, "..data")) != nil {
				t.Error("cannot swap")
				return
			}
		}
	})
	for range 500 {
		s, err := b.Fetch(t.Context(), secrets.Ref{Backend: "pod", Path: "key"})
		must(t, err)
		must(t, s.Use(func(v []byte) error {
			if len(v) != 1000 || strings.Trim(string(v), string(v[:1])) != "" {
				t.Error("got half of it")
			}
			return nil
		}))
	}
	close(stop)
	wg.Wait()
}
