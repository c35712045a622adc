package http1_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/network/http1"
)

// What comes behind a body that nobody read is thrown away with it: it is no request,
// so no rule of requests was broken.
func TestLeftUnread(t *testing.T) {
	for name, behind := range map[string]string{
		"half a head":      "GET / HT",
		"a head of no use": "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := make(chan framing.Rule, 10)
			srv := http1.New(http1.Options{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }),
				Head:    5 * time.Second, Idle: 5 * time.Second, Answer: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
			})
			l := listen(t)
			serveOn(t, srv, l, framing.Options{OnRefuse: func(_ net.Addr, r framing.Rule) { told <- r }})

			c := dial(t, l.Addr().String())
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 20_000))
			fine(t, err)
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil)
			fine(t, err)
			if res.StatusCode != http.StatusForbidden {
				t.Fatal(res.Status)
			}
			_, err = io.WriteString(c, strings.Repeat("x", 80_000)+behind)
			fine(t, err)
			if _, err := io.ReadAll(in); err != nil {
				t.Fatal(err)
			}
			fine(t, srv.Shutdown(t.Context())) // which waits for the connection to end
			select {
			case r := <-told:
				t.Errorf("told of rule %d", r)
			default:
			}
		})
	}
}
