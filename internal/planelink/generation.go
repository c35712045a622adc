package planelink

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// maxAnswer bounds what the control plane may answer to one call.
const maxAnswer = 1 << 20

// Generation is one certificate of the plane with the connections and tokens
// that belong to it. A token is bound to the certificate that asked for it, so
// it must travel over connections that present that very certificate: after a
// renewal a new generation takes over and the old one runs dry by itself.
type Generation struct {
	link    *Link
	pinned  *svid.Source // for clients: this certificate only
	cert    svid.Snapshot
	control *http.Client
	host    string // of calls to control; "" is https at its address

	mu    sync.Mutex // guards peers and tokens
	peers map[peer]*carrier
	tokens
}

// peer is a service, by the protocol that it is spoken to.
type peer struct{ name, protocol string }

func (l *Link) newGeneration(id wire.Identity, key crypto.Signer) (*Generation, error) {
	snap, err := svid.NewSnapshot(id.Chain, key, id.Bundle)
	if err != nil {
		return nil, err
	}
	if old := l.gen.Load(); old != nil {
		time.AfterFunc(30*time.Second, old.closeIdle)
	}
	l.source.Set(snap)
	g := &Generation{link: l, pinned: l.source.Pinned(snap), cert: snap, peers: map[peer]*carrier{}}
	g.control = &http.Client{Transport: l.carrier(g.pinned, "the control plane", l.controlID(), controlWait)}
	l.notAfter.Store(snap.NotAfter.UnixNano())
	l.gen.Store(g)
	l.renewal.due.Store(g.renewalDue().UnixNano())
	return g, nil
}

// handshakeTimeout bounds one handshake with a peer.
const handshakeTimeout = 5 * time.Second

// controlWait is how long the control plane's answer to a call may take to begin.
const controlWait = 35 * time.Second

// maxServiceWait is the longest that any flow may wait for a service's answer to
// begin. Who calls bounds it further, by package network/upstream.
const maxServiceWait = 10*time.Minute + 5*time.Second

const (
	protoHTTP1 = "http/1.1"
	protoHTTP2 = "h2"
	// streamBuffer is how much of one call's answer waits for its reader.
	streamBuffer = 256 << 10
)

// newTransport carries calls to one peer: no proxy, bounded headers and waits.
func newTransport(cfg *tls.Config, wait time.Duration) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        cfg,
		ForceAttemptHTTP2:      true,
		Proxy:                  nil,
		MaxIdleConnsPerHost:    256, // HTTP/1.1 has one request on each at a time
		IdleConnTimeout:        60 * time.Second,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  wait,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// Fingerprint is the SHA-256 of the leaf certificate that this generation shows.
func (g *Generation) Fingerprint() [32]byte { return g.cert.Fingerprint }

// Pinned returns the source that shows this generation's certificate only.
func (g *Generation) Pinned() *svid.Source { return g.pinned }

// Service returns a transport to the sidecar of a declared service, whose waits are
// the caller's to bound, and the host:port to put into the URL. It verifies the
// peer's SPIFFE ID, and carries nothing to a service that was disabled since its
// certificate was issued. It speaks HTTP/1.1, which costs both ends a fifth less
// than HTTP/2 (BenchmarkHop), and whose framing the sidecar judges to the letter.
func (g *Generation) Service(name string) (http.RoundTripper, string, error) {
	return g.service(name, protoHTTP1)
}

// Streaming is Service for calls that stay open, over HTTP/2 and connections of
// their own: one whose reader stands still must hold up no other request.
func (g *Generation) Streaming(name string) (http.RoundTripper, string, error) {
	return g.service(name, protoHTTP2)
}

func (g *Generation) service(name, protocol string) (http.RoundTripper, string, error) {
	st := g.link.State()
	addr := st.Endpoints.Sidecars[name]
	if st.System == nil || addr == "" {
		return nil, "", rampart.Errorf(rampart.Unavailable, "", "%s is not up yet", name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := peer{name, protocol}
	c, ok := g.peers[key]
	if !ok {
		c = g.carrierTo(key, st.System.ServiceID(name))
		g.peers[key] = c
	}
	return c, addr, nil
}

func (g *Generation) carrierTo(p peer, id string) *carrier {
	if p.protocol == protoHTTP1 {
		return g.link.http1(g.pinned, p.name, id)
	}
	return g.link.carrier(g.pinned, p.name, id, maxServiceWait, p.protocol)
}

func (g *Generation) closeIdle() {
	g.control.CloseIdleConnections()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.peers {
		c.CloseIdleConnections()
	}
}

// Call makes one JSON call to the control plane over the current certificate.
// in nil sends no body; out nil ignores the answer's.
func (l *Link) Call(ctx context.Context, method, path string, in, out any) error {
	res, err := l.Now().request(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer drain(res.Body)
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("planelink: bad answer to %s: %w", path, err)
	}
	return nil
}

// request sends one call and turns every answer but 2xx into an error of the
// right kind.
func (g *Generation) request(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, cmp.Or(g.host, "https://"+g.link.opt.Control)+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return g.send(req)
}

func (g *Generation) send(req *http.Request) (*http.Response, error) {
	if parent := trace.Parent(rampart.TraceFrom(req.Context())); parent != "" {
		req.Header.Set(trace.Header, parent)
	}
	res, err := g.control.Do(req)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Unavailable, Msg: "the control plane cannot be reached", Err: err}
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer drain(res.Body)
	return nil, answerError(res)
}

// answerError maps a problem answer to a typed error, keeping its detail: both
// ends are ours and the caller decides what leaves the house.
func answerError(res *http.Response) error {
	var p struct {
		Detail string `json:"detail"`
		Error  string `json:"error"`             // RFC 6749 §5.2, from /oauth2/token
		Desc   string `json:"error_description"` //
	}
	json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&p)
	kind := map[int]rampart.Kind{
		http.StatusBadRequest: rampart.Invalid, http.StatusUnauthorized: rampart.Unauthenticated,
		http.StatusForbidden: rampart.Denied, http.StatusNotFound: rampart.NotFound,
		http.StatusConflict: rampart.Conflict, http.StatusTooManyRequests: rampart.Limited,
		http.StatusServiceUnavailable: rampart.Unavailable,
	}[res.StatusCode]
	switch p.Error {
	case "invalid_target", "invalid_scope":
		kind = rampart.Denied
	case "invalid_grant", "invalid_client":
		kind = rampart.Unauthenticated
	}
	return &rampart.Error{Kind: kind, Msg: firstOf(p.Detail, p.Desc, p.Error, res.Status)}
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

func drain(body io.ReadCloser) {
	io.Copy(io.Discard, io.LimitReader(body, maxAnswer))
	body.Close()
}

// life is how long the generation's certificate was to hold when it was issued.
func (g *Generation) life() time.Duration { return g.cert.NotAfter.Sub(g.issued()) }

// issued is when the certificate was: its start is set back by ca.Skew, and of a
// short life most would be over at once if one counted from there.
func (g *Generation) issued() time.Time { return g.cert.Certificate.Leaf.NotBefore.Add(ca.Skew) }

// Control returns a transport to the control plane and its host:port, for the
// gateway, which passes its public surface on.
func (g *Generation) Control() (http.RoundTripper, string) {
	return g.control.Transport, g.link.opt.Control
}
