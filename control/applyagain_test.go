package control_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestApplyAgain: a file that could not be kept brings its policies when it is applied
// again, though others, which were pushed, were brought back in between.
func TestApplyAgain(t *testing.T) {
	h := open(t, "")
	pushed := pap.FromSystem(edited(t, `customer: ["orders:read"]`, `customer: ["orders:list"]`))
	var st wire.PolicyStatus
	h.mustAdmin(wire.AdminPolicies, pushOf(t, pushed, false), &st)
	before := h.plane.PolicyContent()
	next := edited(t, `admin: ["orders:*"]`, `admin: ["orders:read"]`)
	kept := h.state.Path("config.json")
	must(t, os.Remove(kept))
	must(t, os.MkdirAll(kept+"/in-the-way", 0o700))
	if _, err := h.apply(next, false); statusOf(err) != http.StatusServiceUnavailable {
		t.Fatalf("a state folder that takes nothing: %v", err)
	}
	if now := h.plane.PolicyContent(); now != before {
		t.Fatalf("%s is in force, want what was pushed", now)
	}
	must(t, os.RemoveAll(kept))
	_, err := h.apply(next, false)
	must(t, err)
	want, err := bundle.SetDigest(pap.FromSystem(next))
	must(t, err)
	if now := h.plane.PolicyContent(); now != want {
		t.Error("the file is in force, and its policies are not")
	}
}
