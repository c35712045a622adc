package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"code.dny.dev/ssrf"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// answers is a DNS server of one's own: each look-up takes the next answer, the
// last for ever.
type answers struct {
	list  [][]string
	asked atomic.Int64
	host  string
}

func (a *answers) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	a.host = host
	n := int(a.asked.Add(1)) - 1
	var out []netip.Addr
	for _, s := range a.list[min(n, len(a.list)-1)] {
		out = append(out, netip.MustParseAddr(s))
	}
	return out, nil
}

// party starts an external party that answers with its Host and path. Its
// certificate is good for example.com.
func party(t testing.TB) (*httptest.Server, func(string) (*tls.Config, error)) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/redirect":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		case "/v1/flood":
			_, _ = io.Copy(w, io.LimitReader(zeros{}, maxResponseBody+1))
		case "/v1/full":
			_, _ = io.Copy(w, io.LimitReader(zeros{}, maxResponseBody))
		case "/v1/headers":
			w.Header().Set("X", strings.Repeat("x", maxHeader+1))
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, r.Method+" "+r.Host+r.URL.Path)
		}
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv, func(name string) (*tls.Config, error) {
		return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}, nil
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func declared(srv *httptest.Server, cfg func(string) (*tls.Config, error)) Options {
	return Options{
		Host: "example.com", Methods: []string{"GET", "POST"}, Paths: []string{"/v1/payment_intents", "/v1/refunds/*", "/v1/redirect", "/v1/flood", "/v1/full", "/v1/headers"},
		StandIn: srv.Listener.Addr().String(), TLS: cfg,
	}
}

func send(t testing.TB, opt Options, method, target string, body io.Reader) (string, *http.Response, error) {
	t.Helper()
	tr, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp, err
}

// refusedBy demands a refusal of that kind by that control.
func refusedBy(t *testing.T, err error, kind rampart.Kind, control string) {
	t.Helper()
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Kind != kind || e.Control != control {
		t.Errorf("got %v, want %v by %s", err, kind, control)
	}
}

func TestDeclaredIsReached(t *testing.T) {
	srv, cfg := party(t)
	for _, target := range []string{"https://example.com/v1/payment_intents", "https://example.com:443/v1/refunds/re_1?expand=a"} {
		body, _, err := send(t, declared(srv, cfg), "POST", target, strings.NewReader("amount=1"))
		if err != nil || !strings.HasPrefix(body, "POST example.com") {
			t.Errorf("%s: %q, %v", target, body, err)
		}
	}
}

func TestHTTP2(t *testing.T) {
	srv, cfg := party(t)
	opt := declared(srv, func(name string) (*tls.Config, error) {
		c, err := cfg(name)
		c.NextProtos = []string{"h2", "http/1.1"}
		return c, err
	})
	_, resp, err := send(t, opt, "POST", "https://example.com/v1/payment_intents", strings.NewReader("amount=1"))
	if err != nil || resp.ProtoMajor != 2 {
		t.Errorf("got %v, %v, want an answer over HTTP/2", resp, err)
	}
	_, _, err = send(t, opt, "GET", "https://example.com/v1/flood", nil)
	if problem.Status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("flood: got %v", err)
	}
}

func TestUndeclaredIsRefused(t *testing.T) {
	srv, cfg := party(t)
	for _, tc := range [][2]string{
		{"DELETE", "https://example.com/v1/payment_intents"},
		{"GET", "https://example.com/"},
		{"GET", "https://example.com/v1/payment_intents/"},
		{"GET", "https://example.com/v1/payment_intents/pi_1"},
		{"GET", "https://example.com/v1/refunds/"},
		{"GET", "https://example.com/v1/refunds/../balance"},
		{"GET", "https://example.com/v1/refunds/%2e%2e/balance"},
		{"GET", "https://example.com/v1/refunds/..%2fbalance"},
		{"GET", "https://example.com/v1/refunds//x"},
		{"GET", "https://example.com/v1/refunds/a;b"},
		{"GET", "https://example.com/v1/payment_intents?a=1;b=2"},
		{"GET", "http://example.com/v1/payment_intents"},
		{"GET", "https://example.com:8443/v1/payment_intents"},
		{"GET", "https://example.com.:443/v1/payment_intents"},
		{"GET", "https://EXAMPLE.com/v1/payment_intents"},
		{"GET", "https://example.com@evil.example/v1/payment_intents"},
		{"GET", "https://user:pass@example.com/v1/payment_intents"},
		{"GET", "https://evil.example/v1/payment_intents"},
		{"GET", "https://sub.example.com/v1/payment_intents"},
		{"GET", "https://127.0.0.1/v1/payment_intents"},
		{"GET", "https://2130706433/v1/payment_intents"},
		{"GET", "https://0177.0.0.1/v1/payment_intents"},
		{"GET", "https://127.1/v1/payment_intents"},
		{"GET", "https://[::1]/v1/payment_intents"},
		{"GET", "https://[::ffff:127.0.0.1]/v1/payment_intents"},
		{"GET", "https://169.254.169.254/latest/meta-data/"},
		{"GET", "https://ｅxample.com/v1/payment_intents"},
	} {
		_, _, err := send(t, declared(srv, cfg), tc[0], tc[1], nil)
		t.Run(tc[0]+" "+tc[1], func(t *testing.T) { refusedBy(t, err, rampart.Denied, controlAllow) })
	}
}

func TestHostHeaderCannotDiffer(t *testing.T) {
	srv, cfg := party(t)
	tr, err := New(declared(srv, cfg))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "https://example.com/v1/payment_intents", nil)
	r.Host = "internal.example"
	_, err = tr.RoundTrip(r)
	refusedBy(t, err, rampart.Denied, controlAllow)
}

// TestAddresses is the table of smokescreen's and IANA's classes, by address.
func TestAddresses(t *testing.T) {
	guard := newGuard(443, []netip.Prefix{netip.MustParsePrefix("203.0.114.0/24"), netip.MustParsePrefix("2600:1::/32")})
	allowed := []string{"8.8.8.8", "100.63.255.254", "100.128.0.1", "172.15.255.255", "172.32.0.1", "168.63.129.15", "223.255.255.255",
		"2001:4860:4860::8888", "2606:4700:4700::1111", "2600:2::1"}
	denied := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "100.100.100.200", "127.0.0.1", "127.255.255.255", "169.254.169.254",
		"169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.255.255", "198.18.0.1", "198.51.100.1",
		"203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16", "203.0.114.9",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1",
		"2001:0:4136:e378::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
		"fe80::1%eth0", "fec0::1", "ff02::1", "2600:1::1",
	}
	for _, s := range allowed {
		if why := classify(guard, netip.MustParseAddr(s)); why != "" {
			t.Errorf("%s denied: %s", s, why)
		}
	}
	for _, s := range denied {
		a := netip.MustParseAddr(s)
		if classify(guard, a) == "" {
			t.Errorf("%s allowed", s)
		}
		if a.Zone() == "" && guard.SafeAddr(a) == nil {
			t.Errorf("%s allowed by the check at connect time", s)
		}
	}
	if classify(guard, netip.Addr{}) == "" {
		t.Error("no address allowed")
	}
}

// TestRebinding: a name that answers with public addresses first and private
// ones later, or with both at once, reaches nothing inside.
func TestRebinding(t *testing.T) {
	srv, cfg := party(t)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	for name, list := range map[string][][]string{
		"loopback":                {{"127.0.0.1"}},
		"mixed, the private last": {{"8.8.8.8", "127.0.0.1"}},
		"mixed, with IPv6":        {{"2606:4700:4700::1111", "::1"}},
		"mapped":                  {{"::ffff:127.0.0.1"}},
		"metadata":                {{"169.254.169.254"}},
		"NAT64":                   {{"64:ff9b::7f00:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			opt := declared(srv, cfg)
			dns := &answers{list: list}
			opt.StandIn, opt.Resolver = "", dns
			opt.Host = "example.com:" + port
			_, _, err := send(t, opt, "GET", "https://"+opt.Host+"/v1/payment_intents", nil)
			refusedBy(t, err, rampart.Denied, controlPrivate)
			if dns.asked.Load() != 1 || dns.host != "example.com." {
				t.Errorf("asked %d times for %q, want once for the full name", dns.asked.Load(), dns.host)
			}
		})
	}
}

// TestEachDialResolvesOnce: what was checked is what is dialled. A resolver
// that would give a private address to whoever asks twice gets no second
// question from the dial, and the next dial is refused.
func TestEachDialResolvesOnce(t *testing.T) {
	srv, cfg := party(t)
	opt := declared(srv, cfg)
	dns := &answers{list: [][]string{{"127.0.0.1"}, {"127.0.0.1"}}}
	opt.StandIn, opt.Resolver, opt.AnyAddress = "", dns, true // the positive control: without the check the party is reached
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	opt.Host = "example.com:" + port
	if body, _, err := send(t, opt, "GET", "https://"+opt.Host+"/v1/payment_intents", nil); err != nil || body == "" {
		t.Fatalf("%q, %v", body, err)
	}
	if dns.asked.Load() != 1 {
		t.Errorf("asked %d times, want once", dns.asked.Load())
	}
	opt.AnyAddress = false
	_, _, err := send(t, opt, "GET", "https://"+opt.Host+"/v1/payment_intents", nil)
	refusedBy(t, err, rampart.Denied, controlPrivate)
}

func TestPublicThenLoopback(t *testing.T) {
	_, cfg := party(t)
	dns := &answers{list: [][]string{{"8.8.8.8"}, {"127.0.0.1"}}}
	tr, err := New(Options{Host: "example.com", Methods: []string{"GET"}, Paths: []string{"/"}, TLS: cfg, Resolver: dns})
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := tr.resolve(t.Context()); err != nil || len(addrs) != 1 {
		t.Fatalf("first answer: %v, %v", addrs, err)
	}
	_, err = tr.resolve(t.Context())
	refusedBy(t, err, rampart.Denied, controlPrivate)
	for network, address := range map[string]string{"tcp4": "127.0.0.1:443", "tcp6": "[::1]:443", "udp4": "8.8.8.8:443"} {
		refusedBy(t, tr.control(network, address, nil), rampart.Denied, controlPrivate)
	}
	if err := tr.control("tcp4", "8.8.8.8:443", nil); err != nil {
		t.Error(err)
	}
	refusedBy(t, tr.control("tcp4", "8.8.8.8:22", nil), rampart.Denied, controlPrivate)
}

func TestRedirectIsNotFollowed(t *testing.T) {
	srv, cfg := party(t)
	_, resp, err := send(t, declared(srv, cfg), "GET", "https://example.com/v1/redirect", nil)
	if err != nil || resp.StatusCode != http.StatusFound {
		t.Fatalf("got %v, want the redirect itself", err)
	}
	tr, err := New(declared(srv, cfg))
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&http.Client{Transport: tr}).Get("https://example.com/v1/redirect")
	refusedBy(t, err, rampart.Denied, controlAllow) // a client that would follow is stopped
}

func TestTLSIsVerified(t *testing.T) {
	srv, cfg := party(t)
	opt := declared(srv, cfg)
	opt.Host = "other.example" // the stand-in's certificate is for example.com
	_, _, err := send(t, opt, "GET", "https://other.example/v1/payment_intents", nil)
	refusedBy(t, err, rampart.Unavailable, controlAllow)

	for name, bad := range map[string]func(string) (*tls.Config, error){
		"another CA": func(n string) (*tls.Config, error) {
			return &tls.Config{RootCAs: x509.NewCertPool(), ServerName: n}, nil
		},
		"no verification":   func(n string) (*tls.Config, error) { return &tls.Config{InsecureSkipVerify: true, ServerName: n}, nil },
		"another name":      func(string) (*tls.Config, error) { return &tls.Config{ServerName: "127.0.0.1"}, nil },
		"no configuration":  func(string) (*tls.Config, error) { return nil, nil },
		"a CA that is gone": func(string) (*tls.Config, error) { return nil, errors.New("no such file") },
	} {
		opt := declared(srv, bad)
		if _, _, err := send(t, opt, "GET", "https://example.com/v1/payment_intents", nil); err == nil {
			t.Errorf("%s: the request went out", name)
		}
	}
}

// endless is a body without a length.
type endless struct{ io.Reader }

func TestCaps(t *testing.T) {
	srv, cfg := party(t)
	opt := declared(srv, cfg)
	_, _, err := send(t, opt, "GET", "https://example.com/v1/flood", nil)
	if problem.Status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("flood: got %v", err)
	}
	body, _, err := send(t, opt, "GET", "https://example.com/v1/full", nil)
	if err != nil || len(body) != maxResponseBody {
		t.Errorf("exactly full: %d bytes, %v", len(body), err)
	}
	if _, _, err := send(t, opt, "GET", "https://example.com/v1/headers", nil); err == nil {
		t.Error("a header of 64 KiB was accepted")
	}
	_, _, err = send(t, opt, "POST", "https://example.com/v1/payment_intents", endless{io.LimitReader(zeros{}, maxRequestBody+1)})
	if problem.Status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("endless request: got %v", err)
	}
	_, _, err = send(t, opt, "POST", "https://example.com/v1/payment_intents", strings.NewReader(strings.Repeat("x", maxRequestBody+1)))
	if problem.Status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("large request: got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Options{Host: "example.com", Methods: []string{"GET"}, Paths: []string{"/v1/*"}, TLS: func(string) (*tls.Config, error) { return nil, nil }}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no host":               func(o *Options) { o.Host = "" },
		"an IPv4 address":       func(o *Options) { o.Host = "8.8.8.8" },
		"an IPv6 address":       func(o *Options) { o.Host = "[2606:4700:4700::1111]:443" },
		"a number":              func(o *Options) { o.Host = "2130706433" },
		"a hexadecimal number":  func(o *Options) { o.Host = "0x7f000001" },
		"a short address":       func(o *Options) { o.Host = "127.1" },
		"port 0":                func(o *Options) { o.Host = "example.com:0" },
		"upper case":            func(o *Options) { o.Host = "Example.com" },
		"no methods":            func(o *Options) { o.Methods = nil },
		"no paths":              func(o *Options) { o.Paths = nil },
		"a star in the middle":  func(o *Options) { o.Paths = []string{"/v1/*/x"} },
		"a star without slash":  func(o *Options) { o.Paths = []string{"/v1*"} },
		"dots":                  func(o *Options) { o.Paths = []string{"/v1/../x"} },
		"a stand-in elsewhere":  func(o *Options) { o.StandIn = "10.0.0.1:443" },
		"a stand-in by name":    func(o *Options) { o.StandIn = "localhost:443" },
		"a stand-in, no number": func(o *Options) { o.StandIn = "127.0.0.1" },
	} {
		opt := good
		change(&opt)
		if _, err := New(opt); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzCheck: whatever the URL, only the declared host passes.
func FuzzCheck(f *testing.F) {
	tr, err := New(Options{Host: "example.com", Methods: []string{"GET"}, Paths: []string{"/v1/*"}, TLS: func(string) (*tls.Config, error) { return nil, nil }})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("https://example.com/v1/a")
	f.Add("https://example.com:443@evil/v1/a")
	f.Add("https://example.com%00.evil/v1/..")
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.NewRequest("GET", target, nil)
		if err != nil || tr.check(r) != nil {
			return
		}
		if r.URL.Hostname() != "example.com" || r.URL.Scheme != "https" || !strings.HasPrefix(r.URL.Path, "/v1/") || strings.Contains(r.URL.Path, "..") && strings.Contains(r.URL.Path+"/", "/../") {
			t.Fatalf("%q passes", target)
		}
	})
}

func BenchmarkEgressCheck(b *testing.B) {
	tr, err := New(Options{Host: "example.com", Methods: []string{"POST"}, Paths: []string{"/v1/payment_intents"}, TLS: func(string) (*tls.Config, error) { return nil, nil }})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("POST", "https://example.com/v1/payment_intents", nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := tr.check(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEgressClassify(b *testing.B) {
	guard := ssrf.New()
	a := netip.MustParseAddr("8.8.8.8")
	b.ReportAllocs()
	for b.Loop() {
		if why := classify(guard, a); why != "" {
			b.Fatal(why)
		}
	}
}
