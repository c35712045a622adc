package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/hop"
)

// through runs a relay in front of service and returns its address.
func through(t *testing.T, service http.HandlerFunc, edit func(http.Header)) string {
	t.Helper()
	back := httptest.NewServer(service)
	t.Cleanup(back.Close)
	to, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-By-Front", "stays")
		at := *to
		at.Path = r.URL.Path
		out := Request(r, &at, func(name string) bool { return name != "Cookie" })
		if err := Send(w, out, http.DefaultTransport, edit); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(front.Close)
	return front.URL
}

func TestRequest(t *testing.T) {
	var got http.Header
	var body []byte
	addr := through(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		body, _ = io.ReadAll(r.Body)
	}, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, addr+"/x", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]string{
		"Connection": "x-secret-hop, Keep-Alive", "X-Secret-Hop": "1", "Te": "trailers", "Expect": "100-continue",
		"Proxy-Authorization": "x", "Cookie": "a=b", "X-Kept": "1", "User-Agent": "",
	} {
		req.Header.Set(name, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for _, name := range []string{"X-Secret-Hop", "Te", "Expect", "Proxy-Authorization", "Cookie", "User-Agent", "X-Forwarded-For"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s passed on as %q", name, v)
		}
	}
	if got.Get("X-Kept") != "1" || string(body) != "hello" {
		t.Errorf("headers %v, body %q", got, body)
	}
}

func TestAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		service http.HandlerFunc
		status  int
		body    string
		broken  bool
	}{
		"whole": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "X-Listed")
			w.Header().Set("X-Listed", "1")
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, "done")
		}, http.StatusCreated, "done", false},
		"interim answers stay inside": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Listed", "leak")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("X-Listed")
			w.WriteHeader(http.StatusOK)
		}, http.StatusOK, "", false},
		"another protocol is no answer": {func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err == nil {
				rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
				rw.Flush()
				conn.Close()
			}
		}, http.StatusBadGateway, "", false},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, http.StatusOK, "", true},
		"announced too long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "68719476736")
			w.WriteHeader(http.StatusOK)
		}, http.StatusBadGateway, "", false},
		"turns out too long": {func(w http.ResponseWriter, _ *http.Request) {
			chunk := bytes.Repeat([]byte("x"), 1<<20)
			for range MaxAnswer/len(chunk) + 1 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, http.StatusOK, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			addr := through(t, tc.service, func(h http.Header) { h.Set("X-Edited", "1") })
			res, err := http.Get(addr + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if broken := err != nil; broken != tc.broken || res.StatusCode != tc.status {
				t.Fatalf("status %d, error %v; want %d, broken %v", res.StatusCode, err, tc.status, tc.broken)
			}
			if tc.broken && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the body ended with %v", err)
			}
			if tc.body != "" && string(b) != tc.body {
				t.Errorf("body %.20q, want %q", b, tc.body)
			}
			if res.StatusCode < 300 && (res.Header.Get("X-Edited") != "1" || res.Header.Get("X-Listed") != "" || res.Header.Get("Set-By-Front") != "stays") {
				t.Errorf("headers %v", res.Header)
			}
		})
	}
}

// TestWholeAnswer: an answer that is in memory is passed on with one write, and not at
// all once its request has been ended, though no read of it would fail.
func TestWholeAnswer(t *testing.T) {
	for name, ended := range map[string]bool{"under way": false, "ended when its head came": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := Outgoing(ctx, http.MethodGet, &url.URL{Scheme: "http", Host: "shop", Path: "/"}, http.Header{})
			edit := func(http.Header) {
				if ended {
					cancel()
				}
			}
			w := &writes{ResponseRecorder: httptest.NewRecorder()}
			defer func() {
				v := recover()
				if v != nil && v != http.ErrAbortHandler {
					panic(v)
				}
				want := 1
				if ended {
					want = 0
				}
				if (v != nil) != ended || w.n != want || (w.Body.String() == "done") == ended {
					t.Errorf("%d writes, %q, broken off %v; want %d writes, broken off %v", w.n, w.Body, v != nil, want, ended)
				}
			}()
			if err := Send(w, out, wholly{}, edit); err != nil {
				t.Error(err)
			}
		})
	}
}

// wholly answers at once, and has the answer in memory.
type wholly struct{}

// RoundTrip implements http.RoundTripper.
func (wholly) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: 4, Body: hop.NewWhole([]byte("done"))}, nil
}

type writes struct {
	*httptest.ResponseRecorder
	n int
}

// Write implements io.Writer.
func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.ResponseRecorder.Write(p)
}
