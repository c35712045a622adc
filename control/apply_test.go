package control_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// fullStore is a store whose disk is full when the test says so.
type fullStore struct {
	store.Store
	h *house
}

func (s fullStore) SwapSealed(ctx context.Context, name string, old, new []byte) (bool, error) {
	if s.h.full.Load() {
		return false, errors.New("disk full")
	}
	return s.Store.SwapSealed(ctx, name, old, new)
}

// edited is the house's file with changes: old, new, ...
func edited(t *testing.T, edit ...string) *spec.System {
	t.Helper()
	for i := 0; i < len(edit); i += 2 {
		if !strings.Contains(file, edit[i]) {
			t.Fatalf("%q is not in the file", edit[i])
		}
	}
	return loaded(t, strings.NewReplacer(edit...).Replace(file))
}

func loaded(t *testing.T, text string) *spec.System {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rampart.yaml")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	sys, err := spec.Load(path)
	must(t, err)
	return sys
}

func (h *house) apply(sys *spec.System, dry bool) (wire.Applied, error) {
	h.t.Helper()
	var out wire.Applied
	err := h.admin(http.MethodPost, wire.AdminConfig, wire.Apply{Bundle: sys.Bundle(), File: "/srv/rampart.yaml", DryRun: dry}, &out)
	return out, err
}

func (h *house) status() wire.Status {
	h.t.Helper()
	var st wire.Status
	must(h.t, h.admin(http.MethodGet, wire.AdminStatus, nil, &st))
	return st
}

// TestApply: a changed file is in force at once, for the control plane itself and
// for planes that watch, and it is on record who changed it from what to what.
func TestApply(t *testing.T) {
	h := open(t, "")
	link := h.link()
	link.ReportPolicies(1<<40, wire.Shadow{}, nil) // it has whatever comes
	next := edited(t, `admin: ["orders:*"]`, "admin: [\"orders:*\"]\n    clerk: [\"orders:read\"]", "60/m", "90/m")
	if err := h.admin(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Password: "correct horse battery", Facts: spec.DemoUser{Roles: []string{"clerk"}}}, nil); err == nil {
		t.Fatal("a role that nothing defines was granted")
	}
	dry, err := h.apply(next, true)
	must(t, err)
	if len(dry.Changes) == 0 || h.status().Digest != h.sys.Bundle().Digest {
		t.Errorf("a dry run said %v, and the system enforces %s", dry.Changes, h.status().Digest)
	}
	done, err := h.apply(next, false)
	must(t, err)
	if done.Policy == 0 {
		t.Error("new roles came without a version of the policies")
	}
	until(t, "the plane has the new file", func() bool { return link.State().System.Bundle().Digest == next.Bundle().Digest })
	if st := h.status(); st.Digest != next.Bundle().Digest || st.File != "/srv/rampart.yaml" {
		t.Errorf("status says %s from %s", st.Digest, st.File)
	}
	h.mustAdmin(wire.AdminUsers, wire.User{Name: "ann", Password: "correct horse battery", Facts: spec.DemoUser{Roles: []string{"clerk"}}}, nil)
	h.wantEvent("config.apply", audit.Allowed, "", "")
	list := h.events("config.apply")
	if e := list[len(list)-1]; e.Detail["old"] != h.sys.Bundle().Digest || e.Detail["new"] != next.Bundle().Digest || !strings.HasPrefix(e.Actor, "uid:") {
		t.Errorf("the event says %v by %q", e.Detail, e.Actor)
	}
	if done := h.events("POST " + wire.AdminConfig); slices.ContainsFunc(done, func(e audit.Event) bool { return e.Outcome == audit.Allowed && e.Detail["changed"] != "nothing" }) {
		t.Errorf("config.apply is said again: %+v", done)
	}
	again, err := h.apply(next, false)
	must(t, err)
	if len(again.Changes) != 0 || len(h.events("config.apply")) != len(list) {
		t.Errorf("the same file again changed %v", again.Changes)
	}
	kept, from, err := control.ReadApplied(h.state)
	must(t, err)
	if kept.Bundle().Digest != next.Bundle().Digest || from != "/srv/rampart.yaml" {
		t.Errorf("kept is %s from %s", kept.Bundle().Digest, from)
	}
}

// TestApplyUnenforced: a plane that keeps an older file says why, and status passes it
// on.
func TestApplyUnenforced(t *testing.T) {
	h := open(t, "")
	long := strings.Repeat("x", 2*wire.MaxReason)
	must(t, h.call("gateway/edge", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "gateway/edge", Instance: "i", Digest: "old", Unenforced: long}, nil))
	for _, p := range h.status().Planes {
		if p.Plane == "gateway/edge" && (p.Digest != "old" || p.Unenforced != long[:wire.MaxReason]) {
			t.Errorf("status says %s, %d bytes of why", p.Digest, len(p.Unenforced))
		}
	}
}

// TestApplyFlows: who may have a secret, and exchange a token for whom, follows the
// flows of the file in force.
func TestApplyFlows(t *testing.T) {
	h := open(t, "")
	secret := func() int {
		return statusOf(h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, nil))
	}
	if got := secret(); got != http.StatusOK {
		t.Fatalf("the file grants the secret, and its sidecar gets %d", got)
	}
	without := edited(t, `  - { from: payments, to: processor, carries: [key], egress: { methods: [POST], paths: ["/v1/charges"] }, inject: { secret: key, into: "header:Authorization" } }
`, "")
	_, err := h.apply(without, false)
	must(t, err)
	if got := secret(); got != http.StatusForbidden {
		t.Errorf("no flow grants the secret any more, and its sidecar gets %d", got)
	}
	_, err = h.apply(h.sys, false)
	must(t, err)
	if got := secret(); got != http.StatusOK {
		t.Errorf("the file grants the secret again, and its sidecar gets %d", got)
	}
}

// TestApplyRefuses: whatever is refused leaves the file, the policies and what is
// kept as they were.
func TestApplyRefuses(t *testing.T) {
	good := edited(t, "60/m", "90/m", `admin: ["orders:*"]`, `admin: ["orders:read"]`)
	for name, tc := range map[string]struct {
		bundle spec.Bundle
		breaks func(*house)
		want   int
		says   string
	}{
		"text that does not parse":            {bundle: spec.NewBundle([]byte("rampart: v1\nnonsense"), nil), want: http.StatusBadRequest},
		"another digest than its own":         {bundle: spec.Bundle{File: good.Bundle().File, Digest: strings.Repeat("0", 64)}, want: http.StatusBadRequest, says: "digest"},
		"controls off in a system that stays": {bundle: loaded(t, file+"unsafe: { disable: [limit.ip] }\n").Bundle(), want: http.StatusBadRequest, says: "throw-away"},
		"another name":                        {bundle: edited(t, "name: pay", "name: other").Bundle(), want: http.StatusConflict, says: "system.name"},
		"a service more":                      {bundle: edited(t, "  mail: {", "  more: { upstream: \"http://127.0.0.1:9009\" }\n  mail: {").Bundle(), want: http.StatusConflict, says: "services.more"},
		"a store's address":                   {bundle: edited(t, "kind: sqlite, holds", "kind: sqlite, audit_table: log, holds").Bundle(), want: http.StatusConflict, says: "stores.db.audit_table"},
		"a document that does not compile": {bundle: good.Bundle(), want: http.StatusBadRequest, says: "examined", breaks: func(h *house) {
			h.examine = func(*spec.System) ([]string, error) { return nil, errors.New("examined and found wanting") }
		}},
		"an audit log that takes nothing": {bundle: good.Bundle(), want: http.StatusServiceUnavailable, breaks: func(h *house) { h.setDeaf(true) }},
		"a store that takes nothing":      {bundle: good.Bundle(), want: http.StatusServiceUnavailable, breaks: func(h *house) { h.full.Store(true) }},
		"a state folder that takes nothing": {bundle: good.Bundle(), want: http.StatusServiceUnavailable, breaks: func(h *house) {
			must(h.t, os.Remove(h.state.Path("config.json")))
			must(h.t, os.MkdirAll(h.state.Path("config.json", "in-the-way"), 0o700))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := found(t, "")
			h.openDB = func(ctx context.Context) (store.Store, error) {
				db, err := sqlite.Open(ctx, h.state.Path("control.db"))
				return fullStore{db, h}, err
			}
			h.start()
			t.Cleanup(func() { h.stop() })
			policies := h.plane.PolicyContent()
			if tc.breaks != nil {
				tc.breaks(h)
			}
			var out wire.Applied
			err := h.admin(http.MethodPost, wire.AdminConfig, wire.Apply{Bundle: tc.bundle, File: "f"}, &out)
			if got := statusOf(err); got != tc.want || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %d (%v), want %d that says %q", got, err, tc.want, tc.says)
			}
			h.setDeaf(false)
			h.full.Store(false)
			if st := h.status(); st.Digest != h.sys.Bundle().Digest {
				t.Errorf("the system enforces %s, want what was", st.Digest)
			}
			if now := h.plane.PolicyContent(); now != policies {
				t.Errorf("the policies in force are %s, want those of before, %s", now, policies)
			}
		})
	}
}

// TestApplyReplicas: a file that is applied at one control plane is in force at the
// others; one that starts with a file that was replaced takes the newer; one that
// starts with a file that nobody has seen brings it to the others.
func TestApplyReplicas(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "control.db")
	a, b := replicas(t, func(ctx context.Context) (store.Store, error) { return sqlite.Open(ctx, shared) })
	next := edited(t, "60/m", "90/m")
	_, err := a.apply(next, false)
	must(t, err)
	until(t, "b enforces what was applied at a", func() bool { return b.status().Digest == next.Bundle().Digest })
	b.stop()
	b.start() // with the file of before
	if got := b.status().Digest; got != next.Bundle().Digest {
		t.Errorf("b came back with %s, want the newer file", got)
	}
	third := edited(t, "60/m", "30/m")
	b.stop()
	b.sys = third
	b.start()
	until(t, "a enforces what b came with", func() bool { return a.status().Digest == third.Bundle().Digest })
	_, err = a.apply(a.sys, false) // back to the first is meant
	must(t, err)
	until(t, "b enforces the first again", func() bool { return b.status().Digest == a.sys.Bundle().Digest })
}
