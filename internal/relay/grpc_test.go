package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

func message(flag byte, n int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flag}, uint32(n))
	return append(b, make([]byte, n)...)
}

func TestGRPCTimeout(t *testing.T) {
	for v, want := range map[string]time.Duration{
		"1H": time.Hour, "61M": time.Hour, "99999999H": time.Hour, "10S": 10 * time.Second, "250m": 250 * time.Millisecond, "0m": 0, "99999999n": 99999999,
		"5u": 5 * time.Microsecond, "": -1, "5": -1, "m": -1, "-5m": -1, "+5m": -1, "5s": -1, "1_0m": -1, "123456789m": -1, " 5m": -1, "0x5m": -1,
	} {
		got, err := grpcTimeout(http.Header{"Grpc-Timeout": {v}}, time.Hour)
		if (err != nil) != (want < 0) || err == nil && got != want || err != nil && problem.GRPCStatus(err) != problem.GRPCInvalidArgument {
			t.Errorf("%q: %v, %v; want %v", v, got, err, want)
		}
	}
	if got, err := grpcTimeout(http.Header{}, time.Hour); got != time.Hour || err != nil {
		t.Errorf("without one: %v, %v", got, err)
	}
}

// TestIsGRPC: what no client of gRPC sends is none, and is answered as ever.
func TestIsGRPC(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/gRPC; charset=utf-8": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false,
	} {
		r := &http.Request{Method: "POST", ProtoMajor: 2, Header: http.Header{"Content-Type": {kind}, "Te": {"trailers"}}}
		if got := IsGRPC(r); got != want {
			t.Errorf("%q: %v", kind, got)
		}
		for name, change := range map[string]func(*http.Request){
			"HTTP/1": func(r *http.Request) { r.ProtoMajor = 1 }, "GET": func(r *http.Request) { r.Method = "GET" },
			"no TE": func(r *http.Request) { r.Header.Del("Te") }, "two types": func(r *http.Request) { r.Header.Add("Content-Type", kind) },
		} {
			other := r.Clone(t.Context())
			if change(other); IsGRPC(other) {
				t.Errorf("%q with %s is one", kind, name)
			}
		}
	}
}

// FuzzMessages: however the bytes are split, they pass unchanged until the first
// message that may not, and the refusal is the same.
func FuzzMessages(f *testing.F) {
	f.Add(append(message(0, 3), message(0, 0)...))
	f.Add(append(message(0, 100), message(0, 101)...))
	f.Add(message(1, 2))
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		read := func(from io.Reader) (out []byte, err, told error) {
			m := &messages{ReadCloser: io.NopCloser(from), max: 100, count: new(atomic.Int64), alive: func() {}, end: func(err error) { told = err }}
			out, err = io.ReadAll(m)
			return out, err, told
		}
		want := wellFormed(b, 100)
		whole, err, told := read(bytes.NewReader(b))
		single, err1, _ := read(iotest.OneByteReader(bytes.NewReader(b)))
		if (err == nil) != want || (err1 == nil) != want || !errors.Is(told, err) {
			t.Fatalf("%x: %v, byte by byte %v, told %v; well formed %v", b, err, err1, told, want)
		}
		if want && (!bytes.Equal(whole, b) || !bytes.Equal(single, b)) || !bytes.HasPrefix(b, single) {
			t.Fatalf("%x became %x and %x", b, whole, single)
		}
	})
}

func wellFormed(b []byte, most uint32) bool {
	for len(b) > 0 {
		if len(b) < 5 || b[0] != 0 {
			return false
		}
		n := binary.BigEndian.Uint32(b[1:5])
		if n > most || uint32(len(b)-5) < n {
			return false
		}
		b = b[5+n:]
	}
	return true
}

// calling runs a relay of calls before service and returns a client's answer to one
// call with body.
func calling(t *testing.T, service http.HandlerFunc, body io.Reader, b Bounds, end func(context.CancelCauseFunc)) (*http.Response, []byte) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewUnstartedServer(h)
		s.Config.Protocols = protocols
		s.Start()
		t.Cleanup(s.Close)
		return s.URL
	}
	rt := &http.Transport{Protocols: protocols}
	t.Cleanup(rt.CloseIdleConnections)
	to, err := url.Parse(serve(service) + "/p.S/M")
	if err != nil {
		t.Fatal(err)
	}
	front := serve(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		if end != nil {
			end(cancel)
		}
		out := Request(r, to, Inbound()).WithContext(ctx)
		if _, err := GRPC(w, r, out, rt, GRPCOptions{MaxMessage: 100, Bounds: b}); err != nil {
			problem.WriteGRPC(w, err)
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), "POST", front+"/p.S/M", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("the answer has no end: %v", err)
	}
	return res, got
}

// TestGRPCEnds: however a call ends, its client gets a status that says why.
func TestGRPCEnds(t *testing.T) {
	long := Bounds{Idle: time.Minute, Total: time.Hour}
	endless := func() io.Reader { r, _ := io.Pipe(); return r }
	begun := func(b []byte) io.Reader { // and endless; a client that ends must be able to close it
		r, w := io.Pipe()
		go func() { _, _ = w.Write(b) }()
		return r
	}
	stay := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, tc := range map[string]struct {
		service http.HandlerFunc
		body    io.Reader
		bounds  Bounds
		end     func(context.CancelCauseFunc)
		status  string
	}{
		"by the service": {func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if r.Header.Get("Te") != "trailers" || r.Header.Get("Grpc-Timeout") == "" || len(b) != 8 {
				return
			}
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write(message(0, 3))
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "5")
		}, bytes.NewReader(message(0, 3)), long, nil, "5"},
		"by the service at once": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "9")
		}, endless(), long, nil, "9"},
		"by nobody's word": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write(message(0, 3))
		}, endless(), long, nil, "14"},
		"by a service that breaks": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, endless(), long, nil, "14"},
		"by half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write(message(0, 3)[:6])
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}, endless(), long, nil, "14"},
		"by another protocol":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, endless(), long, nil, "14"},
		"by a message too long":   {stay, begun(message(0, 101)), long, nil, "8"},
		"by a compressed message": {stay, bytes.NewReader(message(1, 3)), long, nil, "12"},
		"by half a message":       {stay, bytes.NewReader(message(0, 3)[:6]), long, nil, "3"},
		"by silence":              {stay, endless(), Bounds{Idle: 50 * time.Millisecond, Total: time.Hour}, nil, "14"},
		"by its age":              {stay, endless(), Bounds{Idle: time.Minute, Total: 50 * time.Millisecond}, nil, "14"},
		"by who passes it on": {stay, endless(), long, func(cancel context.CancelCauseFunc) {
			time.AfterFunc(50*time.Millisecond, func() { cancel(rampart.Errorf(rampart.Unauthenticated, "", "no longer")) })
		}, "16"},
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := calling(t, tc.service, tc.body, tc.bounds, tc.end)
			got := append(res.Header["Grpc-Status"], res.Trailer["Grpc-Status"]...)
			if res.StatusCode != 200 || len(got) != 1 || got[0] != tc.status || !IsGRPCType(res.Header) {
				t.Errorf("%s, status %v, want %s; %v %v", res.Status, got, tc.status, res.Header, res.Trailer)
			}
		})
	}
}
