package hop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rampart-security/rampart/internal/leash"
)

// heads are answers of all kinds, and whether we read them ourselves.
var heads = map[string]struct {
	text string
	ours bool
}{
	"one that all servers send":         {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nDate: x\r\n\r\nok", true},
	"with names in small letters":       {"HTTP/1.1 201 Created\r\ncontent-type: a\r\nx-a: b\r\ncontent-length: 2\r\n\r\nok", true},
	"with a field given twice":          {"HTTP/1.1 200 OK\r\nVary: a\r\nX: y\r\nVary: b\r\nContent-Length: 0\r\n\r\n", true},
	"with spaces around a value":        {"HTTP/1.1 200 OK\r\nX:\t  a b \t\r\nY:\r\nContent-Length:2\r\n\r\nok", true},
	"without a reason":                  {"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", true},
	"with bytes above ASCII":            {"HTTP/1.1 200 \xe4\r\nX: \xff\r\nContent-Length: 0\r\n\r\n", true},
	"without content":                   {"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", true},
	"a body that is still to come":      {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", true},
	"another answer behind it":          {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", true},
	"with many fields":                  {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 40) + "Content-Length: 2\r\n\r\nok", true},
	"with more than many":               {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 65) + "Content-Length: 2\r\n\r\nok", false},
	"in pieces":                         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false},
	"of two lengths":                    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", false},
	"of no length":                      {"HTTP/1.1 200 OK\r\nX: y\r\n\r\nok", false},
	"of a length with a sign":           {"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", false},
	"of a length without end":           {"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\nok", false},
	"a length where there is nothing":   {"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", false},
	"that is the last":                  {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false},
	"of HTTP/1.0":                       {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false},
	"an interim one":                    {"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", false},
	"folded":                            {"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", false},
	"with a bare line feed":             {"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", false},
	"with a bare line feed in a value":  {"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\nY: z\r\n\r\nok", false},
	"with a bare carriage return":       {"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", false},
	"with a zero byte":                  {"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok", false},
	"with a space before the colon":     {"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", false},
	"with no name":                      {"HTTP/1.1 200 OK\r\n: 2\r\nContent-Length: 2\r\n\r\nok", false},
	"with no colon":                     {"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok", false},
	"with a field that net/http edits":  {"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 2\r\n\r\nok", false},
	"with trailers announced":           {"HTTP/1.1 200 OK\r\nTrailer: X\r\nContent-Length: 2\r\n\r\nok", false},
	"a status of four digits":           {"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", false},
	"two spaces before the status":      {"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", false},
	"a status below nothing":            {"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok", false},
	"two lines' ends and nothing":       {"\r\n\r\n", false},
	"half a head":                       {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false},
	"one that starts with a field fold": {"HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 2\r\n\r\nok", false},
}

// TestHeads: what we read ourselves, and what is net/http's.
func TestHeads(t *testing.T) {
	for name, row := range heads {
		t.Run(name, func(t *testing.T) {
			if ours := sameReading(t, http.MethodGet, []byte(row.text)); ours != row.ours {
				t.Errorf("read by ourselves: %v, want %v", ours, row.ours)
			}
		})
	}
	if sameReading(t, http.MethodHead, []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")) {
		t.Error("the answer to HEAD has no body, and is net/http's to read")
	}
}

// FuzzHead: what we read ourselves net/http reads the same way, to the last byte.
func FuzzHead(f *testing.F) {
	for _, row := range heads {
		f.Add(http.MethodPost, []byte(row.text))
	}
	f.Fuzz(func(t *testing.T, method string, text []byte) { sameReading(t, method, text) })
}

// sameReading compares two readings of text, if there are two.
func sameReading(t *testing.T, method string, text []byte) (ours bool) {
	r := &http.Request{Method: method}
	head, rest, found := bytes.Cut(text, []byte("\r\n\r\n"))
	if !found || len(head) == 0 || !new(answer).plain(append(bytes.Clone(head), "\r\n"...), r) {
		return false
	}
	c := &conn{in: bufio.NewReaderSize(bytes.NewReader(text), max(16, len(text)))}
	got, left, err := c.read(r)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(bytes.NewReader(text))
	want, err := http.ReadResponse(in, r)
	if err != nil {
		t.Fatalf("net/http refuses it: %v", err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(http.Response{}, "Body", "Request")); diff != "" {
		t.Errorf("(-net/http +ours)\n%s", diff)
	}
	body, err := io.ReadAll(want.Body)
	ourBody := []byte{}
	var ourErr error
	switch {
	case left != nil:
		left.c = c
		for ourErr == nil {
			var p [3]byte
			var n int
			n, ourErr = left.read(p[:])
			ourBody = append(ourBody, p[:n]...)
		}
		if ourErr == io.EOF {
			ourErr = nil
		}
	default:
		ourBody, ourErr = io.ReadAll(got.Body)
	}
	if !bytes.Equal(body, ourBody) || err != ourErr {
		t.Errorf("body %q and %v, want %q and %v", ourBody, ourErr, body, err)
	}
	behind, _ := io.ReadAll(in)
	ourBehind, _ := io.ReadAll(c.in)
	if !bytes.Equal(behind, ourBehind) {
		t.Errorf("%q is left behind it, want %q (of %q)", ourBehind, behind, rest)
	}
	return true
}

// TestWhole: an answer that came in one piece is in memory, and the connection free,
// before anybody reads it.
func TestWhole(t *testing.T) {
	tr := New(Options{Dial: answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Wait: time.Minute})
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	w, ok := res.Body.(*Whole)
	if !ok || string(w.Bytes()) != "ok" || len(tr.idle) != 1 {
		t.Fatalf("%T, %d connections wait", res.Body, len(tr.idle))
	}
	var one [1]byte
	if n, err := w.Read(one[:]); n != 1 || err != nil || string(w.Bytes()) != "k" {
		t.Errorf("%d, %v, and %q is left", n, err, w.Bytes())
	}
	w.Close()
	if _, err := w.Read(one[:]); err != http.ErrBodyReadAfterClose {
		t.Errorf("read after it was closed: %v", err)
	}
}

// TestCutBefore: who gives up as it is about to send is told that nothing was sent.
func TestCutBefore(t *testing.T) {
	tr := New(Options{Dial: answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Wait: time.Minute})
	defer tr.CloseIdleConnections()
	c, err := tr.dial(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	c.waited = true
	ctx := new(leash.Leash)
	ctx.Begin(t.Context())
	ctx.End(nil)
	if _, err := c.exchange((&http.Request{Method: http.MethodGet}).WithContext(ctx), []byte("x")); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotSent) {
		t.Errorf("error %v, want that nothing was sent, and why", err)
	}
}

// answering dials a server that takes whatever is written to it for a request, and
// gives the same answer to each.
func answering(t testing.TB, text string) func(context.Context, string) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := io.WriteString(c, text); err != nil {
						return
					}
				}
			}()
		}
	}()
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// BenchmarkHop asks a server that does next to nothing, as the gateway asks.
func BenchmarkHop(b *testing.B) {
	body := `{"id":"o1","item":"mug","count":2}`
	text := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 30 Nov 2026 12:00:00 GMT\r\nX-Content-Type-Options: nosniff\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	tr := New(Options{Dial: answering(b, text), Wait: time.Minute})
	b.Cleanup(tr.CloseIdleConnections)
	ctx := new(leash.Leash)
	ctx.Begin(b.Context())
	defer ctx.End(nil)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://shop/orders", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"*/*"}, "User-Agent": {"x"}, "Traceparent": {"00-"}, "Authorization": {"Bearer x"}}
	in := strings.NewReader("")
	buf := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(body)
		r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
		res, err := tr.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = res.Body.Read(buf)
		}
		res.Body.Close()
	}
}
