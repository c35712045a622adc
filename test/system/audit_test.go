//go:build system

package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// event is what these tests read of an audit record.
type event struct {
	Class    string            `json:"class"`
	Action   string            `json:"action"`
	Outcome  string            `json:"outcome"`
	Control  string            `json:"control"`
	Layer    string            `json:"layer"`
	Code     string            `json:"code"`
	Subject  string            `json:"subject"`
	Resource string            `json:"resource"`
	Detail   map[string]string `json:"detail"`
}

// events reads the whole audit log of one plane, such as "sidecar/orders". A
// record that is being written is left out.
func (r *running) events(plane string) []event {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "audit", strings.ReplaceAll(plane, "/", "_"), "*.jsonl"))
	if err != nil {
		r.t.Fatal(err)
	}
	var out []event
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			r.t.Fatal(err)
		}
		b = b[:bytes.LastIndexByte(b, '\n')+1]
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var rec struct{ Event event }
			if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
				r.t.Fatalf("%s: %v: %s", f, err, lines.Bytes())
			}
			out = append(out, rec.Event)
		}
	}
	return out
}

// refuses runs an attack and demands that plane records its refusal, by this
// control.
func (r *running) refuses(plane, control string, attack func()) {
	r.t.Helper()
	before := len(r.events(plane))
	attack()
	var seen []event
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		seen = r.events(plane)[before:]
		for _, e := range seen {
			if e.Outcome == "refused" && e.Control == control {
				return
			}
		}
	}
	r.t.Errorf("%s has no refusal by %s on record, only %+v", plane, control, seen)
}

// auditHolds has `rampart audit verify` check every record of every plane.
func (r *running) auditHolds() {
	r.t.Helper()
	if out, code := command(r.t, "", binary, "audit", "verify", "--state", r.dir); code != 0 {
		r.t.Errorf("audit verify: exit code %d\n%s", code, out)
	}
}
