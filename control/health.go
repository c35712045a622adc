package control

import (
	"slices"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// boundedHealth keeps what a gateway says of its health within bounds: services of
// the file, each once. Nothing in force rests on it, so that what is too much or
// means nothing is left out, and nothing is refused.
func boundedHealth(id identity, sys *spec.System, h wire.EdgeHealth) wire.EdgeHealth {
	if id.kind != "gateway" {
		return wire.EdgeHealth{}
	}
	h.More = min(max(0, h.More), len(sys.Services))
	var kept []wire.ServiceHealth
	for _, s := range h.Services {
		_, known := sys.Services[s.Name]
		twice := slices.ContainsFunc(kept, func(k wire.ServiceHealth) bool { return k.Name == s.Name })
		if len(kept) < wire.MaxHealth && known && !twice && len(s.Name) <= wire.MaxHealthName {
			s.Limit = max(0, s.Limit)
			kept = append(kept, s)
		}
	}
	h.Services = kept
	return h
}
