package verify

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
)

func framingProbes() []Probe {
	return []Probe{{
		ID: "P-009", Title: "a request whose end has two readings is refused, and nothing behind it is read as another", SeedRow: "owasp: A05", Controls: []string{"http.framing"},
		Proves: []string{"owasp2021:A05", "api2023:API8"}, Vantage: fromOutside, Safety: safe, Run: smuggled,
	}}
}

// health is a request that the edge answers to anybody.
const health = "GET /_rampart/health HTTP/1.1\r\nHost: HOST\r\n"

// crookedFraming are requests that servers read in more than one way, by what is
// wrong with them (RFC 9112 sections 2.2, 5.2, 6.1, 7.1). Some servers take the
// bytes behind the first for a second request: that is what smuggling is.
var crookedFraming = []struct{ name, text string }{
	{"a folded header", health + "X-Verify: a\r\n b\r\n\r\n"},
	{"a bare line feed", health + "X-Verify: a\nX-Other: b\r\n\r\n"},
	{"a length and chunks", health + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + health + "\r\n"},
	{"two lengths", health + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n"},
	{"chunks in HTTP/1.0", strings.Replace(health, "1.1", "1.0", 1) + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + health + "\r\n"},
	{"a space before the colon", health + "Content-Length : 0\r\n\r\n"},
	{"an extension of a chunk", health + "Transfer-Encoding: chunked\r\n\r\n0;a=b\r\n\r\n"},
}

func smuggled(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	if status, _, _, err := e.framed(ctx, health+"\r\n"); err != nil || status != http.StatusOK {
		return Result{}, fmt.Errorf("the straight request over HTTP/1.1: %d, %w", status, err)
	}
	for _, a := range crookedFraming {
		status, more, peer, err := e.framed(ctx, a.text)
		switch {
		case err != nil:
			return Result{}, fmt.Errorf("%s: %w", a.name, err)
		case status < 400 && status != 0:
			return failed("%s: was answered %d", a.name, status), nil
		case more:
			return failed("%s: was refused with %d, and the connection stays open", a.name, status), nil
		}
		res, err := e.refusedPeer(ctx, a.name, peer, "http.framing")
		if err != nil || res.Verdict != Pass {
			return res, err
		}
	}
	return passed("%d requests refused by http.framing, each with the end of its connection", len(crookedFraming)), nil
}

// framed sends bytes over a TLS connection without HTTP/2, and returns the status
// of the first answer, 0 for none, and whether the connection lives on.
func (e *Env) framed(ctx context.Context, text string) (status int, more bool, peer string, err error) {
	raw, err := e.raw(ctx)
	if err != nil {
		return 0, false, "", err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{RootCAs: e.roots, ServerName: e.edgeName(), MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}})
	if err := conn.HandshakeContext(ctx); err != nil {
		return 0, false, "", err
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, "HOST", e.edgeAddr())); err != nil {
		return 0, false, "", err
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, false, raw.LocalAddr().String(), nil // ended without an answer
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	res.Body.Close()
	if res.StatusCode < 400 || err != nil {
		return res.StatusCode, true, raw.LocalAddr().String(), nil
	}
	_, err = in.ReadByte()
	return res.StatusCode, err == nil, raw.LocalAddr().String(), nil
}
