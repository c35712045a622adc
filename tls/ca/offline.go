package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rampart-security/rampart/tls/svid"
)

// maxExport bounds an exported root.
const maxExport = 64 << 10

// ExportRoot returns the certificate and the key of the root that signs, as PEM
// encrypted to an age recipient ("age1...") in age's armor, and its certificate.
// With remove it destroys the key here and changes a; the authority must be
// Offline and no rotation under way, and the issuing certificate gets a full
// life first.
func (a *Authority) ExportRoot(recipient string, remove bool) (encrypted []byte, cert *x509.Certificate, err error) {
	root := a.signer()
	to, err := age.ParseX25519Recipient(strings.TrimSpace(recipient))
	switch {
	case err != nil:
		return nil, nil, refuse("the recipient is no age public key (age1...); make one with: age-keygen -o key.txt")
	case root.key == nil:
		return nil, nil, conflict("the key of root %s is not here", svid.KeyID(root.cert))
	case remove && a.kind != Offline:
		return nil, nil, conflict("a root whose key is taken out needs: trust: { root: offline }")
	case remove && a.step != StepNone:
		return nil, nil, conflict("a rotation is at step %s; finish it first, or roll it back", a.step)
	}
	if encrypted, err = seal(root, to); err != nil || !remove {
		return encrypted, root.cert, err
	}
	if err := a.ReplaceIssuing(); err != nil { // the last one that is signed here lives its whole life
		return nil, nil, err
	}
	a.roots[0].key = nil
	return encrypted, root.cert, nil
}

func seal(root tier, to age.Recipient) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(root.key)
	if err != nil {
		return nil, fmt.Errorf("ca: export the root: %v", err)
	}
	plain := append(PEM(root.cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	defer clear(key)
	defer clear(plain)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = errors.Join(w.Close(), text.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("ca: export the root: %v", err)
	}
	return out.Bytes(), nil
}

// Root is an exported root with its key, for the machine where it is kept.
type Root struct{ tier tier }

// Format prints the certificate's name under every verb, never the key.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "ca.Root(%s)", r.tier.cert.Subject) }

// OpenRoot decrypts what ExportRoot made. identities are age secret keys, one a
// line, as age-keygen writes them.
func OpenRoot(encrypted []byte, identities io.Reader) (*Root, error) {
	ids, err := age.ParseIdentities(identities)
	if err != nil {
		return nil, errors.New("ca: the identity file holds no age secret key")
	}
	var in io.Reader = bytes.NewReader(encrypted)
	if bytes.HasPrefix(bytes.TrimSpace(encrypted), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	plain, err := age.Decrypt(in, ids...)
	if err != nil {
		return nil, fmt.Errorf("ca: the exported root does not open: %v", err)
	}
	text, err := io.ReadAll(io.LimitReader(plain, maxExport))
	if err != nil {
		return nil, fmt.Errorf("ca: the exported root does not open: %v", err)
	}
	defer clear(text)
	t, rest, err := parseTier(text)
	if err != nil || len(rest) > 0 || len(t.cert.URIs) != 1 {
		return nil, errors.New("ca: this is no exported root")
	}
	return &Root{t}, nil
}

// Cert returns the root's certificate.
func (r *Root) Cert() *x509.Certificate { return r.tier.cert }

// SignRequest signs the request (DER) of an issuing certificate for 90 days, as
// PEM. The request contributes its key and the proof of it; it must be of the
// root's own trust domain, so that nobody signs another system's by mistake. now
// may be nil, which means time.Now.
func (r *Root) SignRequest(csrDER []byte, now func() time.Time) ([]byte, error) {
	public, err := provenKey(csrDER)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, refuse("certificate request does not parse")
	}
	domain := r.tier.cert.URIs[0].Host
	if len(csr.URIs) != 1 || csr.URIs[0].String() != "spiffe://"+domain {
		return nil, refuse("the request is not of trust domain %s", domain)
	}
	cert, err := signIssuing(domain, r.tier, public, orNow(now)(), offlineLife)
	if err != nil {
		return nil, err
	}
	return PEM(cert), nil
}

// Voided is a revoked certificate, as a CRL has it.
type Voided struct {
	Serial string // hex
	At     time.Time
}

// crlLife is for how long a CRL is good.
const crlLife = 24 * time.Hour

// CRL signs a certificate revocation list (RFC 5280 section 5), as PEM, for those
// outside who read one: of leaves by each issuing certificate whose key is here, the
// one in use first, and of issuing certificates by each root whose key is. voided
// returns what is revoked of the issuer with a key id, and is called for those
// alone. Our own planes never read it.
func (a *Authority) CRL(voided func(keyID string) []Voided) ([]byte, error) {
	var out []byte
	for _, by := range a.listSigners() {
		list, err := a.crl(by, voided(svid.KeyID(by.cert)))
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// listSigners are who signed something that may be alive, and whose keys are here.
func (a *Authority) listSigners() []tier {
	var all []tier
	for _, i := range []*issuing{a.issuing, a.previous} {
		if i != nil {
			all = append(all, i.tier)
		}
	}
	all = append(all, a.roots...)
	return slices.DeleteFunc(all, func(t tier) bool { return t.key == nil })
}

func (a *Authority) crl(by tier, voided []Voided) ([]byte, error) {
	now := a.now()
	t := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-Skew), NextUpdate: now.Add(crlLife)}
	for _, v := range voided {
		serial, ok := new(big.Int).SetString(v.Serial, 16)
		if ok {
			t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: v.At})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, t, by.cert, by.key)
	if err != nil {
		return nil, fmt.Errorf("ca: sign the CRL: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}
