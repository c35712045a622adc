package hop

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// appendRequest renders a request (RFC 9112, section 3). What could be read as
// more than one is refused: a name, a value or a target with a byte that ends it.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	target := r.URL.RequestURI()
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	if !httpguts.ValidHeaderFieldName(r.Method) || !isTarget(target) || !httpguts.ValidHostHeader(host) {
		return b, errors.New("the method, the target or the host is malformed")
	}
	b = append(append(append(b, r.Method...), ' '), target...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), host...), "\r\n"...)
	b, err := appendHeader(b, r.Header)
	if err != nil {
		return b, err
	}
	if r.ContentLength > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.ContentLength, 10), "\r\n"...)
	}
	return appendBody(append(b, "\r\n"...), r)
}

// isTarget reports whether s, of an URL, stays one word of the request line.
func isTarget(s string) bool {
	return strings.HasPrefix(s, "/") && strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f }) < 0
}

// appendHeader leaves out what belongs to the framing, which is ours, and a
// User-Agent that is empty, as net/http does.
func appendHeader(b []byte, h http.Header) ([]byte, error) {
	for name, values := range h {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection":
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return b, fmt.Errorf("%q is no name of a header field", name)
		}
		for _, v := range values {
			if v == "" && name == "User-Agent" {
				continue
			}
			if !httpguts.ValidHeaderFieldValue(v) {
				return b, fmt.Errorf("the value of %s is malformed", name)
			}
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return b, nil
}

func appendBody(b []byte, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return b, nil
	}
	n := len(b)
	b = append(b, make([]byte, r.ContentLength)...)
	if _, err := io.ReadFull(r.Body, b[n:]); err != nil {
		return b, fmt.Errorf("the body is shorter than announced: %w", err)
	}
	return b, nil
}
