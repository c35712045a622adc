package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestScanFindsAnOldServer(t *testing.T) {
	e := &Env{target: &target{}, http: &edgeClient{source: net.IPv4(127, 0, 0, 1)}}
	l, err := oldServer()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found, err := e.scan(t.Context(), listener{name: "old", addr: l.Addr().String(), life: time.Hour, tickets: true, config: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(found, "\n")
	for _, want := range []string{"takes TLS 1.0", "takes TLS 1.1", "takes TLS 1.2", "lasts 1h1m"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "SSL 3.0") || strings.Contains(got, "short tag") {
		t.Errorf("found what is not there:\n%s", got)
	}
	if err := e.scanOwn(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server that says nothing is no server that refuses.
func TestScanOfSilence(t *testing.T) {
	e := &Env{target: &target{}, http: &edgeClient{source: net.IPv4(127, 0, 0, 1)}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // every offer is refused, a sound one too
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	defer l.Close()
	if found, err := e.scan(context.Background(), listener{name: "closed", addr: l.Addr().String(), config: &tls.Config{}}); err == nil {
		t.Errorf("a listener that takes nothing passed: %v", found)
	}
}

// Whether a listener gives tickets is found out whoever speaks first, and what
// cannot be found out is no pass.
func TestScanFindsTickets(t *testing.T) {
	e := &Env{target: &target{}, http: &edgeClient{source: net.IPv4(127, 0, 0, 1)}}
	for name, row := range map[string]struct {
		after    string // what the server says after the handshake
		http     bool
		tickets  bool
		resumes  bool
		mistaken bool
	}{
		"a queue that gives tickets":    {after: "INFO", tickets: true, resumes: true},
		"a queue that gives none":       {after: "INFO"},
		"a web server with tickets":     {after: "HTTP/1.1 200 OK", http: true, tickets: true, resumes: true},
		"a web server without":          {after: "HTTP/1.1 200 OK", http: true},
		"a queue that hangs up":         {mistaken: true},
		"a web server that hangs up on": {http: true, tickets: true, mistaken: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := says(t, row.after, row.tickets)
			got, err := e.resumes(t.Context(), listener{addr: l.Addr().String(), http: row.http, config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost"}})
			if got != row.resumes || (err != nil) != row.mistaken {
				t.Errorf("resumes: %v, %v", got, err)
			}
		})
	}
}

// says is a server that says one thing to everybody.
func says(t *testing.T, text string, tickets bool) net.Listener {
	t.Helper()
	cfg, err := oldConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinVersion, cfg.SessionTicketsDisabled = tls.VersionTLS13, !tickets
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			io.WriteString(conn, text)
			conn.(*tls.Conn).CloseWrite()
			go io.Copy(io.Discard, conn)
		}
	}()
	return l
}

func TestHSTSAge(t *testing.T) {
	for header, want := range map[string]int{
		"max-age=31536000; includeSubDomains": 31536000, `includeSubDomains; Max-Age="60"`: 60, "": 0, "max-age": 0, "max-age=x": 0, "xmax-age=9": 0,
	} {
		if got := hstsAge(header); got != want {
			t.Errorf("%q: %d, want %d", header, got, want)
		}
	}
}

func TestCopiesHaveNoForeignCertificate(t *testing.T) {
	out, err := edited([]byte("services:\n  edge: { role: gateway, names: [a.example], acme: { email: a@b.example }, listen: ':1' }\n  other: { certificate: { chain: /x, key: /y } }\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if s := string(out); strings.Contains(s, "acme") || strings.Contains(s, "certificate") || !strings.Contains(s, "a.example") || !strings.Contains(s, "listen") {
		t.Errorf("the copy is\n%s", s)
	}
}

func FuzzServerHello(f *testing.F) {
	good := append([]byte{22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3}, make([]byte, 32)...)
	f.Add(append(good, 0, 0x13, 0x01))
	f.Add(append(good, 200, 1))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bytes.NewReader(b))
		if a.taken && (err != nil || len(b) < 46 || b[0] != 22 || b[5] != 2) {
			t.Errorf("%x was read as a ServerHello", b)
		}
	})
}
