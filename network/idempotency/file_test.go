package idempotency_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/network/idempotency/idempotencytest"
)

// crashEnv tells the test binary to be the process that gets killed.
const crashEnv = "IDEMPOTENCY_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		hammer(path)
	}
	os.Exit(m.Run())
}

// hammer begins and finishes keys for ever, and says so on standard output as a
// gateway would to its clients: only after the store has returned.
func hammer(path string) {
	store, err := idempotency.NewFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	say := func(what, key string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, key)
	}
	for worker := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d", worker, i)
				c, err := store.Begin(context.Background(), requestOf(key), time.Now())
				if err != nil || c.State != idempotency.New {
					fmt.Fprintln(os.Stderr, key, c.State, err)
					os.Exit(1)
				}
				say("begun", key)
				if i%3 == 2 {
					continue // dies in flight
				}
				if err := store.Finish(context.Background(), c, idempotency.Response{Status: 201, Body: []byte(key)}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				say("done", key)
			}
		}()
	}
	select {}
}

func requestOf(key string) idempotency.Request {
	return idempotency.Request{ID: sha256.Sum256([]byte(key)), Hash: sha256.Sum256([]byte("body")), Keep: time.Hour}
}

func openFile(t *testing.T, path string) *idempotency.File {
	t.Helper()
	f, err := idempotency.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFile(t *testing.T) {
	idempotencytest.Test(t, func(t *testing.T) idempotency.Store {
		return openFile(t, filepath.Join(t.TempDir(), "keys.jsonl"))
	})
}

// TestKill: a process that is killed without warning forgets nothing that it
// has told anybody, and neither does the next one.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.jsonl")
	said := killed(t, path)
	for range 2 {
		store := openFile(t, path)
		for key, what := range said {
			c, err := store.Begin(t.Context(), requestOf(key), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case what == "done" && (c.State != idempotency.Done || string(c.Response.Body) != key):
				t.Errorf("%s was done; now state %d, answer %q", key, c.State, c.Response.Body)
			case what == "begun" && c.State == idempotency.New:
				t.Errorf("%s was begun; now it would run again", key)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killed runs hammer until it has finished some keys, kills it, and returns what
// it said last of each key.
func killed(t *testing.T, path string) map[string]string {
	t.Helper()
	said := map[string]string{}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() { // to the end of the pipe: what was said before the kill counts
		what, key, _ := strings.Cut(lines.Text(), " ")
		said[key] = what
		if len(said) == 200 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if len(said) < 200 {
		t.Fatalf("only %d keys before the end", len(said))
	}
	return said
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.jsonl")
	f := openFile(t, path)
	now := time.Now()
	begin := func(f *idempotency.File, key string, at time.Time) idempotency.Claim {
		c, err := f.Begin(t.Context(), requestOf(key), at)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	done := begin(f, "done", now)
	if err := f.Finish(t.Context(), done, idempotency.Response{Status: 200, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	begin(f, "in flight", now)
	gone := begin(f, "abandoned", now)
	if err := f.Abandon(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	old := begin(f, "expired", now.Add(-2*time.Hour))
	if err := f.Finish(t.Context(), old, idempotency.Response{Status: 200}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Begin(t.Context(), requestOf("closed"), now); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("closed: got %v, want unavailable", err)
	}

	f = openFile(t, path)
	for key, want := range map[string]idempotency.State{
		"done": idempotency.Done, "in flight": idempotency.InFlight, "abandoned": idempotency.New, "expired": idempotency.New,
	} {
		if c := begin(f, key, now); c.State != want {
			t.Errorf("%s: state %d, want %d", key, c.State, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "in flight") {
		t.Error("a client's key is on the disk in clear")
	}
}

// TestDamage: a tail that a crash cut short is dropped; any other damage stops
// the start, since a lost key is a request that runs twice.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.jsonl")
	f := openFile(t, path)
	for _, key := range []string{"a", "b"} {
		c, err := f.Begin(t.Context(), requestOf(key), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Finish(t.Context(), c, idempotency.Response{Status: 200, Body: []byte(key)}); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"whole":                 {string(whole), true},
		"empty":                 {"", true},
		"half a line more":      {string(whole) + `{"op":"begin","id":"00`, true},
		"zeros at the end":      {string(whole) + strings.Repeat("\x00", 4096), true},
		"a line of garbage":     {string(whole) + "garbage\n", true},
		"cut in the last line":  {string(whole[:len(whole)-10]), true},
		"garbage in the middle": {"garbage\n" + string(whole), false},
		"a flipped operation":   {strings.Replace(string(whole), `"op":"begin"`, `"op":"begun"`, 1), false},
		"a cut id":              {strings.Replace(string(whole), `"id":"`, `"id":"0`, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.jsonl")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := idempotency.NewFile(path)
			if (err == nil) != tc.ok {
				t.Fatalf("got %v, want ok %v", err, tc.ok)
			}
			if err != nil {
				return
			}
			defer f.Close()
			c, err := f.Begin(t.Context(), requestOf("a"), time.Now())
			if err != nil || len(tc.text) > len(whole)/2 && (c.State != idempotency.Done || string(c.Response.Body) != "a") {
				t.Errorf("first key: state %d, %v", c.State, err)
			}
		})
	}
}

func BenchmarkIdempotencyFile(b *testing.B) {
	f, err := idempotency.NewFile(filepath.Join(b.TempDir(), "keys.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		c, err := f.Begin(b.Context(), requestOf(fmt.Sprint(i)), time.Now())
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Finish(b.Context(), c, idempotency.Response{Status: 201, Body: []byte("{}")}); err != nil {
			b.Fatal(err)
		}
	}
}
