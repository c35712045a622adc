package gateway

import (
	"net/http"
	"time"

	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/spec"
)

// once carries a request out at most once per key. The key belongs to the
// subject and the operation, so that nobody can read another's answer by
// guessing a key.
func (s forward) once(c *call, rule *spec.Idempotency) error {
	key := c.r.Header.Get(rule.Header)
	call := idempotency.Call{
		Scope: c.principal.Subject + " " + c.r.Method + " " + c.path, Key: key,
		Required: rule.Required, Body: c.body, Keep: time.Duration(rule.Keep),
	}
	err := s.g.once.Do(c.r.Context(), c.w, call, func(w http.ResponseWriter) error { return s.proxy(c, w, key) })
	if err != nil || c.w.Header().Get(idempotency.HeaderReplayed) == "" {
		return err
	}
	e := c.event(nil)
	e.Control, e.Code = "idempotency.key", "replayed"
	s.g.record(c, e)
	return nil
}
