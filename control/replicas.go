package control

import (
	"context"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart/store"
)

// How a control plane keeps up with others on its store.
const (
	followEvery   = 250 * time.Millisecond // a revocation reaches the others' planes within a second
	followTimeout = 2 * time.Second
	followStale   = 3 * time.Second // without news, planes must not be told that theirs are fresh
	headsFollow   = 4               // endpoints are read at every fourth turn
)

// LogName is how the control plane calls itself in its audit log: "control", or
// "control/NAME" for one of several.
func (o Options) LogName() string {
	if o.Replica == "" {
		return "control"
	}
	return "control/" + o.Replica
}

// follow reads what other control planes wrote: revocations, and where planes
// listen that report to them.
func (p *Plane) follow(ctx context.Context) {
	if p.opt.Replica == "" {
		return // nobody else writes
	}
	p.followed.Store(p.opt.Now().UnixNano())
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := p.followOnce(ctx, turn%headsFollow == 0); err != nil && ctx.Err() == nil {
			p.opt.Logger.LogAttrs(ctx, slog.LevelError, "other control planes cannot be followed", slog.Any("error", err))
			continue
		}
		p.followed.Store(p.opt.Now().UnixNano())
	}
}

// catchUp puts in force all that is revoked in the store now. It is for who must
// know of more than the last turn of follow does.
func (p *Plane) catchUp(ctx context.Context) error {
	if p.opt.Replica == "" {
		return nil // nobody else writes
	}
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	return p.tokens.Follow(ctx)
}

func (p *Plane) followOnce(ctx context.Context, withHeads bool) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if err := p.tokens.Follow(ctx); err != nil {
		return err
	}
	if err := p.followServices(ctx); err != nil {
		return err
	}
	if err := p.passNotices(ctx); err != nil || !withHeads {
		return err
	}
	if err := p.followPolicies(ctx); err != nil {
		return err
	}
	if err := p.followConfig(ctx); err != nil {
		return err
	}
	if err := p.followAuthority(ctx); err != nil {
		return err
	}
	heads, err := p.opt.Store.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if p.planes.adopt(h) {
			p.publishEndpoint(h)
		}
	}
	return nil
}

// publishEndpoint tells planes where the plane of a head listens.
func (p *Plane) publishEndpoint(h store.Head) {
	for _, id := range p.ids {
		if h.Plane == id.plane() {
			p.hub.endpoint(id, h.Listen)
		}
	}
}

// current reports whether this control plane knows of every revocation but the
// newest: beats vouch for that, and planes that get none close.
func (p *Plane) current() bool {
	if p.opt.Replica == "" {
		return true
	}
	return p.opt.Now().Sub(time.Unix(0, p.followed.Load())) < followStale
}

// adopt takes in a head that another control plane stored, if it is newer than
// what the plane told this one.
func (p *planes) adopt(h store.Head) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.last[h.Plane]
	if !h.Seen.After(s.head.Seen) || !h.Seen.After(s.at) {
		return false
	}
	s.head, s.stored = h, h
	p.setLocked(h.Plane, s)
	return true
}
