package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit/ban"
	"github.com/rampart-security/rampart/spec"
)

// front are the hops of the tables: a network of either version.
func front() hops {
	return hopsOf(&spec.Edge{TrustedHops: []string{"10.0.0.0/8", "2001:db8:f::/48"}})
}

// TestBehind: which address counts, by what a trusted hop says. "400" is refused.
func TestBehind(t *testing.T) {
	const x, f = "X-Forwarded-For", "Forwarded"
	long := strings.Repeat("10.0.0.1, ", 17)
	for name, tc := range map[string]struct {
		header []string // pairs
		want   string   // "": the hop itself
	}{
		"nothing":                            {nil, ""},
		"one address":                        {[]string{x, "192.0.2.1"}, "192.0.2.1:0"},
		"with a port":                        {[]string{x, "192.0.2.1:4711"}, "192.0.2.1:4711"},
		"IPv6":                               {[]string{x, "2001:db8::1"}, "[2001:db8::1]:0"},
		"IPv6 in brackets":                   {[]string{x, "[2001:db8::1]"}, "[2001:db8::1]:0"},
		"IPv6 with a port":                   {[]string{x, "[2001:db8::1]:443"}, "[2001:db8::1]:443"},
		"IPv4 written as IPv6":               {[]string{x, "::ffff:192.0.2.1"}, "192.0.2.1:0"},
		"what the client claims is not read": {[]string{x, "127.0.0.1, 192.0.2.1"}, "192.0.2.1:0"},
		"nor is it judged":                   {[]string{x, "' OR 1=1, ,,\", 192.0.2.1"}, "192.0.2.1:0"},
		"through two hops":                   {[]string{x, "1.1.1.1, 192.0.2.1, 10.1.1.1"}, "192.0.2.1:0"},
		"a hop's address claimed before":     {[]string{x, "10.9.9.9, 192.0.2.1"}, "192.0.2.1:0"},
		"through hops of both versions":      {[]string{x, "192.0.2.1, 2001:db8:f::7, 10.0.0.2"}, "192.0.2.1:0"},
		"a hop's own request":                {[]string{x, "10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},
		"on two lines":                       {[]string{x, "1.1.1.1", x, "192.0.2.1"}, "192.0.2.1:0"},
		"too many hops":                      {[]string{x, "192.0.2.1, " + long + "10.0.0.1"}, "400"},
		"too long":                           {[]string{x, strings.Repeat("1.1.1.1, ", 2000) + "192.0.2.1"}, "400"},
		"a name":                             {[]string{x, "localhost"}, "400"},
		"unknown":                            {[]string{x, "unknown"}, "400"},
		"empty":                              {[]string{x, ""}, "400"},
		"an empty end":                       {[]string{x, "192.0.2.1,"}, "400"},
		"a zone":                             {[]string{x, "fe80::1%eth0"}, "400"},
		"no host":                            {[]string{x, "0.0.0.0"}, "400"},
		"multicast":                          {[]string{x, "224.0.0.1"}, "400"},
		"zeros that C reads as octal":        {[]string{x, "192.0.2.010"}, "400"},
		"a port that is none":                {[]string{x, "192.0.2.1:99999"}, "400"},
		"brackets around IPv4":               {[]string{x, "[192.0.2.1]"}, "400"},
		"a bracket too few":                  {[]string{x, "[2001:db8::1"}, "400"},

		"Forwarded":                             {[]string{f, "for=192.0.2.1;proto=https;by=10.0.0.1"}, "192.0.2.1:0"},
		"Forwarded, in quotes":                  {[]string{f, `by="10.0.0.1";For="[2001:db8::1]:443"`}, "[2001:db8::1]:443"},
		"Forwarded through two hops":            {[]string{f, "for=1.1.1.1, for=192.0.2.1, for=10.0.0.9"}, "192.0.2.1:0"},
		"a quote left open takes nothing along": {[]string{f, `for="1.1.1.1, for=192.0.2.1`}, "192.0.2.1:0"},
		"a quote around the hop's element":      {[]string{f, `for=1.1.1.1;x=", for="[2001:db8::1]"`}, "[2001:db8::1]:0"},
		"a secret name":                         {[]string{f, "for=_hidden"}, "400"},
		"Forwarded, unknown":                    {[]string{f, "for=unknown"}, "400"},
		"Forwarded without for":                 {[]string{f, "by=10.0.0.1"}, "400"},
		"Forwarded with two":                    {[]string{f, "for=192.0.2.1;for=192.0.2.2"}, "400"},
		"Forwarded, an escape":                  {[]string{f, `for="192.0.2.1\""`}, "400"},
		"Forwarded without a value":             {[]string{f, "for"}, "400"},

		"both agree":                       {[]string{x, "192.0.2.1:5", f, "for=192.0.2.1"}, "192.0.2.1:5"},
		"the client wrote Forwarded":       {[]string{x, "192.0.2.1", f, "for=127.0.0.1"}, "400"},
		"the client wrote X-Forwarded-For": {[]string{x, "127.0.0.1", f, "for=192.0.2.1"}, "400"},
		"the client wrote nonsense":        {[]string{x, "192.0.2.1", f, "nonsense"}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			for i := 0; i < len(tc.header); i += 2 {
				h.Add(tc.header[i], tc.header[i+1])
			}
			from, err := front().behind(h)
			got := from.String()
			switch {
			case err != nil && rampart.KindOf(err) == rampart.Invalid:
				got = "400"
			case !from.IsValid():
				got = ""
			}
			if got != tc.want {
				t.Errorf("%q (%v), want %q", got, err, tc.want)
			}
		})
	}
}

// proxied is a PROXY header of version 2 from a client.
func proxied(t testing.TB, client string) []byte {
	t.Helper()
	src := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
	b, err := proxyproto.HeaderProxyFromAddrs(2, src, &net.TCPAddr{IP: src.IP, Port: 443}).Format()
	must(t, err)
	return b
}

func TestProxyHeader(t *testing.T) {
	v4, v6 := proxied(t, "192.0.2.1:4711"), proxied(t, "[2001:db8::1]:443")
	change := func(at int, to byte) []byte { b := bytes.Clone(v4); b[at] = to; return b }
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	must(t, err)
	for name, tc := range map[string]struct {
		in   []byte
		want string
		rest string // not read
	}{
		"IPv4":                 {v4, "192.0.2.1:4711", ""},
		"IPv6":                 {v6, "[2001:db8::1]:443", ""},
		"a health check":       {local, "invalid AddrPort", ""},
		"bytes behind it":      {append(bytes.Clone(v4), "GET"...), "192.0.2.1:4711", "GET"},
		"version 1":            {[]byte("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n"), "refused", ""},
		"TLS at once":          {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa"), "refused", ""},
		"cut short":            {v4[:20], "refused", ""},
		"another version":      {change(12, 0x31), "refused", ""},
		"another command":      {change(12, 0x22), "refused", ""},
		"no family":            {change(13, 0x01), "refused", ""},
		"datagrams":            {change(13, 0x12), "refused", ""},
		"too long":             {change(14, 0xff), "refused", ""},
		"too short for IPv4":   {change(15, 4), "refused", ""},
		"no client: 0.0.0.0":   {proxied(t, "0.0.0.0:1"), "refused", ""},
		"no client: multicast": {proxied(t, "224.0.0.1:1"), "refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := bytes.NewReader(tc.in)
			from, err := readProxy(r)
			got := from.String()
			if err != nil {
				got = "refused"
			}
			if got != tc.want {
				t.Fatalf("%s (%v), want %s", got, err, tc.want)
			}
			if rest, _ := io.ReadAll(r); err == nil && string(rest) != tc.rest {
				t.Errorf("%q is left", rest)
			}
		})
	}
}

// FuzzClient: nothing that a hop or its clients write is a panic, and what comes
// out is an address that can be counted.
func FuzzClient(f *testing.F) {
	f.Add("192.0.2.1, 10.0.0.1", "for=192.0.2.1", proxied(f, "192.0.2.1:4711"))
	f.Add("[2001:db8::1]:443", `for="[2001:db8::1]";by=_x`, []byte("PROXY TCP4"))
	f.Fuzz(func(t *testing.T, x, fw string, proxy []byte) {
		one, err := front().behind(http.Header{"X-Forwarded-For": {x}, "Forwarded": {fw}})
		two, perr := readProxy(bytes.NewReader(proxy))
		for _, got := range []struct {
			netip.AddrPort
			error
		}{{one, err}, {two, perr}} {
			a := got.Addr()
			if got.error == nil && got.IsValid() && (a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast()) {
				t.Errorf("%s is no client", a)
			}
		}
	})
}

// edgeOf changes the shop's file so that its gateway has these hops in front.
func edgeOf(text string) []string {
	const line = `edge: { role: gateway, listen: "127.0.0.1:0"`
	return []string{line, line + ", edge: { " + text + " }"}
}

// TestClient: whose address is on record and is banned, through a running edge.
func TestClient(t *testing.T) {
	h := open(t)
	forged := []string{"X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.1", "X-Real-Ip", "192.0.2.1"}
	h.do("GET", "/orders/o1", "", forged...)
	if e := h.newest(); !strings.HasPrefix(e.Peer, "127.0.0.1:") {
		t.Errorf("a stranger's header made its address %s", e.Peer)
	}
	h.enforce(edgeOf(`trusted_hops: ["127.0.0.0/8"]`)...)
	h.do("GET", "/orders/o1", "", "X-Forwarded-For", "127.0.0.9, 192.0.2.1")
	if e := h.newest(); e.Peer != "192.0.2.1:0" || !strings.HasPrefix(e.Detail["hop"], "127.0.0.1:") {
		t.Errorf("behind a hop: %s by %s", e.Peer, e.Detail["hop"])
	}
	if res := h.do("GET", "/orders/o1", "", forged[:4]...); res.StatusCode != 401 {
		t.Errorf("two headers that agree: %s", res.Status)
	}
	if res := h.do("GET", "/orders/o1", "", "X-Forwarded-For", "nobody"); res.StatusCode != 400 || h.newest().Control != "http.framing" {
		t.Errorf("nonsense of a hop: %s by %s", res.Status, h.newest().Control)
	}
	good := h.token("ann", "app")
	if res := h.do("GET", "/orders/o1", "", "Authorization", good, "X-Forwarded-For", "192.0.2.7"); res.StatusCode != 200 {
		t.Fatalf("a good request: %s", res.Status)
	}
	if h.last.Header.Get("X-Forwarded-For") != "" {
		t.Error("a service got X-Forwarded-For")
	}
	h.gw.bans.Set(ban.Rule{Refusals: 5, Within: time.Minute, First: time.Minute, Longest: time.Hour}, front().nets)
	for range 6 {
		h.do("GET", "/orders/o1", "", "Authorization", "Bearer forged", "X-Forwarded-For", "192.0.2.66")
	}
	if res := h.do("GET", "/orders/o1", "", "Authorization", good, "X-Forwarded-For", "192.0.2.66"); res.StatusCode != 429 {
		t.Errorf("a banned client: %s", res.Status)
	}
	if res := h.do("GET", "/orders/o1", "", "Authorization", good, "X-Forwarded-For", "192.0.2.7"); res.StatusCode != 200 {
		t.Errorf("another behind the same hop: %s", res.Status)
	}
}

// through connects as a hop does that sends header first.
func (h *house) through(header []byte) (*tls.Conn, error) {
	c, err := net.Dial("tcp", h.gw.Addr())
	must(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	must(h.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write(header)
	must(h.t, err)
	cfg := h.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	t := tls.Client(c, cfg)
	return t, t.HandshakeContext(context.Background())
}

// TestProxyProtocol: connections of a hop begin with a header, which decides
// whose address it is, for all bounds on connections too.
func TestProxyProtocol(t *testing.T) {
	h := open(t)
	plain, err := h.through(nil)
	must(t, err)
	plain.Close()
	h.enforce(edgeOf(`trusted_hops: ["127.0.0.0/8"], proxy_protocol: true, connections: 16, per_ip: 2`)...)
	ask := func(c *tls.Conn, header string) {
		t.Helper()
		fmt.Fprintf(c, "GET /orders/o1 HTTP/1.1\r\nHost: localhost\r\n%s\r\n", header)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := h.through(proxied(t, "192.0.2.1:4711"))
	must(t, err)
	ask(c, "X-Forwarded-For: 127.0.0.9\r\n")
	if e := h.newest(); e.Peer != "192.0.2.1:4711" {
		t.Errorf("on record: %s", e.Peer)
	}
	second, err := h.through(proxied(t, "192.0.2.1:4712"))
	must(t, err)
	defer second.Close()
	for name, header := range map[string][]byte{
		"a third of one address": proxied(t, "192.0.2.1:4713"),
		"no header":              nil,
		"version 1":              []byte("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n"),
	} {
		if _, err := h.through(header); err == nil {
			t.Errorf("%s is let in", name)
		}
	}
	if e := h.newest(); e.Outcome != audit.Refused {
		t.Errorf("not on record: %+v", e)
	}
	if other, err := h.through(proxied(t, "192.0.2.2:4711")); err != nil {
		t.Errorf("another client of the same hop: %v", err)
	} else {
		other.Close()
	}
	h.gw.bans.Set(ban.Rule{Refusals: 1, Within: time.Minute, First: time.Minute, Longest: time.Hour}, nil)
	for range 2 {
		h.gw.bans.Refused(netip.MustParseAddr("192.0.2.3"), ban.Other)
	}
	if _, err := h.through(proxied(t, "192.0.2.3:1")); err == nil {
		t.Error("a banned client got a handshake")
	}
}
