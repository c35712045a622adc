package quota

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t testing.TB, name string, c *clock) *File {
	t.Helper()
	f, err := Open(name, Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// spend asks n times and returns how many were admitted.
func spend(l *Limiter, key string, n int) int {
	ok := 0
	for range n {
		if l.Allow(key, 1).OK {
			ok++
		}
	}
	return ok
}

func TestQuota(t *testing.T) {
	c := &clock{time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)}
	l := open(t, filepath.Join(t.TempDir(), "q"), c).Limiter("gold", 500, 24*time.Hour)
	if got := spend(l, "a", 700); got != 500 {
		t.Errorf("%d admitted, want 500", got)
	}
	if got := spend(l, "b", 1); got != 1 {
		t.Error("another key has another quota")
	}
	v := l.Allow("a", 1)
	if v.OK || v.Remaining != 0 || v.RetryAfter != time.Minute || v.Reset != time.Minute || v.Limit != 500 {
		t.Errorf("%+v, want a refusal until midnight", v)
	}
	c.t = c.t.Add(-time.Hour)
	if l.Allow("a", 1).OK {
		t.Error("a clock that steps back gave something back")
	}
	c.t = c.t.Add(time.Hour + time.Minute)
	if got := spend(l, "a", 700); got != 500 {
		t.Errorf("%d admitted on the next day, want 500", got)
	}
}

// TestRestart: neither an end nor a crash gives anything back, and a crash costs
// one lot at most.
func TestRestart(t *testing.T) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	name := filepath.Join(t.TempDir(), "q")
	total := 0
	for range 5 { // each life ends as kill -9 ends it: nothing is closed
		l := open(t, name, c).Limiter("gold", 1000, 24*time.Hour)
		total += spend(l, "a", 155)
	}
	l := open(t, name, c).Limiter("gold", 1000, 24*time.Hour)
	total += spend(l, "a", 5000)
	if total > 1000 || total < 1000-5*10 {
		t.Errorf("%d admitted over six lives, want 1000 less a lot of 10 per crash", total)
	}
}

func TestWhatIsOnDisk(t *testing.T) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	name := filepath.Join(t.TempDir(), "q")
	spend(open(t, name, c).Limiter("gold", 100, time.Hour), "a", 60)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(good, []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(lines[len(lines)-1], '\n')
	for what, tc := range map[string]struct {
		text []byte
		left int // -1: refused
	}{
		"as it is":               {good, 40},
		"the last line cut off":  {good[:len(good)-1], 41},
		"a line changed":         {bytes.Replace(good, []byte("\t60\t"), []byte("\t10\t"), 1), -1},
		"a line torn inside":     {append(append([]byte(nil), lines[0][:5]...), bytes.Join(append([][]byte{[]byte("\n")}, lines[1:]...), nil)...), -1},
		"a line that never ends": {bytes.Repeat([]byte("x"), 4*maxLine), -1},
		"nothing":                {nil, 100},
	} {
		if err := os.WriteFile(name, tc.text, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(name, Options{Now: c.now})
		if (err != nil) != (tc.left < 0) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err != nil {
			continue
		}
		if got := spend(f.Limiter("gold", 100, time.Hour), "a", 200); got != tc.left {
			t.Errorf("%s: %d left, want %d", what, got, tc.left)
		}
		f.Close()
	}
}

// TestFullDisk: what cannot be recorded is not granted.
func TestFullDisk(t *testing.T) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f := open(t, filepath.Join(t.TempDir(), "q"), c)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	f.f.Close()
	f.f = full
	f.name = filepath.Join(t.TempDir(), "gone", "q") // nor can it be written anew
	l := f.Limiter("gold", 100, time.Hour)
	if v := l.Allow("a", 1); v.OK || v.RetryAfter != time.Second || f.Err() == nil {
		t.Errorf("%+v (%v), want a refusal", v, f.Err())
	}
	f.name = filepath.Join(t.TempDir(), "q")
	if got := spend(l, "a", 200); got != 100 {
		t.Errorf("%d admitted once there was room, want 100", got)
	}
}

// TestKilled has processes of its own killed while they count: the file is always
// sound, and nobody gets more than the quota in all.
func TestKilled(t *testing.T) {
	if name := os.Getenv("RAMPART_QUOTA_CHILD"); name != "" {
		f, err := Open(name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := f.Limiter("gold", 100_000, 24*time.Hour)
		for l.Allow("a", 1).OK {
			os.Stdout.WriteString(".")
		}
		return
	}
	name, total := filepath.Join(t.TempDir(), "q"), 0
	for range 5 {
		c := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		c.Env = append(os.Environ(), "RAMPART_QUOTA_CHILD="+name)
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Millisecond)
		c.Process.Kill()
		c.Wait()
		total += strings.Count(out.String(), ".")
	}
	f, err := Open(name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	total += spend(f.Limiter("gold", 100_000, 24*time.Hour), "a", 200_000)
	if total > 100_000 || total < 100_000-5*1000-5 {
		t.Errorf("%d admitted over five kills, want 100000 less a lot of 1000 for each", total)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(lot{"gold", 20513, "key"}.line(40)))
	f.Add([]byte("gold\t1\tkey\t1\t0\n"))
	f.Add([]byte("\n\t\t\t\t\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lots, err := read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for k, total := range lots {
			back, n, err := parse(strings.TrimSuffix(k.line(total), "\n"))
			if err != nil || back != k || n != total {
				t.Errorf("%+v %d came back as %+v %d, %v", k, total, back, n, err)
			}
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	f, err := Open(filepath.Join(b.TempDir(), "q"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	l := f.Limiter("gold", 1<<40, 24*time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		l.Allow("key", 1)
	}
}
