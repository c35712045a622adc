package framing_test

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/framing"
)

// TestHeadSlow: a head that was begun and does not end in time is told of, once, and
// says so to nobody else. Who only waits, or is slow with a body, which has a pace of
// its own, is no news.
func TestHeadSlow(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
	slow := []framing.Rule{framing.HeadSlow}
	for name, row := range map[string]struct {
		sent string
		told []framing.Rule
	}{
		"nothing":                  {"", nil},
		"one byte":                 {"G", slow},
		"half a request line":      {"GET / HT", slow},
		"half a head":              {"GET / HTTP/1.1\r\nHost: a\r\n", slow},
		"half a field":             {"GET / HTTP/1.1\r\nHost: a\r\nX-A: b", slow},
		"a whole request":          {get, nil},
		"half of the next head":    {get + "GET", slow},
		"half a body":              {post + "hell", nil},
		"half a head behind one":   {post + "hellohell" + "GET / HTTP/1.1\r\n", slow},
		"half a chunk's size line": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5", nil},
	} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer inner.Close()
			var told []framing.Rule
			l := framing.NewListener(inner, framing.Options{OnRefuse: func(_ net.Addr, r framing.Rule) { told = append(told, r) }})
			client, err := net.Dial("tcp", inner.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, err := io.WriteString(client, row.sent); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got := make([]byte, len(row.sent))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != row.sent {
				t.Fatalf("%q, %v", got, err)
			}
			for range 2 {
				if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
					t.Fatal(err)
				}
				if n, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("%d bytes more", n)
				}
			}
			if !slices.Equal(told, row.told) {
				t.Errorf("told %v, want %v", told, row.told)
			}
		})
	}
}
