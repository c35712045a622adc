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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/network/framing"
	"github.com/rampart-security/rampart/network/framing/framingtest"
	"github.com/rampart-security/rampart/network/http1"
)

// conversation is a connection in memory: all that the client says, then its end.
type conversation struct {
	net.Conn
	in    *bytes.Reader
	mu    sync.Mutex
	out   bytes.Buffer
	ended chan struct{}
	once  sync.Once
}

func newConversation(text []byte) *conversation {
	return &conversation{in: bytes.NewReader(text), ended: make(chan struct{})}
}

func (c *conversation) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.Read(p)
}

func (c *conversation) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

func (c *conversation) Close() error {
	c.once.Do(func() { close(c.ended) })
	return nil
}

func (c *conversation) SetDeadline(time.Time) error      { return nil }
func (c *conversation) SetReadDeadline(time.Time) error  { return nil }
func (c *conversation) SetWriteDeadline(time.Time) error { return nil }
func (c *conversation) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}
}
func (c *conversation) LocalAddr() net.Addr { return c.RemoteAddr() }

// once is a listener with one connection.
type once chan net.Conn

func (o once) Accept() (net.Conn, error) {
	if c, ok := <-o; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o once) Close() error   { return nil }
func (o once) Addr() net.Addr { return &net.TCPAddr{} }

// talk has both servers answer text with handler, behind the guard, and returns what
// each sent.
func talk(t testing.TB, text []byte, handler func(server string) http.HandlerFunc) (ours, theirs string) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	c := newConversation(text)
	o := make(once, 1)
	o <- c
	close(o)
	srv := http1.New(http1.Options{Handler: handler("ours"), Head: time.Minute, Idle: time.Minute, Answer: time.Minute, Logger: quiet})
	if _, err := srv.Listen(framing.NewListener(o, framing.Options{})).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	<-c.ended
	srv.Close()
	ours = c.out.String()

	c = newConversation(text)
	o = make(once, 1)
	o <- c
	close(o)
	ref := &http.Server{Handler: handler("theirs"), ErrorLog: slog.NewLogLogger(quiet.Handler(), slog.LevelDebug), DisableGeneralOptionsHandler: true, ReadHeaderTimeout: time.Minute}
	if err := ref.Serve(framing.NewListener(o, framing.Options{})); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	<-c.ended
	ref.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	return ours, c.out.String()
}

// seen is what a handler finds.
type seen struct {
	Method, URI, Path, RawPath, Query, Host, Proto, Remote, Body string
	Whole                                                        bool
	ForceQuery, Close                                            bool
	Length                                                       int64
	Coding                                                       []string
	Header                                                       http.Header
}

func see(r *http.Request) seen {
	b, err := io.ReadAll(r.Body)
	h := r.Header.Clone()
	if slices.Equal(h["Pragma"], []string{"no-cache"}) || len(h["Pragma"]) > 0 && h["Pragma"][0] == "no-cache" {
		delete(h, "Cache-Control") // net/http adds it: HTTP/1.0's word for the same
	}
	return seen{
		r.Method, r.RequestURI, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.Host, r.Proto, r.RemoteAddr, string(b), err == nil,
		r.URL.ForceQuery, r.Close, r.ContentLength, r.TransferEncoding, h,
	}
}

// FuzzRequest: of the same bytes, handlers of both servers find the same.
func FuzzRequest(f *testing.F) {
	for _, c := range framingtest.Malformed() {
		f.Add([]byte(c.Bytes))
	}
	for _, c := range framingtest.Passing() {
		f.Add([]byte(c.Bytes))
	}
	for _, s := range []string{
		get + get, "GET /a%2fb?x=1&y=%20 HTTP/1.1\r\nHost: a\r\nx-a: 1\r\nX-A: 2\r\nX-b:\t v \t\r\n\r\n", "GET //a/../b? HTTP/1.1\r\nHost: a:1\r\nPragma: no-cache\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + get,
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n" + get, "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n" + get,
		"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "OPTIONS /* HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nshort",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 64<<10 {
			t.Skip("a megabyte says no more")
		}
		all := map[string][]seen{}
		talk(t, text, func(server string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				all[server] = append(all[server], see(r))
				w.Header().Set("Content-Length", "0")
			}
		})
		if d := cmp.Diff(all["theirs"], all["ours"]); d != "" {
			t.Errorf("%q (-net/http +ours):\n%s", text, d)
		}
	})
}

// TestAnswers: the same handler says the same over both servers.
func TestAnswers(t *testing.T) {
	head := "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
	old := "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
	long := strings.Repeat("0123456789abcdef", 1000)
	handlers := map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"a text":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "text") },
		"twice": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "te")
			_, _ = io.WriteString(w, "xt")
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<!doctype html><p>") },
		"packed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "xx")
		},
		"a status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			w.WriteHeader(http.StatusOK)
		},
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"no content, text": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Errorf("a body with 204: %v", err)
			}
		},
		"not modified": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/css")
			w.Header().Set("Content-Length", "10")
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusNotModified)
		},
		"sized": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4")
			w.Header().Set("Content-Type", "a/b")
			_, _ = io.WriteString(w, "text")
			if _, err := io.WriteString(w, "more"); !errors.Is(err, http.ErrContentLength) {
				t.Errorf("more than was said: %v", err)
			}
		},
		"long": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) },
		"long, in pieces": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = io.WriteString(w, long[:1000])
			}
		},
		"long and sized": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			_, _ = io.WriteString(w, long)
		},
		"flushed": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "b")
		},
		"the head alone, flushed": func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() },
		"wants to end": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "bye")
		},
		"two of a field": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.Header()["lower"] = []string{" x "}
		},
		"splits its header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-A", "1\r\nX-Evil: 2\n\nbody")
			w.Header()["X-B: evil\r\nX-C"] = []string{"1"}
		},
		"changed too late": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("X-Late", "1")
		},
	}
	for name, handler := range handlers {
		for kind, request := range map[string]string{"GET": get, "HEAD": head, "HTTP/1.0": old} {
			t.Run(name+", "+kind, func(t *testing.T) {
				ours, theirs := talk(t, []byte(request+request), func(string) http.HandlerFunc { return handler })
				if d := cmp.Diff(told(t, kind, theirs), told(t, kind, ours)); d != "" {
					t.Errorf("(-net/http +ours):\n%s", d)
				}
			})
		}
	}
}

// told is what a client understands of answers, one after another.
func told(t *testing.T, kind, text string) (all []string) {
	t.Helper()
	in := bufio.NewReader(strings.NewReader(text))
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: strings.TrimSuffix(kind, "/1.0")})
		if err != nil {
			return append(all, err.Error())
		}
		body, err := io.ReadAll(res.Body)
		if _, err := http.ParseTime(res.Header.Get("Date")); err != nil {
			t.Errorf("Date: %v", err)
		}
		res.Header.Del("Date")
		if res.Header.Get("Connection") == "close" {
			res.Header.Del("Connection") // res.Close says it; net/http answers HTTP/1.0 in kind, where it is left in
		}
		all = append(all, fmt.Sprint(res.Status, res.Header, res.ContentLength, res.TransferEncoding, res.Close, string(body), err))
	}
}

// BenchmarkServe is one small POST and its answer over loopback, both ends of it.
func BenchmarkServe(b *testing.B) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{"2"}
		_, _ = io.WriteString(w, "{}")
	}
	request := []byte("POST /orders HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nAccept: application/json\r\nAccept-Language: en\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"amount\": 1}")
	b.Run("ours", func(b *testing.B) {
		addr, _ := server(b, handler, nil)
		exchange(b, addr, request)
	})
	b.Run("net-http", func(b *testing.B) {
		l := listen(b)
		srv := &http.Server{Handler: http.HandlerFunc(handler), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
		go func() { _ = srv.Serve(framing.NewListener(l, framing.Options{})) }()
		defer srv.Close()
		exchange(b, l.Addr().String(), request)
	})
}

func exchange(b *testing.B, addr string, request []byte) {
	b.Helper()
	c, err := net.Dial("tcp", addr)
	fine(b, err)
	defer c.Close()
	b.ReportAllocs()
	buf := make([]byte, 4096)
	for b.Loop() {
		_, err := c.Write(request)
		fine(b, err)
		_, err = c.Read(buf)
		fine(b, err)
	}
}
