package gateway

import (
	"cmp"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// healthWindow is for how long a refusal counts as being at the limit.
const healthWindow = 10 * time.Second

// health is what a heartbeat says of what stands behind this gateway. It only reads,
// and waits for no configuration that is being compiled.
func (g *Gateway) health() wire.EdgeHealth {
	t, now := g.table.Load(), g.opt.Now()
	if t == nil {
		return wire.EdgeHealth{}
	}
	out := wire.EdgeHealth{Store: t.store.health()}
	for _, tg := range t.targets {
		if s, well := tg.backend.health(tg.name, now); !well {
			out.Services = append(out.Services, s)
		}
	}
	slices.SortFunc(out.Services, func(a, b wire.ServiceHealth) int { return cmp.Compare(a.Name, b.Name) })
	if out.More = max(0, len(out.Services)-wire.MaxHealth); out.More > 0 {
		out.Services = out.Services[:wire.MaxHealth]
	}
	return out
}

// health reports whether the service is asked as usual, and if not why.
func (b *backend) health(name string, now time.Time) (s wire.ServiceHealth, well bool) {
	since, open := b.service.Open()
	refused := b.load.Refused()
	s = wire.ServiceHealth{Name: name, Open: since.UTC(), AtLimit: !refused.IsZero() && now.Sub(refused) < healthWindow}
	if s.AtLimit {
		s.Limit = b.load.Limit()
	}
	return s, !open && !s.AtLimit
}

// health is nil where no store is shared.
func (s *sharing) health() *wire.StoreHealth {
	if s == nil {
		return nil
	}
	since, _ := s.Away()
	return &wire.StoreHealth{Away: since.UTC(), Alone: s.Alone()}
}
