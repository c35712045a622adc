package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// pair is a chain and its key as PEM.
type pair struct{ chain, key []byte }

// issuePair makes a certificate of a CA of its own; change may spoil it.
func issuePair(t *testing.T, change func(*x509.Certificate), key crypto.Signer) pair {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(t, err)
	if key == nil {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	leaf := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"shop.example", "www.shop.example"}}
	if change != nil {
		change(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return pair{append(block("CERTIFICATE", der), block("CERTIFICATE", caDER)...), block("PRIVATE KEY", pkcs8)}
}

func writePair(t *testing.T, files spec.Files, p pair, mode os.FileMode) {
	t.Helper()
	must(t, os.WriteFile(files.Chain, p.chain, 0o600))
	os.Remove(files.Key)
	must(t, os.WriteFile(files.Key, p.key, 0o600))
	must(t, os.Chmod(files.Key, mode))
}

func newFiles(t *testing.T) spec.Files {
	dir := t.TempDir()
	return spec.Files{Chain: filepath.Join(dir, "edge.pem"), Key: filepath.Join(dir, "edge.key")}
}

// A pair that clients would not take, or that others may read, is refused and
// what was served before is served on.
func TestFilesAreRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Setenv("GODEBUG", "rsa1024min=0")
		weak, err = rsa.GenerateKey(rand.Reader, 1024)
	}
	must(t, err)
	good, other := issuePair(t, nil, nil), issuePair(t, nil, nil)
	block, _ := pem.Decode(good.chain)
	leafOnly := pem.EncodeToMemory(block)
	for name, c := range map[string]struct {
		pair pair
		mode os.FileMode
		want string
	}{
		"others may read the key":   {other, 0o640, "chmod 600"},
		"the key is another's":      {pair{other.chain, good.key}, 0o600, "does not match"},
		"no certificate":            {pair{good.key, good.key}, 0o600, "edge.pem"},
		"no key":                    {pair{good.chain, good.chain}, 0o600, "edge.key"},
		"empty":                     {pair{}, 0o600, "edge.pem"},
		"half written":              {pair{good.chain[:100], good.key}, 0o600, "edge.pem"},
		"expired":                   {issuePair(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil), 0o600, "not now"},
		"of tomorrow":               {issuePair(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, nil), 0o600, "not now"},
		"a name is missing":         {issuePair(t, func(c *x509.Certificate) { c.DNSNames = []string{"shop.example"} }, nil), 0o600, "not for www.shop.example"},
		"a CA's":                    {issuePair(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, nil), 0o600, "a CA's"},
		"a weak key":                {issuePair(t, nil, weak), 0o600, "weak"},
		"the chain is not in order": {pair{append(leafOnly, other.chain...), good.key}, 0o600, "not signed by the next"},
	} {
		t.Run(name, func(t *testing.T) {
			files := newFiles(t)
			writePair(t, files, good, 0o600)
			var events []error
			f := newFileCert(files, []string{"shop.example", "www.shop.example"}, time.Now, func(_ string, err error) { events = append(events, err) })
			before, err := f.certificate(nil)
			must(t, err)
			must(t, os.Remove(files.Chain))
			writePair(t, files, c.pair, c.mode)
			f.look()
			f.look() // told once
			if len(events) != 2 || events[0] != nil || events[1] == nil || !strings.Contains(events[1].Error(), c.want) {
				t.Fatalf("events %v, want one good and one with %q", events, c.want)
			}
			if strings.Contains(events[1].Error(), "PRIVATE KEY") {
				t.Errorf("the error shows the file: %v", events[1])
			}
			if after, err := f.certificate(nil); err != nil || after != before {
				t.Errorf("what was served before is not served on: %v", err)
			}
			if s := f.state(); s[0].Error == "" || s[0].NotAfter.IsZero() {
				t.Errorf("the status does not say so: %+v", s)
			}
			writePair(t, files, other, 0o600)
			f.look()
			if after, _ := f.certificate(nil); after == before || f.state()[0].Error != "" {
				t.Error("a good pair is not taken over after a bad one")
			}
		})
	}
}

// Without a sound pair nothing is served, nor after the last one has ended.
func TestFilesServeNothingUnsound(t *testing.T) {
	files, now := newFiles(t), time.Now()
	f := newFileCert(files, []string{"shop.example"}, func() time.Time { return now }, func(string, error) {})
	if _, err := f.certificate(nil); err == nil || f.state()[0].Error == "" {
		t.Error("something is served without files, or the status is silent")
	}
	writePair(t, files, issuePair(t, nil, nil), 0o600)
	f.look()
	if _, err := f.certificate(nil); err != nil {
		t.Error(err)
	}
	now = now.Add(2 * time.Hour)
	if _, err := f.certificate(nil); err == nil {
		t.Error("an expired certificate is served")
	}
	if !f.state()[0].Late(now) {
		t.Error("an expired certificate is not late")
	}
}
