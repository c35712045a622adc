package bench

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

const (
	orders = "spiffe://bench.internal/service/orders"
	edge   = "spiffe://bench.internal/gateway/edge"
)

// identityOf issues a certificate as the control plane would.
func identityOf(b *testing.B, a *ca.Authority, id string) svid.Snapshot {
	b.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		b.Fatal(err)
	}
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	if err != nil {
		b.Fatal(err)
	}
	snap, err := svid.NewSnapshot(chain, key, a.BundlePEM())
	if err != nil {
		b.Fatal(err)
	}
	return snap
}

func sourceOf(b *testing.B, a *ca.Authority, id string) *svid.Source {
	src := svid.NewSource()
	src.Set(identityOf(b, a, id))
	return src
}

// pair is a server's and a client's end of one segment.
type pair struct{ server, client *tls.Config }

// segments are mutual TLS as Rampart's planes speak it, and as crypto/tls alone
// does with the same certificates, versions and groups.
func segments(b *testing.B) map[string]pair {
	a, err := ca.New("bench.internal", nil)
	if err != nil {
		b.Fatal(err)
	}
	anyone := func(string) error { return nil }
	server, client := identityOf(b, a, orders), identityOf(b, a, edge)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.BundlePEM())
	verify := func(usage x509.ExtKeyUsage) func(tls.ConnectionState) error {
		return func(cs tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
			return err
		}
	}
	return map[string]pair{
		"rampart": {profile.MTLSServer(sourceOf(b, a, orders), anyone), profile.MTLSClient(sourceOf(b, a, edge), orders)},
		"bare": {
			&tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{server.Certificate},
				ClientAuth: tls.RequireAnyClientCert, VerifyConnection: verify(x509.ExtKeyUsageClientAuth)},
			&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{client.Certificate}, VerifyConnection: verify(x509.ExtKeyUsageServerAuth)},
		},
	}
}

// BenchmarkHandshake is one full mutual handshake over loopback, both ends on
// this machine, in rampart's profiles and with crypto/tls alone.
func BenchmarkHandshake(b *testing.B) {
	for name, p := range segments(b) {
		b.Run(name, func(b *testing.B) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", p.server)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() { c.(*tls.Conn).Handshake(); io.Copy(io.Discard, c); c.Close() }()
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				c, err := tls.Dial("tcp", l.Addr().String(), p.client)
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handshakes/s")
		})
	}
}

// BenchmarkKeepAlive is one small request on a connection that is open, in the
// clear and over the profiles: what TLS costs once the handshake is done, both
// ends together.
func BenchmarkKeepAlive(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"id":"o-1","total":"24.00"}`) })
	serve := func(b *testing.B, wrap func(net.Listener) net.Listener, scheme string, cfg *tls.Config) {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
		go s.Serve(wrap(inner))
		defer s.Close()
		tr := &http.Transport{TLSClientConfig: cfg}
		defer tr.CloseIdleConnections()
		c := &http.Client{Transport: tr}
		b.ReportAllocs()
		for b.Loop() {
			res, err := c.Get(scheme + "://" + inner.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	b.Run("clear", func(b *testing.B) { serve(b, func(l net.Listener) net.Listener { return l }, "http", nil) })
	p := segments(b)["rampart"]
	server, client := p.server.Clone(), p.client.Clone()
	server.NextProtos, client.NextProtos = []string{"http/1.1"}, []string{"http/1.1"} // as the row in the clear
	b.Run("mtls", func(b *testing.B) {
		serve(b, func(l net.Listener) net.Listener { return profile.NewListener(l, server, profile.ListenerOptions{}) }, "https", client)
	})
}
