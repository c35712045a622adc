package control

import (
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/svid"
)

// deniedPeer refuses certificates that were revoked, by themselves or with an
// authority above them. A service that was disabled gets as far as caller, which
// tells it whether and how it may come back.
func (p *Plane) deniedPeer(v svid.Verified) error {
	revoked := p.tokens.Voided(wire.RevokedSerial, v.Issuer()+"."+v.Serial())
	for _, issuer := range v.Issuers {
		revoked = revoked || p.tokens.Voided(wire.RevokedIssuer, issuer)
	}
	if !revoked {
		return nil
	}
	return rampart.Errorf(rampart.Unauthenticated, "mtls.revocation", "control: this certificate was revoked; join anew")
}

// refusePeer answers a call on a connection whose peer is not welcome any more.
func (p *Plane) refusePeer(w http.ResponseWriter, r *http.Request, err error) {
	trace := traceOf(r)
	e := audit.Event{Class: audit.ClassNetwork, Action: "plane.call", Control: "mtls.required", Peer: r.RemoteAddr, Trace: trace, Resource: r.Method + " " + r.URL.Path}
	if peer, ok := svid.PeerOf(r.TLS); ok {
		e.Subject = peer.ID
	}
	p.answer(w, r, p.refuse(r.Context(), e, err), trace)
}
