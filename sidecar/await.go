package sidecar

import (
	"net/http"
	"time"

	"github.com/rampart-security/rampart/network/upstream"
	"github.com/rampart-security/rampart/spec"
)

// defaultWait is how long an answer may take to begin where the flow does not say.
const defaultWait = 30 * time.Second

// await has rt wait as long as the flow says. Load and health are minded at the
// edge, where most of it comes from: here a wait only ends.
func await(name string, f spec.Flow, rt http.RoundTripper) http.RoundTripper {
	wait := defaultWait
	if f.Upstream != nil {
		wait = time.Duration(f.Upstream.Timeout)
	}
	return upstream.New(upstream.Options{Name: name, Timeout: wait}).Over(rt, false)
}
