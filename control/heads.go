package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// planes holds the last heartbeat of each plane. The zero value is ready.
type planes struct {
	mu   sync.Mutex
	last map[string]seen
}

type seen struct {
	hb   wire.Heartbeat
	at   time.Time
	head store.Head
}

// swap notes a heartbeat and returns the one before.
func (p *planes) swap(s seen) (before seen, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]seen{}
	}
	before, ok = p.last[s.hb.Plane]
	p.last[s.hb.Plane] = s
	return before, ok
}

func (p *planes) all() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]seen, 0, len(p.last))
	for _, s := range p.last {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b seen) int { return cmp.Compare(a.hb.Plane, b.hb.Plane) })
	return out
}

const maxInstance = 64

// headOf checks what a plane says of itself.
func headOf(hb wire.Heartbeat, now time.Time) (store.Head, error) {
	h := store.Head{Plane: hb.Plane, Instance: hb.Instance, Listen: hb.Listen, Seq: hb.AuditSeq, Seen: now}
	if len(hb.Instance) > maxInstance || len(hb.Digest) > 2*sha256.Size {
		return h, rampart.Errorf(rampart.Invalid, "", "control: instance or digest is too long")
	}
	if hb.Listen != "" {
		if _, err := netip.ParseAddrPort(hb.Listen); err != nil {
			return h, rampart.Errorf(rampart.Invalid, "", "control: listen must be IP:PORT")
		}
	}
	if hb.AuditSeq == 0 {
		return h, nil
	}
	if len(hb.AuditHead) != len(h.Hash) {
		return h, rampart.Errorf(rampart.Invalid, "audit.log", "control: audit_head must have %d bytes", len(h.Hash))
	}
	copy(h.Hash[:], hb.AuditHead)
	return h, nil
}

// remember makes a plane's head durable when it says anything new. A head that
// went backwards is an alarm: somebody cut that plane's log.
func (p *Plane) remember(ctx context.Context, hb wire.Heartbeat, h store.Head) error {
	before, ok := p.planes.swap(seen{hb: hb, at: h.Seen, head: h})
	if ok && sameHead(before.head, h) {
		return nil
	}
	known, err := p.opt.Store.PutHead(ctx, h)
	if err != nil {
		p.planes.swap(seen{hb: hb, at: h.Seen}) // the next heartbeat tries again
		return unavailable(err)
	}
	if known.Seq == h.Seq && known.Hash == h.Hash {
		return nil
	}
	return p.refuse(ctx, audit.Event{
		Class: audit.ClassVerify, Action: "audit.head", Control: "audit.log", Subject: h.Plane,
		Detail: map[string]string{"known": strconv.FormatUint(known.Seq, 10), "reported": strconv.FormatUint(h.Seq, 10)},
	}, rampart.Errorf(rampart.Conflict, "audit.log", "control: the audit log of %s went backwards", h.Plane))
}

// sameHead compares everything but the time.
func sameHead(a, b store.Head) bool {
	a.Seen, b.Seen = time.Time{}, time.Time{}
	return a == b
}

// rememberOwnHead does for the control plane's log what heartbeats do for the
// others'.
func (p *Plane) rememberOwnHead(ctx context.Context) {
	if p.opt.AuditHead == nil {
		return
	}
	seq, hash := p.opt.AuditHead()
	hb := wire.Heartbeat{Plane: "control", Digest: p.opt.System.Bundle().Digest, AuditSeq: seq, AuditHead: hash[:]}
	h := store.Head{Plane: "control", Seq: seq, Hash: hash, Seen: p.opt.Now()}
	if seq == 0 {
		h.Hash = [32]byte{}
	}
	if err := p.remember(ctx, hb, h); err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit head", slog.Any("error", err))
	}
}

// status is what the planes last said of themselves.
func (p *Plane) status() wire.Status {
	s := wire.Status{System: p.opt.System.Info.Name, Digest: p.opt.System.Bundle().Digest}
	now := p.opt.Now()
	for _, v := range p.planes.all() {
		s.Planes = append(s.Planes, wire.PlaneStatus{Heartbeat: v.hb, SeenSeconds: now.Sub(v.at).Seconds()})
	}
	return s
}
