package http1_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/http1"
)

// An HTTP/1.0 client, or a proxy in front that speaks it, would take an interim answer
// for the last one, and the last one for the next (RFC 9110 section 10.1.1).
func TestOldExpectation(t *testing.T) {
	for version, want := range map[string]int{"HTTP/1.0": 0, "HTTP/1.1": 1} {
		text := "POST / " + version + "\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
		ours, _ := talk(t, []byte(text), func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }
		})
		if n := strings.Count(ours, "100 Continue"); n != want || !strings.HasSuffix(ours, "\r\n\r\nhi") {
			t.Errorf("%s: %d interim answers, want %d:\n%s", version, n, want, ours)
		}
	}
}

// A Content-Length without a value says nothing, and breaks nothing.
func TestNoLength(t *testing.T) {
	ours, _ := talk(t, []byte(get), func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Length"] = nil
			_, _ = io.WriteString(w, "text")
		}
	})
	if !strings.HasPrefix(ours, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(ours, "\r\n\r\ntext") {
		t.Errorf("%q", ours)
	}
}

// undying is a connection whose deadlines cannot be lifted.
type undying struct {
	net.Conn
	closed chan struct{}
}

func (undying) SetDeadline(time.Time) error { return io.ErrClosedPipe }

func (u undying) Close() error {
	close(u.closed)
	return u.Conn.Close()
}

// A connection that nobody could take is closed by the server.
func TestHijackFails(t *testing.T) {
	server, client := net.Pipe()
	c := undying{server, make(chan struct{})}
	srv := http1.New(http1.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Hijack: %v", err)
		}
	}), Head: time.Minute, Idle: time.Minute, Answer: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	o := make(once, 1)
	o <- c
	close(o)
	if _, err := srv.Listen(o).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	_, err := io.WriteString(client, strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	fine(t, err)
	go func() { _, _ = io.Copy(io.Discard, client) }()
	select {
	case <-c.closed:
	case <-time.After(10 * time.Second):
		t.Error("nobody closes the connection")
	}
}
