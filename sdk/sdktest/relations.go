package sdktest

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/agent"
)

// graph is what the service said of relations.
type graph struct {
	ready  bool
	at     uint64
	tuples map[tupleKey]TupleWrite
	staged map[tupleKey]TupleWrite // of a reset that is not whole
	parts  uint64
}

type tupleKey struct{ object, relation, subject string }

// Relations returns the tuples that the service told of, sorted, and the
// revision.
func (a *Agent) Relations() ([]TupleWrite, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.graph.tuples), func(x, y TupleWrite) int {
		return cmp.Or(cmp.Compare(x.Object, y.Object), cmp.Compare(x.Relation, y.Relation), cmp.Compare(x.Subject, y.Subject))
	}), a.graph.at
}

// Forget drops all relations, as a sidecar that restarts does.
func (a *Agent) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.graph = graph{}
}

func (a *Agent) push(w http.ResponseWriter, r *http.Request) {
	var p agent.TuplesPush
	if !read(w, r, &p) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.graph.take(p) {
		w.WriteHeader(http.StatusConflict)
		return
	}
	json.NewEncoder(w).Encode(agent.TuplesState{Revision: a.graph.at, Ready: a.graph.ready, Rejected: a.rejected(p)})
}

// rejected are the relations that Info does not list, as a sidecar whose model
// has no place for them answers.
func (a *Agent) rejected(p agent.TuplesPush) *agent.TuplesRejected {
	var out agent.TuplesRejected
	for _, c := range p.Changes {
		typ, _, _ := strings.Cut(c.Object, ":")
		if !c.Delete && !slices.Contains(a.Info.Relations[typ], c.Relation) {
			out.Add(agent.TupleRejected{Object: c.Object, Relation: c.Relation, Subject: c.Subject, Reason: "the model has no " + typ + "#" + c.Relation})
		}
	}
	if out.Count == 0 {
		return nil
	}
	return &out
}

func (g *graph) take(p agent.TuplesPush) bool {
	if !p.Reset {
		if !g.ready || p.From != g.at {
			return false
		}
		g.at = p.To
		change(g.tuples, p.Changes)
		return true
	}
	if p.From == 0 {
		g.staged, g.parts = map[tupleKey]TupleWrite{}, 0
	}
	if p.From != g.parts || g.staged == nil {
		return false
	}
	g.parts++
	change(g.staged, p.Changes)
	if !p.More {
		g.tuples, g.staged, g.at, g.ready = g.staged, nil, p.To, true
	}
	return true
}

func change(tuples map[tupleKey]TupleWrite, changes []TupleWrite) {
	for _, c := range changes {
		key := tupleKey{c.Object, c.Relation, c.Subject}
		if c.Delete {
			delete(tuples, key)
			continue
		}
		tuples[key] = c
	}
}
