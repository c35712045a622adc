package decisionlog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestLarge: what would fill the log with a few questions is not decided.
func TestLarge(t *testing.T) {
	l := openLog(t, Options{State: state(t), Settings: func() Settings { return Settings{Schema: schema()} }})
	many := func(n int) []any {
		var out []any
		for range n {
			out = append(out, "ten letter")
		}
		return out
	}
	for name, row := range map[string]struct {
		context map[string]any
		roles   []string
		large   bool
	}{
		"a small question":                 {map[string]any{"ip": "203.0.113.7"}, nil, false},
		"much, and still kept":             {map[string]any{"note": strings.Repeat("x", 40<<10)}, nil, false},
		"much, and sealed it is too much":  {map[string]any{"note": strings.Repeat("x", 50<<10)}, nil, true},
		"few bytes that take many":         {map[string]any{"note": strings.Repeat("\x00", 10<<10)}, nil, true},
		"bytes that are no text":           {map[string]any{"note": strings.Repeat("\xff", 10<<10)}, nil, true},
		"many small values":                {map[string]any{"list": many(5000)}, nil, true},
		"numbers, which take more than 8":  {map[string]any{"list": []any{1e-300, -1.7976931348623157e308, int64(-1) << 63}}, nil, false},
		"a principal with too many rights": {nil, strings.Split(strings.Repeat("administrator-of-something ", 3000), " "), true},
	} {
		t.Run(name, func(t *testing.T) {
			q := ask(1)
			q.Request.Context, q.Principal.Roles = row.context, row.roles
			err := l.Observe(t.Context(), q, answer(q))
			if errors.Is(err, ErrLarge) != row.large || !row.large && err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSegments: a batch that is larger than a segment is spread over several, at
// the ends of lines.
func TestSegments(t *testing.T) {
	s := segments{folder: t.TempDir()}
	line := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
	rest, err := bytes.Repeat(line, 40), error(nil)
	for len(rest) > 0 {
		rest, err = s.append(rest)
		must(t, err)
	}
	must(t, s.close())
	list, err := s.list()
	must(t, err)
	total := 0
	for _, n := range list {
		b, err := os.ReadFile(s.folder + "/" + segmentName(n))
		must(t, err)
		total += len(b)
		if len(b) > segmentBytes || len(b)%len(line) != 0 {
			t.Errorf("segment %d has %d bytes", n, len(b))
		}
	}
	if total != 40*len(line) || len(list) != 3 {
		t.Errorf("%d bytes in %d segments", total, len(list))
	}
}

// TestFlood: however fast decisions come, the log never takes more than it may,
// and what young evidence went for it is said.
func TestFlood(t *testing.T) {
	var said loud
	st := state(t)
	l := openLog(t, Options{State: st, MaxBytes: 1, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	q := ask(1)
	q.Request.Context = map[string]any{"note": strings.Repeat("x", 40<<10)}
	s := segments{folder: st.Path("decisions", "sidecar_orders")}
	for range 12 {
		for range 60 {
			must(t, l.Observe(context.Background(), q, answer(q)))
		}
		must(t, l.Flush(t.Context()))
		list, err := s.list()
		must(t, err)
		total := int64(0)
		for _, n := range list {
			info, err := os.Stat(s.folder + "/" + segmentName(n))
			must(t, err)
			total += info.Size()
		}
		if total > segmentBytes {
			t.Fatalf("%d segments of %d bytes", len(list), total)
		}
	}
	if n := strings.Count(said.String(), "DECISIONS OF THE LAST HOUR WERE REMOVED"); n != 2 {
		t.Errorf("it was said %d times:\n%s", n, said.String())
	}
}

// loud keeps what is logged.
type loud struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *loud) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *loud) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}
