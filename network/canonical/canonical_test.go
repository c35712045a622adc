package canonical

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// isRefusal reports whether err is one of kind Invalid by control.
func isRefusal(err error, control string) bool {
	e, ok := errors.AsType[*rampart.Error](err)
	return ok && e.Kind == rampart.Invalid && e.Control == control
}

func TestPath(t *testing.T) {
	for raw, want := range map[string]string{
		"/":                     "/",
		"/orders/17":            "/orders/17",
		"/orders/":              "/orders/",
		"/a%20b":                "/a b",
		"/caf%C3%A9":            "/café",
		"/caf%c3%a9/%7Euser/.x": "/café/~user/.x",
		"/a+b/...":              "/a+b/...",
	} {
		got, err := Path(raw, "limit=10&q=a%20b+c")
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	}
}

func TestPathRefuses(t *testing.T) {
	for _, raw := range []string{
		"", "orders", "*", "//", "//evil.example/", "/a//b",
		"/../etc", "/a/..", "/a/./b", "/.", "/%2e%2e/etc", "/a/%2E", "/a/.%2e/b",
		"/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/..%2f..%2fetc",
		"/%252e%252e/", "/a%25", "/%25%32%65",
		"/a%00", "/a\x00", "/a%0d%0aX:y", "/a\x7f", "/a%7f", "/a%c2%85",
		"/a%ff", "/a\xff", "/%c0%ae%c0%ae/", "/%ed%a0%80",
		"/a;b=c", "/a%3bb", "/a#b", "/a%23", "/a%3fb", "/a?b",
		"/a%", "/a%zz", "/a%2", "/" + strings.Repeat("a", MaxPath),
	} {
		if got, err := Path(raw, ""); !isRefusal(err, "edge.route") {
			t.Errorf("%q: got %q, %v, want a refusal", raw, got, err)
		}
	}
}

func TestQueryRefuses(t *testing.T) {
	for _, q := range []string{"a=1;b=2", "a=%", "a=%zz", "a=%ff", "a=%00", "a=1#x", "a=\x01", strings.Repeat("a", MaxPath+1)} {
		if _, err := Path("/", q); !isRefusal(err, "edge.route") {
			t.Errorf("%q: got %v, want a refusal", q, err)
		}
	}
}

func TestHost(t *testing.T) {
	for raw, want := range map[string]string{
		"Pay.Example":      "pay.example",
		"localhost:8443":   "localhost",
		"pay.example.":     "pay.example",
		"pay.example.:443": "pay.example",
		"xn--caf-dma.fr":   "xn--caf-dma.fr",
		"127.0.0.1:8443":   "127.0.0.1",
		"[::1]:8443":       "::1",
		"[0:0::1]":         "::1",
	} {
		if got, err := Host(raw); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", ".", "a..b", "pay.example..", "a:b", "a:", "a:0", "a:99999", "a:08443", "a,b", "a b", "a%00b", "a/b", "user@a",
		"café.fr", "ｌocalhost", "-a", "a-", "a_b", "[::1", "[::1]x", "[127.0.0.1]", "[fe80::1%25eth0]", "::1", "a:1:2",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa",
	} {
		if got, err := Host(raw); !isRefusal(err, "edge.route") {
			t.Errorf("%q: got %q, %v, want a refusal", raw, got, err)
		}
	}
}

// TestHeadersOnTheWire sends bytes to a real server: what net/http lets through
// is what Headers must catch.
func TestHeadersOnTheWire(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := errors.Join(Headers(r), Body(r, r.URL.Path == "/declared")); err != nil {
			problem.Write(w, err, "")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	srv.Config.DisableGeneralOptionsHandler = true
	srv.Start()
	defer srv.Close()
	for name, tc := range map[string]struct {
		request string
		status  int
	}{
		"an ordinary GET":           {"GET /a HTTP/1.1\r\nHost: a\r\nAccept: a\r\nAccept: b\r\nCookie: a=b\r\n\r\n", 204},
		"an ordinary POST":          {"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", 204},
		"a chunked POST":            {"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 204},
		"options of a connection":   {"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\n\r\n", 204},
		"a field that is not there": {"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\n\r\n", 204},
		"a field taken back":        {"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nConnection: close ,content-type\r\nContent-Length: 0\r\n\r\n", 400},
		"TRACE":                     {"TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n", 405},
		"CONNECT":                   {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405},
		"a lower-case method":       {"get /a HTTP/1.1\r\nHost: a\r\n\r\n", 405},
		"HTTP/1.0":                  {"GET /a HTTP/1.0\r\nHost: a\r\n\r\n", 400},
		"HTTP/1.9":                  {"GET /a HTTP/1.9\r\nHost: a\r\n\r\n", 400},
		"an absolute target":        {"GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"an upgrade to h2c":         {"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 400},
		"an underscore":             {"GET /a HTTP/1.1\r\nHost: a\r\nRampart_Principal: x\r\n\r\n", 400},
		"two Authorization":         {"GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400},
		"two Content-Type":          {"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\ncontent-type: c/d\r\nContent-Length: 0\r\n\r\n", 400},
		"two Cookie":                {"GET /a HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nCookie: a=c\r\n\r\n", 400},
		"two of an unknown field":   {"GET /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nIdempotency-Key: 2\r\n\r\n", 400},
		"obs-text in Authorization": {"GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n", 400},
		"obs-text in User-Agent":    {"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: caf\xe9\r\n\r\n", 204},
		"a body on GET":             {"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 400},
		"a chunked body on HEAD":    {"HEAD /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"a body on DELETE":          {"DELETE /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 400},
		"a declared body on DELETE": {"DELETE /declared HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 204},
		"a body of no bytes on GET": {"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 204},
		"the server itself":         {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405},
		"a path in raw UTF-8":       {"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"a backslash":               {"GET /a?b\\c HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"a length with zeros":       {"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 02\r\n\r\n{}", 400},
		"a trailer":                 {"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: y\r\n\r\n", 400},
		"a compressed body":         {"POST /a HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415},
	} {
		t.Run(name, func(t *testing.T) {
			if got := roundTrip(t, srv.Listener.Addr().String(), tc.request); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
		})
	}
}

// TestHosts: a name that is not ours is another's request.
func TestHosts(t *testing.T) {
	for _, tc := range []struct {
		names []string
		host  string
		want  int
	}{
		{nil, "localhost", 200},
		{nil, "LOCALHOST.:8443", 200},
		{nil, "127.8.9.1:8443", 200},
		{nil, "[::1]:8443", 200},
		{nil, "10.0.0.1", 421},
		{nil, "localhost.evil.example", 421},
		{[]string{"pay.example"}, "pay.example:443", 200},
		{[]string{"pay.example"}, "Pay.Example.", 200},
		{[]string{"pay.example"}, "localhost", 421},
		{[]string{"pay.example"}, "127.0.0.1", 421},
		{[]string{"pay.example"}, "www.pay.example", 421},
		{[]string{"pay.example"}, "", 400},
		{[]string{"pay.example"}, "pay.example,evil.example", 400},
	} {
		err := NewHosts(tc.names).Check(&http.Request{Host: tc.host})
		if got := map[bool]int{true: 200, false: problem.Status(err)}[err == nil]; got != tc.want {
			t.Errorf("%q at %v: %d (%v), want %d", tc.host, tc.names, got, err, tc.want)
		}
	}
}

// TestHeadersOfHTTP2: what net/http makes of fields that HTTP/1 cannot bring.
func TestHeadersOfHTTP2(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"spaces around a value":      func(r *http.Request) { r.Header["X-A"] = []string{" a"} },
		"an empty expectation":       func(r *http.Request) { r.Header["Expect"] = []string{""} },
		"another Host":               func(r *http.Request) { r.Header["Host"] = []string{"evil.example"} },
		"a length that is none":      func(r *http.Request) { r.Header["Content-Length"] = []string{"+2"} },
		"a length without a body":    func(r *http.Request) { r.Header["Content-Length"] = []string{"2"} },
		"an absolute :path":          func(r *http.Request) { r.URL.Scheme, r.URL.Host = "https", "evil.example" },
		"a :path with a fragment":    func(r *http.Request) { r.RequestURI = "/a#b" },
		"a :path in raw UTF-8":       func(r *http.Request) { r.RequestURI = "/caf\xc3\xa9" },
		"a :path with control bytes": func(r *http.Request) { r.RequestURI = "/a?\x01" },
	} {
		r := httptest.NewRequest("POST", "/a", nil)
		r.ProtoMajor, r.ProtoMinor = 2, 0
		if err := Headers(r); err != nil {
			t.Fatalf("unchanged: %v", err)
		}
		change(r)
		if err := Headers(r); !isRefusal(err, "edge.route") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func roundTrip(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// FuzzPath: the canonical form is a fixed point, survives the trip through
// net/url, and holds nothing that a second parser could resolve.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a%20b", "/%2e%2e", "/caf%C3%A9", "/a%252f", "/a//b", "/.%00", "/\xff"} {
		f.Add(s, "a=b&c=%20")
	}
	f.Fuzz(func(t *testing.T, raw, query string) {
		path, err := Path(raw, query)
		if err != nil {
			if !isRefusal(err, "edge.route") {
				t.Fatalf("not a typed refusal: %v", err)
			}
			return
		}
		if again, err := Path(path, query); err != nil || again != path {
			t.Fatalf("%q became %q, then %q (%v)", raw, path, again, err)
		}
		u, err := url.ParseRequestURI((&url.URL{Path: path}).EscapedPath())
		if err != nil || u.Path != path {
			t.Fatalf("%q does not survive forwarding: %v", path, err)
		}
		if cleaned, err := url.JoinPath("/", u.EscapedPath()); err != nil || cleaned != u.EscapedPath() {
			t.Fatalf("%q would be cleaned to %q", path, cleaned)
		}
		if _, err := url.ParseQuery(query); err != nil {
			t.Fatalf("query %q would lose pairs: %v", query, err)
		}
	})
}

// FuzzHost: the canonical name is a fixed point and plain ASCII.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"a", "A.b.:443", "[::1]:1", "a%00", "::", "[1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := Host(raw)
		if err != nil {
			return
		}
		again := name
		if strings.Contains(name, ":") {
			again = "[" + name + "]"
		}
		if got, err := Host(again); err != nil || got != name {
			t.Fatalf("%q became %q, then %q (%v)", raw, name, got, err)
		}
	})
}

// TestCanonicalAllocates: what is plain already costs no memory.
func TestCanonicalAllocates(t *testing.T) {
	r := httptest.NewRequest("POST", "/payments/17", nil)
	r.ContentLength = 4711
	r.Header["Content-Length"] = []string{"4711"}
	if n := testing.AllocsPerRun(100, func() {
		_, err := Path("/payments/17/lines", "limit=10")
		if err := errors.Join(err, Headers(r)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkCanonicalPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Path("/orders/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", "limit=10"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonicalHeaders(b *testing.B) {
	r := httptest.NewRequest("POST", "/payments", strings.NewReader("{}"))
	for _, name := range []string{"Accept", "Authorization", "Content-Type", "User-Agent", "Idempotency-Key", "Traceparent"} {
		r.Header.Set(name, "some value of a usual length, as it comes")
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := Headers(r); err != nil {
			b.Fatal(err)
		}
	}
}
