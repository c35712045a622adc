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
		status, value := h.holds(tc.service, tc.secret)
		if value != tc.value || (tc.value == "") != (status == http.StatusForbidden) {
			t.Errorf("%s asks for %s: %d %q", tc.service, tc.secret, status, value)
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
		for range 3000 { // half a minute
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

// TestOnlyTodaysFiles: what a killed run left and what rampart.yaml gives no more
// goes; what is somebody else's stays.
func TestOnlyTodaysFiles(t *testing.T) {
	h := open(t, nil, lets...)
	folder := h.memory("shop")
	if folder == "" {
		t.Skip("this machine has no folder in memory")
	}
	h.put("prod/pem", "pem-1")
	there := func(name string) bool { _, err := os.Stat(filepath.Join(folder, name)); return err == nil }
	for name, mode := range map[string]os.FileMode{"gone": 0o400, ".next": 0o400, "others": 0o600} {
		must(t, os.WriteFile(filepath.Join(folder, name), []byte("x"), mode))
	}
	h.start("shop") // in the same folder
	h.Until("the socket is open", func() bool { status, _ := h.holds("shop", "hook"); return status != 0 })
	if there("gone") || there(".next") || !there("others") || !there("pem") {
		t.Errorf("left by a killed run: %v, %v; somebody else's: %v; of today: %v", there("gone"), there(".next"), there("others"), there("pem"))
	}
	s := h.of["shop"]
	next := *s.table.Load()
	next.svc.Secrets = map[string]string{"hook": "socket"}
	s.table.Store(&next)
	s.files.look() // as a new configuration does
	h.Until("what is not given any more has left", func() bool { return !there("pem") })
	s.stop()
	if !there("others") {
		t.Error("somebody else's file went with the end")
	}
}

// TestDisabledHoldsNothing: a service that is disabled, or whose certificate is
// revoked, is given nothing more, cached or not, and its files leave.
func TestDisabledHoldsNothing(t *testing.T) {
	for name, deny := range map[string]func(h *house){
		"the service is disabled": func(h *house) { h.Admin(wire.AdminServices+"/shop"+wire.SubDisable, struct{}{}, nil) },
		"its certificate is revoked": func(h *house) {
			now, err := h.of["shop"].opt.Link.Source().Current()
			must(h.t, err)
			h.Admin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedSerial, ID: now.Proof.Issuer() + "." + now.Proof.Serial()}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, []string{"shop"}, lets...)
			h.put("prod/hook", "hook-1")
			h.put("prod/pem", "pem-1")
			shop, pem := h.of["shop"], filepath.Join(h.held["shop"], "pem")
			reads := func() bool { _, err := os.Stat(pem); return err == nil }
			h.Until("it holds both", func() bool {
				status, _ := h.holds("shop", "hook")
				return status == 200 && (reads() || h.held["shop"] == "")
			})
			deny(h)
			h.Until("it hears of it", func() bool { return shop.opt.Link.Disabled() != nil })
			if status, value := h.holds("shop", "hook"); status != 403 || value != "" {
				t.Errorf("by socket: %d %q", status, value)
			}
			h.Until("the file has left", func() bool { return !reads() })
			for _, path := range []string{agent.PathDEK, agent.PathDBCert + "ledger"} {
				res, err := shop.sock.Post("http://sidecar"+path, "application/json", strings.NewReader(`{"item":"order"}`))
				must(t, err)
				res.Body.Close()
				if path == agent.PathDEK && res.StatusCode != 403 || res.StatusCode < 400 {
					t.Errorf("%s: %d", path, res.StatusCode)
				}
			}
			h.Stop()
			if status, value := h.holds("shop", "hook"); status != 403 || value != "" {
				t.Errorf("with the control plane away: %d %q", status, value)
			}
		})
	}
}

// holds asks for a secret as the service does; 0: its socket is not there.
func (h *house) holds(service, secret string) (status int, value string) {
	res, err := h.of[service].sock.Get("http://sidecar" + agent.PathSecret + secret)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	var v agent.SecretValue
	json.NewDecoder(res.Body).Decode(&v)
	return res.StatusCode, string(v.Value)
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
