package workload_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/logger"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	ours "github.com/rampart-security/rampart/tls/workload"
)

const (
	domain   = "shop.internal"
	orders   = "spiffe://shop.internal/service/orders"
	stock    = "spiffe://shop.internal/service/stock"
	partner  = "partner.example"
	theirs   = "spiffe://partner.example/service/till"
	audience = "https://partner.example"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is an authority with the keys of its JWT-SVIDs.
type house struct {
	*ca.Authority
	ring *jwt.Ring
}

func newHouse(t testing.TB, name string) *house {
	t.Helper()
	a, err := ca.New(name, nil)
	must(t, err)
	ring, err := jwt.NewRing(jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: jwt.SVIDLife}, nil, time.Now())
	must(t, err)
	return &house{a, ring}
}

func (h *house) keys(t testing.TB) []byte {
	t.Helper()
	set, err := h.ring.PublicSVIDs()
	must(t, err)
	return set
}

// source is the state of one service, as a test sets it.
type source struct {
	mu      sync.Mutex
	snap    *ours.Snapshot
	err     error
	changed chan struct{}
	events  []ours.Event
	broken  error // of the record
	house   *house
}

func (s *source) Snapshot() (*ours.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snap, s.err
}

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *source) set(change func(next *ours.Snapshot) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.snap
	s.err = change(&next)
	next.Version++
	s.snap = &next
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) record(_ context.Context, e ours.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.events = append(s.events, e)
	}
	return s.broken
}

// recorded counts the events of an action.
func (s *source) recorded(action string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.events {
		if e.Action == action {
			n++
		}
	}
	return n
}

func (s *source) Sign(_ context.Context, audience []string) (string, error) {
	snap, err := s.Snapshot()
	if err != nil {
		return "", err
	}
	if slices.Contains(audience, "forbidden") {
		return "", rampart.Errorf(rampart.Denied, "token.audience", "no flow leads there")
	}
	now := time.Now()
	return s.house.ring.Signer(now).SignSVID(jwt.SVIDClaims{Subject: snap.ID, Audience: audience, Expires: now.Add(jwt.SVIDLife).Unix(), IssuedAt: now.Unix()})
}

func (s *source) Verify(token, audience string) (string, map[string]any, error) {
	snap, err := s.Snapshot()
	if err != nil {
		return "", nil, err
	}
	v := jwt.NewSVID(jwt.SVIDOptions{Keys: func(domain string) *jwt.KeySet {
		set, err := jwt.ParseSVIDKeySet(snap.JWT[domain])
		if err != nil {
			return nil
		}
		return set
	}})
	got, err := v.Verify(token, audience)
	if err != nil {
		return "", nil, err
	}
	all := map[string]any{}
	return got.Subject, all, got.Decode(&all)
}

// issue makes a certificate for id with a key of its own.
func (h *house) issue(t testing.TB, id string) func(*ours.Snapshot) error {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, _, err := h.Issue(csr, id, ca.IssueOptions{})
	must(t, err)
	return func(s *ours.Snapshot) error {
		s.ID, s.Chain, s.Key = id, chain, key
		return nil
	}
}

func (h *house) source(t testing.TB, id string, others ...*house) *source {
	t.Helper()
	snap := &ours.Snapshot{Version: 1, Roots: map[string][]byte{h.TrustDomain(): h.BundlePEM()}, JWT: map[string][]byte{h.TrustDomain(): h.keys(t)}}
	for _, o := range others {
		snap.Roots[o.TrustDomain()], snap.JWT[o.TrustDomain()] = o.BundlePEM(), o.keys(t)
	}
	must(t, h.issue(t, id)(snap))
	return &source{snap: snap, changed: make(chan struct{}), house: h}
}

// serve runs a server on a socket of the test's and returns its address.
func serve(t testing.TB, s *source, change func(*ours.Options)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rw") // short: a socket's path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	opt := ours.Options{Source: s, Tokens: s, Record: s.record, Allow: func(uid uint32) bool { return uid == uint32(os.Geteuid()) }}
	if change != nil {
		change(&opt)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "w.sock"))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ours.NewServer(opt).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return "unix://" + l.Addr().String()
}

func wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// spiffe is the unmodified library of the standard at a socket.
func spiffe(t testing.TB, addr string) *workloadapi.X509Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	x, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(addr), workloadapi.WithLogger(logger.Null)))
	must(t, err)
	t.Cleanup(func() { x.Close() })
	return x
}

// TestGoSPIFFE: two services that know nothing of us talk over mutual TLS by
// go-spiffe alone; a rotation reaches them while an old connection lives on; a
// wrong peer is refused; a partner's roots vouch for the partner.
func TestGoSPIFFE(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	server, client := shop.source(t, orders, far), shop.source(t, stock)
	foreign := far.source(t, theirs, shop)
	serverX, clientX, foreignX := spiffe(t, serve(t, server, nil)), spiffe(t, serve(t, client, nil)), spiffe(t, serve(t, foreign, nil))

	l, err := spiffetls.ListenWithMode(t.Context(), "tcp", "127.0.0.1:0", spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeAny(), serverX))
	must(t, err)
	defer l.Close()
	go echo(l)
	dial := func(x *workloadapi.X509Source, want string) (net.Conn, error) {
		id := spiffeid.RequireFromString(want)
		return spiffetls.DialWithMode(t.Context(), "tcp", l.Addr().String(), spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(id), x))
	}
	old, err := dial(clientX, orders)
	must(t, err)
	defer old.Close()
	must(t, said(old, "before"))
	if c, err := dial(clientX, stock); err == nil && said(c, "x") == nil {
		t.Error("a peer of another name was spoken to")
	}
	if c, err := dial(foreignX, orders); err != nil || said(c, "hello") != nil {
		t.Errorf("the partner is not let in: %v", err)
	}

	before, err := serverX.GetX509SVID()
	must(t, err)
	pushed := time.Now()
	server.set(shop.issue(t, orders))
	wait(t, "the new certificate has arrived", func() bool {
		now, err := serverX.GetX509SVID()
		return err == nil && !now.Certificates[0].Equal(before.Certificates[0])
	})
	t.Logf("a rotation reached go-spiffe after %v", time.Since(pushed))
	must(t, said(old, "after"))
	fresh, err := dial(clientX, orders)
	must(t, err)
	must(t, said(fresh, "new"))

	server.set(func(s *ours.Snapshot) error { s.Roots = map[string][]byte{domain: shop.BundlePEM()}; return nil })
	wait(t, "the partner is forgotten", func() bool {
		_, err := serverX.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(partner))
		return err != nil
	})
	if c, err := dial(foreignX, orders); err == nil && said(c, "hello") == nil {
		t.Error("a partner whose bundle is gone was let in")
	}
}

// echo answers what it reads.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

// said sends a word and waits for its echo.
func said(c net.Conn, word string) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != word {
		return errors.New("answered " + string(got))
	}
	return nil
}

// TestJWTSource: the library's own source fetches and validates tokens, ours and
// the partner's.
func TestJWTSource(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	src, foreign := shop.source(t, orders, far), far.source(t, theirs, shop)
	at := func(s *source) *workloadapi.JWTSource {
		x, err := workloadapi.NewJWTSource(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr(serve(t, s, nil))))
		must(t, err)
		t.Cleanup(func() { x.Close() })
		return x
	}
	own, other := at(src), at(foreign)
	token, err := own.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: audience})
	must(t, err)
	if token.ID.String() != orders || time.Until(token.Expiry) > 5*time.Minute {
		t.Errorf("token of %s until %s", token.ID, token.Expiry)
	}
	if _, err := jwtsvid.ParseAndValidate(token.Marshal(), other, []string{audience}); err != nil {
		t.Errorf("the partner does not take our token: %v", err)
	}
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr(serve(t, foreign, nil)))
	must(t, err)
	defer client.Close()
	valid, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), audience)
	must(t, err)
	if valid.ID.String() != orders {
		t.Errorf("validated as %s", valid.ID)
	}
	if _, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), "https://other.example"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("for another audience: %v", err)
	}
	foreign.set(func(s *ours.Snapshot) error { s.JWT = map[string][]byte{partner: far.keys(t)}; return nil })
	if _, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), audience); status.Code(err) != codes.InvalidArgument {
		t.Errorf("of a trust domain that is not known: %v", err)
	}
}

// raw is a client without any help.
func raw(t testing.TB, addr string) (workload.SpiffeWorkloadAPIClient, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return workload.NewSpiffeWorkloadAPIClient(connect(t, addr)), metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

func connect(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestStandard holds the rules of SPIFFE Workload Endpoint and Workload API; a
// row is named after its section.
func TestStandard(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	src := shop.source(t, orders, far)
	c, ctx := raw(t, serve(t, src, nil))
	stranger, _ := raw(t, serve(t, src, func(o *ours.Options) { o.Allow = func(uint32) bool { return false } }))
	off, _ := raw(t, serve(t, src, func(o *ours.Options) { o.Tokens = nil }))
	with := func(value string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", value)
	}
	svid := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) (*workload.X509SVIDResponse, error) {
		stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		must(t, err)
		return stream.Recv()
	}
	token := func(c workload.SpiffeWorkloadAPIClient, q *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
		return c.FetchJWTSVID(ctx, q)
	}
	for name, tc := range map[string]struct {
		call func() error
		code codes.Code
	}{
		"endpoint 3: without the header":              {func() error { _, err := svid(t.Context(), c); return err }, codes.InvalidArgument},
		"endpoint 3: the header in another case":      {func() error { _, err := svid(with("True"), c); return err }, codes.InvalidArgument},
		"endpoint 3: without the header, one answer":  {func() error { _, err := c.FetchJWTSVID(t.Context(), &workload.JWTSVIDRequest{}); return err }, codes.InvalidArgument},
		"endpoint 3.1: no transport security":         {func() error { _, err := svid(ctx, c); return err }, codes.OK},
		"endpoint 5: no authentication of the client": {func() error { _, err := svid(ctx, c); return err }, codes.OK},
		"endpoint 6: nobody of ours":                  {func() error { _, err := svid(ctx, stranger); return err }, codes.PermissionDenied},
		"api 1: a profile may be off":                 {func() error { _, err := token(off, &workload.JWTSVIDRequest{Audience: []string{audience}}); return err }, codes.Unimplemented},
		"api 4.5: no audience":                        {func() error { _, err := token(c, &workload.JWTSVIDRequest{}); return err }, codes.InvalidArgument},
		"api 4.5: an empty audience":                  {func() error { _, err := token(c, &workload.JWTSVIDRequest{Audience: []string{""}}); return err }, codes.InvalidArgument},
		"api 4.5: no token to validate": {func() error {
			_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: audience})
			return err
		}, codes.InvalidArgument},
		"api 4.5: nobody to validate for": {func() error {
			_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Svid: "a.b.c"})
			return err
		}, codes.InvalidArgument},
		"api 6.2.1: of oneself by name": {func() error {
			_, err := token(c, &workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: orders})
			return err
		}, codes.OK},
		"api 6.2.1: of somebody else": {func() error {
			_, err := token(c, &workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: stock})
			return err
		}, codes.PermissionDenied},
		"api 6.2.1: of no name": {func() error {
			_, err := token(c, &workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: "orders"})
			return err
		}, codes.InvalidArgument},
		"api 6.2.1: for whom no flow leads": {func() error {
			_, err := token(c, &workload.JWTSVIDRequest{Audience: []string{"forbidden"}})
			return err
		}, codes.PermissionDenied},
		"api 6.2.3: what is no token": {func() error {
			_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: "a.b.c"})
			return err
		}, codes.InvalidArgument},
		"api 6.2.3: what is too long": {func() error {
			_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: strings.Repeat("a", 9000)})
			return err
		}, codes.InvalidArgument},
		"api 7: WIT-SVIDs": {func() error {
			s, err := c.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
			must(t, err)
			_, err = s.Recv()
			return err
		}, codes.Unimplemented},
		"api 7: WIT bundles": {func() error {
			s, err := c.FetchWITBundles(ctx, &workload.WITBundlesRequest{})
			must(t, err)
			_, err = s.Recv()
			return err
		}, codes.Unimplemented},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.call(); status.Code(err) != tc.code {
				t.Errorf("%v, want %s", err, tc.code)
			}
		})
	}
	if src.recorded(ours.ActionRefuse) == 0 {
		t.Error("no refusal is on record")
	}
}

// TestMessages holds what the standard demands of the messages themselves.
func TestMessages(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	src := shop.source(t, orders, far)
	c, ctx := raw(t, serve(t, src, nil))
	svids, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	must(t, err)
	bundles, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	must(t, err)
	keys, err := c.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	must(t, err)
	x, err := svids.Recv()
	must(t, err)
	b, err := bundles.Recv()
	must(t, err)
	k, err := keys.Recv()
	must(t, err)
	one := x.Svids[0]
	chain, err := x509.ParseCertificates(one.X509Svid)
	must(t, err)
	key, err := x509.ParsePKCS8PrivateKey(one.X509SvidKey)
	must(t, err)
	for rule, held := range map[string]bool{
		"api 4.6: bundles by the SPIFFE ID of the domain":     len(x.FederatedBundles["spiffe://"+partner]) > 0 && len(x.FederatedBundles) == 1,
		"api 5.1: leaf first, then the issuing certificate":   len(chain) == 2 && !chain[0].IsCA && chain[1].IsCA && chain[0].URIs[0].String() == orders,
		"api 5.1: an unencrypted PKCS #8 key of the leaf":     fits(key, chain[0]),
		"api 5.1: the bundle of the own domain":               len(one.Bundle) > 0,
		"api 5.2.1: one SVID at least, no hint twice":         len(x.Svids) == 1 && one.Hint == "",
		"api 5.2.2: the own domain among the bundles":         len(b.Bundles["spiffe://"+domain]) > 0 && len(b.Bundles) == 2,
		"api 6.2.2: the own domain among the JWT bundles":     len(k.Bundles["spiffe://"+domain]) > 0 && len(k.Bundles) == 2,
		"api 6.2.2: no keys of another use":                   !strings.Contains(string(k.Bundles["spiffe://"+domain]), "x509-svid"),
		"endpoint 7: the API is not extended, SDS is its own": len(workload.SpiffeWorkloadAPI_ServiceDesc.Methods)+len(workload.SpiffeWorkloadAPI_ServiceDesc.Streams) == 7,
	} {
		if !held {
			t.Errorf("%s: not held in %v", rule, x)
		}
	}
	if n := src.recorded(ours.ActionSVID); n != 1 {
		t.Errorf("%d deliveries of a key on record, want 1", n)
	}
	// 4.3: a change comes whole, and only to whom it concerns.
	src.set(shop.issue(t, orders))
	again, err := svids.Recv()
	must(t, err)
	if len(again.FederatedBundles) != 1 || len(again.Svids) != 1 || string(again.Svids[0].X509Svid) == string(one.X509Svid) {
		t.Error("api 4.3: the second message is not the whole state")
	}
	src.set(func(s *ours.Snapshot) error { s.Roots = map[string][]byte{domain: shop.BundlePEM()}; return nil })
	if b, err := bundles.Recv(); err != nil || len(b.Bundles) != 1 {
		t.Errorf("api 4.4: a bundle that is gone is still told of: %v, %v", b, err)
	}
	// 5.2.1: nothing is left: PermissionDenied, on every stream.
	src.set(func(*ours.Snapshot) error { return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "disabled") })
	if _, err := svids.Recv(); err == nil { // the bundle's change, perhaps
		_, err = svids.Recv()
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("api 5.2.1: a disabled service gets %v", err)
		}
	}
	for name, err := range map[string]error{"bundles": drained(bundles.RecvMsg), "keys": drained(keys.RecvMsg)} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s of a disabled service: %v", name, err)
		}
	}
	if _, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{audience}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token for a disabled service: %v", err)
	}
}

// fits reports whether a key is that of a certificate.
func fits(key any, cert *x509.Certificate) bool {
	k, isKey := key.(*ecdsa.PrivateKey)
	return isKey && k.PublicKey.Equal(cert.PublicKey)
}

// drained reads a stream to its end.
func drained(recv func(any) error) error {
	for {
		if err := recv(new(workload.X509BundlesResponse)); err != nil {
			return err
		}
	}
}

// TestNothingUnrecorded: a key whose delivery cannot be recorded is not given out,
// and who has none yet may come again.
func TestNothingUnrecorded(t *testing.T) {
	src := newHouse(t, domain).source(t, orders)
	src.broken = rampart.Errorf(rampart.Unavailable, "audit.log", "the log is full")
	c, ctx := raw(t, serve(t, src, nil))
	first := func() error {
		stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		must(t, err)
		_, err = stream.Recv()
		return err
	}
	if err := first(); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "log") {
		t.Errorf("unrecorded: %v", err)
	}
	src.broken = nil
	src.set(func(*ours.Snapshot) error { return rampart.Errorf(rampart.Unavailable, "", "not yet") })
	if err := first(); status.Code(err) != codes.Unavailable {
		t.Errorf("endpoint 6: while there is none yet: %v", err)
	}
}
