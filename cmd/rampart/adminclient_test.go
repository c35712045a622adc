package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdminSocketOfTheDead: what was killed leaves its socket there, and whoever asks
// is told what to do, not what the dial said.
func TestAdminSocketOfTheDead(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for name, at := range map[string]string{"left there": socket, "not there yet": socket + "2"} {
		_, err := newAdminClient(at).status(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "the control plane does not answer; a rampart up that runs starts it again: try once more") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
