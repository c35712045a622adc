package authzen

import (
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/rampart-security/rampart"
)

// write sends one JSON document that nobody may keep.
func write(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v) // the caller may have gone; nobody is left to tell
}

// fail answers a request that is itself wrong. The body names the rule.
func fail(w http.ResponseWriter, err error) {
	status := statusOf(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // section 11.3
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	write(w, status, map[string]any{"status": status, "message": message(err)})
}

// textOf returns the part of err that may leave the house; "" for an internal
// one.
func textOf(err error) string {
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Kind == rampart.Internal {
		return ""
	}
	return e.Msg
}
