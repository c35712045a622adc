package svid_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rampart-security/rampart/tls/svid"
)

// lineage is a chain that is right in all respects, for a row to spoil: what
// certificates say, who signs them, what is shown, and what is checked.
type lineage struct {
	root, issuing, leaf          *x509.Certificate // templates
	rootKey, issuingKey, leafKey crypto.Signer
	issuingBy, leafBy            crypto.Signer // who signs; nil: who should

	show   func(leaf, issuing, root []byte) [][]byte // nil: leaf, issuing
	spoil  func(der [][]byte)                        // after signing
	trust  func(root []byte) *svid.Trust             // nil: the root, for shop.internal
	domain []string
	usage  x509.ExtKeyUsage
	at     time.Time
	denied svid.Denier
}

var instant = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

func newLineage(t testing.TB, keys []crypto.Signer) *lineage {
	ca := func(serial int64, name string, life time.Duration, path int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: instant.Add(-time.Hour), NotAfter: instant.Add(life), IsCA: true, BasicConstraintsValid: true,
			MaxPathLen: path, MaxPathLenZero: path == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			SubjectKeyId: []byte(name), PermittedDNSDomainsCritical: true, PermittedURIDomains: []string{"shop.internal"},
			URIs: uris(t, "spiffe://shop.internal"),
		}
	}
	return &lineage{
		root: ca(1, "root", 1000*time.Hour, 1), issuing: ca(2, "issuing", 100*time.Hour, 0),
		leaf: &x509.Certificate{
			SerialNumber: big.NewInt(0xabc), NotBefore: instant.Add(-time.Minute), NotAfter: instant.Add(time.Hour),
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: uris(t, orders),
		},
		rootKey: keys[0], issuingKey: keys[1], leafKey: keys[2],
		usage: x509.ExtKeyUsageClientAuth, at: instant,
	}
}

func keysOf(t testing.TB, n int) []crypto.Signer {
	t.Helper()
	var out []crypto.Signer
	for range n {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ok(t, err)
		out = append(out, k)
	}
	return out
}

// made is what a row shows and by what it is judged.
type made struct {
	chain []*x509.Certificate
	check svid.Check
}

func sign(t testing.TB, child, parent *x509.Certificate, public crypto.Signer, by crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, child, parent, public.Public(), by)
	ok(t, err)
	return der
}

// make signs and assembles. A chain that does not even parse is nil.
func (l *lineage) make(t testing.TB) made {
	t.Helper()
	or := func(a, b crypto.Signer) crypto.Signer {
		if a != nil {
			return a
		}
		return b
	}
	root := sign(t, l.root, l.root, l.rootKey, l.rootKey)
	// A parent without its key: a wrong signer must not be noticed here.
	parentOf := func(c *x509.Certificate) *x509.Certificate {
		p := *c
		p.PublicKey = nil
		return &p
	}
	issuing := sign(t, l.issuing, parentOf(l.root), l.issuingKey, or(l.issuingBy, l.rootKey))
	leaf := sign(t, l.leaf, parentOf(l.issuing), l.leafKey, or(l.leafBy, l.issuingKey))
	shown := [][]byte{leaf, issuing}
	if l.show != nil {
		shown = l.show(leaf, issuing, root)
	}
	if l.spoil != nil {
		l.spoil(shown)
	}
	m := made{check: svid.Check{Domains: l.domain, Usage: l.usage, At: l.at, Denied: l.denied}}
	if l.trust != nil {
		m.check.Trust = l.trust(root)
	} else {
		m.check.Trust = believing(t, "shop.internal", root, nil)
	}
	for _, der := range shown {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			m.chain = nil
			return m
		}
		m.chain = append(m.chain, c)
	}
	return m
}

func believing(t testing.TB, domain string, root []byte, federated map[string][]byte) *svid.Trust {
	t.Helper()
	for name, der := range federated {
		federated[name] = asPEM(der)
	}
	trust, err := svid.NewTrust(1, domain, asPEM(root), federated)
	ok(t, err)
	return trust
}

func asPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestChainMutants spoils a good chain in one respect at a time. Ours must refuse
// each mutant and keep each that is still right, and must never accept what
// crypto/x509 refuses for the same roots, time and usage.
func TestChainMutants(t *testing.T) {
	keys := keysOf(t, 5)
	stranger, other := keys[3], keys[4]
	foreignRoot := func(t testing.TB) []byte {
		tmpl := newLineage(t, keys).root
		tmpl.Subject.CommonName, tmpl.SubjectKeyId = "partner", []byte("partner")
		tmpl.PermittedURIDomains, tmpl.URIs = nil, nil
		return sign(t, tmpl, tmpl, stranger, stranger)
	}
	rows := mutants(t, stranger, other, foreignRoot)
	if len(rows) < 60 {
		t.Fatalf("%d mutants, want 60 at least", len(rows))
	}
	accepted := 0
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			l := newLineage(t, keys)
			row.change(l)
			m := l.make(t)
			got, err := m.check.Verify(m.chain)
			if (err == nil) != row.ok {
				t.Fatalf("%v, want accepted %v", err, row.ok)
			}
			if err == nil {
				accepted++
				if oracle := byGo(m); oracle != nil {
					t.Errorf("crypto/x509 refuses it: %v", oracle)
				}
				if len(got.Issuers) == 0 || got.Root != got.Issuers[len(got.Issuers)-1] || got.ID != l.leaf.URIs[0].String() {
					t.Errorf("verified %+v", got)
				}
			}
		})
	}
	t.Logf("%d mutants, %d of them harmless", len(rows), accepted)
}

// byGo is the judgement of the standard library alone.
func byGo(m made) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, domain := range m.check.Trust.Domains() {
		for _, c := range m.check.Trust.Roots(domain) {
			roots.AddCert(c)
		}
	}
	for _, c := range m.chain[1:] {
		inter.AddCert(c)
	}
	_, err := m.chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: m.check.At, KeyUsages: []x509.ExtKeyUsage{m.check.Usage}})
	return err
}

type mutant struct {
	ok     bool
	change func(*lineage)
}

func mutants(t *testing.T, stranger, other crypto.Signer, foreignRoot func(testing.TB) []byte) map[string]mutant {
	uri := func(list ...string) func(*lineage) { return func(l *lineage) { l.leaf.URIs = uris(t, list...) } }
	at := func(d time.Duration) func(*lineage) { return func(l *lineage) { l.at = instant.Add(d) } }
	usage := func(u x509.KeyUsage) func(*lineage) { return func(l *lineage) { l.leaf.KeyUsage = u } }
	deny := func(when func(svid.Verified) bool) func(*lineage) {
		return func(l *lineage) {
			l.denied = func(v svid.Verified) error {
				if when(v) {
					return errors.New("denied")
				}
				return nil
			}
		}
	}
	partner := func(domains ...string) func(*lineage) { // the leaf is a partner's, straight below its root
		return func(l *lineage) {
			l.leaf.URIs, l.leafBy, l.domain = uris(t, "spiffe://partner.example/service/orders"), stranger, domains
			l.issuing.Subject.CommonName, l.issuing.SubjectKeyId = "partner", []byte("partner") // whose name the leaf says
			l.show = func(leaf, _, _ []byte) [][]byte { return [][]byte{leaf} }
			l.trust = func(root []byte) *svid.Trust {
				return believing(t, "shop.internal", root, map[string][]byte{"partner.example": foreignRoot(t)})
			}
		}
	}
	and := func(all ...func(*lineage)) func(*lineage) {
		return func(l *lineage) {
			for _, f := range all {
				f(l)
			}
		}
	}
	return map[string]mutant{
		"nothing is spoiled":            {true, func(*lineage) {}},
		"as a server":                   {true, func(l *lineage) { l.usage = x509.ExtKeyUsageServerAuth }},
		"the last second":               {true, at(time.Hour)},
		"the first second":              {true, at(-time.Minute)},
		"a second too late":             {false, at(time.Hour + time.Second)},
		"a second too early":            {false, at(-time.Minute - time.Second)},
		"no clock":                      {false, func(l *lineage) { l.at = time.Time{} }},
		"another path":                  {true, uri("spiffe://shop.internal/gateway/edge")},
		"no URI name":                   {false, uri()},
		"two URI names":                 {false, uri(orders, "spiffe://shop.internal/control")},
		"the same name twice":           {false, uri(orders, orders)},
		"no path":                       {false, uri("spiffe://shop.internal")},
		"a slash for a path":            {false, uri("spiffe://shop.internal/")},
		"a slash at the end":            {false, uri(orders + "/")},
		"an empty segment":              {false, uri("spiffe://shop.internal//orders")},
		"dot segments":                  {false, uri("spiffe://shop.internal/service/../control")},
		"escaped letters":               {false, uri("spiffe://shop.internal/%63ontrol")},
		"a query":                       {false, uri(orders + "?x=1")},
		"a fragment":                    {false, uri(orders + "#x")},
		"a port":                        {false, uri("spiffe://shop.internal:443/service/orders")},
		"a user":                        {false, uri("spiffe://x@shop.internal/service/orders")},
		"https":                         {false, uri("https://shop.internal/service/orders")},
		"the scheme in capitals":        {true, uri("SPIFFE://shop.internal/service/orders")}, // net/url lowers it, in every certificate
		"the domain in capitals":        {false, uri("spiffe://SHOP.internal/service/orders")},
		"a subdomain":                   {false, uri("spiffe://sub.shop.internal/service/orders")},
		"a domain that ends alike":      {false, uri("spiffe://evilshop.internal/service/orders")},
		"a domain above":                {false, uri("spiffe://internal/service/orders")},
		"a foreign domain, our root":    {false, uri("spiffe://partner.example/service/orders")},
		"… and nothing constrains it":   {false, and(uri("spiffe://partner.example/service/orders"), unconstrained)},
		"… and the domain is accepted":  {false, and(uri("spiffe://partner.example/service/orders"), unconstrained, func(l *lineage) { l.domain = []string{"partner.example"} })},
		"a partner, undeclared":         {false, partner()},
		"a partner, declared":           {true, partner("partner.example")},
		"a partner beside us":           {true, partner("shop.internal", "partner.example")},
		"a partner mints our name":      {false, and(partner("shop.internal", "partner.example"), uri(orders))},
		"our root mints a partner's":    {false, and(unconstrained, partner("shop.internal", "partner.example"), ours)},
		"no domain is accepted":         {false, func(l *lineage) { l.domain = []string{} }},
		"a name as long as may be":      {true, uri("spiffe://shop.internal/" + string(slices.Repeat([]byte("a"), 2048-23)))},
		"a name one byte longer":        {false, uri("spiffe://shop.internal/" + string(slices.Repeat([]byte("a"), 2049-23)))},
		"no usage of the role":          {false, func(l *lineage) { l.leaf.ExtKeyUsage = l.leaf.ExtKeyUsage[:1] }},
		"for code signing":              {false, func(l *lineage) { l.leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
		"any usage":                     {true, func(l *lineage) { l.leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		"the issuing is for servers":    {false, func(l *lineage) { l.issuing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		"an authority as its own leaf":  {false, func(l *lineage) { l.leaf.IsCA = true; l.leaf.KeyUsage |= x509.KeyUsageCertSign }},
		"may sign certificates":         {false, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign)},
		"may sign lists":                {false, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign)},
		"no digital signature":          {false, usage(x509.KeyUsageKeyAgreement)},
		"no key usage":                  {false, usage(0)},
		"key agreement too":             {true, usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement)},
		"lives a day":                   {true, func(l *lineage) { l.leaf.NotAfter = l.leaf.NotBefore.Add(24 * time.Hour) }},
		"lives a day and an hour":       {false, func(l *lineage) { l.leaf.NotAfter = l.leaf.NotBefore.Add(25 * time.Hour) }},
		"ends before it begins":         {false, func(l *lineage) { l.leaf.NotAfter = l.leaf.NotBefore.Add(-time.Second) }},
		"the issuing has expired":       {false, func(l *lineage) { l.issuing.NotAfter = instant.Add(-time.Second) }},
		"the issuing begins later":      {false, func(l *lineage) { l.issuing.NotBefore = instant.Add(time.Second) }},
		"the root has expired":          {false, func(l *lineage) { l.root.NotAfter = instant.Add(-time.Second) }},
		"the issuing is no authority":   {false, func(l *lineage) { l.issuing.IsCA = false; l.issuing.MaxPathLenZero = false }},
		"the issuing may not sign":      {false, func(l *lineage) { l.issuing.KeyUsage = x509.KeyUsageDigitalSignature }},
		"the root allows no issuing":    {false, func(l *lineage) { l.root.MaxPathLen, l.root.MaxPathLenZero = 0, true }},
		"the root allows many":          {true, func(l *lineage) { l.root.MaxPathLen = 4 }},
		"constrained to another domain": {false, func(l *lineage) { l.issuing.PermittedURIDomains = []string{"partner.example"} }},
		"the domain is excluded":        {false, func(l *lineage) { l.issuing.ExcludedURIDomains = []string{"shop.internal"} }},
		"unconstrained":                 {true, unconstrained},
		"a host name that is excluded": {false, func(l *lineage) {
			l.leaf.DNSNames = []string{"x.test"}
			l.issuing.ExcludedDNSDomains = []string{"test"}
		}},
		"a host name": {true, func(l *lineage) { l.leaf.DNSNames = []string{"orders.shop.internal"} }},
		"an address that is excluded": {false, func(l *lineage) {
			l.leaf.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
			l.issuing.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}}
		}},
		"an unknown critical extension": {false, func(l *lineage) {
			l.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
		}},
		"an unknown extension": {true, func(l *lineage) {
			l.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}}}
		}},
		"a stranger signed the leaf":    {false, func(l *lineage) { l.leafBy = stranger }},
		"a stranger signed the issuing": {false, func(l *lineage) { l.issuingBy = stranger }},
		"the leaf signed itself":        {false, func(l *lineage) { l.leafBy = l.leafKey }},
		"the root signed the leaf":      {false, func(l *lineage) { l.leafBy = l.rootKey }},
		"another key, same name":        {true, func(l *lineage) { l.leafKey = other }},
		"one key, two names":            {true, and(func(l *lineage) { l.leafKey = other }, uri("spiffe://shop.internal/service/payments"))},
		"the key of its issuer":         {true, func(l *lineage) { l.leafKey = l.issuingKey }},
		"a bit of the signature":        {false, func(l *lineage) { l.spoil = func(d [][]byte) { d[0][len(d[0])-1] ^= 1 } }},
		"a bit of the issuing's":        {false, func(l *lineage) { l.spoil = func(d [][]byte) { d[1][len(d[1])-1] ^= 1 } }},
		"a bit of the serial":           {false, func(l *lineage) { l.spoil = func(d [][]byte) { d[0][16] ^= 1 } }},
		"cut short":                     {false, func(l *lineage) { l.spoil = func(d [][]byte) { d[0] = d[0][:len(d[0])-1] } }},
		"the issuing is not shown":      {false, func(l *lineage) { l.show = func(leaf, _, _ []byte) [][]byte { return [][]byte{leaf} } }},
		"the root is shown too":         {true, func(l *lineage) { l.show = func(a, b, c []byte) [][]byte { return [][]byte{a, b, c} } }},
		"the wrong way round":           {false, func(l *lineage) { l.show = func(a, b, _ []byte) [][]byte { return [][]byte{b, a} } }},
		"the issuing for the leaf":      {false, func(l *lineage) { l.show = func(_, b, _ []byte) [][]byte { return [][]byte{b} } }},
		"the root for the leaf":         {false, func(l *lineage) { l.show = func(_, _, c []byte) [][]byte { return [][]byte{c} } }},
		"the leaf twice":                {true, func(l *lineage) { l.show = func(a, b, _ []byte) [][]byte { return [][]byte{a, a, b} } }},
		"six certificates":              {false, func(l *lineage) { l.show = func(a, b, _ []byte) [][]byte { return [][]byte{a, b, b, b, b, b} } }},
		"nothing is shown":              {false, func(l *lineage) { l.show = func(_, _, _ []byte) [][]byte { return nil } }},
		"another root of the same name": {false, func(l *lineage) {
			l.trust = func([]byte) *svid.Trust { return believing(t, "shop.internal", foreignRoot(t), nil) }
		}},
		"nobody is believed": {false, func(l *lineage) { l.trust = func([]byte) *svid.Trust { return nil } }},
		"the root is of another domain": {false, func(l *lineage) {
			l.trust = func(root []byte) *svid.Trust { return believing(t, "other.internal", root, nil) }
		}},
		"denied by name":                  {false, deny(func(v svid.Verified) bool { return v.ID == orders })},
		"denied by serial":                {false, deny(func(v svid.Verified) bool { return v.Issuer()+"."+v.Serial() == "69737375696e67.abc" })},
		"denied with its issuer":          {false, deny(func(v svid.Verified) bool { return slices.Contains(v.Issuers, "69737375696e67") })},
		"denied with its root":            {false, deny(func(v svid.Verified) bool { return slices.Contains(v.Issuers, "726f6f74") })},
		"another is denied":               {true, deny(func(v svid.Verified) bool { return v.ID != orders || v.Serial() != "abc" })},
		"revoked, and not valid any more": {false, and(deny(func(svid.Verified) bool { return false }), at(2*time.Hour))},
	}
}

func unconstrained(l *lineage) {
	for _, c := range []*x509.Certificate{l.root, l.issuing} {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = nil, false
	}
}

// ours has our own authority sign, and show its whole chain.
func ours(l *lineage) {
	l.leafBy, l.show = nil, nil
	l.issuing.Subject.CommonName, l.issuing.SubjectKeyId = "issuing", []byte("issuing")
}

// TestCrossSigned: while one of two authorities above the same key is denied, the
// other still vouches.
func TestCrossSigned(t *testing.T) {
	keys := keysOf(t, 4)
	l := newLineage(t, keys)
	second := *l.root
	second.Subject.CommonName, second.SubjectKeyId = "second", []byte("second")
	secondDER := sign(t, &second, &second, keys[3], keys[3])
	cross := sign(t, l.issuing, &second, l.issuingKey, keys[3])
	l.show = func(leaf, issuing, _ []byte) [][]byte { return [][]byte{leaf, issuing, cross} }
	l.trust = func(root []byte) *svid.Trust {
		trust, err := svid.NewTrust(1, "shop.internal", append(asPEM(root), asPEM(secondDER)...), nil)
		ok(t, err)
		return trust
	}
	for name, row := range map[string]struct {
		denied []string
		root   string
	}{
		"one root":   {[]string{"726f6f74"}, "7365636f6e64"},
		"the other":  {[]string{"7365636f6e64"}, "726f6f74"},
		"both":       {[]string{"726f6f74", "7365636f6e64"}, ""},
		"the issuer": {[]string{"69737375696e67"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l.denied = func(v svid.Verified) error {
				if slices.ContainsFunc(v.Issuers, func(id string) bool { return slices.Contains(row.denied, id) }) {
					return errors.New("denied")
				}
				return nil
			}
			m := l.make(t)
			if got, err := m.check.Verify(m.chain); got.Root != row.root || (err == nil) != (row.root != "") {
				t.Errorf("chains to %q, %v; want %q", got.Root, err, row.root)
			}
		})
	}
}

// TestTrust: versions only go forward, our own certificate must still count, and a
// pinned source believes what its origin does.
func TestTrust(t *testing.T) {
	a, b := authority(t), authority(t)
	trust := func(version uint64, roots ...[]byte) *svid.Trust {
		t.Helper()
		tr, err := svid.NewTrust(version, "shop.internal", slices.Concat(roots...), nil)
		ok(t, err)
		return tr
	}
	src := svid.NewSource()
	first := snapshot(t, a, orders)
	src.Set(first)
	pinned := src.Pinned(first)
	for _, step := range []struct {
		name  string
		trust *svid.Trust
		ok    bool
		epoch uint64
	}{
		{"old and new", trust(3, a.BundlePEM(), b.BundlePEM()), true, 2},
		{"the same again", trust(3, a.BundlePEM(), b.BundlePEM()), true, 2},
		{"the same number, other roots", trust(3, a.BundlePEM()), false, 2},
		{"an older one", trust(2, a.BundlePEM()), false, 2},
		{"one without a number", trust(0, a.BundlePEM()), false, 2},
		{"without our own root", trust(4, b.BundlePEM()), false, 2},
		{"none", nil, false, 2},
	} {
		if err := src.SetTrust(step.trust); (err == nil) != step.ok {
			t.Errorf("%s: %v, want taken %v", step.name, err, step.ok)
		}
		if src.Epoch() != step.epoch || pinned.Epoch() != step.epoch || pinned.Trust() != src.Trust() {
			t.Errorf("%s: epoch %d, want %d", step.name, src.Epoch(), step.epoch)
		}
	}
	src.Set(snapshot(t, b, orders)) // its trust has no number: what is in force stays
	if src.Trust().Version() != 3 || src.Epoch() != 2 {
		t.Errorf("a certificate replaced the trust")
	}
	ok(t, src.SetTrust(trust(4, b.BundlePEM())))
	if cur, err := pinned.Current(); err != nil || cur.Fingerprint != first.Fingerprint || pinned.Trust().Version() != 4 {
		t.Errorf("pinned: %v", err)
	}
	changed := pinned.Changed()
	src.Touch()
	<-changed
	for name, try := range map[string]func() (*svid.Trust, error){
		"our own domain federated": func() (*svid.Trust, error) {
			return svid.NewTrust(1, "shop.internal", a.BundlePEM(), map[string][]byte{"shop.internal": b.BundlePEM()})
		},
		"a domain in capitals": func() (*svid.Trust, error) { return svid.NewTrust(1, "Shop.internal", a.BundlePEM(), nil) },
		"an empty partner": func() (*svid.Trust, error) {
			return svid.NewTrust(1, "shop.internal", a.BundlePEM(), map[string][]byte{"p.example": nil})
		},
		"a leaf for a root": func() (*svid.Trust, error) {
			return svid.NewTrust(1, "shop.internal", asPEM(first.Certificate.Certificate[0]), nil)
		},
		"seventeen roots": func() (*svid.Trust, error) {
			return svid.NewTrust(1, "shop.internal", slices.Repeat(a.BundlePEM(), 17), nil)
		},
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzTrust feeds bundles: what is taken holds roots, and no input panics.
func FuzzTrust(f *testing.F) {
	pemText := authority(f).BundlePEM()
	for _, s := range [][]byte{pemText, nil, []byte("-----BEGIN CERTIFICATE-----"), slices.Repeat(pemText, 2), append([]byte("x"), pemText...)} {
		f.Add("partner.example", s)
	}
	f.Fuzz(func(t *testing.T, domain string, bundle []byte) {
		trust, err := svid.NewTrust(1, "shop.internal", pemText, map[string][]byte{domain: bundle})
		if err == nil && (len(trust.Roots(domain)) == 0 || len(trust.Roots("shop.internal")) != 1) {
			t.Fatalf("%q: %d roots", domain, len(trust.Roots(domain)))
		}
	})
}
