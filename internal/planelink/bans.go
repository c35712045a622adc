package planelink

import "github.com/rampart-security/rampart/internal/wire"

// OnBans has heartbeats tell whom this plane turns away. fn is asked once a second
// and must not block; the last one registered counts.
func (l *Link) OnBans(fn func() wire.Bans) { l.bans.Store(&fn) }

// reportBans fills what a heartbeat says of bans.
func (l *Link) reportBans(hb *wire.Heartbeat) {
	if fn := l.bans.Load(); fn != nil {
		hb.Bans = (*fn)()
	}
}
