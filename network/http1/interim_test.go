package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/network/http1"
)

// hesitant listens for connections on which an interim answer takes its time to go out,
// and says when it is on its way.
type hesitant struct {
	net.Listener
	inviting chan struct{}
}

// Accept implements net.Listener.
func (h hesitant) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hesitating{c.(*net.TCPConn), h.inviting}, nil
}

type hesitating struct {
	*net.TCPConn
	inviting chan struct{}
}

// Write implements net.Conn.
func (h hesitating) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 100 ")) {
		select {
		case h.inviting <- struct{}{}:
		default:
		}
		time.Sleep(2 * time.Millisecond) // time enough for an answer that does not wait for it
	}
	return h.TCPConn.Write(p)
}

// TestInterimBesideAnswer: somebody reads the body of a request, which invites the
// client to send it, while the handler answers. The invitation comes before all of the
// answer, or not at all: never between its bytes, nor behind it, where it would be
// taken for part of the answer or for the next.
func TestInterimBesideAnswer(t *testing.T) {
	for name, row := range map[string]struct {
		clients, each     int
		invited, leftOver bool // the handler answers as the invitation is on its way, and leaves the reader behind
	}{
		"as the invitation goes out":                           {1, 20, true, false},
		"as it goes out, and the handler returns":              {1, 20, true, true},
		"whenever that is":                                     {4, 25, false, false},
		"whenever that is, and the handler returns before all": {4, 25, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			const pieces = 5
			inviting := make(chan struct{}, 1)
			addr := hesitantServer(t, inviting, func(w http.ResponseWriter, r *http.Request) {
				var reader sync.WaitGroup
				reader.Go(func() { _, _ = io.Copy(io.Discard, r.Body) })
				if row.invited {
					<-inviting
				}
				for i := range pieces {
					fmt.Fprintf(w, "%s %d\n", r.URL.Path, i)
					_ = http.NewResponseController(w).Flush()
				}
				if !row.leftOver {
					reader.Wait()
				}
			})
			var all sync.WaitGroup
			for i := range row.clients {
				all.Go(func() {
					for j := range row.each {
						path := fmt.Sprintf("/%d/%d", i, j)
						got, err := expecting(addr, path)
						if err != nil || !answersOf(got, path, pieces) {
							t.Errorf("%s: %v\n%s", path, err, got)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

func hesitantServer(t *testing.T, inviting chan struct{}, handler http.HandlerFunc) (addr string) {
	t.Helper()
	srv := http1.New(http1.Options{Handler: handler, Head: 20 * time.Second, Idle: 20 * time.Second, Answer: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	l := listen(t)
	serveOn(t, srv, hesitant{l, inviting}, framing.Options{})
	return l.Addr().String()
}

// expecting sends a request that waits to be invited, sends the body behind it as
// clients may that wait no longer, and returns all that comes back.
func expecting(addr, path string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", path); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// answersOf reports whether text is one answer in so many pieces, behind one interim
// answer or none, and nothing else.
func answersOf(text, path string, pieces int) bool {
	text = strings.TrimPrefix(text, "HTTP/1.1 100 Continue\r\n\r\n")
	in := bufio.NewReader(strings.NewReader(text))
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		return false
	}
	body, err := io.ReadAll(res.Body)
	want := ""
	for i := range pieces {
		want += fmt.Sprintf("%s %d\n", path, i)
	}
	_, more := in.ReadByte()
	return err == nil && string(body) == want && errors.Is(more, io.EOF)
}
