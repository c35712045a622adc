package control

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// maxReasonText bounds why something was forced, in bytes.
const maxReasonText = 400

// adminAuthorityRoutes is the certificate authority.
func (p *Plane) adminAuthorityRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminCA:       p.adminCA,
		"POST " + wire.AdminCA:      p.adminCAStep,
		"GET " + wire.AdminCASign:   p.adminCARequest,
		"POST " + wire.AdminCASign:  p.adminCAImport,
		"POST " + wire.AdminCARoot:  p.adminExportRoot,
		"GET " + wire.AdminIssuing:  p.adminIssued,
		"POST " + wire.AdminCAWrite: p.adminCAWrite,
		"GET " + wire.AdminCRL:      p.adminCRL,
	}
}

func (p *Plane) adminCA(r *http.Request, _ *audit.Event) (any, error) {
	return p.caStatus(r.Context())
}

func (p *Plane) adminCAStep(r *http.Request, e *audit.Event) (any, error) {
	var q wire.CAStep
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource, e.Detail["to"] = "ca:"+p.ca().TrustDomain(), q.To[:min(len(q.To), 16)]
	detail := map[string]string{"by": e.Actor}
	if q.Force {
		if q.Reason = strings.TrimSpace(q.Reason); q.Reason == "" || len(q.Reason) > maxReasonText {
			return nil, rampart.Errorf(rampart.Invalid, "", "control: what is forced needs a reason of 1 to %d bytes", maxReasonText)
		}
		detail["force"], detail["reason"] = "true", q.Reason
		e.Detail["force"], e.Detail["reason"] = "true", q.Reason
	}
	broken, err := p.takeStep(r.Context(), q.To, q.Force, detail)
	if err != nil {
		return nil, err
	}
	st, err := p.caStatus(r.Context())
	st.Broken = broken
	return st, err
}

// adminCARequest returns the pending request of the issuing certificate, making
// it at the first call.
func (p *Plane) adminCARequest(r *http.Request, e *audit.Event) (any, error) {
	e.Class = audit.ClassAdmin // the first call makes a key
	if p.ca().Kind() != ca.Offline {
		return nil, rampart.Errorf(rampart.Conflict, authorityControl, "control: issuing certificates are signed without a hand; the authority is %s", p.ca().Kind())
	}
	var csr []byte
	err := p.changeAuthority(r.Context(), "ca.request", map[string]string{"by": e.Actor}, func(a *ca.Authority) (changed bool, err error) {
		csr, changed, err = a.Request()
		return changed, err
	})
	if err != nil {
		return nil, err
	}
	return wire.PEM{PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}, nil
}

func (p *Plane) adminCAImport(r *http.Request, _ *audit.Event) (any, error) {
	var q wire.PEM
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	chain, err := ca.ParseChainPEM([]byte(q.PEM))
	if err != nil {
		return nil, err
	}
	if err := p.importIssuing(r.Context(), chain); err != nil {
		return nil, err
	}
	return p.caStatus(r.Context())
}

func (p *Plane) adminExportRoot(r *http.Request, e *audit.Event) (any, error) {
	var q wire.ExportRoot
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Class, e.Resource = audit.ClassKey, "ca:"+p.ca().TrustDomain()
	e.Detail["recipient"], e.Detail["remove"] = q.Recipient[:min(len(q.Recipient), 100)], strconv.FormatBool(q.Remove)
	if !q.Remove {
		encrypted, _, err := p.ca().Clone().ExportRoot(q.Recipient, false)
		return wire.ExportedRoot{Encrypted: encrypted, Cert: p.signingRoot()}, err
	}
	// The key is destroyed by the very swap that what is answered here was made
	// from. If the answer is lost, so is the key: the command asks for an export
	// that stays, first.
	var encrypted []byte
	err := p.changeAuthority(r.Context(), "ca.export", map[string]string{"by": e.Actor}, func(a *ca.Authority) (bool, error) {
		var err error
		encrypted, _, err = a.ExportRoot(q.Recipient, true)
		return true, err
	})
	return wire.ExportedRoot{Encrypted: encrypted, Cert: p.signingRoot(), Removed: err == nil}, err
}

// signingRoot is the root that new certificates chain to.
func (p *Plane) signingRoot() wire.Cert {
	for _, root := range p.ca().Roots() {
		if root.Signs {
			return certOf(root)
		}
	}
	return wire.Cert{}
}

// adminCAWrite issues a server's certificate to the administrator, for a database
// of the house: it goes to a file.
func (p *Plane) adminCAWrite(r *http.Request, e *audit.Event) (any, error) {
	var q wire.CAWrite
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	opt := ca.IssueOptions{ServerOnly: true}
	for _, name := range q.Names {
		if ip := net.ParseIP(name); ip != nil {
			opt.IPs = append(opt.IPs, ip)
			continue
		}
		opt.DNS = append(opt.DNS, name)
	}
	if len(q.Names) == 0 {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: a server's certificate needs a name")
	}
	e.Class, e.Control, e.Resource = audit.ClassKey, authorityControl, "server:"+q.Names[0][:min(len(q.Names[0]), 253)]
	c, err := p.certify(r.Context(), "written", q.Names[0], func(a *ca.Authority) (ca.Certificate, error) { return a.Sign(q.CSR, "", opt) })
	if err != nil {
		return nil, err
	}
	for k, v := range certDetail(c) {
		e.Detail[k] = v
	}
	return wire.Identity{Chain: c.Chain, Bundle: p.ca().BundlePEM(), NotAfter: c.NotAfter}, nil
}

// revokeCertificate voids one certificate, or all that one authority signed. The
// entry outlives what it voids.
func (p *Plane) revokeCertificate(ctx context.Context, kind, id string) error {
	if kind == wire.RevokedIssuer {
		return p.revokeIssuer(ctx, id)
	}
	issuer, serial, _ := strings.Cut(id, ".")
	if !lowerHex(issuer) || !lowerHex(serial) {
		return rampart.Errorf(rampart.Invalid, "", "control: a certificate is revoked as ISSUER.SERIAL, both in lower-case hex; rampart ca issued shows them")
	}
	c, err := p.opt.Store.IssuedSerial(ctx, issuer, serial)
	switch {
	case err == nil:
		return p.voidUntil(ctx, kind, id, c.NotAfter)
	case !errors.Is(err, store.ErrNotFound):
		return unavailable(err)
	}
	// One that is not on record is made by whoever has the issuer's key: the
	// entry must outlive the issuer.
	until, err := p.endOf(issuer)
	if err != nil {
		return err
	}
	return p.voidUntil(ctx, kind, id, until)
}

func (p *Plane) voidUntil(ctx context.Context, kind, id string, until time.Time) error {
	_, err := p.tokens.RevokeCertificates(ctx, kind, id, until)
	return err
}

// endOf is when an issuer of ours ends.
func (p *Plane) endOf(keyID string) (time.Time, error) {
	for _, i := range p.ca().Issuers() {
		if i.KeyID == keyID {
			return i.NotAfter, nil
		}
	}
	return time.Time{}, rampart.Errorf(rampart.NotFound, authorityControl, "control: no issuing certificate of ours has the key id %.128s; rampart ca issued shows them", keyID)
}

// revokeIssuer voids all that an issuing certificate signed. If it is the one in
// use, another takes its place first: there must be one to come back with. The
// root that signs cannot go like this: it is rotated.
func (p *Plane) revokeIssuer(ctx context.Context, keyID string) error {
	if !lowerHex(keyID) {
		return rampart.Errorf(rampart.Invalid, "", "control: an issuer is revoked by its key id in lower-case hex; rampart ca status shows it")
	}
	for _, root := range p.ca().Roots() {
		if svid.KeyID(root.Certificate) == keyID {
			return rampart.Errorf(rampart.Conflict, authorityControl, "control: that is a root, and all chains to it; rotate it: rampart ca rotate --force --reason TEXT")
		}
	}
	until, err := p.endOf(keyID)
	if err != nil {
		return err
	}
	err = p.changeAuthority(ctx, "ca.issuing", map[string]string{"instead_of": keyID}, func(a *ca.Authority) (bool, error) {
		if c, ok := a.Issuing(); !ok || svid.KeyID(c.Certificate) != keyID {
			return false, nil
		}
		return true, a.ReplaceIssuing()
	})
	if err != nil {
		return err
	}
	return p.voidUntil(ctx, wire.RevokedIssuer, keyID, until)
}

func lowerHex(s string) bool {
	return s != "" && len(s) <= maxAuthorityKey && strings.Trim(s, "0123456789abcdef") == ""
}
