package verify

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Most that a certificate may last: public ones what browsers take, inside what
// rampart.yaml can ask for, with the minute by which it begins early.
const (
	maxEdgeLife   = 398 * 24 * time.Hour
	maxInsideLife = 24*time.Hour + 5*time.Minute
	minHSTS       = 365 * 24 * 60 * 60
)

// scanSelf says how a scan shows that it can find something.
const scanSelf = "in each run a server of the probe's own that speaks TLS 1.0 to 1.2, and gives tickets, is scanned, and found"

func scanProbes() []Probe {
	return []Probe{
		{ID: "P-008", Title: "scan of the edge: TLS 1.3 alone, strong suites, group and certificate, HSTS for a year", SeedRow: "tls: client to edge", Controls: []string{"tls.min13", "headers.security"},
			Proves: []string{"owasp2021:A02", "PAY-2"}, Vantage: fromOutside, Safety: safe, Run: scanEdge, SelfTest: scanSelf},
		{ID: "P-057", Title: "scan of every listener inside: TLS 1.3 alone, strong suites, group and certificate, no tickets", SeedRow: "tls: service to service", Controls: []string{"mtls.required", "tls.min13"},
			Proves: []string{"owasp2021:A02"}, Vantage: asService, Safety: safe, Run: scanInside, SelfTest: scanSelf,
			Blind: "no plane can serve without mutual TLS 1.3"},
	}
}

// listener is one TLS listener of the running system.
type listener struct {
	name, addr string
	config     *tls.Config // of a client that verifies it
	life       time.Duration
	tickets    bool // it may resume sessions
	http       bool
}

func scanEdge(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	l := listener{name: "edge", addr: e.edgeAddr(), life: maxEdgeLife, tickets: true, http: true, config: &tls.Config{RootCAs: e.roots, ServerName: e.edgeName(), MinVersion: tls.VersionTLS13}}
	found, err := e.scanAll(ctx, []listener{l})
	if err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, get("/_rampart/health"))
	if err != nil {
		return Result{}, err
	}
	sts := res.header.Get("Strict-Transport-Security")
	e.note("HSTS %q", sts)
	if hstsAge(sts) < minHSTS {
		found = append(found, fmt.Sprintf("edge: HSTS is %q, less than a year", sts))
	}
	return verdictOf(found, 1), nil
}

// hstsAge is for how many seconds a client stays with TLS (RFC 6797 section
// 6.1.1); 0 where the header says nothing sensible.
func hstsAge(header string) int {
	for part := range strings.SplitSeq(header, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if n, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil && strings.EqualFold(name, "max-age") {
			return n
		}
	}
	return 0
}

func scanInside(ctx context.Context, e *Env) (Result, error) {
	gw, err := e.join(ctx, "gateway/"+e.gateway())
	if err != nil {
		return Result{}, err
	}
	var all []listener
	add := func(name, addr, id string, http bool) {
		if addr != "" {
			all = append(all, listener{name: name, addr: addr, config: e.clientTLS(gw, id), life: maxInsideLife, http: http})
		}
	}
	add("control", e.running.Control, e.sys.ControlID(), true)
	for _, s := range slices.Sorted(maps.Keys(e.running.Sidecars)) {
		add("sidecar "+s, e.running.Sidecars[s], e.sys.ServiceID(s), true)
	}
	for _, q := range slices.Sorted(maps.Keys(e.running.Queues)) {
		add("queue "+q, e.running.Queues[q], e.sys.StoreID(q), false)
	}
	found, err := e.scanAll(ctx, all)
	if err != nil {
		return Result{}, err
	}
	return verdictOf(found, len(all)), nil
}

func verdictOf(found []string, n int) Result {
	if len(found) > 0 {
		return failed("%s", strings.Join(found, "; "))
	}
	return passed("%d listeners: nothing but TLS 1.3 with authenticated encryption and the hybrid group; no finding", n)
}

// scanAll scans listeners, and before them a server that it must find fault
// with.
func (e *Env) scanAll(ctx context.Context, all []listener) (found []string, err error) {
	if err := e.scanOwn(ctx); err != nil {
		return nil, err
	}
	for _, l := range all {
		some, err := e.scan(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		found = append(found, some...)
	}
	return found, nil
}

func (e *Env) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: e.http.source}, Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		conn.SetDeadline(time.Now().Add(8 * time.Second))
	}
	return conn, err
}

// scan lists what is wrong with a listener.
func (e *Env) scan(ctx context.Context, l listener) ([]string, error) {
	good, err := e.offer(ctx, l.addr, modern)
	if err != nil {
		return nil, err
	}
	if !good.taken {
		return nil, errors.New("a sound offer of TLS 1.3 was refused, so refusals say nothing")
	}
	var found []string
	fault := func(format string, args ...any) { found = append(found, l.name+": "+fmt.Sprintf(format, args...)) }
	for _, o := range faulty() {
		a, err := e.offer(ctx, l.addr, o)
		if err != nil {
			return nil, err
		}
		if a.taken {
			fault("takes %s, with suite %#04x", o.name, a.suite)
		}
	}
	cs, err := e.greet(ctx, l, func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }, nil)
	if err != nil {
		fault("no handshake with X25519MLKEM768 alone: %v", err)
		return found, nil
	}
	leaf := cs.PeerCertificates[0]
	e.note("%s %s: %s, %s, %s, certificate %s until %s", l.name, l.addr, tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite), cs.CurveID, keyName(leaf), leaf.NotAfter.UTC().Format(time.RFC3339))
	for _, why := range badCertificate(leaf, l.life) {
		fault("%s", why)
	}
	if l.http {
		for _, why := range e.badProtocols(ctx, l) {
			fault("%s", why)
		}
	}
	if l.tickets {
		return found, nil
	}
	resumed, err := e.resumes(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("whether it resumes sessions is not known: %w", err)
	}
	if resumed {
		fault("a ticket lets a peer back in on the strength of an old check")
	}
	return found, nil
}

// greet makes a verified handshake and returns what was agreed on. then, if not
// nil, goes on with the connection.
func (e *Env) greet(ctx context.Context, l listener, change func(*tls.Config), then func(*tls.Conn) error) (tls.ConnectionState, error) {
	conn, err := e.dial(ctx, l.addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	cfg := l.config.Clone()
	change(cfg)
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	if then != nil {
		if err := then(c); err != nil {
			return tls.ConnectionState{}, err
		}
	}
	return c.ConnectionState(), nil
}

// hear reads the first that a server says, HTTP's answer or a queue's greeting:
// tickets come before it, and a refusal of our certificate in its place. Silence
// until the connection's deadline is an error too.
func (l listener) hear(c *tls.Conn) error {
	if l.http {
		if _, err := fmt.Fprint(c, "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return fmt.Errorf("nothing came after the handshake: %w", err)
	}
	return nil
}

// badProtocols says what is wrong with application protocols (RFC 7301).
func (e *Env) badProtocols(ctx context.Context, l listener) (out []string) {
	for offered, fine := range map[string][]string{"h2": {"h2"}, "http/1.1": {"http/1.1"}, "verify-unknown": {""}} {
		cs, err := e.greet(ctx, l, func(c *tls.Config) { c.NextProtos = []string{offered} }, nil)
		switch {
		case err != nil && offered != "verify-unknown":
			out = append(out, fmt.Sprintf("refuses %s: %v", offered, err))
		case err == nil && !slices.Contains(fine, cs.NegotiatedProtocol):
			out = append(out, fmt.Sprintf("offered %s, agrees on %q", offered, cs.NegotiatedProtocol))
		}
	}
	return out
}

// resumes reports whether a second connection is let in by a ticket of the first.
// A listener that no peer leads to turns us away with an alert: in TLS 1.3 that
// is before it gives tickets (RFC 8446 section 4.6.1), so there are none to use.
func (e *Env) resumes(ctx context.Context, l listener) (bool, error) {
	cache := tls.NewLRUClientSessionCache(4)
	with := func(c *tls.Config) { c.ClientSessionCache = cache }
	if _, err := e.greet(ctx, l, with, l.hear); err != nil {
		alert, ok := errors.AsType[*net.OpError](err)
		if ok && alert.Op == "remote error" {
			return false, nil
		}
		return false, err
	}
	cs, err := e.greet(ctx, l, with, l.hear)
	return cs.DidResume, err
}

func badCertificate(leaf *x509.Certificate, life time.Duration) (out []string) {
	if !strong(leaf) {
		out = append(out, "weak key: "+keyName(leaf))
	}
	switch leaf.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default:
		out = append(out, "signed by "+leaf.SignatureAlgorithm.String())
	}
	if got := leaf.NotAfter.Sub(leaf.NotBefore); got > life {
		out = append(out, fmt.Sprintf("the certificate lasts %v, more than %v", got, life))
	}
	if !time.Now().Before(leaf.NotAfter) {
		out = append(out, "the certificate has expired")
	}
	if len(leaf.DNSNames)+len(leaf.URIs)+len(leaf.IPAddresses) == 0 {
		out = append(out, "the certificate has no alternative name")
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		out = append(out, "the certificate may sign others")
	}
	for _, n := range leaf.DNSNames {
		if strings.Contains(n, "*") {
			out = append(out, "a wildcard: "+n)
		}
	}
	return out
}

func strong(leaf *x509.Certificate) bool {
	switch k := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return k.Params().BitSize >= 256
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048
	case ed25519.PublicKey:
		return true
	}
	return false
}

func keyName(leaf *x509.Certificate) string {
	switch k := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	}
	return leaf.PublicKeyAlgorithm.String()
}

// offer is one ClientHello, written by hand: no library speaks what is offered
// here.
type offer struct {
	name    string
	version uint16
	suites  []uint16
}

var modern = offer{"TLS 1.3", tls.VersionTLS13, []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}}

// faulty are offers that nobody may take.
func faulty() []offer {
	return []offer{
		{"SSL 3.0", 0x0300, everySuite()},
		{"TLS 1.0", tls.VersionTLS10, everySuite()},
		{"TLS 1.1", tls.VersionTLS11, everySuite()},
		{"TLS 1.2", tls.VersionTLS12, everySuite()},
		{"TLS 1.3 with a short tag or without encryption", tls.VersionTLS13, []uint16{0x1304, 0x1305, 0xc0b4, 0xc0b5}},
	}
}

// everySuite is what was ever assigned below TLS 1.3: without encryption,
// exported, RC4, DES, CBC and all that came later.
func everySuite() []uint16 {
	var out []uint16
	for _, r := range [][2]uint16{{0x0001, 0x00c7}, {0xc001, 0xc0b3}, {0xcca8, 0xccae}} {
		for s := r[0]; s <= r[1]; s++ {
			out = append(out, s)
		}
	}
	return append(out, 0x00ff) // TLS_EMPTY_RENEGOTIATION_INFO_SCSV
}

// taken is what a server made of an offer.
type taken struct {
	taken bool
	suite uint16
}

// offer sends a ClientHello and reads the answer's beginning. Silence is an
// error, an alert or an end is a refusal.
func (e *Env) offer(ctx context.Context, addr string, o offer) (taken, error) {
	conn, err := e.dial(ctx, addr)
	if err != nil {
		return taken{}, err
	}
	defer conn.Close()
	hello, err := o.hello()
	if err != nil {
		return taken{}, err
	}
	if _, err := conn.Write(hello); err != nil {
		return taken{}, nil // closed on us: refused
	}
	return readAnswer(conn)
}

// readAnswer reads a ServerHello (RFC 8446 section 4.1.3, RFC 6101 section 5.6.1.3).
func readAnswer(r io.Reader) (taken, error) {
	head := make([]byte, 5+4+2+32+1)
	n, err := io.ReadFull(r, head)
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return taken{}, errors.New("the listener does not answer a ClientHello")
	}
	if n < 6 || head[0] != 22 || head[5] != 2 {
		return taken{}, nil
	}
	if err != nil {
		return taken{}, fmt.Errorf("half a ServerHello: %w", err)
	}
	rest := make([]byte, int(head[len(head)-1])+2)
	if _, err := io.ReadFull(r, rest); err != nil {
		return taken{}, fmt.Errorf("half a ServerHello: %w", err)
	}
	return taken{true, binary.BigEndian.Uint16(rest[len(rest)-2:])}, nil
}

// hello writes a ClientHello (RFC 8446 section 4.1.2; before it RFC 5246, 4346,
// 2246 and 6101, which differ in the extensions alone).
func (o offer) hello() ([]byte, error) {
	random := make([]byte, 32)
	rand.Read(random)
	body := binary.BigEndian.AppendUint16(nil, min(o.version, tls.VersionTLS12))
	body = append(append(body, random...), 0) // no session
	var suites []byte
	for _, s := range o.suites {
		suites = binary.BigEndian.AppendUint16(suites, s)
	}
	body = append(append(body, vector(2, suites)...), 1, 0) // no compression
	if o.version > 0x0300 {
		ext, err := o.extensions()
		if err != nil {
			return nil, err
		}
		body = append(body, vector(2, ext)...)
	}
	msg := append([]byte{1}, vector(3, body)...)
	record := binary.BigEndian.AppendUint16([]byte{22}, min(o.version, tls.VersionTLS10))
	return append(record, vector(2, msg)...), nil
}

func (o offer) extensions() ([]byte, error) {
	ext := func(kind uint16, body []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, kind), vector(2, body)...)
	}
	out := slices.Concat(
		ext(0, vector(2, append([]byte{0}, vector(2, []byte("localhost"))...))), // server_name
		ext(10, vector(2, []byte{0, 29, 0, 23, 0, 24, 0, 25})),                  // supported_groups
		ext(11, []byte{1, 0}), // ec_point_formats
		ext(13, vector(2, []byte{4, 3, 5, 3, 6, 3, 8, 7, 8, 4, 8, 5, 8, 6, 4, 1, 5, 1, 6, 1, 2, 3, 2, 1})), // signature_algorithms, SHA-1 among them
	)
	if o.version < tls.VersionTLS13 {
		return out, nil
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	share := append([]byte{0, 29}, vector(2, key.PublicKey().Bytes())...)
	return slices.Concat(out, ext(43, []byte{2, 3, 4}), ext(51, vector(2, share))), nil
}

// vector puts a length of some bytes before a value.
func vector(bytes int, v []byte) []byte {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(v)))
	return append(slices.Clone(length[8-bytes:]), v...)
}

// scanOwn scans a server of our own that takes TLS 1.0 to 1.2 and gives tickets,
// as one that speaks first and as one that is asked: a scan that finds nothing
// wrong with it is blind.
func (e *Env) scanOwn(ctx context.Context) error {
	l, err := oldServer()
	if err != nil {
		return err
	}
	defer l.Close()
	var names []string
	for _, o := range faulty() {
		a, err := e.offer(ctx, l.Addr().String(), o)
		if err != nil {
			return fmt.Errorf("the probe's own server: %w", err)
		}
		if a.taken {
			names = append(names, o.name)
		}
	}
	if !slices.Equal(names, []string{"TLS 1.0", "TLS 1.1", "TLS 1.2"}) {
		return fmt.Errorf("of a server with TLS 1.0 to 1.2 the scan found %v: it is blind", names)
	}
	for _, http := range []bool{true, false} {
		resumed, err := e.resumes(ctx, listener{addr: l.Addr().String(), http: http, config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost"}})
		if err != nil || !resumed {
			return fmt.Errorf("of a server with tickets the scan found none: it is blind: %w", err)
		}
	}
	return nil
}

// oldServer answers handshakes from TLS 1.0 on, tickets among it, and says a line,
// until it is closed.
func oldServer() (net.Listener, error) {
	cfg, err := oldConfig()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				c := tls.Server(conn, cfg)
				if c.Handshake() == nil {
					fmt.Fprint(c, "INFO\r\n")
				}
			}()
		}
	}()
	return l, nil
}

// oldConfig is that of such a server, with a certificate of its own.
func oldConfig() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS10, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}
