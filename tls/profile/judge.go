package profile

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/svid"
)

// judge decides about the clients of one mTLS server, at handshakes and again
// while their connections are open.
type judge struct {
	src   *svid.Source
	allow func(id string) error
	now   func() time.Time
}

// newJudge panics if src or allow is nil.
func newJudge(src *svid.Source, allow func(id string) error, now func() time.Time) *judge {
	if src == nil || allow == nil {
		panic("profile: an mTLS server needs a source and an authorizer")
	}
	return &judge{src, allow, now}
}

// verdict is what a judge found out about one client.
type verdict struct {
	peer  svid.Verified // zero: it showed no certificate
	trust *svid.Trust   // that the certificate was verified with
	epoch uint64        // that the verdict is of
}

// config is that of a server which judges handshakes. auth is
// tls.RequireAnyClientCert, or tls.RequestClientCert if none may be shown.
func (j *judge) config(auth tls.ClientAuthType) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols(),
		ClientAuth: auth,
		// A ticket would let a peer back in on the strength of an old check.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate(j.src)
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := j.handshake(cs, auth)
			return err
		},
	}
}

// handshake judges a client that has just come.
func (j *judge) handshake(cs tls.ConnectionState, auth tls.ClientAuthType) (verdict, error) {
	if _, err := j.src.Current(); err != nil {
		return verdict{}, err
	}
	if err := negotiated(cs); err != nil {
		return verdict{}, err
	}
	if auth == tls.RequestClientCert && len(cs.PeerCertificates) == 0 {
		return verdict{epoch: j.src.Epoch()}, nil
	}
	return j.verify(cs.PeerCertificates, j.now())
}

// verify judges a chain as if nothing was known of it.
func (j *judge) verify(chain []*x509.Certificate, at time.Time) (verdict, error) {
	check, epoch := j.src.Check(x509.ExtKeyUsageClientAuth, at)
	peer, err := check.Verify(chain)
	if err != nil {
		return verdict{}, err
	}
	if err := j.allow(peer.ID); err != nil {
		return verdict{}, undeclared(peer.ID, err)
	}
	return verdict{peer, check.Trust, epoch}, nil
}

// again judges a client whose connection is open, at a new epoch. The signatures
// of its chain count while the trust is the same. That its certificate has
// expired meanwhile is for the age of the connection to answer, which breaks
// nothing off.
func (j *judge) again(old verdict, cs tls.ConnectionState) (verdict, error) {
	check, epoch := j.src.Check(x509.ExtKeyUsageClientAuth, j.now())
	if old.peer.Leaf == nil {
		old.epoch = epoch
		return old, nil
	}
	if check.Trust != old.trust {
		return j.verify(cs.PeerCertificates, within(check.At, cs))
	}
	if check.Denied != nil {
		if err := check.Denied(old.peer); err != nil {
			return verdict{}, err
		}
	}
	if err := j.allow(old.peer.ID); err != nil {
		return verdict{}, undeclared(old.peer.ID, err)
	}
	return verdict{old.peer, check.Trust, epoch}, nil
}

func unjudged() error {
	return rampart.Errorf(rampart.Unauthenticated, controlMTLS, "tls: it is not known who is at the other end of this connection")
}
