package sidecar

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// lets is a file in which shop holds one credential by socket and one by file.
var lets = []string{
	"data:\n", "data:\n  hook: { class: secret, kind: credential, source: \"secret://embedded/prod/hook\" }\n  pem: { class: secret, kind: credential, source: \"secret://embedded/prod/pem\" }\n",
	"  shop: {", "  shop: { secrets: { hook: socket, pem: file },",
}

func (h *house) put(path, value string) {
	h.t.Helper()
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: path, Value: []byte(value)}, nil)
}

// TestHeldBySocket: what the file lets a service hold it gets at its socket, and
// nobody else does.
func TestHeldBySocket(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, lets...)
	h.put("prod/hook", "hook-1")
	h.put("prod/pem", "pem-1")
	for _, tc := range []struct {
		service, secret, value string
	}{
		{"shop", "hook", "hook-1"},
		{"shop", "pem", "pem-1"},
		{"shop", "processor_key", ""}, // is injected for it
		{"stock", "hook", ""},
	} {
		res, err := h.of[tc.service].sock.Get("http://sidecar" + agent.PathSecret + tc.secret)
		must(t, err)
		var v agent.SecretValue
		json.NewDecoder(res.Body).Decode(&v)
		res.Body.Close()
		if string(v.Value) != tc.value || (tc.value == "") != (res.StatusCode == http.StatusForbidden) {
			t.Errorf("%s asks for %s: %d %q", tc.service, tc.secret, res.StatusCode, v.Value)
		}
	}
}

// TestHeldByFile: a credential stands in a file in memory, for its owner to read,
// changes in one step, leaves with the secret, and is gone when the sidecar ends.
func TestHeldByFile(t *testing.T) {
	h := open(t, []string{"shop"}, lets...)
	folder := h.held["shop"]
	if folder == "" {
		t.Skip("this machine has no folder in memory")
	}
	name := filepath.Join(folder, "pem")
	reads := func(want string) bool {
		for range 500 {
			if b, err := os.ReadFile(name); string(b) == want && (err == nil) == (want != "") {
				return true
			}
			time.Sleep(10 * time.Millisecond)
		}
		return false
	}
	for _, v := range []string{"pem-1", "pem-2"} {
		if h.put("prod/pem", v); !reads(v) {
			t.Fatalf("the file never held %s", v)
		}
	}
	info, err := os.Stat(name)
	must(t, err)
	if info.Mode() != 0o400 {
		t.Errorf("mode %v", info.Mode())
	}
	events := h.Events("sidecar_shop")
	if !slices.ContainsFunc(events, func(e audit.Event) bool {
		return e.Resource == "secret:pem" && e.Detail["by"] == "file" && e.Detail["version"] == "2"
	}) {
		t.Error("the hand-out is not on record")
	}
	if _, err := os.Stat(filepath.Join(folder, "hook")); err == nil {
		t.Error("what is given by socket stands in a file")
	}
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "destroy", Path: "prod/pem"}, nil)
	if !reads("") {
		t.Error("the secret is destroyed, and its file stays")
	}
	h.put("prod/pem", "pem-3")
	if !reads("pem-3") {
		t.Error("the file did not come back")
	}
	h.of["shop"].stop()
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOnlyMemory(t *testing.T) {
	disk := t.TempDir()
	must(t, os.Chmod(disk, 0o700))
	if err := checkMemory(disk); err == nil {
		t.Log("the temporary folder of this machine is in memory: only the modes are tried")
	} else if !strings.Contains(err.Error(), "not in memory") {
		t.Error(err)
	}
	must(t, os.Chmod(disk, 0o755))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink("/dev/shm", link))
	for _, path := range []string{disk, link, "/dev/shm", filepath.Join(disk, "none")} {
		if checkMemory(path) == nil {
			t.Errorf("%s was taken", path)
		}
	}
}
