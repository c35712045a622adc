package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// TestWorkloadVariable: a service that holds its certificate finds the socket by
// the standard's own variable, in the form of SPIFFE Workload Endpoint section 4;
// the others hear nothing of it.
func TestWorkloadVariable(t *testing.T) {
	state, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	run := []string{"true"}
	u := &up{state: state, sys: &spec.System{Services: map[string]spec.Service{"till": {Run: run, Workload: true}, "shop": {Run: run}}}}
	u.running = wire.Running{Upstream: map[string]string{"till": "http://127.0.0.1:1", "shop": "http://127.0.0.1:2"}, Sockets: map[string]string{}, Out: map[string]string{}}
	for _, c := range u.services() {
		at := slices.IndexFunc(c.env, func(v string) bool { return strings.HasPrefix(v, "SPIFFE_ENDPOINT_SOCKET=") })
		if (at >= 0) != (c.name == "till") {
			t.Errorf("%s is told %q", c.name, c.env)
		}
		if at >= 0 && !strings.HasPrefix(c.env[at], "SPIFFE_ENDPOINT_SOCKET=unix:///") {
			t.Errorf("%s is told %q", c.name, c.env[at])
		}
	}
	want, err := workloadSocket(state, "till")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (&workloadFlags{}).path(state, "till"); err != nil || got != want {
		t.Errorf("the sidecar serves %q, %v, the service is told %q", got, err, want)
	}
	if _, err := (&workloadFlags{uids: []uint{1 << 40}}).path(state, "till"); err == nil {
		t.Error("a user id that is none was taken")
	}
}
