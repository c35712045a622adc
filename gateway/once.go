package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/spec"
)

// leaseMargin is how much longer a key is held than its request may take: a
// second holder must not start while the first still waits.
const leaseMargin = 5 * time.Second

// once carries a request out at most once per key. The key belongs to the
// subject and the operation, so that nobody can read another's answer by
// guessing a key. Gateways that share a load keep keys in one store.
func (s forward) once(c *call, rule *spec.Idempotency) error {
	key := c.r.Header.Get(rule.Header)
	if key == "" && rule.Required {
		return rampart.Errorf(rampart.Invalid, "idempotency.key", "header %s is missing: a name of your choice for this request, the same for every retry of it", rule.Header)
	}
	within := time.Duration(c.target.flow.Upstream.Timeout) // here for the whole answer, second try included
	call := idempotency.Call{
		Owner: c.principal.Subject, Scope: c.principal.Subject + " " + c.r.Method + " " + c.path, Key: key,
		Required: rule.Required, Query: c.r.URL.RawQuery, Body: c.body, Keep: time.Duration(rule.Keep), Lease: within + leaseMargin,
	}
	whole := c.r
	// A client that goes away does not undo what it asked for: the answer is kept for
	// when it comes back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(whole.Context()), within)
	defer cancel()
	c.r = whole.WithContext(ctx)
	err := c.table.once.Do(ctx, c.w, call, func(w http.ResponseWriter) error { return s.send(c, w, key) })
	c.r = whole // what is recorded from here on waits for the disk, not for the call
	if err != nil || c.w.Header().Get(idempotency.HeaderReplayed) == "" {
		return err
	}
	e := c.event(nil)
	e.Control, e.Code = "idempotency.key", "replayed"
	s.g.record(c, e)
	return nil
}
