package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// contexts are those by which something was recorded.
type contexts chan context.Context

func (c contexts) Record(ctx context.Context, _ audit.Event) error {
	c <- ctx
	return nil
}

// TestJudgedByItsOwnContext: a request with a key has a context until its answer is
// there, and another from then on. Who judges meanwhile whether the answer may stay
// open keeps to the one in which it began: the other is not his to read, which the race
// detector sees, and would name another request's end.
func TestJudgedByItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		under := func(name string) context.Context { return context.WithValue(t.Context(), key{}, name) }
		recorded := make(contexts, 1)
		g := &Gateway{opt: Options{Audit: recorded, Logger: slog.New(slog.DiscardHandler)}, policies: &bundle.Plane{Activator: new(bundle.Activator)}, ending: make(chan struct{})}
		streams := &target{name: "shop", flow: spec.Flow{Stream: []string{spec.StreamEvents}}}
		c := &call{r: httptest.NewRequest(http.MethodGet, "/orders", nil), path: "/orders", ctx: under("as it began"), target: streams, table: new(table)}
		g.table.Store(c.table)
		ended := make(chan struct{})
		stop := forward{g}.mayStay(c, func() { close(ended) })
		defer stop()
		g.table.Store(new(table)) // of a file that leads nobody there any more
		c.ctx = under("as it ends")
		<-ended
		if got := (<-recorded).Value(key{}); got != "as it began" {
			t.Errorf("judged and recorded %v, want as it began", got)
		}
	})
}
