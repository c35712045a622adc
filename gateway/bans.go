package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/frames"
	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/ratelimit/ban"
	"github.com/rampart-security/rampart/spec"
)

// controlBan is the control that keeps addresses away.
const controlBan = "limit.ban"

// banSweep is how often bans that have ended are looked for.
const banSweep = 5 * time.Second

// never are networks that are not banned: whoever is there is on this machine,
// often a proxy that the file does not name, in front of everybody.
var never = [...]string{"127.0.0.0/8", "::1/128"}

// banRule is what the file says of bans.
func banRule(sys *spec.System, self string) (ban.Rule, []netip.Prefix) {
	e := sys.Services[self].Edge
	if e == nil || sys.Off(controlBan) {
		return ban.Rule{}, nil
	}
	var exempt []netip.Prefix
	for _, text := range append(never[:], e.TrustedHops...) {
		if p, err := netip.ParsePrefix(text); err == nil { // the file's are checked
			exempt = append(exempt, p)
		}
	}
	b := e.Ban
	return ban.Rule{Refusals: b.After.N, Within: b.After.Per, First: time.Duration(b.First), Longest: time.Duration(b.Longest)}, exempt
}

// keepOut is the first stage of all: who is banned costs nothing more.
type keepOut struct{ bans *ban.Ladder }

func (s keepOut) check(c *call) error {
	left := s.bans.Banned(c.ip)
	if left == 0 {
		return nil
	}
	seconds := int64((left + time.Second - 1) / time.Second)
	c.w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	return rampart.Errorf(rampart.Limited, controlBan, "too many refused requests from this address; try again in %d seconds", seconds)
}

// weight is what a refusal tells of whoever was refused.
type weight uint8

// Weights, as package ban counts them.
const (
	harmless weight = iota // not counted
	fault                  // may be an attack, and may be a page or a broken client: bans nobody by itself
	offence                // counts
)

// refused counts a refusal by what it tells of an attack, and records the bans that
// begin with it.
func (g *Gateway) refused(c *call, err error) {
	g.count(c.context(), c.ip, weigh(c, err), kindOf(err))
}

func (g *Gateway) count(ctx context.Context, from netip.Addr, w weight, kind ban.Kind) {
	switch w {
	case fault:
		g.bans.Fault(from)
	case offence:
		for _, b := range g.bans.Refused(from, kind) {
			g.recordBan(ctx, "ban.begin", audit.Refused, b, map[string]string{"seconds": strconv.Itoa(int(b.For.Seconds())), "step": strconv.Itoa(b.Step), "why": whyBanned(b)})
		}
	}
}

// kindOf is what a refusal that counts for a ban was for.
func kindOf(err error) ban.Kind {
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return ban.Credential
	case rampart.Denied:
		if controlOf(err, "") == controlWAF {
			return ban.Attack
		}
		return ban.Policy
	case rampart.Limited:
		return ban.Limit
	}
	return ban.Other
}

// kindNames are what the log calls the kinds of refusals.
var kindNames = [ban.Kinds]string{"other", "401", "403", "429", "waf", "protocol"}

// whyBanned is what an address was refused for before its ban: "401: 12, waf: 2".
func whyBanned(b ban.Ban) string {
	var out []string
	for kind, n := range b.Why {
		if n > 0 {
			out = append(out, fmt.Sprintf("%s: %d", kindNames[kind], n))
		}
	}
	if b.Faults > 0 {
		out = append(out, fmt.Sprintf("faults: %d", b.Faults))
	}
	return strings.Join(out, ", ")
}

// weigh lets no page have its visitor banned. Of no weight are requests that show
// nothing, the question whether a page may ask, and what the CSRF stage refuses; a
// step-up is no refusal but a question. What else a browser says that another site
// made it do is a fault: images and top-level navigations, which bring lax cookies,
// may be refused by a policy, the WAF or a limit, and a page can have thousands made.
//
// Old browsers and mail programs do not say so, and pages of this origin show what
// their users wrote: a GET over a limit is a fault, whoever says what of it, unless it
// shows what no page can. A ban would add little: the limit refuses such a flood before
// anything that costs, new connections wait for their turn, and per_ip bounds them.
//
// Anybody can write the browser's mark himself. It spares him the ban and nothing
// else: each request is refused all the same, the limit of his address holds, and
// a credential that no page can have a browser show counts with it and without.
func weigh(c *call, err error) weight {
	shown := c.r.Header.Get("Authorization") != "" || c.r.Header.Get("X-Api-Key") != ""
	w := harmless
	switch control := controlOf(err, ""); rampart.KindOf(err) {
	case rampart.Unauthenticated:
		w = offenceIf((shown || len(c.r.CookiesNamed(sessionCookie)) > 0) && control != "authn.step_up")
	case rampart.Denied:
		w = offenceIf(control != "authn.csrf" && control != controlCORS)
	case rampart.Limited:
		w = offenceIf(control != controlBan && control != "idempotency.key") // that store is full of others' keys, maybe
		if w == offence && !shown && (c.r.Method == http.MethodGet || c.r.Method == http.MethodHead) {
			return fault
		}
	}
	if w == offence && !shown && foreign(c.r.Header.Get("Sec-Fetch-Site")) {
		return fault
	}
	return w
}

func offenceIf(yes bool) weight {
	if yes {
		return offence
	}
	return harmless
}

// foreign reports whether a browser says that another site, or another host of
// this one, made it ask (Fetch Metadata Request Headers).
func foreign(site string) bool { return site == "cross-site" || site == "same-site" }

// weighHandshake: handshakes fail for old devices, for those who do not trust the
// certificate, and for who goes away; they are many behind one address. So are
// connections over its bound. That all places are taken is nobody's fault.
func weighHandshake(err error) weight {
	if rampart.KindOf(err) == rampart.Unavailable || controlOf(err, "") == controlBan {
		return harmless
	}
	return fault
}

// weighFraming: no browser sends such bytes, but long cookies, long addresses and
// odd characters in them, which a page can give it. A head that does not end is often
// a network that was lost: it costs the connection, of which an address has so many.
func weighFraming(r framing.Rule) weight {
	switch r {
	case framing.HeadSlow:
		return harmless
	case framing.HeadTooLong, framing.Target, framing.Query:
		return fault
	}
	return offence
}

// weighFrames: the same of HTTP/2, where a page can have streams reset, too. What
// net/http finds wrong by itself may be a proxy's doing, and costs the connection.
func weighFrames(r frames.Rule) weight {
	switch r {
	case frames.Broken:
		return harmless
	case frames.Resets, frames.Block, frames.Slow, frames.Long:
		return fault
	}
	return offence
}

// peerAddr is the address of the other end of a connection; the zero Addr if it is
// none, which nobody counts.
func peerAddr(peer net.Addr) netip.Addr {
	from, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr()
}

func (g *Gateway) recordBan(ctx context.Context, action string, outcome audit.Outcome, b ban.Ban, detail map[string]string) {
	g.recordIn(ctx, audit.Event{Class: audit.ClassLimit, Action: action, Outcome: outcome, Control: controlBan, Peer: b.Addr, Layer: string(rampart.LayerGateway), Detail: detail, Sum: true})
}

// watchBans records the ends of bans, tells heartbeats whom the gateway turns away,
// and lifts bans that an operator has lifted. What was turned away meanwhile is told
// here in one event: a flood must not fill the log.
func (g *Gateway) watchBans(ctx context.Context) {
	g.opt.Link.OnBans(func() wire.Bans { return bansNow(g.bans, g.opt.Now()) })
	done := lifts{bans: g.bans}
	g.opt.Link.OnForget(func(f wire.Forget) {
		done.carryOut(f.Lifts)
		g.opt.Link.Forgot(f.ID)
	})
	tick := time.NewTicker(banSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.endBans(ctx)
	}
}

// bansNow is what a heartbeat says.
func bansNow(l *ban.Ladder, now time.Time) wire.Bans {
	list := l.List()
	slices.SortFunc(list, func(a, b ban.Ban) int {
		return cmp.Or(cmp.Compare(b.Left, a.Left), cmp.Compare(a.Addr, b.Addr))
	})
	out := wire.Bans{InForce: len(list)}
	for _, b := range list[:min(len(list), wire.MaxBans)] {
		out.List = append(out.List, wire.Ban{Addr: b.Addr, Step: b.Step, Until: now.Add(b.Left).UTC(), Away: b.Refused})
	}
	return out
}

// liftsKept is how many lifts are remembered as carried out. The control plane
// repeats those of some minutes to who connects anew, at most wire.MaxLifts.
const liftsKept = 10 * wire.MaxLifts

// lifts carries out what an operator lifted, each once: one that is repeated must
// not end a ban that began after it. Not for concurrent use.
type lifts struct {
	bans *ban.Ladder
	done []string // ids, the newest last
}

func (l *lifts) carryOut(list []wire.Lift) {
	for _, v := range list {
		if slices.Contains(l.done, v.ID) {
			continue
		}
		l.done = append(l.done, v.ID)
		for _, p := range liftable(v.Addr) {
			l.bans.Lift(p)
		}
	}
	l.done = l.done[max(0, len(l.done)-liftsKept):]
}

// liftable are the networks that wire.Lift names; none if it names nothing, which
// the control plane has checked.
func liftable(addr string) []netip.Prefix {
	if addr == "*" {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	if a, err := netip.ParseAddr(addr); err == nil {
		a = a.Unmap().WithZone("")
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	if p, err := netip.ParsePrefix(addr); err == nil {
		return []netip.Prefix{p}
	}
	return nil
}

func (g *Gateway) endBans(ctx context.Context) {
	for _, b := range g.bans.Ended() {
		detail := map[string]string{"turned_away": strconv.FormatUint(b.Refused, 10), "step": strconv.Itoa(b.Step)}
		if b.Lifted {
			detail["lifted"] = "true"
		}
		g.recordBan(ctx, "ban.end", audit.Allowed, b, detail)
	}
}

// door closes connections of the banned as they come, before a handshake. It
// stands below everything that reads from a connection, where an address is that
// of the network's peer: of a trusted hop, which is never banned, or of the client.
type door struct {
	net.Listener
	bans *ban.Ladder
}

// Accept implements net.Listener.
func (d door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil || d.bans.InForce() == 0 {
			return conn, err
		}
		if d.bans.Banned(peerAddr(conn.RemoteAddr())) == 0 {
			return conn, nil
		}
		conn.Close()
	}
}
