package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/framing/framingtest"
)

// dialer connects to the edge as a client of one protocol.
func (h *house) dialer(proto string) func() *tls.Conn {
	pem, err := os.ReadFile(h.State.Path("ca.pem"))
	must(h.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cfg := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{proto}}
	return func() *tls.Conn {
		h.t.Helper()
		c, err := tls.Dial("tcp", h.gw.Addr(), cfg)
		must(h.t, err)
		return c
	}
}

// TestMalformed sends the table of package framingtest to the running edge: what
// is refused there is refused here, closes the connection where it must, and is
// on record by its rule.
func TestMalformed(t *testing.T) {
	h := open(t)
	dial := h.dialer("http/1.1")
	want := map[string]int{}
	for _, tc := range framingtest.Malformed() {
		if tc.Rule != 0 {
			want["framing_"+strconv.Itoa(tc.Rule)]++
		}
		got, err := tc.Play(dial())
		if err != nil {
			t.Errorf("%s %s: %v", tc.ID, tc.Name, err)
			continue
		}
		if want := (framingtest.Outcome{Status: tc.Status, Type: problem.ContentType, Closed: tc.Closed}); got != want {
			t.Errorf("%s %s: %+v, want %+v", tc.ID, tc.Name, got, want)
		}
	}
	all := 0
	for code, n := range want {
		all += n
		if !strings.HasPrefix(code, "framing_") {
			t.Errorf("code %q", code)
		}
	}
	h.Until("every refusal is on record or counted", func() bool { return h.refusedFraming(want) == all })
	dial = h.dialer("h2")
	for _, tc := range framingtest.Malformed2() {
		if status, err := tc.Play(dial()); err != nil || status != tc.Status {
			t.Errorf("%s %s: %d (%v), want %d", tc.ID, tc.Name, status, err, tc.Status)
		}
	}
	if n := h.served(); n != 0 {
		t.Errorf("%d requests reached a service", n)
	}
}

// refusedFraming counts what the edge has on record of refused bytes, by rules
// that may be broken.
func (h *house) refusedFraming(by map[string]int) int {
	n := 0
	for _, e := range h.Events("gateway_edge") {
		if e.Control != "http.framing" {
			continue
		}
		_, _, err := net.SplitHostPort(e.Peer)
		if by[e.Code] == 0 || e.Outcome != audit.Refused || e.Action != "http.framing "+e.Code || err != nil {
			h.t.Fatalf("on record: %+v", e)
		}
		counted, err := strconv.Atoi(e.Detail["count"])
		if err != nil {
			counted = 1
		}
		n += counted
	}
	return n
}
