package control

import (
	"maps"
	"slices"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// TestOpenFGAKey: the key of the server of relations goes to those whose
// policies ask it.
func TestOpenFGAKey(t *testing.T) {
	for name, c := range map[string]struct {
		server *spec.OpenFGA
		want   []grant
	}{
		"with a key":    {&spec.OpenFGA{Token: "secret://embedded/prod/fga"}, []grant{{"orders", wire.SecretOpenFGA}}},
		"without one":   {&spec.OpenFGA{}, nil},
		"no server":     {nil, nil},
		"not of a kind": {&spec.OpenFGA{Token: "prod/fga"}, nil},
	} {
		sys := &spec.System{Services: map[string]spec.Service{"orders": {Policy: []string{"orders.cedar"}}, "stock": {}}, Authz: spec.Authz{OpenFGA: c.server}}
		if got := slices.Collect(maps.Keys(grantsOf(sys).secrets)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
