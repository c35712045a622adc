package main

import (
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/statedir"
)

// TestFindsWhatIsNew: the id of a decision may be asked about before the plane has
// written it.
func TestFindsWhatIsNew(t *testing.T) {
	state, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := decisionlog.Open(decisionlog.Options{State: state, Plane: "gateway/edge"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Observe(t.Context(), pdp.Question{ID: "D1", Layer: rampart.LayerGateway}, rampart.Decision{ID: "D1"}); err != nil {
		t.Fatal(err)
	}
	if w, err := findDecision(state, "D1"); err != nil || w.Decision.ID != "D1" || w.plane != "gateway_edge" {
		t.Errorf("%+v, %v", w, err)
	}
}
