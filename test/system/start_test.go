//go:build system

package system

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/freeport"
)

// TestSecondStart: the first start makes everything, a second one finds it
// again, after Ctrl-C and after kill -9 of the runner itself.
func TestSecondStart(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	file := variant(t, fixedPorts(t)...)
	r := prepare(t)
	r.boot(file)
	o := r.order(r.login("alice"), "acme")
	ca, known := r.file("ca.pem"), r.file("demo/credentials.json")
	r.printedCurl(o.ID)
	r.heldBy(file, r.PID)
	if code := r.stop(); code != 0 {
		t.Errorf("Ctrl-C ends with exit code %d, want 0", code)
	}
	r.auditHolds()

	for _, end := range []string{"Ctrl-C", "kill -9"} {
		began := time.Now()
		r.boot(file)
		t.Logf("start after %s: %v", end, time.Since(began).Round(10*time.Millisecond))
		if r.file("ca.pem") != ca || r.file("demo/credentials.json") != known {
			t.Errorf("the start after %s made a new CA or new users", end)
		}
		r.printedCurl(o.ID)
		if end == "Ctrl-C" { // next, the runner gets no chance to stop anybody
			r.cmd.Process.Kill()
			<-r.done
			r.cmd = nil
			r.nothingLeft()
		}
	}
	r.auditHolds()
}

// fixedPorts are the replacements that move the example to free ports, which
// are fixed from then on.
func fixedPorts(t *testing.T) []string {
	out := []string{`listen: ":8443"`, `listen: "127.0.0.1:` + freeport.Take(t) + `"`}
	for _, port := range []string{"9000", "9001", "9002", "9003"} {
		out = append(out, "127.0.0.1:"+port, "127.0.0.1:"+freeport.Take(t))
	}
	return out
}

// file returns the content of a file of the state folder.
func (r *running) file(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// printedCurl runs the call that `up` printed and finds an order in its answer.
func (r *running) printedCurl(order string) {
	r.t.Helper()
	_, rest, ok := strings.Cut(r.out.String(), "curl -K ")
	if !ok {
		r.t.Fatalf("no curl is printed:\n%s", r.out)
	}
	out := must(r.t, "", "curl", "-K", strings.Fields(rest)[0])
	var orders []struct{ ID string }
	err := json.Unmarshal([]byte(out), &orders)
	if err != nil || !slices.ContainsFunc(orders, func(o struct{ ID string }) bool { return o.ID == order }) {
		r.t.Errorf("the printed curl answers %q, want the order %s: %v", out, order, err)
	}
}

// heldBy demands that nobody else can start on a state folder in use.
func (r *running) heldBy(file string, pid int) {
	r.t.Helper()
	out, code := command(r.t, "", binary, "up", "-f", file, "--state", r.dir, "--free-ports")
	if code != 2 || !strings.Contains(out, "in use by process "+strconv.Itoa(pid)) {
		r.t.Errorf("a second up: exit code %d\n%s", code, out)
	}
}

// TestPortInUse: whatever listens where the system wants to is named, with what
// to do, before anything starts.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	for what, port := range map[string]string{"the edge": freeport.Take(t), "service orders": freeport.Take(t)} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		replace := fixedPorts(t)
		if what == "the edge" {
			replace[1] = `listen: "127.0.0.1:` + port + `"`
		} else {
			replace[5] = "127.0.0.1:" + port
		}
		out, code := command(t, "", binary, "up", "-f", variant(t, replace...), "--state", filepath.Join(t.TempDir(), "state"))
		want := "rampart: " + what + " listens on 127.0.0.1:" + port + ", which another program uses; stop that program"
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("%s in use: exit code %d\n%s", what, code, out)
		}
	}
}

// TestBrokenService: a service that does not stay up is reported with its last
// words and started again, ever more slowly, and does not keep Ctrl-C from working.
func TestBrokenService(t *testing.T) {
	t.Parallel()
	r := prepare(t)
	r.launch(variant(t, "run: [go, run, ./notifications]", `run: [sh, -c, "echo no database; exit 7"]`), "--free-ports")
	for _, wait := range []string{"100ms", "200ms", "400ms", "800ms"} {
		want := "rampart: notifications ended (exit status 7): no database; starting it again in " + wait
		r.await(want, time.Minute, func() bool { return strings.Contains(r.out.String(), want) })
	}
	if code := r.stop(); code != 0 {
		t.Errorf("Ctrl-C while starting ends with exit code %d, want 0", code)
	}
}

// TestCrashedWrapper kills the process that watches over a service: the service
// must not live on and keep its port.
func TestCrashedWrapper(t *testing.T) {
	t.Parallel()
	r := start(t, variant(t))
	alice := r.login("alice")
	o := r.order(alice, "acme")
	old := r.pid("orders")
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.await("orders started again", time.Minute, func() bool { pid := r.pid("orders"); return pid != 0 && pid != old })
	r.await("the order", time.Minute, func() bool {
		time.Sleep(time.Second) // alice may ask 60 times a minute, and the breaker opens for 5 s
		status, _ := r.call(alice, http.MethodGet, "/orders/"+o.ID, nil)
		return status == http.StatusOK
	})
	if strings.Contains(r.out.String(), "address already in use") {
		t.Errorf("the old service kept its port:\n%s", r.out)
	}
}
