package hop_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/hop"
)

// TestReadAhead: an answer that nobody asked for is no answer, also when TLS has it
// already, where neither the socket nor the reader above shows it.
func TestReadAhead(t *testing.T) {
	const surplus = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus"
	long := strings.Repeat("a", 14_000)
	for name, row := range map[string]struct {
		first []string // each a record of TLS
		conns int
	}{
		"nothing behind the answer":        {[]string{ok}, 1},
		"behind it in the same record":     {[]string{fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(long), long, surplus)}, 2},
		"behind it in a record of its own": {[]string{ok, surplus}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			url := overTLS(t, row.first)
			conns := 0
			tr := hop.New(hop.Options{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				conns++
				return dialTLS(ctx, addr)
			}, Else: elsewhere{}, Wait: time.Minute})
			defer tr.CloseIdleConnections()
			for n := range 3 {
				res, err := tr.RoundTrip(request(t, "GET", url, ""))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond) // all that the server sends is there before the body is read
				body, err := io.ReadAll(res.Body)
				if err != nil || string(body) == "surplus" {
					t.Errorf("answer %d: %.20q, %v", n, body, err)
				}
			}
			if conns != row.conns {
				t.Errorf("%d connections, want %d", conns, row.conns)
			}
		})
	}
}

// overTLS is a server that writes first for the first request of each connection, and
// ok for each other.
func overTLS(t *testing.T, first []string) (url string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, DynamicRecordSizingDisabled: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for served := 0; ; served++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			writes := first
			if served > 0 {
				writes = []string{ok}
			}
			go serveTLS(c, writes)
		}
	}()
	return "http://" + l.Addr().String() + "/"
}

func serveTLS(c net.Conn, writes []string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		for _, w := range writes {
			_, _ = io.WriteString(c, w)
		}
		writes = []string{ok}
	}
}

func dialTLS(ctx context.Context, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(&stillConn{Conn: raw}, &tls.Config{InsecureSkipVerify: true}) // whose it is does not matter here
	return c, c.HandshakeContext(ctx)
}

// stillConn is what lies below TLS, as planelink has it.
type stillConn struct {
	net.Conn
	still bool
}

func (c *stillConn) NetConn() net.Conn { return c.Conn }
func (c *stillConn) Still(yes bool)    { c.still = yes }
func (c *stillConn) Read(p []byte) (int, error) {
	if c.still {
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Read(p)
}
