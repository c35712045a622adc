package control_test

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// edge makes one call on what gateways share.
func (h *house) edge(as string, q wire.EdgeStoreRequest) (a wire.EdgeStoreAnswer, err error) {
	h.t.Helper()
	err = h.call(as, http.MethodPost, wire.PathEdgeStore, q, &a)
	return a, err
}

func TestEdgeStore(t *testing.T) {
	h := open(t, "")
	key := []byte("-----BEGIN PRIVATE KEY-----\nplanted-canary\n-----END PRIVATE KEY-----\n")
	do := func(q wire.EdgeStoreRequest) wire.EdgeStoreAnswer {
		t.Helper()
		a, err := h.edge("gateway/edge", q)
		must(t, err)
		return a
	}
	folder := "certificates/ca/shop.example"
	first := do(wire.EdgeStoreRequest{Op: wire.EdgeLock, Key: folder, Owner: "a", Until: h.now().Add(time.Minute)})
	if second := do(wire.EdgeStoreRequest{Op: wire.EdgeLock, Key: folder, Owner: "b"}); first.Fence == 0 || second.Fence != 0 {
		t.Errorf("fences %d and %d, want one holder", first.Fence, second.Fence)
	}
	do(wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: folder + "/shop.example.key", Value: key, Fence: first.Fence})
	do(wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: folder + "/shop.example.crt", Value: []byte("chain"), Fence: first.Fence})
	h.wantEvent("edge_store.store", audit.Allowed, "secret.manager", h.sys.ServiceID("edge"))
	if got := do(wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: folder + "/shop.example.key"}); !bytes.Equal(got.Value, key) {
		t.Errorf("got %q", got.Value)
	}
	h.wantEvent("edge_store.load", audit.Allowed, "secret.manager", h.sys.ServiceID("edge"))
	list := do(wire.EdgeStoreRequest{Op: wire.EdgeList, Key: "certificates"})
	if diff := cmp.Diff([]string{"certificates/ca"}, list.Keys); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if stat := do(wire.EdgeStoreRequest{Op: wire.EdgeStat, Key: folder}); len(stat.Keys) != 1 {
		t.Errorf("a folder is told by what lies in it: %+v", stat)
	}
	h.pass(2 * time.Minute) // the first holder sleeps past its lease
	do(wire.EdgeStoreRequest{Op: wire.EdgeLock, Key: folder, Owner: "b", Until: h.now().Add(time.Minute)})
	_, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: folder + "/shop.example.key", Value: []byte("old"), Fence: first.Fence})
	if statusOf(err) != http.StatusConflict {
		t.Errorf("a write with an old fence: %v", err)
	}
	h.wantEvent("edge_store.store", audit.Refused, "secret.manager", h.sys.ServiceID("edge"))
	db, err := os.ReadFile(h.state.Path("control.db"))
	must(t, err)
	wal, _ := os.ReadFile(h.state.Path("control.db-wal"))
	if bytes.Contains(append(db, wal...), []byte("planted-canary")) {
		t.Error("the database holds the key in the clear")
	}
}

func TestEdgeStoreRefuses(t *testing.T) {
	h := open(t, "")
	for name, q := range map[string]struct {
		as   string
		q    wire.EdgeStoreRequest
		want int
	}{
		"a service":           {"service/orders", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "a"}, http.StatusForbidden},
		"a queue":             {"store/events", wire.EdgeStoreRequest{Op: wire.EdgeList}, http.StatusForbidden},
		"no operation":        {"gateway/edge", wire.EdgeStoreRequest{Key: "a"}, http.StatusBadRequest},
		"no key":              {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad}, http.StatusBadRequest},
		"a folder above":      {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "a/../b"}, http.StatusBadRequest},
		"a slash in front":    {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "/a"}, http.StatusBadRequest},
		"too deep":            {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "a/a/a/a/a/a/a/a/a"}, http.StatusBadRequest},
		"too long":            {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: strings.Repeat("a", 401)}, http.StatusBadRequest},
		"an empty value":      {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: "a"}, http.StatusBadRequest},
		"a value too large":   {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: "a", Value: make([]byte, 64<<10+1)}, http.StatusBadRequest},
		"a lock without name": {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLock, Key: "a"}, http.StatusBadRequest},
		"nothing there":       {"gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "a"}, http.StatusNotFound},
	} {
		if _, err := h.edge(q.as, q.q); statusOf(err) != q.want {
			t.Errorf("%s: %v, want %d", name, err, q.want)
		}
	}
	must(t, h.db.PutEdge(t.Context(), store.EdgeValue{Key: "b", Sealed: []byte{1, 0, 0}, Modified: h.now()}, 0, 9))
	if _, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "b"}); statusOf(err) != http.StatusInternalServerError {
		t.Errorf("a damaged value: %v", err)
	}
	h.setDeaf(true)
	if _, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: "c", Value: []byte("x")}); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("a write that cannot be recorded: %v", err)
	}
	h.setDeaf(false)
	if _, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "c"}); statusOf(err) != http.StatusNotFound {
		t.Errorf("it was written anyway: %v", err)
	}
}

// A value that somebody with the database, but without the key, moved to
// another name does not open there.
func TestEdgeValuesCannotBeSwapped(t *testing.T) {
	h := open(t, "")
	for _, key := range []string{"a", "b"} {
		_, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeStore, Key: key, Value: []byte("of " + key)})
		must(t, err)
	}
	a, err := h.db.EdgeValue(t.Context(), "a")
	must(t, err)
	a.Key = "b"
	must(t, h.db.PutEdge(t.Context(), a, 0, 9))
	if got, err := h.edge("gateway/edge", wire.EdgeStoreRequest{Op: wire.EdgeLoad, Key: "b"}); err == nil {
		t.Errorf("opened as %q", got.Value)
	}
}
