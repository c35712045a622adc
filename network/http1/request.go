package http1

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/rampart-security/rampart/internal/leash"
)

// exchange is one request and its answer. Nothing of it is used again: a handler
// that has returned may have left somebody who still holds it.
type exchange struct {
	conn    *conn
	request *http.Request
	leash   leash.Leash // its context
	body    body
	answer  answer
	target  url.URL
	looks   int // of Server.look, guarded by conn.mu
}

// parse makes a request of a head, to its empty line. The guard has judged each byte
// of it: what is left to check is what memory could not bear.
func (c *conn) parse(head []byte) (*exchange, error) {
	x := &exchange{conn: c}
	text := string(head) // the one copy, which all of the request's strings are parts of
	line, rest, _ := strings.Cut(text, "\r\n")
	method, target, ok := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(target, " ")
	if !ok || !ok2 {
		return nil, errors.New("http1: malformed request line")
	}
	f, err := fields(rest)
	if err != nil {
		return nil, err
	}
	u, err := x.url(target)
	if err != nil {
		return nil, err
	}
	minor := 1
	if proto == "HTTP/1.0" {
		minor, f.expects = 0, false // it knows no interim answer, and would take 100 for the last (RFC 9110 section 10.1.1)
	}
	x.body.frame(x, &f)
	x.leash.Begin(context.Background())
	r := http.Request{
		Method: method, URL: u, Proto: proto, ProtoMajor: 1, ProtoMinor: minor, Header: f.header, Host: f.host,
		ContentLength: f.length, Close: f.close || minor == 0 && !f.keep, RemoteAddr: c.remote, RequestURI: target, TLS: c.tls, Body: http.NoBody,
	}
	if f.length != 0 {
		r.Body = &x.body
	}
	if f.chunked {
		r.TransferEncoding = []string{"chunked"}
	}
	x.request = r.WithContext(&x.leash)
	x.answer = answer{x: x, old: minor == 0, isHead: method == http.MethodHead, last: r.Close, length: -1}
	return x, nil
}

// head of a request, but for its first line.
type requestFields struct {
	header  http.Header // without Host and Transfer-Encoding, as net/http has it
	host    string
	length  int64 // of the body; -1: it comes in chunks
	chunked bool
	expects bool // 100-continue
	close   bool // Connection says so
	keep    bool // Connection says so, in HTTP/1.0
}

// fields reads header lines, to the empty one.
func fields(text string) (requestFields, error) {
	n := strings.Count(text, "\r\n") - 1
	f := requestFields{header: make(http.Header, n)}
	values := make([]string, max(n, 0))
	for text != "\r\n" {
		line, rest, ok := strings.Cut(text, "\r\n")
		name, value, colon := strings.Cut(line, ":")
		if !ok || !colon {
			return f, errors.New("http1: malformed header line")
		}
		text = rest
		value = strings.Trim(value, " \t")
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Host":
			f.host = value
			continue
		case "Transfer-Encoding":
			f.chunked, f.length = true, -1
			continue
		case "Content-Length":
			length, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				return f, errors.New("http1: malformed Content-Length")
			}
			f.length = int64(length)
		case "Expect":
			f.expects = true // the guard lets one expectation pass
		}
		if had := f.header[name]; had != nil {
			f.header[name] = append(had, value)
			continue
		}
		values[0] = value
		f.header[name] = values[:1:1]
		values = values[1:]
	}
	f.close = httpguts.HeaderValuesContainsToken(f.header["Connection"], "close")
	f.keep = httpguts.HeaderValuesContainsToken(f.header["Connection"], "keep-alive")
	return f, nil
}

// url reads the target, which is a path with or without a query.
func (x *exchange) url(target string) (*url.URL, error) {
	if !plain(target) {
		return url.ParseRequestURI(target)
	}
	x.target.Path, x.target.RawQuery, x.target.ForceQuery = target, "", false
	if i := strings.IndexByte(target, '?'); i >= 0 {
		x.target.Path, x.target.RawQuery = target[:i], target[i+1:]
		x.target.ForceQuery = i == len(target)-1
	}
	return &x.target, nil
}

// plain reports whether a target begins with a path that is written as it is meant
// (RFC 3986 section 2.3).
func plain(target string) bool {
	if target == "" || target[0] != '/' {
		return false
	}
	for i := range len(target) {
		switch c := target[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '/', c == '-', c == '.', c == '_', c == '~':
		case c == '?':
			return true
		default:
			return false
		}
	}
	return true
}
