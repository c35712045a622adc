package framingtest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Field is one of an HTTP/2 request.
type Field struct{ Name, Value string }

// Case2 is one HTTP/2 request that breaks a clause.
type Case2 struct {
	ID     string
	Clause string
	Name   string
	Fields []Field // as they are sent
	Body   string
	Status int // of the answer; 0: none, the stream or the connection is reset
}

// Play sends the request over a connection that has agreed on HTTP/2 and returns
// the status of its answer, 0 if it is reset. It closes conn.
func (c Case2) Play(conn *tls.Conn) (int, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return 0, err
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := errors.Join(f.WriteSettings(), c.send(f)); err != nil {
		return 0, err
	}
	for {
		frame, err := f.ReadFrame()
		if ended(err) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return strconv.Atoi(frame.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			return 0, nil
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo { // else the connection ends after the answer
				return 0, nil
			}
		}
	}
}

func (c Case2) send(f *http2.Framer) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range c.Fields {
		if err := enc.WriteField(hpack.HeaderField{Name: h.Name, Value: h.Value}); err != nil {
			return err
		}
	}
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: c.Body == ""})
	if err == nil && c.Body != "" {
		err = f.WriteData(1, true, []byte(c.Body))
	}
	return err
}

// Get2 is a plain request with these fields in place of its own or added. A field
// that is given as "-name" is left out.
func Get2(change ...Field) []Field {
	out := []Field{{":method", "GET"}, {":scheme", "https"}, {":authority", Host}, {":path", Path}}
	for _, c := range change {
		at := -1
		for i, f := range out {
			if f.Name == strings.TrimPrefix(c.Name, "-") {
				at = i
			}
		}
		switch {
		case at < 0 || at > 3:
			out = append(out, c)
		case c.Name[0] == '-':
			out = append(out[:at], out[at+1:]...)
		default:
			out[at] = c
		}
	}
	return out
}

// Malformed2 returns the HTTP/2 requests that break a clause each.
func Malformed2() []Case2 {
	var out []Case2
	add := func(clause, name string, status int, fields []Field, body string) {
		out = append(out, Case2{"h2-" + strconv.Itoa(len(out)+1), clause, name, fields, body, status})
	}
	one := func(clause string, status int, name, field, value string) {
		add(clause, name, status, Get2(Field{field, value}), "")
	}
	for _, name := range []string{":method", ":scheme", ":path"} {
		one("RFC 9113 8.3.1", 0, "no "+name, "-"+name, "")
		add("RFC 9113 8.3", name+" twice", 0, append([]Field{{name, "GET"}}, Get2()...), "")
		one("RFC 9113 8.3.1", 0, name+" empty", name, "")
	}
	add("RFC 9113 8.3", "a pseudo-header after a field", 0, append([]Field{{"a", "b"}}, Get2()...), "")
	one("RFC 9113 8.3", 0, "an unknown pseudo-header", ":x", "a")
	one("RFC 9113 8.3", 0, "a pseudo-header of answers", ":status", "200")
	one("RFC 9113 8.2.1", 0, "a name in upper case", "X-A", "b")
	one("RFC 9113 8.2.1", 0, "a space in a name", "x a", "b")
	one("RFC 9113 8.2.1", 0, "a colon in a name", "x:a", "b")
	one("RFC 9113 8.2.1", 0, "NUL in a value", "x-a", "a\x00b")
	one("RFC 9113 8.2.1", 0, "CRLF in a value", "x-a", "a\r\nTransfer-Encoding: chunked")
	one("RFC 9113 8.2.1", 0, "LF in a value", "x-a", "a\nb")
	one("RFC 9113 8.2.1", 400, "a value that begins with a space", "x-a", " a")
	one("RFC 9113 8.2.1", 400, "a value that ends with a tab", "x-a", "a\t")
	one("RFC 9113 8.2.2", 400, "Connection", "connection", "close")
	one("RFC 9113 8.2.2", 400, "Keep-Alive", "keep-alive", "timeout=5")
	one("RFC 9113 8.2.2", 400, "Proxy-Connection", "proxy-connection", "close")
	one("RFC 9113 8.2.2", 400, "Transfer-Encoding", "transfer-encoding", "chunked")
	one("RFC 9113 8.2.2", 400, "Upgrade", "upgrade", "h2c")
	one("RFC 9113 8.2.2", 400, "TE", "te", "gzip")
	one("RFC 9113 8.3.1", 0, "another scheme", ":scheme", "ftp")
	one("RFC 9113 8.3.1", 400, "no authority and no Host", "-:authority", "")
	one("RFC 9113 8.3.1", 400, "another Host beside", "host", "evil.example")
	one("RFC 9113 8.3.1", 0, "userinfo in the authority", ":authority", "user@localhost")
	for _, a := range []string{"localhost:a", "localhost,evil.example", "local host", "local_host", "localhost/x", "localhost%00", "::1"} {
		one("RFC 3986 3.2", 400, "authority "+a, ":authority", a)
	}
	one("RFC 9110 7.4", 421, "another authority", ":authority", "evil.example")
	one("RFC 9113 8.3.1", 400, "an absolute :path", ":path", "https://evil.example/")
	one("RFC 9113 8.3.1", 0, "a :path without a slash", ":path", "x")
	one("RFC 9113 8.3.1", 405, "*", ":path", "*")
	for _, p := range []string{"/a b", "/caf\xc3\xa9", "/\xff", Path + "#x", "/a\\b", "/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a%5cb", "//a", "/a%00", "/%2561", "/a;b=c", "/%c0%ae/"} {
		one("RFC 3986 3.3", 400, "path "+p, ":path", p)
	}
	one("RFC 3986 2.1", 0, "half an escape", ":path", "/%2")
	for _, q := range []string{"a=1;b=2", "a=%", "a=%zz", "a=%00", "a=\xc3\xa9"} {
		one("RFC 3986 3.4", 400, "query "+q, ":path", Path+"?"+q)
	}
	for _, m := range []string{"get", "TRACE", "G!T", "PRI"} {
		one("RFC 9110 9.1", 405, m, ":method", m)
	}
	add("RFC 9113 8.5", "CONNECT with a path", 0, Get2(Field{":method", "CONNECT"}), "")
	add("RFC 9113 8.5", "CONNECT", 405, []Field{{":method", "CONNECT"}, {":authority", Host}}, "")
	for _, m := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
		add("RFC 9110 9.3", "a body on "+m, 400, Get2(Field{":method", m}), "hello")
	}
	post := Field{":method", "POST"}
	add("RFC 9113 8.1.1", "less body than its length", 400, Get2(post, Field{"content-length", "9"}), "hello")
	add("RFC 9113 8.1.1", "more body than its length", 0, Get2(post, Field{"content-length", "2"}), "hello")
	add("RFC 9110 8.6", "a length that is no number", 400, Get2(post, Field{"content-length", "+0"}), "")
	add("RFC 9110 8.6", "a length with zeros", 400, Get2(post, Field{"content-length", "05"}), "hello")
	add("RFC 9110 8.6", "a length twice", 400, Get2(post, Field{"content-length", "5"}, Field{"content-length", "5"}), "hello")
	add("RFC 9113 8.1.1", "a length without a body", 400, Get2(post, Field{"content-length", "5"}), "")
	add("RFC 9110 6.5", "a declared trailer", 400, Get2(post, Field{"trailer", "x-a"}), "hello")
	one("RFC 3875 4.1.18", 400, "an underscore in a name", "rampart_principal", "a")
	add("RFC 9110 5.3", "two Authorization", 400, Get2(Field{"authorization", "Bearer a"}, Field{"authorization", "Bearer b"}), "")
	one("RFC 9110 5.5", 400, "bytes outside ASCII in Authorization", "authorization", "Bearer \xff")
	one("RFC 9113 3.1", 400, "HTTP2-Settings", "http2-settings", "AAMAAABk")
	one("RFC 9110 10.1.1", 417, "an unknown expectation", "expect", "x")
	return out
}
