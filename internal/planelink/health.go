package planelink

import "github.com/rampart-security/rampart/internal/wire"

// OnHealth has heartbeats tell how this gateway fares. fn is asked once a second and
// must not block; the last one registered counts.
func (l *Link) OnHealth(fn func() wire.EdgeHealth) { l.health.Store(&fn) }

// reportHealth fills what a heartbeat says of a gateway's health.
func (l *Link) reportHealth(hb *wire.Heartbeat) {
	if fn := l.health.Load(); fn != nil {
		hb.Health = (*fn)()
	}
}
