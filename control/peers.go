package control

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/profile"
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
	p.answer(w, r, p.refuse(r.Context(), peerEvent(r), err), traceOf(r))
}

func peerEvent(r *http.Request) audit.Event {
	e := audit.Event{Class: audit.ClassNetwork, Action: "plane.call", Control: "mtls.required", Peer: r.RemoteAddr, Trace: traceOf(r), Resource: r.Method + " " + r.URL.Path}
	if peer, ok := svid.PeerOf(r.TLS); ok {
		e.Subject = peer.ID
	}
	return e
}

// judged serves a call of a plane. Who calls is judged three times: before the
// body is read, as strangers get no memory; once it is here, as a sender takes
// as long over it as it likes, and may have been revoked meanwhile; and before
// the answer leaves, as that is what must not reach a peer that was revoked.
func (p *Plane) judged(call planeCall) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := p.caller(r); err != nil { // Protect has judged the connection
			return err
		}
		if err := readWhole(r); err != nil {
			return err
		}
		id, err := p.stillPeer(r)
		if err != nil {
			return err
		}
		out := &answering{ResponseWriter: w, judge: func() error { _, err := p.stillPeer(r); return err }}
		err = call(out, r, id)
		if out.refused != nil {
			return out.refused
		}
		return err
	}
}

// stillPeer judges anew who calls: the connection, then the identity.
func (p *Plane) stillPeer(r *http.Request) (identity, error) {
	if err := profile.Recheck(r.Context()); err != nil {
		return identity{}, p.refuse(r.Context(), peerEvent(r), err)
	}
	return p.caller(r)
}

// readWhole has all of a bounded body in memory.
func readWhole(r *http.Request) error {
	b, err := io.ReadAll(r.Body)
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return rampart.Errorf(rampart.Invalid, "", "control: a body has at most %d bytes", tooLong.Limit)
	}
	if err != nil {
		return rampart.Errorf(rampart.Invalid, "", "control: the body does not arrive")
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

// answering judges the caller of a call once more when its answer begins. If it
// is refused, nothing of the answer leaves.
type answering struct {
	http.ResponseWriter
	judge   func() error
	begun   bool
	refused error
}

// Unwrap is for http.ResponseController.
func (a *answering) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answering) WriteHeader(status int) {
	if a.begin() == nil {
		a.ResponseWriter.WriteHeader(status)
	}
}

func (a *answering) Write(b []byte) (int, error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	return a.ResponseWriter.Write(b)
}

func (a *answering) begin() error {
	if a.begun {
		return a.refused
	}
	a.begun = true
	if a.refused = a.judge(); a.refused != nil {
		clear(a.Header())
	}
	return a.refused
}
