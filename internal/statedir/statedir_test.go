package statedir

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, dir string, opt Options) *Dir {
	t.Helper()
	d, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpen(t *testing.T) {
	born := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "a", "state")
	d := open(t, dir, Options{Create: true, Now: func() time.Time { return born }})
	if d.Throwaway() || !d.Created().Equal(born) {
		t.Errorf("throwaway %v, created %v", d.Throwaway(), d.Created())
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info.Mode(), err)
	}
	again := open(t, dir, Options{Create: true})
	if !again.Created().Equal(born) {
		t.Error("a second open must not create anew")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("temporary files stay behind: %v", left)
	}
}

func TestThrowawayIsFixedAtCreation(t *testing.T) {
	lasting, thrown := t.TempDir()+"/real", t.TempDir()+"/thrown"
	open(t, lasting, Options{Create: true})
	if _, err := Open(lasting, Options{Create: true, Throwaway: true}); err == nil {
		t.Error("a real folder became a throw-away one")
	}
	open(t, thrown, Options{Create: true, Throwaway: true})
	if d := open(t, thrown, Options{Create: true}); !d.Throwaway() {
		t.Error("a throw-away folder forgot what it is")
	}
	d := open(t, lasting, Options{})
	if err := d.WriteFile("./state.json", []byte(`{"version":1,"throwaway":true}`), 0o600); err == nil {
		t.Error("WriteFile must not touch state.json")
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, dir string)
		opt  Options
		want string
	}{
		{"missing", func(*testing.T, string) {}, Options{}, "does not exist"},
		{"group may read", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)); must(t, os.Chmod(dir, 0o750)) }, Options{Create: true}, "chmod 700"},
		{"others may write", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)); must(t, os.Chmod(dir, 0o702)) }, Options{Create: true}, "chmod 700"},
		{"a file", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, Options{}, "not a folder"},
		{"someone's documents", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(dir+"/thesis.tex", nil, 0o600))
		}, Options{Create: true}, "found thesis.tex"},
		{"empty, not to be created", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)) }, Options{}, "no state.json"},
		{"state of another version", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(dir+"/state.json", []byte(`{"version":9}`), 0o600))
		}, Options{}, "version 9"},
		{"state is garbage", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(dir+"/state.json", []byte(`{`), 0o600))
		}, Options{Create: true}, "state.json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "s")
			tt.make(t, dir)
			if _, err := Open(dir, tt.opt); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestOpenRefusesForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a folder that belongs to another user")
	}
	dir := t.TempDir() + "/s"
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chown(dir, 12345, 12345))
	if _, err := Open(dir, Options{Create: true}); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("got %v", err)
	}
}

func TestOneStateWhenManyCreate(t *testing.T) {
	dir := t.TempDir() + "/s"
	var wg sync.WaitGroup
	created := make([]time.Time, 16)
	for i := range created {
		wg.Go(func() {
			d, err := Open(dir, Options{Create: true, Now: func() time.Time { return time.Unix(int64(i), 0) }})
			if err != nil {
				t.Error(err)
				return
			}
			created[i] = d.Created()
		})
	}
	wg.Wait()
	for _, c := range created {
		if !c.Equal(created[0]) {
			t.Fatalf("two states: %v and %v", created[0], c)
		}
	}
}

func TestWriteFile(t *testing.T) {
	d := open(t, t.TempDir()+"/s", Options{Create: true})
	for _, content := range []string{"one", "two"} {
		must(t, d.WriteFile("run/system.json", []byte(content), 0o640))
		got, err := os.ReadFile(d.Path("run", "system.json"))
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
	info, err := os.Stat(d.Path("run", "system.json"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info, err)
	}
	for _, rel := range []string{"../x", "/etc/x", "", "a/../../x"} {
		if err := d.WriteFile(rel, nil, 0o600); err == nil {
			t.Errorf("%q escaped", rel)
		}
	}
}

func TestSocket(t *testing.T) {
	t.Setenv("TMPDIR", shortTemp(t))
	d := open(t, filepath.Join(os.TempDir(), "s"), Options{Create: true})
	short, err := d.Socket("orders.sock")
	must(t, err)
	if short != d.Path("run", "orders.sock") {
		t.Errorf("got %s", short)
	}
	deep := open(t, filepath.Join(os.TempDir(), strings.Repeat("deep/", 30), "s"), Options{Create: true})
	long, err := deep.Socket("orders.sock")
	must(t, err)
	twin, err := deep.Socket("orders.sock")
	must(t, err)
	other, err := deep.Socket("payments.sock")
	must(t, err)
	if long != twin || long == other || len(long) > maxSocket {
		t.Errorf("long %s, again %s, other %s", long, twin, other)
	}
	for _, path := range []string{short, long} {
		l, err := net.Listen("unix", path)
		must(t, err)
		l.Close()
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if _, err := d.Socket(bad); err == nil {
			t.Errorf("name %q accepted", bad)
		}
	}
}

func TestSocketFolderOfAnother(t *testing.T) {
	t.Setenv("TMPDIR", shortTemp(t))
	deep := open(t, filepath.Join(os.TempDir(), strings.Repeat("deep/", 30), "s"), Options{Create: true})
	folder := filepath.Join(os.TempDir(), "rampart-"+strconv.Itoa(os.Geteuid()))
	must(t, os.Symlink(t.TempDir(), folder))
	if _, err := deep.Socket("x"); err == nil {
		t.Error("a planted link was followed")
	}
	must(t, os.Remove(folder))
	must(t, os.Mkdir(folder, 0o700))
	must(t, os.Chmod(folder, 0o777))
	if _, err := deep.Socket("x"); err == nil {
		t.Error("a folder open to all was used")
	}
}

func TestLock(t *testing.T) {
	d := open(t, t.TempDir()+"/s", Options{Create: true})
	unlock, err := d.Lock()
	must(t, err)
	_, err = d.Lock()
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	unlock, err = d.Lock()
	must(t, err)
	unlock()
}

// shortTemp is a temporary folder whose path leaves room for a socket's name.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
