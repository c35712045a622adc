//go:build system

package system

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestVerify attacks the running example twice: a second run must not trip
// over what the first one left.
func TestVerify(t *testing.T) {
	file := variant(t)
	r := start(t, file)
	for run := range 2 {
		begun := time.Now()
		out, code := command(t, "", binary, "verify", "-f", file, "--state", r.dir, "--json")
		counts := verdicts(t, out)
		t.Logf("run %d: %v in %v", run+1, counts, time.Since(begun).Round(time.Millisecond))
		if code != 0 || counts["fail"]+counts["inconclusive"] > 0 || counts["pass"] < 30 {
			t.Fatalf("verify: exit code %d, %v\n%s", code, counts, out)
		}
	}
	if out, code := command(t, "", binary, "audit", "verify", "--state", r.dir); code != 0 {
		t.Errorf("audit verify after the attacks: %s", out)
	}
}

// TestVerifyNeedsATarget: nothing that does not run is ever called proven.
func TestVerifyNeedsATarget(t *testing.T) {
	out, code := command(t, "", binary, "verify", "-f", payments, "--state", t.TempDir())
	if code == 0 || code == 1 {
		t.Errorf("exit code %d for a system that does not run\n%s", code, out)
	}
}

// TestFalsify switches every removable control off, one at a time: exactly its
// probes must notice.
func TestFalsify(t *testing.T) {
	begun := time.Now()
	var out strings.Builder
	cmd := exec.Command(binary, "verify", "--falsify", "-f", variant(t), "--json") // by the test's own time limit: a busy machine is no failure
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	n := strings.Count(out.String(), `"control"`)
	t.Logf("%d controls in %v", n, time.Since(begun).Round(time.Second))
	if code != 0 || n < 12 {
		t.Errorf("falsify: exit code %d, %d controls\n%s", code, n, out.String())
	}
}

func verdicts(t *testing.T, out string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var p struct {
			ID, Verdict, Control, Evidence string
			Row                            string `json:"seed_row"`
		}
		if json.Unmarshal(lines.Bytes(), &p) != nil || p.ID == "" {
			continue
		}
		if p.Verdict == "" || p.Row == "" || p.Evidence == "" {
			t.Errorf("%s lacks a verdict, a seed row or evidence: %s", p.ID, lines.Text())
		}
		counts[p.Verdict]++
	}
	return counts
}
