//go:build system

package system

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// apply runs `rampart apply` and returns its exit code and what it printed.
func (r *running) apply(args ...string) (int, string) {
	r.t.Helper()
	return r.run(append([]string{"apply"}, args...)...)
}

// run runs a command of the administrator.
func (r *running) run(args ...string) (int, string) {
	r.t.Helper()
	out, err := exec.Command(binary, append(args, "--state", r.dir)...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return 0, string(out)
}

// lasting is a client with one connection, which counts those that it had to make.
type lasting struct {
	http.Client
	made atomic.Int32
}

func (r *running) lasting(session *http.Client, protocols func(*http.Protocols)) *lasting {
	p := new(http.Protocols)
	protocols(p)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS13}, Protocols: p, MaxConnsPerHost: 1}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &lasting{Client: http.Client{Jar: session.Jar, Transport: tr, Timeout: 20 * time.Second}}
}

// get makes one request of a load.
func (l *lasting) get(url string) error {
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			l.made.Add(1)
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := l.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var list []any
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %v", res.Status, err)
	}
	return nil
}

// rewrite replaces text in a file, as an editor does.
func rewrite(t *testing.T, file string, pairs ...string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%s does not hold %q", file, pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestApply: while clients of both protocols hold their connections and ask on, a
// changed file is applied, a bad one is refused, and the first comes back. No
// request fails, and no connection ends.
func TestApply(t *testing.T) {
	t.Parallel()
	const calm = "authn: session, limit: { ip: 60000/m, user: 60000/m }"
	file := variant(t, "authn: session, limit: { ip: 300/m, user: 60/m }", calm)
	doc := filepath.Join(filepath.Dir(file), "openapi", filepath.Base(file)+".orders.yaml")
	t.Cleanup(func() { os.Remove(doc) })
	r := start(t, file)
	alice := r.login("alice")
	o := r.order(alice, "acme")

	clients := []*lasting{}
	for range 2 {
		clients = append(clients, r.lasting(alice, func(p *http.Protocols) { p.SetHTTP1(true) }), r.lasting(alice, func(p *http.Protocols) { p.SetHTTP2(true) }))
	}
	var wg sync.WaitGroup
	var sent atomic.Int64
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over); wg.Wait() })
	t.Cleanup(end) // before the system stops
	for _, c := range clients {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(20 * time.Millisecond):
				}
				if err := c.get(r.base() + "/orders"); err != nil {
					t.Errorf("under load: %v", err)
					return
				}
				sent.Add(1)
			}
		})
	}

	original, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	api, err := os.ReadFile(filepath.Join(filepath.Dir(file), "openapi", "orders.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const more = "  /orders/{id}/history:\n    get:\n      operationId: history\n      summary: More\n      x-rampart: { permission: \"orders:read\" }\n" +
		"      parameters:\n        - $ref: \"#/components/parameters/ID\"\n      responses:\n        default: { $ref: \"#/components/responses/Problem\" }\n"
	if err := os.WriteFile(doc, []byte(strings.Replace(string(api), "  /orders/{id}/viewers", more+"  /orders/{id}/viewers", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	history := func() string {
		_, text := r.call(alice, http.MethodGet, "/orders/"+o.ID+"/history", nil)
		return text
	}
	if text := history(); !strings.Contains(text, "no such resource") {
		t.Errorf("an operation that no document has answers %s", text)
	}
	rewrite(t, file, "openapi: openapi/orders.yaml", "openapi: openapi/"+filepath.Base(doc), calm, "authn: session, limit: { ip: 50000/m, user: 50000/m }",
		"validate: { response: strict } }", `validate: { response: strict }, waf: { exclude: [{ route: "POST /orders", field: "body:/org", rules: [942100], reason: test, until: 2099-01-01 }] } }`)
	if _, text := r.run("status"); !strings.Contains(text, "run rampart apply") {
		t.Errorf("the file has changed, and status says:\n%s", text)
	}
	if code, text := r.apply("-f", file, "--dry-run"); code != 0 || !strings.Contains(text, "flows[9].limit.user") || !strings.Contains(history(), "no such resource") {
		t.Errorf("a dry run: exit code %d, and:\n%s", code, text)
	}
	if code, text := r.apply("-f", file); code != 0 || !strings.Contains(text, "every plane enforces") {
		t.Errorf("apply: exit code %d, and:\n%s", code, text)
	}
	if text := history(); strings.Contains(text, "no such resource") {
		t.Errorf("the new operation answers %s", text)
	}
	if code, text := r.apply("-f", file); code != 0 || !strings.Contains(text, "unchanged") {
		t.Errorf("the same file again: exit code %d, and:\n%s", code, text)
	}

	for name, pair := range map[string][2]string{"a bad key": {"  - id: 3\n", "  - idd: 3\n"}, "another name": {"name: payments,", "name: other,"}} {
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, file, pair[0], pair[1])
		if code, text := r.apply("-f", file); code != 2 {
			t.Errorf("%s: exit code %d, want 2:\n%s", name, code, text)
		}
		if err := os.WriteFile(file, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if text := history(); strings.Contains(text, "no such resource") {
		t.Errorf("after files that were refused, the operation answers %s", text)
	}
	if err := os.WriteFile(file, original, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, text := r.apply("-f", file); code != 0 || !strings.Contains(history(), "no such resource") {
		t.Errorf("back: exit code %d, and:\n%s", code, text)
	}
	end()
	for i, c := range clients {
		if n := c.made.Load(); n != 1 {
			t.Errorf("client %d made %d connections", i, n)
		}
	}
	t.Logf("%d requests", sent.Load())

	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.kill("control") // comes back with what was applied
	r.await("the control plane answers again", time.Minute, func() bool { code, _ := r.run("status"); return code == 0 })
	if _, text := r.run("status"); !strings.Contains(text, "is refused: see rampart check") || strings.Contains(text, "ANOTHER FILE") {
		t.Errorf("after a restart with a bad file on disk, status says:\n%s", text)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	rewrite(t, file, calm, "authn: session, limit: { ip: 60000/m, user: 5/m }")
	if code, text := r.apply("-f", file); code != 0 {
		t.Errorf("a tight limit: exit code %d, and:\n%s", code, text)
	}
	statuses := map[int]int{}
	for range 7 {
		status, _ := r.call(alice, http.MethodGet, "/orders", nil)
		statuses[status]++
	}
	if statuses[http.StatusOK] != 5 || statuses[http.StatusTooManyRequests] != 2 {
		t.Errorf("5 requests a minute, and seven in a row got %v", statuses)
	}
}
