package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
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

// refused counts a refusal, if it is one that tells of an attack, and records the
// ban that begins with it.
func (g *Gateway) refused(c *call, err error) {
	if !suspicious(c, err) {
		return
	}
	b, began := g.bans.Refused(c.ip)
	if began {
		g.recordBan(c.r.Context(), "ban.begin", b, map[string]string{"seconds": strconv.Itoa(int(b.For.Seconds())), "step": strconv.Itoa(b.Step)})
	}
}

// suspicious leaves out what a page of another site can have a visitor's browser
// do, for it could have the visitor banned: requests that show nothing, and those
// that ride on a session; the question whether the page may ask; and more of the
// former than the address may send. Who writes the browser's mark himself is still
// limited, and his credentials still count. A step-up is no refusal but a question.
func suspicious(c *call, err error) bool {
	shown := c.r.Header.Get("Authorization") != "" || c.r.Header.Get("X-Api-Key") != ""
	switch control := controlOf(err, ""); rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return (shown || len(c.r.CookiesNamed(sessionCookie)) > 0) && control != "authn.step_up"
	case rampart.Denied:
		return control != "authn.csrf" && control != controlCORS
	case rampart.Limited:
		foreign := !shown && c.r.Header.Get("Sec-Fetch-Site") == "cross-site"
		return control != controlBan && !(foreign && control == "limit.ip")
	}
	return false
}

func (g *Gateway) recordBan(ctx context.Context, action string, b ban.Ban, detail map[string]string) {
	e := audit.Event{Class: audit.ClassLimit, Action: action, Outcome: audit.Refused, Control: controlBan, Peer: b.Addr, Layer: string(rampart.LayerGateway), Detail: detail}
	if err := g.opt.Audit.Record(ctx, e); err != nil {
		g.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
}

// watchBans records the ends of bans. What was turned away meanwhile is told here
// in one event: a flood must not fill the log.
func (g *Gateway) watchBans(ctx context.Context) {
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

func (g *Gateway) endBans(ctx context.Context) {
	for _, b := range g.bans.Ended() {
		g.recordBan(ctx, "ban.end", b, map[string]string{"turned_away": strconv.FormatUint(b.Refused, 10), "step": strconv.Itoa(b.Step)})
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
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil || d.bans.Banned(from.Addr()) == 0 {
			return conn, nil
		}
		conn.Close()
	}
}
