package control

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// Caches keep keys for keyTTL at most. What they must forget is told for longer:
// a plane that was away hears of it when it is back, and after noticesFor its
// caches are empty anyway.
const (
	keyTTL     = 5 * time.Minute
	noticesFor = 2 * keyTTL
	ackWait    = 5 * time.Second
	ackEvery   = 50 * time.Millisecond
)

// forget tells every plane, also those of other control planes, what its caches
// must not serve any more. When it returns that is durable and on its way; the
// id is what heartbeats acknowledge.
func (p *Plane) forget(ctx context.Context, f wire.Forget) (id uint64, err error) {
	f.ID = 0 // the store numbers it
	text, err := json.Marshal(f)
	if err != nil {
		return 0, err
	}
	if id, err = p.opt.Store.PutNotice(ctx, text, p.opt.Now(), noticesFor); err != nil {
		return 0, unavailable(err)
	}
	return id, p.passNotices(ctx)
}

// passNotices publishes the notices that this control plane has not passed on
// yet, its own and others', each once and in order.
func (p *Plane) passNotices(ctx context.Context) error {
	p.noticing.Lock()
	defer p.noticing.Unlock()
	list, err := p.opt.Store.Notices(ctx, p.noticed)
	if err != nil {
		return unavailable(err)
	}
	for _, n := range list {
		var f wire.Forget
		if err := json.Unmarshal(n.Text, &f); err != nil {
			return err
		}
		f.ID, p.noticed = n.ID, n.ID
		p.forgetHere(f)
		p.hub.forget(f)
	}
	return nil
}

// forgetHere drops what this control plane remembers itself, before its planes
// are told: they ask at once for what is there now.
func (p *Plane) forgetHere(f wire.Forget) {
	for _, name := range f.Secrets {
		if ref, ok := p.living().grants.known[name]; ok {
			p.backends.forget(ref)
		}
	}
	p.deks.drop(f.DEKs)
	for _, t := range f.DEKs {
		p.keys.ring.forget(dekLabel(t.Item, t.Tenant))
	}
}

// recallNotices begins after what is there: planes that connect are told it
// anyway.
func (p *Plane) recallNotices(ctx context.Context) error {
	list, err := p.opt.Store.Notices(ctx, 0)
	if err == nil && len(list) > 0 {
		p.noticed = list[len(list)-1].ID
	}
	return err
}

// lately is what planes should have forgotten within the time for which they keep
// anything, as one message for a plane that connects.
func (p *Plane) lately(ctx context.Context) (wire.Forget, error) {
	list, err := p.opt.Store.Notices(ctx, 0)
	if err != nil {
		return wire.Forget{}, unavailable(err)
	}
	var all wire.Forget
	for _, n := range list {
		var f wire.Forget
		if err := json.Unmarshal(n.Text, &f); err != nil {
			return wire.Forget{}, err
		}
		all.ID = n.ID
		all.Secrets = append(all.Secrets, f.Secrets...)
		all.DEKs = append(all.DEKs, f.DEKs...)
		all.Lifts = append(all.Lifts, f.Lifts...)
	}
	all.Lifts = all.Lifts[max(0, len(all.Lifts)-wire.MaxLifts):] // the newest
	return all, nil
}

// forget publishes one notice.
func (h *hub) forget(f wire.Forget) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "forget", Forget: &f})
}

// acknowledged waits until every plane that may hold one of these items has said
// that it carried out a notice, for as long as ackWait. It returns how many did
// and which did not.
func (p *Plane) acknowledged(ctx context.Context, id uint64, items []string) (done int, waiting []string) {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for {
		done, waiting = p.forgotBy(id, items)
		if len(waiting) == 0 {
			return done, nil
		}
		select {
		case <-ctx.Done():
			return done, waiting
		case <-tick.C:
		}
	}
}

// forgotBy sorts the planes that may hold one of the items. One that has been
// silent for as long as keys are kept holds none, unless it reports to another
// control plane, which tells only what changes.
func (p *Plane) forgotBy(id uint64, items []string) (done int, waiting []string) {
	p.planes.mu.Lock()
	defer p.planes.mu.Unlock()
	for _, who := range p.ids {
		s, known := p.planes.last[who.plane()]
		if !known || who.kind != "service" || !slices.ContainsFunc(items, func(item string) bool { return p.mayDEK(who.name, item) }) {
			continue
		}
		seen := s.at
		if s.head.Seen.After(seen) {
			seen = s.head.Seen
		}
		switch {
		case max(s.head.Forgot, s.hb.Forgot) >= id:
			done++
		case p.opt.Replica != "" || p.opt.Now().Sub(seen) < keyTTL:
			waiting = append(waiting, who.plane())
		}
	}
	slices.Sort(waiting)
	return done, waiting
}
