package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// event is one audit event as it stands in the log.
type event struct {
	Time     time.Time           `json:"time"`
	Plane    string              `json:"plane"`
	Class    string              `json:"class"`
	Action   string              `json:"action"`
	Outcome  string              `json:"outcome"`
	Control  string              `json:"control"`
	Flow     string              `json:"flow"`
	Layer    string              `json:"layer"`
	Subject  string              `json:"subject"`
	Actor    string              `json:"actor"`
	Resource string              `json:"resource"`
	Policies []rampart.PolicyRef `json:"policies"`
	Trace    string              `json:"trace"`
	Peer     string              `json:"peer"`
	Detail   map[string]string   `json:"detail"`
}

func (e event) refused() bool { return e.Outcome == "refused" || e.Outcome == "error" }

// trail follows the audit logs of all planes from the moment it was opened.
// Safe for concurrent use.
type trail struct {
	dir string

	mu     sync.Mutex // guards below
	read   map[string]int64
	events []event
}

// maxTrail bounds the events of one run that are kept; the oldest go first.
const maxTrail = 200_000

func openTrail(dir string) (*trail, error) {
	t := &trail{dir: dir, read: map[string]int64{}}
	files, err := logFiles(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return nil, err
		}
		t.read[f] = info.Size()
	}
	return t, nil
}

// logFiles lists the segments of every plane, oldest first within a plane.
func logFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.jsonl"))
	slices.Sort(files)
	return files, err
}

// pollLocked reads what was appended since the last time.
func (t *trail) pollLocked() error {
	files, err := logFiles(t.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := t.readLocked(f); err != nil {
			return err
		}
	}
	if over := len(t.events) - maxTrail; over > 0 {
		t.events = slices.Delete(t.events, 0, over)
	}
	return nil
}

func (t *trail) readLocked(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= t.read[name] {
		return err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, t.read[name], info.Size()-t.read[name]))
	if err != nil {
		return err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1 // a record that is being written is for the next time
	t.read[name] += int64(whole)
	for line := range bytes.Lines(b[:whole]) {
		var r struct {
			Event event `json:"event"`
		}
		if json.Unmarshal(line, &r) == nil {
			t.events = append(t.events, r.Event)
		}
	}
	return nil
}

// match returns the events that fit, after reading what is new.
func (t *trail) match(fit func(event) bool) ([]event, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.pollLocked(); err != nil {
		return nil, err
	}
	var out []event
	for _, e := range t.events {
		if fit(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// wait polls until an event fits or patience is over; ok is false then.
func (t *trail) wait(ctx context.Context, patience time.Duration, fit func(event) bool) (found event, ok bool, err error) {
	deadline := time.Now().Add(patience)
	for {
		got, err := t.match(fit)
		if err != nil || len(got) > 0 {
			return first(got), len(got) > 0, err
		}
		if time.Now().After(deadline) {
			return event{}, false, nil
		}
		select {
		case <-ctx.Done():
			return event{}, false, ctx.Err()
		case <-time.After(15 * time.Millisecond):
		}
	}
}

func first(e []event) event {
	if len(e) == 0 {
		return event{}
	}
	return e[0]
}

func byTrace(trace string) func(event) bool {
	return func(e event) bool { return e.Trace == trace }
}

func byPeer(peer string) func(event) bool {
	return func(e event) bool { return e.Peer == peer && e.refused() }
}
