package relay

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestAnswerFraming: what an answer's head can get wrong is refused by the
// transport or by us, or arrives in our own framing, never in the service's.
func TestAnswerFraming(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		status int
		body   string
	}{
		"plain":                     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok"},
		"both lengths":              {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"}, // by its chunks, and framed anew
		"two lengths":               {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", 502, ""},
		"no number":                 {"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502, ""},
		"another transfer encoding": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502, ""},
		"a name with a space":       {"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok", 502, ""},
		"no status":                 {"HTTP/1.1 OK\r\n\r\n", 502, ""},
		"too many fields":           {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: 1\r\n", MaxAnswerHeaders+1) + "\r\n", 502, ""},
		"a head without end":        {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 100) + "\r\n", 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := relayed(t, tc.answer)
			if res.StatusCode != tc.status || tc.status == 200 && body != tc.body {
				t.Errorf("%s %q; want %d %q", res.Status, body, tc.status, tc.body)
			}
			if res.StatusCode == 200 && res.ContentLength >= 0 && res.ContentLength != int64(len(tc.body)) {
				t.Errorf("length %d", res.ContentLength)
			}
		})
	}
}

// relayed returns what a client gets when a service says answer.
func relayed(t *testing.T, answer string) (*http.Response, string) {
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
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.WriteString(c, answer)
				}
			}()
		}
	}()
	rt := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := Request(r, &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/"}, func(string) bool { return true })
		if err := Send(w, out, rt, nil); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(front.Close)
	res, err := http.Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res, string(b)
}
