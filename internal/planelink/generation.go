package planelink

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/profile"
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
	shared  *svid.Source // for listeners: follows renewals
	pinned  *svid.Source // for clients: this certificate only
	cert    svid.Snapshot
	control *http.Client

	mu    sync.Mutex // guards peers and tokens
	peers map[string]*http.Transport
	tokens
}

func (l *Link) newGeneration(id wire.Identity, key crypto.Signer) (*Generation, error) {
	snap, err := svid.NewSnapshot(id.Chain, key, id.Bundle)
	if err != nil {
		return nil, err
	}
	g := &Generation{link: l, shared: svid.NewSource(), cert: snap, peers: map[string]*http.Transport{}}
	if old := l.gen.Load(); old != nil {
		g.shared = old.shared
		time.AfterFunc(30*time.Second, old.closeIdle)
	}
	g.shared.Set(snap)
	g.pinned = g.shared.Pinned(snap)
	cfg := profile.MTLSClient(g.pinned, "spiffe://"+l.opt.Domain+"/control")
	g.control = &http.Client{Transport: newTransport(cfg)}
	l.notAfter.Store(snap.NotAfter.UnixNano())
	l.gen.Store(g)
	return g, nil
}

// handshakeTimeout bounds one handshake with a peer.
const handshakeTimeout = 5 * time.Second

// newTransport carries calls to one peer: no proxy, bounded headers and waits.
func newTransport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        cfg,
		ForceAttemptHTTP2:      true,
		Proxy:                  nil,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  35 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// Fingerprint is the SHA-256 of the leaf certificate that this generation shows.
func (g *Generation) Fingerprint() [32]byte { return g.cert.Fingerprint }

// Pinned returns the source that shows this generation's certificate only.
func (g *Generation) Pinned() *svid.Source { return g.pinned }

// Service returns a transport to the sidecar of a declared service and the
// host:port to put into the URL. It verifies the peer's SPIFFE ID, and carries
// nothing to a service that was disabled since its certificate was issued.
func (g *Generation) Service(name string) (http.RoundTripper, string, error) {
	st := g.link.State()
	addr := st.Endpoints.Sidecars[name]
	if st.System == nil || addr == "" {
		return nil, "", rampart.Errorf(rampart.Unavailable, "", "%s is not up yet", name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.peers[name]
	if !ok {
		t = newTransport(nil)
		t.DialTLSContext = g.link.dialer(g.pinned, name, st.System.ServiceID(name))
		g.peers[name] = t
	}
	return t, addr, nil
}

func (g *Generation) closeIdle() {
	g.control.CloseIdleConnections()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.peers {
		t.CloseIdleConnections()
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
	req, err := http.NewRequestWithContext(ctx, method, "https://"+g.link.opt.Control+path, body)
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

func (l *Link) join(ctx context.Context) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	cfg, err := profile.Bootstrap(l.opt.Roots, "spiffe://"+l.opt.Domain+"/control")
	if err != nil {
		return err
	}
	once := &Generation{link: l, control: &http.Client{Transport: newTransport(cfg)}}
	defer once.control.CloseIdleConnections()
	return l.adopt(ctx, once, key, wire.PathJoin, wire.JoinRequest{Token: l.opt.Join, CSR: csr})
}

func (l *Link) renew(ctx context.Context) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	return l.adopt(ctx, l.Now(), key, wire.PathRenew, wire.RenewRequest{CSR: csr})
}

func (l *Link) adopt(ctx context.Context, via *Generation, key crypto.Signer, path string, in any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := via.request(ctx, http.MethodPost, path, in)
	if err != nil {
		return err
	}
	defer drain(res.Body)
	var id wire.Identity
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&id); err != nil {
		return fmt.Errorf("planelink: bad identity: %w", err)
	}
	_, err = l.newGeneration(id, key)
	return err
}

// askAgain is how often a plane whose service was disabled asks whether it may
// act again.
const askAgain = 10 * time.Second

// renewLoop renews at half life, ten percent early or late so that a fleet
// does not come at once, and retries until the certificate is dead. One that
// was voided, as its service was disabled, is dead once the service is enabled:
// it takes a join token to come back.
func (l *Link) renewLoop(ctx context.Context) error {
	due := l.renewalDue()
	for ctx.Err() == nil {
		life := l.Now().life()
		sleep(ctx, min(max(due.Sub(l.opt.Now()), life/20, 100*time.Millisecond), askAgain))
		if ctx.Err() != nil {
			return nil
		}
		if l.opt.Now().Before(due) && l.Disabled() == nil {
			continue
		}
		err := l.renew(ctx)
		if err == nil || ctx.Err() != nil {
			due = l.renewalDue()
			continue
		}
		if rampart.KindOf(err) == rampart.Unauthenticated {
			return err
		}
		if l.opt.Now().After(time.Unix(0, l.notAfter.Load())) {
			return errExpired
		}
		l.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "SVID not renewed; will try again", slog.Any("error", err))
	}
	return nil
}

// renewalDue is when to renew the certificate in use.
func (l *Link) renewalDue() time.Time {
	g := l.Now()
	return g.cert.Certificate.Leaf.NotBefore.Add(g.life()/2 + time.Duration((jitter()-0.5)*0.2*float64(g.life())))
}

// life is how long the generation's certificate holds.
func (g *Generation) life() time.Duration {
	leaf := g.cert.Certificate.Leaf
	return leaf.NotAfter.Sub(leaf.NotBefore)
}

// Control returns a transport to the control plane and its host:port, for the
// gateway, which passes its public surface on.
func (g *Generation) Control() (http.RoundTripper, string) {
	return g.control.Transport, g.link.opt.Control
}
