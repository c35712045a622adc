package sidecar

import (
	"net/http"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/relay"
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
	return upstream.New(upstream.Options{Name: name, Timeout: wait}).Over(rt, "", false)
}

// streamBounds are a little wider than the edge's, which so ends first and says why.
var streamBounds = relay.Bounds{Idle: 3 * time.Minute, Total: time.Hour + time.Minute}

// open passes a request on whose answer may stay open, if its flow says so.
func (a *arrival) open(w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header)) error {
	switch {
	case a.webSocket:
		_, err := relay.WebSocket(w, a.r, out, rt, edit, streamBounds)
		return err
	case slices.Contains(a.flow.Stream, spec.StreamEvents):
		return relay.Events(w, out, rt, edit, streamBounds)
	}
	return relay.Send(w, out, rt, edit)
}
