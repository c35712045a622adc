package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"math"
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

// Bounds of what heartbeats may do. Planes send one a second.
const (
	beatsPerSecond = 4           // of one identity; the rest is not looked at
	headsEvery     = time.Second // between writes of one plane's head
	headsPerSecond = 200_000     // audit records that a log may have grown by; more than one can write
	headsSlack     = 1_000_000   // records beside that

	readyAge = 10 * time.Second // whoever was silent for longer does not count as ready
)

// planes holds what each plane last said of itself. The zero value is ready.
type planes struct {
	mu   sync.Mutex
	last map[string]seen
}

type seen struct {
	hb     wire.Heartbeat
	at     time.Time  // of hb; zero: none since this process started
	head   store.Head // newest that was believed
	stored store.Head // as the store has it
	denied store.Head // newest that was not believed
}

// recall takes in what the store knows of a plane.
func (p *planes) recall(h store.Head) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(h.Plane, seen{head: h, stored: h})
}

func (p *planes) setLocked(plane string, s seen) {
	if p.last == nil {
		p.last = map[string]seen{}
	}
	p.last[plane] = s
}

// verdict is what to do about a heartbeat.
type verdict struct {
	denied string     // why the head is not believed; "" if it is
	news   bool       // it is not believed for the first time
	known  store.Head // what was believed before
	write  bool       // it is to be stored
}

// judge notes a heartbeat and its head.
func (p *planes) judge(hb wire.Heartbeat, h store.Head) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.last[hb.Plane]
	v := verdict{denied: disbelieve(s.head, h), known: s.head}
	s.hb, s.at = hb, h.Seen
	if v.denied != "" {
		v.news = !sameHead(s.denied, h)
		s.denied = h
		p.setLocked(hb.Plane, s)
		return v
	}
	s.head = h
	since := h.Seen.Sub(s.stored.Seen)
	if v.write = !sameHead(s.stored, h) && (since < 0 || since >= headsEvery); v.write {
		s.stored = h
	}
	p.setLocked(hb.Plane, s)
	return v
}

// disbelieve says why a head cannot follow the one that is known. A plane that
// claims records which it cannot have written would put its true head for ever
// behind the one that is kept as proof.
func disbelieve(known, h store.Head) string {
	grown := headsPerSecond*max(0, h.Seen.Sub(known.Seen).Seconds()) + headsSlack
	switch {
	case known.Seen.IsZero():
		return ""
	case h.Seq < known.Seq, h.Seq == known.Seq && h.Hash != known.Hash:
		return "went backwards"
	case float64(h.Seq-known.Seq) > grown:
		return "grew faster than one can be written"
	}
	return ""
}

// unwritten takes back that a head is stored: the next heartbeat tries again.
func (p *planes) unwritten(plane string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.last[plane]
	s.stored = store.Head{}
	p.setLocked(plane, s)
}

func (p *planes) all() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]seen, 0, len(p.last))
	for _, s := range p.last {
		if !s.at.IsZero() {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b seen) int { return cmp.Compare(a.hb.Plane, b.hb.Plane) })
	return out
}

const maxInstance = 64

// headOf checks what a plane at peer ("ip:port") says of itself.
func headOf(hb wire.Heartbeat, peer string, now time.Time) (store.Head, error) {
	h := store.Head{Plane: hb.Plane, Instance: hb.Instance, Listen: hb.Listen, Seq: hb.AuditSeq, Seen: now}
	if len(hb.Instance) > maxInstance || len(hb.Digest) > 2*sha256.Size {
		return h, rampart.Errorf(rampart.Invalid, "", "control: instance or digest is too long")
	}
	if err := checkListen(hb.Listen, peer); err != nil {
		return h, err
	}
	if hb.AuditSeq > math.MaxInt64 {
		return h, rampart.Errorf(rampart.Invalid, "audit.log", "control: audit_seq is too large")
	}
	h.Forgot = min(hb.Forgot, math.MaxInt64)
	if hb.AuditSeq == 0 {
		return h, nil
	}
	if len(hb.AuditHead) != len(h.Hash) {
		return h, rampart.Errorf(rampart.Invalid, "audit.log", "control: audit_head must have %d bytes", len(h.Hash))
	}
	copy(h.Hash[:], hb.AuditHead)
	return h, nil
}

// checkListen lets a plane publish loopback or the address that it calls from:
// where it says it listens, others dial.
func checkListen(listen, peer string) error {
	if listen == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(listen)
	if err != nil || at.Port() == 0 {
		return rampart.Errorf(rampart.Invalid, "", "control: listen must be IP:PORT")
	}
	from, err := netip.ParseAddrPort(peer)
	if ip := at.Addr().Unmap(); !ip.IsLoopback() && (err != nil || ip != from.Addr().Unmap()) {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: a plane listens on loopback or on the address that it calls from")
	}
	return nil
}

// remember makes a plane's head durable when it says anything new. A head that
// went backwards is an alarm: somebody cut that plane's log.
func (p *Plane) remember(ctx context.Context, hb wire.Heartbeat, h store.Head) error {
	v := p.planes.judge(hb, h)
	if v.write {
		known, err := p.opt.Store.PutHead(ctx, h)
		if err != nil {
			p.planes.unwritten(h.Plane)
			return unavailable(err)
		}
		if known.Seq != h.Seq || known.Hash != h.Hash {
			v = verdict{denied: "went backwards", news: true, known: known}
		}
	}
	if v.denied == "" {
		return nil
	}
	err := rampart.Errorf(rampart.Conflict, "audit.log", "control: the audit log of %s %s", h.Plane, v.denied)
	if !v.news {
		return err // said already, and nothing has changed
	}
	return p.refuse(ctx, audit.Event{
		Class: audit.ClassVerify, Action: "audit.head", Control: "audit.log", Subject: h.Plane,
		Detail: map[string]string{"known": strconv.FormatUint(v.known.Seq, 10), "reported": strconv.FormatUint(h.Seq, 10)},
	}, err)
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
	hb := wire.Heartbeat{Plane: p.opt.LogName(), Digest: p.system().Bundle().Digest, AuditSeq: seq, AuditHead: hash[:]}
	if own, err := p.svid.Current(); err == nil {
		hb.Trust = wire.TrustState{Version: p.ca().Version(), Until: own.NotAfter.UTC()}
	}
	h := store.Head{Plane: hb.Plane, Seq: seq, Hash: hash, Seen: p.opt.Now()}
	if seq == 0 {
		h.Hash = [32]byte{}
	}
	if err := p.remember(ctx, hb, h); err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit head", slog.Any("error", err))
	}
}

// status is what the planes last said of themselves.
func (p *Plane) status() wire.Status {
	now := p.living()
	s := wire.Status{System: now.sys.Info.Name, Digest: now.sys.Bundle().Digest, File: now.file, Backends: p.health.status()}
	at := p.opt.Now()
	for _, v := range p.planes.all() {
		one := wire.PlaneStatus{Heartbeat: v.hb, SeenSeconds: at.Sub(v.at).Seconds(), CertificateSeconds: max(0, v.hb.Trust.Until.Sub(at).Seconds())}
		one.Ready = at.Sub(v.at) < readyAge && v.hb.Trust.Until.After(at)
		s.Planes = append(s.Planes, one)
	}
	return s
}
