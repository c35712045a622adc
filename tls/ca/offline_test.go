package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestOfflineRoot leads a root out of the house, through ninety days without it,
// and has a request signed where the key is.
func TestOfflineRoot(t *testing.T) {
	c := newClock()
	a := c.new(t)
	me, err := age.GenerateX25519Identity()
	ok(t, err)
	if _, _, err := a.ExportRoot(me.Recipient().String(), true); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("the key went though the file says embedded: %v", err)
	}
	if _, _, err := a.ExportRoot("ssh-ed25519 AAAA", false); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("a recipient that is none: %v", err)
	}
	_, err = a.SetKind(ca.Offline)
	ok(t, err)
	c.days(3)
	out, cert, err := a.ExportRoot(me.Recipient().String(), true)
	ok(t, err)
	if bytes.Contains(out, []byte("PRIVATE KEY")) || a.Roots()[0].Key || len(kept(t, a).Roots[0].Key) > 0 {
		t.Fatal("the key is still here, or was in the clear")
	}
	openedByAge(t, out, me)
	issuing, _ := a.Issuing()
	if left := issuing.NotAfter.Sub(c.now()); left != 90*24*time.Hour {
		t.Errorf("the last issuing certificate signed here lives %s", left)
	}

	c.days(59)
	if renewed, err := a.RenewIssuing(); err != nil || renewed || a.WantsIssuing() {
		t.Errorf("day 59: renewed %v, wants %v, %v", renewed, a.WantsIssuing(), err)
	}
	c.days(1)
	if !a.WantsIssuing() {
		t.Error("no warning thirty days ahead")
	}
	csr, changed, err := a.Request()
	ok(t, err)
	if again, more, _ := a.Request(); !changed || more || len(again) == 0 {
		t.Error("each look at the request makes another key")
	}
	a = parsed(t, a, c)

	stranger, err := age.GenerateX25519Identity()
	ok(t, err)
	if _, err := ca.OpenRoot(out, strings.NewReader(stranger.String())); err == nil {
		t.Error("a stranger opened the root")
	}
	root, err := ca.OpenRoot(out, strings.NewReader(me.String()))
	ok(t, err)
	if svid.KeyID(root.Cert()) != svid.KeyID(cert) || strings.Contains(fmt.Sprintf("%#v %+v", root, root), "big") {
		t.Error("another root came out, or its key is printed")
	}
	if _, err := root.SignRequest(request(t), c.now); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("a request of no domain was signed: %v", err)
	}
	text, err := root.SignRequest(csr, c.now)
	ok(t, err)
	chain, err := ca.ParseChainPEM(text)
	ok(t, err)
	ok(t, a.Import(chain))
	if err := a.Import(chain); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("imported twice: %v", err)
	}
	fresh, _ := a.Issuing()
	if !fresh.NotAfter.Equal(c.now().Add(90*24*time.Hour)) || svid.KeyID(fresh.Certificate) == svid.KeyID(issuing.Certificate) {
		t.Errorf("the issuing certificate ends %s", fresh.NotAfter)
	}
	leaf, _, err := a.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	if len(leaf) != 2 {
		t.Errorf("chain of %d", len(leaf))
	}
	if _, err := a.SetKind(ca.Embedded); err == nil {
		t.Error("a key that is not here was declared embedded")
	}
}

func parsed(t testing.TB, a *ca.Authority, c *clock) *ca.Authority {
	t.Helper()
	data, err := a.Marshal()
	ok(t, err)
	b, err := ca.Parse(data, c.now)
	ok(t, err)
	return b
}

// openedByAge reads the export with nothing but the age library.
func openedByAge(t *testing.T, export []byte, me age.Identity) {
	t.Helper()
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(export)), me)
	ok(t, err)
	plain, err := io.ReadAll(r)
	ok(t, err)
	if !bytes.Contains(plain, []byte("BEGIN CERTIFICATE")) || !bytes.Contains(plain, []byte("BEGIN PRIVATE KEY")) {
		t.Error("the export holds no certificate with its key")
	}
}

// TestOfflineRotation: the new root is born here, signs, and is taken out then.
func TestOfflineRotation(t *testing.T) {
	c := newClock()
	a := c.new(t)
	_, err := a.SetKind(ca.Offline)
	ok(t, err)
	me, err := age.GenerateX25519Identity()
	ok(t, err)
	_, _, err = a.ExportRoot(me.Recipient().String(), true)
	ok(t, err)
	ok(t, a.Prepare())
	if _, _, err := a.ExportRoot(me.Recipient().String(), true); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("a key was taken out in mid-rotation: %v", err)
	}
	ok(t, a.Publish())
	ok(t, a.Activate(ca.Facts{}, false))
	ok(t, a.Retire(ca.Facts{}, false))
	_, cert, err := a.ExportRoot(me.Recipient().String(), true)
	ok(t, err)
	if svid.KeyID(cert) != svid.KeyID(newest(a).Certificate) || a.Due() != ca.StepNone {
		t.Error("another root was taken out, or timers drive an offline root")
	}
}

// upstream is another authority with one between its root and ours.
type upstream struct {
	root, middle       *x509.Certificate
	rootKey, middleKey *ecdsa.PrivateKey
}

func newUpstream(t testing.TB, now time.Time) upstream {
	t.Helper()
	var u upstream
	u.root, u.rootKey = authorityCert(t, "Corp Root", nil, nil, now, nil)
	u.middle, u.middleKey = authorityCert(t, "Corp Middle", u.root, u.rootKey, now, nil)
	return u
}

func authorityCert(t testing.TB, name string, parent *x509.Certificate, by *ecdsa.PrivateKey, now time.Time, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	c := authorityTemplate(name, now)
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	ok(t, err)
	cert, err := x509.ParseCertificate(der)
	ok(t, err)
	return cert, key
}

func authorityTemplate(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// sign signs a request as a foreign authority would, with its own idea of the
// certificate.
func (u upstream) sign(t testing.TB, csrDER []byte, now time.Time, change func(*x509.Certificate)) [][]byte {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(csrDER)
	ok(t, err)
	c := authorityTemplate("Corp Issuing for shop", now)
	c.MaxPathLen, c.MaxPathLenZero, c.NotAfter = 0, true, now.AddDate(0, 0, 7)
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, u.middle, csr.PublicKey, u.middleKey)
	ok(t, err)
	return [][]byte{der, u.middle.Raw, u.root.Raw}
}

func TestUpstream(t *testing.T) {
	c := newClock()
	u := newUpstream(t, c.now())
	a, err := ca.NewUpstream("shop.internal", pemOf("CERTIFICATE", u.root.Raw), c.now)
	ok(t, err)
	if _, _, err := a.Issue(request(t), orders, ca.IssueOptions{}); rampart.KindOf(err) != rampart.Unavailable || !a.WantsIssuing() {
		t.Errorf("issued before the upstream authority signed: %v", err)
	}
	csr, _, err := a.Request()
	ok(t, err)
	for name, change := range map[string]func(*x509.Certificate){
		"no authority": func(x *x509.Certificate) {
			x.IsCA, x.KeyUsage, x.MaxPathLenZero = false, x509.KeyUsageDigitalSignature, false
		},
		"another trust domain":  func(x *x509.Certificate) { x.PermittedURIDomains = []string{"other.internal"} },
		"our own domain denied": func(x *x509.Certificate) { x.ExcludedURIDomains = []string{"shop.internal"} },
		"expired":               func(x *x509.Certificate) { x.NotAfter = c.now().Add(-time.Second) },
		"servers only":          func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		if err := a.Clone().Import(u.sign(t, csr, c.now(), change)); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%s: imported with %v", name, err)
		}
	}
	good := u.sign(t, csr, c.now(), nil)
	for name, bad := range map[string][][]byte{
		"empty": nil, "without the middle": {good[0], good[2]}, "out of order": {good[1], good[0]}, "garbage": {{1}},
		"of a stranger": newUpstream(t, c.now()).sign(t, csr, c.now(), nil), "for another key": u.sign(t, request(t), c.now(), nil),
		"long": {good[0], good[1], good[1], good[1], good[1], good[1]},
	} {
		if err := a.Clone().Import(bad); err == nil {
			t.Errorf("%s: imported", name)
		}
	}
	ok(t, a.Import(good))
	a = parsed(t, a, c)
	leaf, err := a.Sign(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	if len(leaf.Chain) != 3 || leaf.Root != svid.KeyID(u.root) {
		t.Errorf("chain of %d, root %s", len(leaf.Chain), leaf.Root)
	}
	if err := a.Prepare(); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("somebody else's root was rotated here: %v", err)
	}
	c.days(4)
	if !a.WantsIssuing() {
		t.Error("not renewed at half life")
	}
	other := newUpstream(t, c.now())
	if _, err := a.SetRoots(pemOf("CERTIFICATE", other.root.Raw), nil); err == nil {
		t.Error("the root that we are below was taken away")
	}
	both := append(pemOf("CERTIFICATE", u.root.Raw), pemOf("CERTIFICATE", other.root.Raw)...)
	if news, err := a.SetRoots(both, nil); err != nil || !news || a.Version() != 2 {
		t.Errorf("%v, %v, version %d", news, err, a.Version())
	}

	// The new root signs; the old one stays for whom it signed.
	csr, _, err = a.Request()
	ok(t, err)
	ok(t, a.Import(other.sign(t, csr, c.now(), nil)))
	alone := pemOf("CERTIFICATE", other.root.Raw)
	live := []ca.Live{{ID: orders, Serial: leaf.Serial, Root: leaf.Root, NotAfter: leaf.NotAfter}}
	if _, err := a.SetRoots(alone, live); err == nil || !strings.Contains(err.Error(), leaf.Serial) {
		t.Errorf("the root of a certificate that is alive went: %v", err)
	}
	if news, err := a.SetRoots(alone, nil); err != nil || !news || bundle(a) != 1 {
		t.Errorf("an old root that nobody needs: %v, %v", news, err)
	}
}

// TestDatabaseClient: a certificate that logs one role in at a database.
func TestDatabaseClient(t *testing.T) {
	a := newAuthority(t, nil)
	c, err := a.IssueDatabaseClient(request(t), "orders_app", 0)
	ok(t, err)
	leaf := parse(t, c.Chain)[0]
	if leaf.Subject.CommonName != "orders_app" || len(leaf.URIs)+len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 ||
		fmt.Sprint(leaf.ExtKeyUsage) != fmt.Sprint([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || time.Until(leaf.NotAfter) > time.Hour {
		t.Errorf("got %+v", leaf)
	}
	if out, err := openssl(t, a.BundlePEM(), c.Chain, "sslclient"); err != nil {
		t.Errorf("OpenSSL: %v\n%s", err, out)
	}
	for _, role := range []string{"", "Orders", "db.shop.internal", "a b", "-x", strings.Repeat("a", 64)} {
		if _, err := a.IssueDatabaseClient(request(t), role, 0); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("role %q: %v", role, err)
		}
	}
	if _, err := a.IssueDatabaseClient(request(t), "orders_app", 2*time.Hour); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("two hours: %v", err)
	}
}

func FuzzSignRequest(f *testing.F) {
	a := newAuthority(f, nil)
	_, err := a.SetKind(ca.Offline)
	ok(f, err)
	me, err := age.GenerateX25519Identity()
	ok(f, err)
	export, _, err := a.ExportRoot(me.Recipient().String(), false)
	ok(f, err)
	root, err := ca.OpenRoot(export, strings.NewReader(me.String()))
	ok(f, err)
	csr, _, err := a.Request()
	ok(f, err)
	f.Add(csr)
	f.Add(request(f))
	f.Fuzz(func(t *testing.T, csr []byte) {
		text, err := root.SignRequest(csr, nil)
		if err != nil {
			return
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		ok(t, err)
		want := (&url.URL{Scheme: "spiffe", Host: "shop.internal"}).String()
		if len(cert.URIs) != 1 || cert.URIs[0].String() != want || !cert.MaxPathLenZero {
			t.Fatalf("signed %+v", cert)
		}
	})
}
