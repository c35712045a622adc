//go:build system

package system

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/test/freeport"
)

// TestForeignService puts a program that nobody here wrote behind Rampart, by a
// file that `rampart init` wrote.
func TestForeignService(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	dir, port := t.TempDir(), freeport.Take(t)
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("<!doctype html><title>Catalog</title><p>Mugs and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "rampart.yaml")
	must(t, "", binary, "init", "-f", file, "--name", "shop", "--service", "catalog", "--upstream", "http://127.0.0.1:"+port,
		"--run", "python3 -m http.server "+port+" --bind 127.0.0.1")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > 12 {
		t.Errorf("the file has %d lines, want about ten:\n%s", n, text)
	}
	must(t, "", binary, "check", "-f", file)

	r := start(t, file)
	browser := []string{"Accept", "text/html", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}
	nobody, alice := r.client(), r.login("alice")
	for name, tc := range map[string]struct {
		who          *http.Client
		method, path string
		header       []string
		status       int
		holds        string
	}{
		"nobody":               {nobody, http.MethodGet, "/catalog/", nil, http.StatusUnauthorized, ""},
		"nobody, by browser":   {nobody, http.MethodGet, "/catalog/", browser, http.StatusSeeOther, ""},
		"nobody, what is not":  {nobody, http.MethodGet, "/catalog/nothing", nil, http.StatusUnauthorized, ""},
		"outside of the mount": {alice, http.MethodGet, "/elsewhere", nil, http.StatusNotFound, ""},
		"alice":                {alice, http.MethodGet, "/catalog/", nil, http.StatusOK, "Mugs and more"},
		"alice, by browser":    {alice, http.MethodGet, "/catalog/index.html", browser, http.StatusOK, "Mugs and more"},
		"alice, what is not":   {alice, http.MethodGet, "/catalog/nothing", nil, http.StatusNotFound, "File not found"},
		"a method not allowed": {alice, http.MethodPost, "/catalog/", nil, http.StatusMethodNotAllowed, ""},
		"out of its folder":    {alice, http.MethodGet, "/catalog/..%2f..%2fetc/passwd", nil, http.StatusBadRequest, ""},
	} {
		status, body := r.call(tc.who, tc.method, tc.path, nil, tc.header...)
		if status != tc.status || !strings.Contains(body, tc.holds) {
			t.Errorf("%s: %s %s: %d %s, want %d with %q", name, tc.method, tc.path, status, body, tc.status, tc.holds)
		}
	}
	if to := r.location(nobody, "/catalog/", browser...); to != "/login?next=%2Fcatalog%2F" {
		t.Errorf("a browser without session is sent to %q", to)
	}
	r.auditHolds()
}

// location returns where a GET is redirected to.
func (r *running) location(c *http.Client, path string, header ...string) string {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.base()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	return res.Header.Get("Location")
}
