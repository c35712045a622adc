package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// sink is a caller that takes everything.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header             { return s.header }
func (s *sink) Write(p []byte) (int, error)     { return len(p), nil }
func (s *sink) WriteHeader(status int)          { s.status = status }
func (s *sink) SetReadDeadline(time.Time) error { return nil }

// BenchmarkInbound is the way into a service: each step, all steps, and all
// with the hop over loopback to a plain server.
func BenchmarkInbound(b *testing.B) {
	h := open(b, []string{"shop"})
	edge, s := h.as("gateway/edge"), h.of["shop"].Sidecar
	tok, err := edge.Now().Token(b.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(b, err)
	cur, err := edge.Now().Pinned().Current()
	must(b, err)
	fresh := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/orders", io.NopCloser(strings.NewReader(good)))
		r.ContentLength = int64(len(good))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cur.Certificate.Leaf}}
		r.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + tok}, "User-Agent": {"bench"}}
		return r
	}
	steps := []struct {
		name string
		f    func(*arrival) error
	}{{"peer", s.peer}, {"canonicalize", s.canonicalize}, {"identify_cached", s.identify}, {"route_and_schema", s.route}}
	base := fresh()
	for i, step := range steps {
		b.Run(step.name, func(b *testing.B) {
			a := &arrival{r: base, table: s.table.Load()}
			for _, before := range steps[:i] {
				must(b, before.f(a))
			}
			b.ReportAllocs()
			for b.Loop() {
				a.r.Body = io.NopCloser(strings.NewReader(good))
				must(b, step.f(a))
			}
		})
	}
	b.Run("sign_and_request", func(b *testing.B) {
		a := &arrival{r: base, table: s.table.Load(), trace: strings.Repeat("ab", 16)}
		a.r.Body = io.NopCloser(strings.NewReader(good))
		for _, before := range steps {
			must(b, before.f(a))
		}
		b.ReportAllocs()
		for b.Loop() {
			s.request(a)
		}
	})
	b.Run("with_hop", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := *base
			r.Body = io.NopCloser(strings.NewReader(good))
			w := &sink{header: http.Header{}}
			s.inbound(w, &r)
			if w.status != http.StatusOK {
				b.Fatalf("status %d", w.status)
			}
			h.mu.Lock()
			h.got = h.got[:0]
			h.mu.Unlock()
		}
	})
}
