package main

import (
	"net"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/spec"
)

// A service whose command names the file's port cannot be moved; one that reads
// $PORT can.
func TestNamesPort(t *testing.T) {
	for run, want := range map[string]bool{
		"python3 -m http.server 9000 --bind 127.0.0.1": true,
		"node server.js --listen=127.0.0.1:9000":       true,
		"caddy run --adapter=caddyfile 19000":          false,
		"app --workers 90 --port 90000":                false,
		"go run ./orders":                              false,
	} {
		if got := namesPort(strings.Fields(run), "9000"); got != want {
			t.Errorf("%s: %v, want %v", run, got, want)
		}
	}
}

// No port is handed out twice, and none on which somebody listens; runners with
// neighbouring process ids begin far apart.
func TestPorts(t *testing.T) {
	p := newPorts(4711)
	taken, err := net.Listen("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	seen := map[string]bool{taken.Addr().String(): true}
	for _, p := range []*ports{newPorts(4711), newPorts(4712), newPorts(4713)} {
		for range 20 {
			addr := p.addr()
			if p.err != nil || seen[addr] {
				t.Fatalf("%s is handed out twice: %v", addr, p.err)
			}
			seen[addr] = true
		}
	}
}

// A copy on free ports says so where the file lets other machines in.
func TestNarrowed(t *testing.T) {
	for name, tc := range map[string]struct {
		listen string
		free   bool
		says   bool
	}{
		"every address, moved":      {":8443", true, true},
		"one of a network, moved":   {"192.0.2.1:443", true, true},
		"loopback, moved":           {"127.0.0.1:8443", true, false},
		"loopback of IPv6, moved":   {"[::1]:8443", true, false},
		"every address, as written": {":8443", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := up{freePorts: tc.free, sys: &spec.System{Services: map[string]spec.Service{"edge": {Role: "gateway", Listen: tc.listen}}}}
			if got := u.narrowed(); (len(got) == 1 && strings.Contains(got[0], tc.listen)) != tc.says {
				t.Errorf("says %q", got)
			}
		})
	}
}

// A taken port is never answered with the flag that was given already.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	svc := spec.Service{Upstream: "http://" + l.Addr().String(), Run: []string{"app", "--port", port}}
	standIn := &spec.System{External: map[string]spec.External{"bank": {StandIn: l.Addr().String(), Run: []string{"bank"}}}}
	for name, tc := range map[string]struct {
		free           bool
		service, other string
	}{
		"as written": {false, "with --free-ports (make up ARGS=--free-ports)", "with --free-ports"},
		"moved":      {true, "its run command names the port, so --free-ports does not move it; with $PORT there", "the file fixes a stand-in's address"},
	} {
		u := up{freePorts: tc.free, sys: standIn}
		if _, err := u.upstream("catalog", svc, newPorts(1)); err == nil || !strings.Contains(err.Error(), tc.service) || tc.free && strings.Contains(err.Error(), "or take") {
			t.Errorf("%s: a service: %v, want %q", name, err, tc.service)
		}
		if err := u.standIns(); err == nil || !strings.Contains(err.Error(), tc.other) || tc.free && strings.Contains(err.Error(), "or take") {
			t.Errorf("%s: a stand-in: %v, want %q", name, err, tc.other)
		}
	}
}
