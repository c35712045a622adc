package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/pires/go-proxyproto"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/spec"
)

// Bounds of what a hop says.
const (
	maxProxyHeader = 1024     // bytes after the first 16 of a PROXY header
	maxForwarded   = 16 << 10 // bytes of one header field that says who is behind
	maxHops        = 16       // trusted hops in one chain
)

// hops are the proxies in front whose word on the client's address counts. The
// zero value trusts nobody.
//
// A hop must say itself who its peer is, in one of two ways: as a proxy of TCP by
// the PROXY protocol, or as a proxy of HTTP by X-Forwarded-For or Forwarded. One
// that passes bytes on and says nothing, while proxy_protocol is off, would have
// its clients speak for themselves.
//
// Where hops tell by headers alone, nobody knows the client before a request is
// read: the bound per address and the ban at the door hold for no connection of
// theirs, and the bound on all connections, the ban stage and limit.ip do the work.
type hops struct {
	nets  []netip.Prefix
	proxy bool // their connections begin with a PROXY header
}

// hopsOf are those of the file, which was checked.
func hopsOf(e *spec.Edge) hops {
	if e == nil {
		return hops{}
	}
	h := hops{proxy: e.ProxyProtocol}
	for _, text := range e.TrustedHops {
		if p, err := netip.ParsePrefix(text); err == nil {
			h.nets = append(h.nets, p)
		}
	}
	return h
}

func (h hops) trusts(a netip.Addr) bool {
	for _, p := range h.nets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// origin is the stage that settles whose address a request has: that of the
// connection, or, if a hop is there, the one that it names. From anybody else
// those headers are not read, and they are never passed on.
type origin struct{ hops hops }

func (s origin) check(c *call) error {
	c.ip = peerIP(c.r)
	c.peer = c.r.RemoteAddr
	if !s.hops.trusts(c.ip) {
		return nil
	}
	from, err := s.hops.behind(c.r.Header)
	if err != nil {
		return err
	}
	if from.IsValid() {
		c.ip, c.peer, c.hop = from.Addr(), from.String(), c.r.RemoteAddr
	}
	return nil
}

// behind returns who is behind a hop: the last address named that is no hop
// itself, or the first of all if every one is. What stands before it is the
// client's own say and is not read. The zero AddrPort: the hop asks for itself,
// as its health checks do.
//
// A hop writes one of the two fields and may let the other pass as it came. So
// both together must name one address: which of them the hop wrote is not known.
func (h hops) behind(header http.Header) (netip.AddrPort, error) {
	x, err := h.last(header["X-Forwarded-For"], parseNode)
	if err != nil {
		return x, err
	}
	f, err := h.last(header["Forwarded"], parseElement)
	switch {
	case err != nil || !x.IsValid():
		return f, err
	case f.IsValid() && f.Addr() != x.Addr():
		return f, hopError("X-Forwarded-For and Forwarded name different clients")
	}
	return x, nil
}

// last reads the elements of a list field from the right. It splits at every
// comma, within quotes too: a quote that the client left open takes nothing of
// what the hop wrote behind it.
func (h hops) last(lines []string, parse func(string) (netip.AddrPort, error)) (from netip.AddrPort, err error) {
	hop := 0
	for i := len(lines) - 1; i >= 0; i-- {
		if len(lines[i]) > maxForwarded {
			return from, hopError("the list of proxies is too long")
		}
		for rest, more := lines[i], true; more; hop++ {
			var element string
			at := strings.LastIndexByte(rest, ',')
			more = at >= 0
			rest, element = rest[:max(at, 0)], rest[at+1:]
			if from, err = parse(strings.Trim(element, " \t")); err != nil || !h.trusts(from.Addr()) {
				return from, err
			}
			if hop == maxHops {
				return from, hopError("more than %d proxies in a chain", maxHops)
			}
		}
	}
	return from, nil
}

// parseElement reads the "for" of one element of Forwarded (RFC 7239 section 4).
func parseElement(s string) (netip.AddrPort, error) {
	node := ""
	for pair := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
		value, closed := unquote(value)
		if !ok || !closed || strings.EqualFold(name, "for") && node != "" {
			return netip.AddrPort{}, hopError("Forwarded is malformed")
		}
		if strings.EqualFold(name, "for") {
			node = value
		}
	}
	return parseNode(node)
}

// unquote takes the quotes off a value. Backslashes and quotes within have no
// place in what names an address, and are refused.
func unquote(s string) (string, bool) {
	if inner, ok := strings.CutPrefix(s, `"`); ok {
		if s, ok = strings.CutSuffix(inner, `"`); !ok {
			return "", false
		}
	}
	return s, s != "" && !strings.ContainsAny(s, `"\`)
}

// parseNode reads an address, with or without a port. A name that hides the
// client ("unknown", "_secret") is refused: nobody could be limited or banned by
// it.
func parseNode(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		var a netip.Addr
		bare := s
		if inner, ok := strings.CutPrefix(s, "["); ok {
			if bare, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(bare, ":") {
				return ap, hopError("the client's address is malformed")
			}
		}
		if a, err = netip.ParseAddr(bare); err != nil {
			return ap, hopError("the client's address is malformed")
		}
		ap = netip.AddrPortFrom(a, 0)
	}
	return client(ap)
}

// client returns ap in canonical form, if it can be that of a client.
func client(ap netip.AddrPort) (netip.AddrPort, error) {
	a := ap.Addr().Unmap()
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.AddrPort{}, hopError("the client's address is none")
	}
	return netip.AddrPortFrom(a, ap.Port()), nil
}

// hopError is closed by choice: behind a hop that is not understood, everybody
// would count as one.
func hopError(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, "http.framing", "proxy in front: "+format, args...)
}

// isHop reports whether a connection comes from a hop, by the file in force.
func (g *Gateway) isHop(a netip.Addr) bool { return g.table.Load().hops.trusts(a) }

// announced reads who is behind a hop from the PROXY header that its connection
// begins with, if it has to, and turns the banned away as the door does. The
// listener bounds the time.
func (g *Gateway) announced(conn net.Conn) (netip.AddrPort, error) {
	if !g.table.Load().hops.proxy {
		return netip.AddrPort{}, nil
	}
	from, err := readProxy(conn)
	if err == nil && from.IsValid() && g.bans.Banned(from.Addr()) > 0 {
		err = rampart.Errorf(rampart.Limited, controlBan, "this address is banned")
	}
	return from, err
}

// readProxy reads a header of version 2 of the PROXY protocol and no byte more.
// Version 1 is a line of text that a client could send. The zero AddrPort: the hop
// speaks for itself.
func readProxy(r io.Reader) (netip.AddrPort, error) {
	var fixed [16]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return netip.AddrPort{}, proxyError(err)
	}
	n := int(binary.BigEndian.Uint16(fixed[14:]))
	if !bytes.HasPrefix(fixed[:], proxyproto.SIGV2) || n > maxProxyHeader {
		return netip.AddrPort{}, proxyError(nil)
	}
	whole := make([]byte, len(fixed)+n)
	copy(whole, fixed[:])
	if _, err := io.ReadFull(r, whole[len(fixed):]); err != nil {
		return netip.AddrPort{}, proxyError(err)
	}
	return parseProxy(whole)
}

// parseProxy reads a whole header of version 2.
func parseProxy(whole []byte) (netip.AddrPort, error) {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(whole)))
	if err != nil {
		return netip.AddrPort{}, proxyError(err)
	}
	if h.Command.IsLocal() {
		return netip.AddrPort{}, nil
	}
	tcp, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, proxyError(fmt.Errorf("it names no TCP address"))
	}
	return client(tcp.AddrPort())
}

func proxyError(err error) error {
	return &rampart.Error{Kind: rampart.Invalid, Control: "http.framing", Msg: "the connection of a trusted hop does not begin with a PROXY header of version 2", Err: err}
}
