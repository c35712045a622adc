// Package framingtest holds requests as raw bytes: those that break one clause
// of RFC 9110, 9112, 9113 or 3986 each, with what has to become of them, and
// those that break none and must pass untouched.
package framingtest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Path is a resource that answers every method with a 2xx status, where nothing
// but the form of the request is judged. Host is a name of the server's.
const (
	Path = "/_rampart/health"
	Host = "localhost"
)

// Case is one HTTP/1 request.
type Case struct {
	ID     string // "a-1": stable, by which a failure is found again
	Clause string // what the request breaks
	Name   string
	Bytes  string
	Status int  // of the answer
	Closed bool // the connection ends after the answer
	Rule   int  // of package framing; 0: judged from the parsed request
	Stock  int  // what net/http alone answers; 0: nothing
}

// answerTime bounds the wait for an answer.
const answerTime = 10 * time.Second

// Outcome is what became of a request.
type Outcome struct {
	Status int // 0: no answer
	Type   string
	Closed bool
}

// Play sends the request and, unless the server ends the connection after its
// answer, a plain one behind it, which must be answered as well. It closes conn.
func (c Case) Play(conn net.Conn) (Outcome, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return Outcome{}, err
	}
	if _, err := io.WriteString(conn, c.Bytes); err != nil {
		return Outcome{}, err
	}
	// A request that is never complete ends here for a server that waits for more.
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, &http.Request{Method: c.method()})
	if ended(err) {
		return Outcome{Closed: true}, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Status: res.StatusCode, Type: res.Header.Get("Content-Type")}
	if _, err := io.Copy(io.Discard, res.Body); err != nil && !ended(err) {
		return out, err
	}
	if !res.Close {
		if _, err := io.WriteString(conn, Get()); err != nil {
			out.Closed = true
			return out, nil
		}
	}
	res, err = http.ReadResponse(r, nil)
	switch {
	case ended(err):
		out.Closed = true
		return out, nil
	case err != nil:
		return out, err
	case res.StatusCode/100 != 2:
		return out, errors.New("the request behind it is answered " + res.Status)
	}
	return out, nil
}

func (c Case) method() string {
	if strings.HasPrefix(c.Bytes, "HEAD ") {
		return http.MethodHead
	}
	return http.MethodGet
}

// ended tells the end of a connection from a time-out.
func ended(err error) bool {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_, network := errors.AsType[*net.OpError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || network || alert
}

// Get is a plain request, with these header lines added, each without CRLF.
func Get(lines ...string) string { return request("GET "+Path+" HTTP/1.1", lines, "") }

// Post is the same with a body, whose framing is the lines' to say.
func Post(body string, lines ...string) string {
	return request("POST "+Path+" HTTP/1.1", lines, body)
}

func request(first string, lines []string, body string) string {
	var b strings.Builder
	b.WriteString(first + "\r\nHost: " + Host + "\r\n")
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// line is a request of one line and a Host.
func line(first string) string { return request(first, nil, "") }

// chunked is a POST of these bytes as its chunks.
func chunked(body string, lines ...string) string {
	return Post(body, append([]string{"Transfer-Encoding: chunked"}, lines...)...)
}

// First sends the request, ends the sending side and returns the status of the
// first answer, 0 for none. It closes conn.
func (c Case) First(conn *net.TCPConn) (int, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, c.Bytes); err != nil {
		return 0, err
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method()})
	if ended(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

// Good is a conversation that must pass untouched.
type Good struct {
	Name   string
	Bytes  string
	Bodies []string // of the requests in it, in order
}

// Passing returns conversations that break nothing.
func Passing() []Good {
	long := strings.Repeat("0123456789abcdef", 1000)
	return []Good{
		{"GET", Get(), []string{""}},
		{"GET with many headers", Get("Accept: a", "Accept: b", "Cookie: a=b; c=d", "X-Empty:", "X-Tab:\ta\t", "x-case: B", "User-Agent: caf\xe9"), []string{""}},
		{"a length", Post("hello", "Content-Length: 5"), []string{"hello"}},
		{"length 0", Post("", "Content-Length: 0"), []string{""}},
		{"no length", Post(""), []string{""}},
		{"spaces around a length", Post("hello", "Content-Length: \t5 \t"), []string{"hello"}},
		{"chunks", chunked("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"), []string{"hello world"}},
		{"chunks in upper and lower case", chunked("A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"), []string{"01234567890123456789a"}},
		{"an empty body in chunks", chunked("0\r\n\r\n"), []string{""}},
		{"Chunked, in another case", Post("1\r\na\r\n0\r\n\r\n", "transfer-encoding: CHUNKED"), []string{"a"}},
		{"a body that looks like a request", Post(Get(), "Content-Length: "+strconv.Itoa(len(Get()))), []string{Get()}},
		{"a chunk that looks like an end", chunked("9\r\n0\r\n\r\nGET \r\n0\r\n\r\n"), []string{"0\r\n\r\nGET "}},
		{"a long body", Post(long, "Content-Length: 16000"), []string{long}},
		{"a long chunk", chunked("3e80\r\n" + long + "\r\n0\r\n\r\n"), []string{long}},
		{"two on one connection", Get() + Get(), []string{"", ""}},
		{"a body between", Get() + Post("hello", "Content-Length: 5") + Get(), []string{"", "hello", ""}},
		{"chunks between", Post("a", "Content-Length: 1") + chunked("1\r\nb\r\n0\r\n\r\n") + Post("c", "Content-Length: 1"), []string{"a", "b", "c"}},
		{"ten in one piece", strings.Repeat(Post("hello", "Content-Length: 5"), 10), strings.Fields(strings.Repeat("hello ", 10))},
		{"an expectation", Post("hello", "Content-Length: 5", "Expect: 100-continue"), []string{"hello"}},
		{"a query", line("GET " + Path + "?a=%20b+c&d[0]=|{}\"<>^` HTTP/1.1"), []string{""}},
		{"a port", "GET " + Path + " HTTP/1.1\r\nHost: localhost:8443\r\n\r\n", []string{""}},
		{"an address", "GET " + Path + " HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n", []string{""}},
		{"a head of 30 KiB", Get("X-A: " + strings.Repeat("a", 30<<10)), []string{""}},
	}
}
