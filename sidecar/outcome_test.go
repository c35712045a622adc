package sidecar

import (
	"io"
	"net/http"
	"testing"

	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/internal/wire"
)

// TestOutcome: a plane says what became of a request whose service did not answer,
// and no service can say it in its place.
func TestOutcome(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	session := h.session(edge)
	tok, err := edge.Now().Token(t.Context(), wire.TypeSession, session, h.System.ServiceID("shop"))
	must(t, err)
	ask := func(path string) (string, int) {
		t.Helper()
		res := h.call(edge, "shop", "GET", path, "", "Authorization", "Bearer "+tok)
		return res.Header.Get(relay.HeaderOutcome), res.StatusCode
	}
	for name, tc := range map[string]struct {
		path    string
		service http.HandlerFunc
		told    string
		status  int
	}{
		"an answer":            {"/orders/o1", nil, "", 200},
		"a failure of its own": {"/orders/o1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "", 503},
		"a forged word": {"/orders/o1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(relay.HeaderOutcome, relay.NotSent.String())
			w.WriteHeader(503)
		}, "", 503},
		"refused":        {"/nowhere", nil, "not-sent", 404},
		"died under way": {"/orders/o1", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "unknown", 503},
		"may not be passed on": {"/orders/o1", func(w http.ResponseWriter, _ *http.Request) {
			for range relay.MaxAnswerHeaders + 1 {
				w.Header().Add("X-Many", "1")
			}
			_, _ = io.WriteString(w, "booked")
		}, "answered", 502},
	} {
		t.Run(name, func(t *testing.T) {
			h.serve(tc.service)
			if told, status := ask(tc.path); told != tc.told || status != tc.status {
				t.Errorf("status %d, outcome %q; want %d, %q", status, told, tc.status, tc.told)
			}
		})
	}
	h.up.Close()
	if told, status := ask("/orders/o1"); told != "unreached" || status != 503 {
		t.Errorf("nobody there: status %d, outcome %q", status, told)
	}
}
