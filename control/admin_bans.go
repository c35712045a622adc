package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

const (
	controlBan = "limit.ban"
	maxBanAddr = 64 // bytes
	everybody  = "*"
)

func (p *Plane) adminBanRoutes() map[string]adminCall {
	return map[string]adminCall{"GET " + wire.AdminBans: p.adminListBans, "POST " + wire.AdminBans: p.adminLiftBan}
}

// boundedBans keeps what a gateway says of bans within bounds. Nothing in force
// rests on it, so that what is too much is left out and nothing is refused.
func boundedBans(id identity, b wire.Bans) wire.Bans {
	if id.kind != "gateway" {
		return wire.Bans{}
	}
	b.InForce = max(0, b.InForce)
	b.List = b.List[:min(len(b.List), wire.MaxBans)]
	for i := range b.List {
		b.List[i].Addr = clipped(b.List[i].Addr, maxBanAddr)
	}
	return b
}

func (p *Plane) adminListBans(*http.Request, *audit.Event) (any, error) {
	now := p.opt.Now()
	out := []wire.GatewayBans{}
	for _, s := range p.planes.all() {
		if strings.HasPrefix(s.hb.Plane, "gateway/") {
			out = append(out, wire.GatewayBans{Plane: s.hb.Plane, Bans: s.hb.Bans, SeenSeconds: now.Sub(s.at).Seconds()})
		}
	}
	slices.SortFunc(out, func(a, b wire.GatewayBans) int { return cmp.Compare(a.Plane, b.Plane) })
	return out, nil
}

// adminLiftBan has every gateway end the bans of an address. It is durable before
// it is answered: a gateway that is away carries it out when it is back.
func (p *Plane) adminLiftBan(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Lift
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Action, e.Control, e.Resource = "ban.lift", controlBan, "address:"+clipped(q.Addr, maxBanAddr)
	addr, err := bannable(q.Addr)
	if err != nil {
		return nil, err
	}
	unbanned := !p.banned(addr) // before it is carried out
	id, err := p.forget(r.Context(), wire.Forget{Lifts: []wire.Lift{{ID: newLift(), Addr: addr}}})
	if err != nil {
		return nil, err
	}
	out := p.lifted(r.Context(), id)
	out.Unbanned = unbanned
	return out, nil
}

// banned reports whether a gateway turns an address away, or may do so: a heartbeat
// names only so many.
func (p *Plane) banned(addr string) bool {
	for _, s := range p.planes.all() {
		b := s.hb.Bans
		if b.InForce > len(b.List) || addr == everybody && b.InForce > 0 {
			return true
		}
		if slices.ContainsFunc(b.List, func(b wire.Ban) bool { return network(b.Addr).Overlaps(network(addr)) }) {
			return true
		}
	}
	return false
}

// network reads an address or a network; the zero Prefix, which overlaps with none,
// if it is neither.
func network(text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
	}
	n, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}
	}
	return n
}

// newLift returns 16 random bytes in hex.
func newLift() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// bannable reads an address, a network that one host of IPv6 may have, or "*".
func bannable(text string) (string, error) {
	if text == everybody {
		return text, nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.Unmap().String(), nil
	}
	if n, err := netip.ParsePrefix(text); err == nil && n == n.Masked() && n.Addr().Is6() && slices.Contains([]int{48, 56, 64}, n.Bits()) {
		return n.String(), nil
	}
	return "", invalid("%.64q is no address that can be banned; write 192.0.2.7, 2001:db8::1, 2001:db8::/64 (or /56, /48)", text)
}

// lifted waits until every gateway that is heard has carried a notice out, for as
// long as ackWait.
func (p *Plane) lifted(ctx context.Context, id uint64) wire.Lifted {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for {
		out := p.liftedBy(id)
		if len(out.Waiting) == 0 {
			return out
		}
		select {
		case <-ctx.Done():
			return out
		case <-tick.C:
		}
	}
}

func (p *Plane) liftedBy(id uint64) wire.Lifted {
	out := wire.Lifted{Gateways: []string{}}
	for _, s := range p.planes.all() {
		switch {
		case !strings.HasPrefix(s.hb.Plane, "gateway/"):
		case max(s.head.Forgot, s.hb.Forgot) >= id:
			out.Gateways = append(out.Gateways, s.hb.Plane)
		case p.opt.Now().Sub(s.at) < readyAge:
			out.Waiting = append(out.Waiting, s.hb.Plane)
		}
	}
	slices.Sort(out.Gateways)
	slices.Sort(out.Waiting)
	return out
}
