package planelink

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// errDenied is behind every refusal of a plane that somebody denied.
var errDenied = errors.New("denied by the control plane")

// believe takes over whom to believe about peers. Versions only go forward: a
// stream that begins anew, or another control plane that is behind, takes nothing
// back. What cannot be read, or has no root of this plane's own certificate, is
// refused and on the log, and what was in force stays: a plane that took it over
// would be cut off from all others. In the latter case the plane asks for a
// certificate that fits at once, and then takes it over.
func (l *Link) believe(t *wire.Trust) error {
	if t == nil {
		return errors.New("planelink: update without trust")
	}
	if t.Version <= l.State().Trust.Version {
		return nil
	}
	trust, err := svid.NewTrust(t.Version, l.opt.Domain, t.Roots, t.Federated)
	if err != nil {
		l.refusedTrust(t.Version, err)
		return nil
	}
	if err := l.Source().SetTrust(trust); err != nil {
		l.refusedTrust(t.Version, err)
		if rampart.KindOf(err) == rampart.Denied {
			l.renewal.wait(t, l.opt.Now())
		}
		return nil
	}
	l.renewal.waits(nil)
	next := *l.State()
	next.Trust = *t
	l.setState(&next)
	l.endDenied()
	if t.Signs != "" && t.Signs != l.Now().cert.Proof.Root { // certificates are to leave the old root within minutes
		l.renewal.soon(l.opt.Now().Add(time.Duration(jitter() / 10 * float64(l.Now().life()))))
	}
	return nil
}

func (l *Link) refusedTrust(version uint64, err error) {
	l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "trust refused, the last good one stays",
		slog.Uint64("version", version), slog.Any("error", err))
}

// trustState is what heartbeats say of certificates.
func (l *Link) trustState() wire.TrustState {
	cert := l.Now().cert
	return wire.TrustState{Version: l.State().Trust.Version, Root: cert.Proof.Root, Until: cert.NotAfter.UTC()}
}

// judgeAnew has open connections judged by what an update brought. The state is
// in force already.
func (l *Link) judgeAnew(u wire.Update) {
	switch {
	case u.Kind == "config":
		l.Source().Touch() // the flows are others
	case u.Kind == "revoked":
		l.endRevoked()
		if !ofCertificates(u.Revoked) {
			return
		}
		l.Source().Touch()
		l.endDenied()
		if l.Disabled() != nil {
			l.renewal.now()
		}
	}
}

// ofCertificates reports whether a revocation among them concerns certificates.
func ofCertificates(list []wire.Revocation) bool {
	for _, r := range list {
		switch r.Kind {
		case "svid", wire.RevokedSerial, wire.RevokedIssuer:
			return true
		}
	}
	return false
}

// denied refuses a peer that somebody denied: its service was disabled after its
// certificate was issued, or the certificate or an authority above it was revoked.
func (l *Link) denied(v svid.Verified) error {
	st := l.State()
	var e *rampart.Error
	switch {
	case st.disabled(v):
		e = rampart.Errorf(rampart.Denied, controlPeer, "%.200s is disabled", v.ID)
	case st.certRevoked(v):
		e = rampart.Errorf(rampart.Denied, controlRevoked, "the certificate of %.200s is revoked", v.ID)
	default:
		return nil
	}
	e.Err = errDenied
	return e
}

func (s *State) peerDenied(v svid.Verified) bool { return s.disabled(v) || s.certRevoked(v) }

func (s *State) disabled(v svid.Verified) bool {
	return v.Leaf != nil && s.Revoked("svid", v.ID, v.Leaf.NotBefore.Add(ca.Skew))
}

// certRevoked reports whether the very certificate or an authority above it was
// revoked. Only a throw-away system can have that not count.
func (s *State) certRevoked(v svid.Verified) bool {
	if len(s.revoked) == 0 || v.Leaf == nil || s.System != nil && s.System.Off(controlRevoked) {
		return false
	}
	if s.withdrawn(wire.RevokedSerial, v.Issuer()+"."+v.Serial()) {
		return true
	}
	for _, issuer := range v.Issuers {
		if s.withdrawn(wire.RevokedIssuer, issuer) {
			return true
		}
	}
	return false
}

// PeerRevoked reports whether the service that a leaf certificate names is denied,
// where somebody else has verified its chain.
func (s *State) PeerRevoked(id string, leaf *x509.Certificate) bool {
	return s.peerDenied(svid.Verified{ID: id, Leaf: leaf, Issuers: []string{hex.EncodeToString(leaf.AuthorityKeyId)}})
}

// Disabled refuses what this plane would do for its service after somebody
// disabled the service, or revoked the plane's own certificate.
func (l *Link) Disabled() error {
	if g := l.Now(); g != nil && l.State().peerDenied(g.cert.Proof) {
		return rampart.Errorf(rampart.Denied, controlPeer, "this service is disabled")
	}
	return nil
}
