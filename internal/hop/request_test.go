package hop

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzRequest: what is rendered is read by net/http as that one request, or refused.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/a%20b", "q=1", "shop", "X-A", "v", "body")
	f.Add("GET", "//host/x", "", "a:1", "Transfer-Encoding", "chunked", "")
	f.Add("GET\t", "/\r\n", "a b", "a b", "A\n", "x\r\ny", "GET / HTTP/1.1\r\n\r\n")
	f.Fuzz(func(t *testing.T, method, path, query, host, name, value, body string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Host: host, Header: http.Header{name: {value}}, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewBufferString(body))}
		b, err := appendRequest(nil, r)
		if err != nil {
			return
		}
		in := bufio.NewReader(bytes.NewReader(b))
		got, err := http.ReadRequest(in)
		if err != nil {
			return // what nobody reads is nothing else
		}
		text, err := io.ReadAll(got.Body)
		if err != nil || in.Buffered() > 0 {
			t.Fatalf("%v, and %d bytes behind it, in %q", err, in.Buffered(), b)
		}
		if diff := cmp.Diff([]string{method, r.URL.RequestURI(), body}, []string{got.Method, got.RequestURI, string(text)}); diff != "" {
			t.Errorf("(-sent +read)\n%s", diff)
		}
		if len(got.Header) > 2 {
			t.Errorf("one field became %v", got.Header)
		}
	})
}
