package relay

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/leash"
)

// What edit ends, as it does for a caller who was revoked while the service worked,
// is not passed on, wherever its body lies and whatever the flow may be.
func TestEndedByEdit(t *testing.T) {
	events := func(w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header)) error {
		return Events(w, out, rt, edit, Bounds{Idle: time.Minute, Total: time.Minute})
	}
	in := func() io.ReadCloser { return hop.NewWhole([]byte("done")) }
	for name, row := range map[string]struct {
		send func(http.ResponseWriter, *http.Request, http.RoundTripper, func(http.Header)) error
		rt   fixed
	}{
		"in memory": {Send, fixed{in(), 4}},
		"in memory, of a flow that may stay open": {events, fixed{in(), 4}},
		"in memory, and looked at on the way":     {Send, fixed{struct{ io.ReadCloser }{in()}, 4}},
		"empty":                                   {Send, fixed{http.NoBody, 0}},
		"empty, of a flow that may stay open":     {events, fixed{http.NoBody, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var l leash.Leash
			l.Begin(context.Background())
			out := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(&l)
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("it was passed on (%v)", v)
				}
			}()
			_ = row.send(httptest.NewRecorder(), out, row.rt, func(http.Header) { l.End(nil) })
		})
	}
}

// fixed answers at once.
type fixed struct {
	body io.ReadCloser
	n    int64
}

// RoundTrip implements http.RoundTripper.
func (f fixed) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Location": {"/secret"}}, ContentLength: f.n, Body: f.body}, nil
}
