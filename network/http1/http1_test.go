package http1_test

import (
	"bufio"
	"context"
	"errors"
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

// server runs handler behind the guard and returns its address. edit may change the
// options.
func server(t testing.TB, handler http.HandlerFunc, edit func(*http1.Options)) (addr string, srv *http1.Server) {
	t.Helper()
	opt := http1.Options{Handler: handler, Head: 5 * time.Second, Idle: 5 * time.Second, Answer: 5 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&opt)
	}
	srv = http1.New(opt)
	l := listen(t)
	serveOn(t, srv, l, framing.Options{})
	return l.Addr().String(), srv
}

// serveOn has srv serve the connections of l, behind the guard, until the test ends.
func serveOn(t testing.TB, srv *http1.Server, l net.Listener, guard framing.Options) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := srv.Listen(framing.NewListener(l, guard)).Accept() // returns when l closes: nobody speaks HTTP/2
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended; srv.Close() })
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fine(t, err)
	return l
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	fine(t, err)
	t.Cleanup(func() { c.Close() })
	fine(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c.(*net.TCPConn)
}

func fine(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends text on c and returns the next answer with its body read.
func ask(t *testing.T, c net.Conn, in *bufio.Reader, text string) (*http.Response, string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	fine(t, err)
	res, err := http.ReadResponse(in, nil)
	fine(t, err)
	body, err := io.ReadAll(res.Body)
	fine(t, err)
	return res, string(body)
}

const get = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"

// A client that leaves ends its request, whether or not the request had a body.
func TestLeaving(t *testing.T) {
	for name, request := range map[string]string{
		"without a body":   get,
		"with a body":      "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi",
		"in chunks":        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"the second of it": get + get,
	} {
		t.Run(name, func(t *testing.T) {
			started, left := make(chan struct{}), make(chan error, 1)
			n := 0
			addr, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
				if n++; n < strings.Count(request, "HTTP/1.1") {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				close(started)
				<-r.Context().Done()
				left <- r.Context().Err()
			}, nil)
			c := dial(t, addr)
			_, err := io.WriteString(c, request)
			fine(t, err)
			<-started
			fine(t, c.Close())
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the request ended with %v", err)
			}
		})
	}
}

// What a client sends while its request is answered, and is watched, is its next
// request, whole.
func TestAhead(t *testing.T) {
	slow := make(chan struct{})
	addr, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-slow
		}
		if r.Context().Err() != nil {
			t.Error("a request was ended by the next one")
		}
		_, _ = io.WriteString(w, r.URL.Path)
	}, nil)
	c := dial(t, addr)
	in := bufio.NewReader(c)
	_, err := io.WriteString(c, strings.Replace(get, "/", "/slow", 1))
	fine(t, err)
	time.Sleep(time.Second) // five looks
	_, err = io.WriteString(c, strings.Replace(get, "/", "/next", 1))
	fine(t, err)
	time.Sleep(50 * time.Millisecond)
	close(slow)
	for _, want := range []string{"/slow", "/next", "/third"} {
		text := ""
		if want == "/third" {
			text = strings.Replace(get, "/", want, 1)
		}
		if _, body := ask(t, c, in, text); body != want {
			t.Errorf("%q answered, want %q", body, want)
		}
	}
}

// Whoever still reads a body when its handler has returned does not hold up the end
// of the connection.
func TestLeftBehind(t *testing.T) {
	got := make(chan string, 1)
	addr, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		reading := make(chan struct{})
		go func() {
			close(reading)
			b, err := io.ReadAll(r.Body)
			if err == nil {
				t.Error("a body that did not come was read to its end")
			}
			got <- string(b)
		}()
		<-reading
		time.Sleep(50 * time.Millisecond) // so that it waits for the client
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "ok")
	}, nil)
	c := dial(t, addr)
	in := bufio.NewReader(c)
	res, _ := ask(t, c, in, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nfirst")
	if !res.Close {
		t.Error("the connection stays although the body was not read")
	}
	if b := <-got; b != "first" {
		t.Errorf("%q was read", b)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the answer: %v, want the end", err)
	}
}

// A body that nobody wants costs the connection, unless it has come already.
func TestUnread(t *testing.T) {
	for name, row := range map[string]struct {
		request string
		stays   bool
	}{
		"it came with the head":     {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", true},
		"part of it came":           {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhell", false},
		"it is long":                {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("x", 50000), false},
		"it comes in chunks":        {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false},
		"the client asked before":   {"POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", false},
		"there is none":             {get, true},
		"it is empty":               {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", true},
		"the client wants to leave": {"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, nil)
			c := dial(t, addr)
			in := bufio.NewReader(c)
			res, _ := ask(t, c, in, row.request)
			if res.StatusCode != http.StatusForbidden || res.Close == row.stays {
				t.Errorf("%s, closes: %v", res.Status, res.Close)
			}
			if !row.stays {
				if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("after the answer: %v, want the end", err)
				}
				return
			}
			if res, _ := ask(t, c, in, get); res.StatusCode != http.StatusForbidden {
				t.Errorf("the next request: %s", res.Status)
			}
		})
	}
}

// Clients that dribble, or say nothing, lose their connection.
func TestTimes(t *testing.T) {
	for name, send := range map[string]string{
		"nothing":               "",
		"half a head":           "GET / HTTP/1.1\r\nHost: a.exam",
		"nothing after one":     get,
		"half a head after one": get + "GET / HT",
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := server(t, func(http.ResponseWriter, *http.Request) {}, func(o *http1.Options) { o.Head, o.Idle = 100*time.Millisecond, 100*time.Millisecond })
			c := dial(t, addr)
			_, err := io.WriteString(c, send)
			fine(t, err)
			answers, err := io.ReadAll(c)
			fine(t, err)
			if want := strings.Count(send, "\r\n\r\n"); strings.Count(string(answers), "HTTP/1.1 200 OK") != want {
				t.Errorf("answers:\n%s\nwant %d", answers, want)
			}
		})
	}
}

// Shutdown closes what waits, lets what runs finish, and gives a connection that has
// just been opened its one request.
func TestShutdown(t *testing.T) {
	started, end := make(chan struct{}), make(chan struct{})
	addr, srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(started)
			<-end
		}
		_, _ = io.WriteString(w, "whole")
	}, nil)
	waits, opened, runs := dial(t, addr), dial(t, addr), dial(t, addr) // taken in this order
	ask(t, waits, bufio.NewReader(waits), get)
	_, err := io.WriteString(runs, strings.Replace(get, "/", "/slow", 1))
	fine(t, err)
	<-started
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(t.Context()) }()
	if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection that waits: %v, want its end", err)
	}
	close(end)
	for name, c := range map[string]net.Conn{"the one that runs": runs, "the one that was opened": opened} {
		text := get
		if c == runs {
			text = ""
		}
		if res, body := ask(t, c, bufio.NewReader(c), text); body != "whole" || !res.Close {
			t.Errorf("%s: %q, closes: %v", name, body, res.Close)
		}
	}
	fine(t, <-down)
}

// An answer that breaks off must not look whole, whatever the handler said of its
// length, and one that panics breaks off.
func TestBreakOff(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"shorter than said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "short")
		},
		"aborted": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"a defect": func(http.ResponseWriter, *http.Request) { panic("a defect") },
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := server(t, handler, nil)
			c := dial(t, addr)
			_, err := io.WriteString(c, get+get)
			fine(t, err)
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil)
			if err == nil {
				_, err = io.ReadAll(res.Body)
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the answer ended with %v", err)
			}
			if _, err := in.ReadByte(); err == nil {
				t.Error("another answer came")
			}
		})
	}
}

// Who takes the connection gets all that the client sends from there on.
func TestHijack(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "while the client is watched": time.Second} {
		t.Run(name, func(t *testing.T) {
			addr, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(wait)
				conn, both, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.(interface{ Tunnel() }).Tunnel()
				_, _ = io.WriteString(conn, "yours\n")
				line, _ := both.ReadString('\n')
				_, _ = io.WriteString(conn, line)
				if _, err := w.Write([]byte("late")); !errors.Is(err, http.ErrHijacked) {
					t.Errorf("writing to the answer: %v", err)
				}
			}, nil)
			c := dial(t, addr)
			_, err := io.WriteString(c, get)
			fine(t, err)
			in := bufio.NewReader(c)
			if line, err := in.ReadString('\n'); err != nil || line != "yours\n" {
				t.Fatalf("%q, %v", line, err)
			}
			_, err = io.WriteString(c, "\x00not HTTP\n")
			fine(t, err)
			if rest, err := io.ReadAll(in); err != nil || string(rest) != "\x00not HTTP\n" {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}
