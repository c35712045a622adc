//go:build system

package system

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBrowser has a real browser log in, pay, see the receipt and log out; the
// script says what it demands. SCREENSHOTS names a folder for pictures.
func TestBrowser(t *testing.T) {
	t.Parallel()
	need(t, "node")
	const script = "../browser/pay.mjs"
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "node_modules", "playwright-core")); err != nil {
		missing(t, "playwright-core is not installed; run make tools")
	}
	r := start(t, variant(t))
	in, err := json.Marshal(map[string]string{
		"base": r.base(), "user": "alice", "password": r.password("alice"), "browser": browser(t),
		"ca": filepath.Join(r.dir, "ca.pem"), "screenshots": os.Getenv("SCREENSHOTS"),
	})
	if err != nil {
		t.Fatal(err)
	}
	out, code := command(t, string(in), "node", script)
	t.Log(out)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	r.auditHolds()
}

// browser finds Chromium under the names that it goes by.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "google-chrome", "chromium-browser"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "chromium is not installed; run make tools")
	return ""
}
