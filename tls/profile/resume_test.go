package profile_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// bare serves cfg by crypto/tls alone, one byte to each client that gets in.
func bare(t testing.TB, cfg *tls.Config) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, "secret")
			}()
		}
	}()
	return l.Addr().String()
}

// visit reads what a server says, and whether the session was resumed.
func visit(addr string, cfg *tls.Config) (resumed bool, err error) {
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(text), "secret") {
		err = errors.New("nothing was said")
	}
	return conn.ConnectionState().DidResume, err
}

func parsed(t testing.TB, chain [][]byte) []*x509.Certificate {
	t.Helper()
	certs, err := svid.ParseChain(chain)
	ok(t, err)
	return certs
}

// TestHoleThatIsNotOurs shows why no configuration here rests on
// VerifyPeerCertificate: crypto/tls skips it on resumed sessions. go-spiffe's
// helper sets nothing else, so whoever holds a ticket gets in past an authorizer
// that would refuse it. With VerifyConnection, as ours, that ends. If the first
// half fails, go-spiffe has closed the hole.
func TestHoleThatIsNotOurs(t *testing.T) {
	a := authority(t, nil)
	server, client := issue(t, a, orders), issue(t, a, edge)
	var banned atomic.Bool
	allow := func(id string) error {
		if banned.Load() {
			return errors.New("flow removed")
		}
		return nil
	}
	roots := client.Trust.Roots("shop.internal")
	theirs := tlsconfig.MTLSServerConfig(
		&x509svid.SVID{ID: spiffeid.RequireFromString(orders), Certificates: parsed(t, server.Certificate.Certificate), PrivateKey: server.Certificate.PrivateKey.(crypto.Signer)},
		x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("shop.internal"), roots),
		tlsconfig.AdaptMatcher(func(id spiffeid.ID) error { return allow(id.String()) }),
	)
	mended := theirs.Clone()
	mended.VerifyConnection = profile.MTLSServer(source(t, a, orders), allow).VerifyConnection
	mended.NextProtos = nil
	for name, row := range map[string]struct {
		config *tls.Config
		hole   bool
	}{"the helper": {theirs, true}, "the helper, mended": {mended, false}} {
		t.Run(name, func(t *testing.T) {
			banned.Store(false)
			addr := bare(t, row.config)
			cfg := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{client.Certificate}, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
			_, err := visit(addr, cfg)
			ok(t, err)
			banned.Store(true)
			resumed, err := visit(addr, cfg)
			if row.hole != (resumed && err == nil) {
				t.Errorf("resumed %v, %v: want let in %v", resumed, err, row.hole)
			}
			fresh := cfg.Clone()
			fresh.ClientSessionCache = nil
			if _, err := visit(addr, fresh); err == nil {
				t.Error("without a ticket it was let in")
			}
		})
	}
}

// TestTicketElsewhere: a ticket of one profile opens no other, and where a copy of
// a configuration shares its keys, VerifyConnection judges all the same.
func TestTicketElsewhere(t *testing.T) {
	a := authority(t, nil)
	src := source(t, a, orders)
	anyone, nobody := func(string) error { return nil }, func(string) error { return errors.New("no such flow") }
	withTickets := func(cfg *tls.Config) *tls.Config {
		cfg.SessionTicketsDisabled = false
		return cfg
	}
	open := withTickets(profile.MTLSServer(src, anyone))
	sibling := open.Clone()
	sibling.VerifyConnection = profile.MTLSServer(src, nobody).VerifyConnection
	for name, row := range map[string]struct {
		config *tls.Config
		keys   bool // are those of open
		in     bool
	}{
		"itself":                        {open, true, true},
		"a copy that lets nobody in":    {sibling, true, false},
		"another server of the profile": {withTickets(profile.MTLSServer(src, anyone)), false, true},
		"one that lets nobody in":       {withTickets(profile.MTLSServer(src, nobody)), false, false},
		"the control plane's":           {withTickets(profile.ControlServer(src, nobody)), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &tls.Config{
				InsecureSkipVerify: true, ServerName: "plane", Certificates: []tls.Certificate{issue(t, a, edge).Certificate},
				ClientSessionCache: tls.NewLRUClientSessionCache(8),
			}
			_, err := visit(bare(t, open), cfg)
			ok(t, err)
			resumed, err := visit(bare(t, row.config), cfg)
			if (err == nil) != row.in || row.in && resumed != row.keys {
				t.Errorf("resumed %v, %v: want let in %v", resumed, err, row.in)
			}
		})
	}
}
