package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/store"
)

const (
	joinPrefix     = "rjt_"
	joinLife       = 10 * time.Minute
	joinsPerMinute = 300 // per address: the only call that strangers can make
)

// newJoinToken makes a token that lets one plane in, once, as one identity.
func (p *Plane) newJoinToken(ctx context.Context, path string) (string, error) {
	id, ok := p.byPath(path)
	if !ok {
		return "", rampart.Errorf(rampart.NotFound, "mtls.peer_declared", "control: %.100q is not in rampart.yaml; use service/NAME, gateway/NAME or store/NAME", path)
	}
	if err := p.mayAct(ctx, id); err != nil {
		return "", err
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	text := joinPrefix + base64.RawURLEncoding.EncodeToString(raw)
	err := p.opt.Store.PutJoinToken(ctx, sha256.Sum256([]byte(text)), id.path(), p.opt.Now().Add(joinLife))
	return text, unavailable(err)
}

func (p *Plane) byPath(path string) (identity, bool) {
	for _, id := range p.ids {
		if id.path() == path {
			return id, true
		}
	}
	return identity{}, false
}

// serveJoin trades a token for an SVID. The token is spent first: a crash in
// between costs a token, never lets two planes in.
func (p *Plane) serveJoin(w http.ResponseWriter, r *http.Request) error {
	if v := p.joins.Allow(ipKey(r.RemoteAddr), 1); !v.OK {
		ratelimit.Headers(w.Header(), v, "join")
		return rampart.Errorf(rampart.Limited, "limit.ip", "control: too many attempts to join")
	}
	var q wire.JoinRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "svid.join", Control: "mtls.required", Peer: r.RemoteAddr}
	path, err := p.opt.Store.UseJoinToken(r.Context(), sha256.Sum256([]byte(q.Token)), p.opt.Now())
	if errors.Is(err, store.ErrNotFound) {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Unauthenticated, "mtls.required", "control: join token is unknown, spent or expired"))
	}
	if err != nil {
		return unavailable(err)
	}
	id, ok := p.byPath(path)
	if !ok {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %s is not in rampart.yaml any more", path))
	}
	return p.issue(w, r, q.CSR, id, e)
}

// serveRenew trades a live SVID for the next one.
func (p *Plane) serveRenew(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.RenewRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	return p.issue(w, r, q.CSR, id, audit.Event{Class: audit.ClassKey, Action: "svid.renew", Control: "mtls.required", Peer: r.RemoteAddr})
}

// ipKey is what an address, with or without port, is counted by.
func ipKey(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	return ratelimit.IPKey(a)
}

// unavailable types an error of the store; nil stays nil.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Unavailable, Msg: "control: store not available", Err: err}
}
