package framing

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/network/canonical"
)

// echo is what a server says that it has read.
type echo struct {
	Method string   `json:"method"`
	Target []byte   `json:"target"`
	Lines  [][]byte `json:"lines"` // name, value, name, value
	Body   []byte   `json:"body"`
}

// fields are the header lines of e by name in lower case, without those that each
// hop sets anew.
func (e echo) fields() map[string][]string {
	out := map[string][]string{}
	for i := 0; i+1 < len(e.Lines); i += 2 {
		switch name := strings.ToLower(string(e.Lines[i])); name {
		case "host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect":
		default:
			out[name] = append(out[name], string(e.Lines[i+1]))
		}
	}
	return out
}

// goBackend echoes as testdata/backend.js does, by net/http alone.
func goBackend(t testing.TB) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		e := echo{Method: r.Method, Target: []byte(r.RequestURI), Body: b}
		for name, values := range r.Header {
			for _, v := range values {
				e.Lines = append(e.Lines, []byte(name), []byte(v))
			}
		}
		json.NewEncoder(w).Encode(e)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// nodeBackend runs node's HTTP server, or skips the test.
func nodeBackend(t *testing.T) string {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed; it is one of the servers to compare")
	}
	cmd := exec.Command(node, "testdata/backend.js")
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	return "127.0.0.1:" + strings.TrimSpace(port)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// front is the guard, the stages that judge a request's form, and a proxy in our
// own framing to all backends, whose answers it compares.
type front struct {
	t        *testing.T
	backends map[string]string // address by name
	client   *http.Transport

	mu       sync.Mutex
	passed   int    // requests that were forwarded
	differ   int    // and read differently
	complete int    // requests of the current conversation that were read whole
	text     []byte // of the conversation
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.complete++
	path, perr := canonical.Path(r.URL.EscapedPath(), r.URL.RawQuery)
	if err := errors.Join(canonical.Headers(r), canonical.NewHosts(nil).Check(r), perr, canonical.Body(r, false)); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.passed++
	for name, addr := range f.backends {
		f.compare(r, path, body, name, addr)
	}
	w.WriteHeader(http.StatusNoContent)
}

// compare forwards one request and compares what the backend read with what was
// sent.
func (f *front) compare(r *http.Request, path string, body []byte, name, addr string) {
	to := &url.URL{Scheme: "http", Host: addr, Path: path, RawQuery: r.URL.RawQuery}
	out := relay.Request(r, to, func(string) bool { return true })
	out.Body, out.ContentLength = http.NoBody, int64(len(body))
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	want := echo{Method: r.Method, Target: []byte(to.RequestURI()), Body: body}
	for name, values := range out.Header {
		for _, v := range values {
			if name != "User-Agent" || v != "" { // "" keeps the transport from naming itself
				want.Lines = append(want.Lines, []byte(name), []byte(v))
			}
		}
	}
	res, err := f.client.RoundTrip(out.WithContext(context.WithoutCancel(r.Context()))) // a conversation in memory ends at once
	if err != nil {
		f.disagree(name, err.Error())
		return
	}
	defer res.Body.Close()
	if r.Method == http.MethodHead {
		return // whose answer says nothing
	}
	var got echo
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		f.disagree(name, res.Status+": "+err.Error())
		return
	}
	_, _ = io.Copy(io.Discard, res.Body)
	f.same(name, want, got)
}

func (f *front) same(name string, want, got echo) {
	if want.Method != got.Method || !bytes.Equal(want.Target, got.Target) || !bytes.Equal(want.Body, got.Body) {
		f.disagree(name, fmt.Sprintf("%s %s %q, and not %s %s %q", got.Method, got.Target, got.Body, want.Method, want.Target, want.Body))
	}
	if diff := cmp.Diff(want.fields(), got.fields()); diff != "" {
		f.disagree(name, diff)
	}
}

func (f *front) disagree(name, what string) {
	f.differ++
	f.t.Errorf("%s: %.2000s\nin %.4000q", name, what, f.text)
}

// raw sends what the guard lets through as it is to a backend and compares how
// many requests it reads, and their bodies. A backend that is stricter and ends
// the connection is in agreement.
func (f *front) raw(name, addr string, bodies []string) int {
	conn, err := net.Dial("tcp", addr)
	must(f.t, err)
	defer conn.Close()
	must(f.t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	if _, err := conn.Write(f.text); err != nil {
		return 0
	}
	conn.(*net.TCPConn).CloseWrite()
	r, n := bufio.NewReader(conn), 0
	for ; ; n++ {
		res, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		if err == nil && res.StatusCode == http.StatusContinue {
			res, err = http.ReadResponse(r, &http.Request{Method: "GET"})
		}
		if err != nil || res.StatusCode != http.StatusOK {
			return n
		}
		var got echo
		if json.NewDecoder(res.Body).Decode(&got) != nil {
			return n // the answer to HEAD has no body, and what follows cannot be told
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if n >= len(bodies) || string(got.Body) != bodies[n] {
			f.disagree(name+" by itself", fmt.Sprintf("request %d has the body %q", n, got.Body))
			return n
		}
	}
}

// TestDifferential: what passes is read alike by net/http and by node, behind our
// own framing and as raw bytes. RAMPART_FRAMING_FUZZ is how long; 2 s by default.
func TestDifferential(t *testing.T) {
	long := 2 * time.Second
	if v := os.Getenv("RAMPART_FRAMING_FUZZ"); v != "" {
		var err error
		long, err = time.ParseDuration(v)
		must(t, err)
	}
	seed := uint64(1)
	if v := os.Getenv("RAMPART_FRAMING_SEED"); v != "" {
		var err error
		seed, err = strconv.ParseUint(v, 10, 64)
		must(t, err)
	}
	f := &front{t: t, backends: map[string]string{"node": nodeBackend(t), "net/http": goBackend(t)}, client: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 4}}
	defer f.client.CloseIdleConnections()
	g := serveGuarded(t, f, ours)
	rnd := rand.New(rand.NewPCG(seed, 0))
	n, raw := 0, 0
	for end := time.Now().Add(long); time.Now().Before(end) && f.differ < 10; n++ {
		text, pieces := conversation(rnd), make([]byte, rnd.IntN(4))
		for i := range pieces {
			pieces[i] = byte(rnd.IntN(256))
		}
		f.mu.Lock()
		f.text, f.complete = text, 0
		f.mu.Unlock()
		g.play(text, pieces)
		bodies, begun, bad := believed(text)
		f.mu.Lock()
		if f.complete > len(bodies) || f.complete < len(bodies) && !bytes.Contains(bytes.ToLower(text), []byte("close")) && !bytes.Contains(text, []byte("HTTP/1.0")) {
			f.disagree("the server behind the guard", fmt.Sprintf("%d requests, believed %d", f.complete, len(bodies)))
		}
		if bad == 0 && !begun {
			for name, addr := range f.backends {
				raw += f.raw(name, addr, bodies)
			}
		}
		f.mu.Unlock()
	}
	t.Logf("%d conversations, %d requests passed on to each of %d servers, %d read from raw bytes, %d disagreements", n, f.passed, len(f.backends), raw, f.differ)
	if f.passed == 0 || raw == 0 {
		t.Error("nothing was compared")
	}
}

// conversation makes up one to three requests, some of them odd, and breaks some
// bytes.
func conversation(r *rand.Rand) []byte {
	var b []byte
	for range 1 + r.IntN(3) {
		b = append(b, madeUp(r)...)
	}
	for range max(0, r.IntN(6)-3) {
		at := r.IntN(len(b))
		switch odd := pick(r, "\r", "\n", " ", "\t", "\x00", ":", ";", ",", "0", "_", "%", "\xff", "\x0b", "a", "\r\n", "\r\n "); r.IntN(3) {
		case 0:
			b = slices.Insert(b, at, []byte(odd)...)
		case 1:
			b[at] = odd[0]
		default:
			b = slices.Delete(b, at, at+1)
		}
	}
	return b
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// seldom picks the first of its choices nine times out of ten.
func seldom(r *rand.Rand, of ...string) string {
	if r.IntN(10) > 0 {
		return of[0]
	}
	return pick(r, of...)
}

func madeUp(r *rand.Rand) []byte {
	var b strings.Builder
	crlf := func() string { return seldom(r, "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n") }
	b.WriteString(pick(r, "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "POST", "POST", seldom(r, "POST", "get", "TRACE", "CONNECT", "QUERY", "PRI", "SEARCH")))
	b.WriteString(seldom(r, " ", "  ", "\t"))
	b.WriteString(pick(r, "/", "/a", "/a/b?c=d&e=%20f+g", "/caf%C3%A9/%7e", "/a/?x=[]|{}", seldom(r, "/", "/a//b", "/%2e%2e/", "/a;b", "/a?b;c", "*", "http://localhost/", "/a%2fb", "/%", "/a#b", "/\xc3\xa9", "/a?%zz", "/.", "/a\\b", "//x")))
	b.WriteString(" " + seldom(r, "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.01") + crlf())
	body := pick(r, "", "x", "hello", "0\r\n\r\n", "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", strings.Repeat("0123456789", 600), "\r\n", "\x00\xff")
	lines := []string{"Host: " + seldom(r, "localhost", "localhost:80", "127.0.0.1", "", "evil.example", "a b")}
	for range r.IntN(4) {
		lines = append(lines, pick(r, "Accept: */*", "Accept: a, b", "X-A: b", "X-B:\t c \t", "X-Empty:", "Cookie: a=b; c=d", "User-Agent: caf\xe9", "Referer: \xc3\xa9", "Content-Type: application/json",
			"Connection: "+pick(r, "close", "keep-alive", "X-A", "Transfer-Encoding"), "X-A: "+strings.Repeat("v", r.IntN(3000)), "TE: trailers", "Expect: 100-continue", "If-None-Match: \"a\"",
			seldom(r, "X-C: d", "X_D: e", "X E: f", "X-F", "X-G : h", ": i", "X-J: k\r\n l", "Upgrade: h2c", "Trailer: X-A", "Content-Encoding: gzip", "X-K: a\x0bb")))
	}
	lines, text := framed(r, lines, body)
	r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for _, l := range lines {
		b.WriteString(l + crlf())
	}
	b.WriteString(crlf() + text)
	return []byte(b.String())
}

// framed adds how the body is framed, and sometimes how else it could be.
func framed(r *rand.Rand, lines []string, body string) ([]string, string) {
	length := seldom(r, "Content-Length", "content-length", "Content-Length ", "Content_Length") + ": " +
		seldom(r, strconv.Itoa(len(body)), "0"+strconv.Itoa(len(body)), "+"+strconv.Itoa(len(body)), strconv.Itoa(len(body))+", "+strconv.Itoa(len(body)), "0", "5", "0x5")
	coding := seldom(r, "Transfer-Encoding", "TRANSFER-ENCODING", "Transfer-Encoding ", "Transfer_Encoding") + ": " +
		seldom(r, "chunked", "Chunked", "chunked ", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "\x0bchunked", "chunked\r\n ,identity")
	switch r.IntN(12) {
	case 0, 1:
		return lines, ""
	case 2:
		return append(lines, length, coding), chunks(r, body)
	case 3:
		return append(lines, length, length), body
	case 4, 5, 6, 7:
		return append(lines, coding), chunks(r, body)
	}
	return append(lines, length), body
}

func chunks(r *rand.Rand, body string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := 1 + r.IntN(len(body))
		b.WriteString(seldom(r, "", "0", " ", "0x") + strconv.FormatInt(int64(n), 16) + seldom(r, "", ";a=b", " ", ";") + seldom(r, "\r\n", "\n", "\r"))
		b.WriteString(body[:n] + seldom(r, "\r\n", "\n", "", "\r\nx"))
		body = body[n:]
	}
	return b.String() + seldom(r, "0", "00", "0;a", "-0") + seldom(r, "\r\n", "\n") + seldom(r, "", "X-A: b\r\n", "Content-Length: 5\r\n") + seldom(r, "\r\n", "\n")
}
