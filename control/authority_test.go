package control_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/postgres"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

func (h *house) caStatus() wire.CAStatus {
	h.t.Helper()
	var st wire.CAStatus
	must(h.t, h.admin(http.MethodGet, wire.AdminCA, nil, &st))
	return st
}

func (h *house) step(to string) error {
	return h.admin(http.MethodPost, wire.AdminCA, wire.CAStep{To: to}, nil)
}

// says sends a heartbeat of an identity that goes by a version of the trust.
func (h *house) says(path, plane string, version uint64) {
	h.t.Helper()
	hb := wire.Heartbeat{Plane: plane, Instance: "i1", Trust: wire.TrustState{Version: version, Until: h.now().Add(time.Hour)}}
	must(h.t, h.call(path, http.MethodPost, wire.PathHeartbeat, hb, nil))
}

// joined lets an identity in anew and returns its certificate.
func (h *house) joined(path string) *x509.Certificate {
	h.t.Helper()
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: path}, &tok)
	var err error
	h.roots, err = os.ReadFile(h.state.Path("ca.pem")) // as the runner hands it to a process that it starts
	must(h.t, err)
	id, _, err := h.join(tok.Token)
	must(h.t, err)
	chain, err := svid.ParseChain(id.Chain)
	must(h.t, err)
	return chain[0]
}

func (h *house) rootsOnDisk() int {
	h.t.Helper()
	b, err := os.ReadFile(h.state.Path("ca.pem"))
	must(h.t, err)
	return strings.Count(string(b), "BEGIN CERTIFICATE")
}

// refusedWith demands a 409 that names every one of these.
func refusedWith(t *testing.T, err error, names ...string) {
	t.Helper()
	if statusOf(err) != http.StatusConflict {
		t.Fatalf("got %v, want 409", err)
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the refusal does not name %q: %v", name, err)
		}
	}
}

// TestRotation leads the root through its steps with a plane that follows, one
// that does not at first, and a certificate that holds the old root back.
func TestRotation(t *testing.T) {
	h := open(t, "")
	before := h.joined("service/orders")
	h.says("service/payments", "sidecar/payments", 1)
	must(t, h.step("prepare"))
	if h.rootsOnDisk() != 1 || h.caStatus().Version != 1 {
		t.Error("peers heard of a root that is prepared only")
	}
	refusedWith(t, h.step("activate"), "follows on step publish")
	h.restart() // a crash between two steps
	must(t, h.step("publish"))
	st := h.caStatus()
	if h.rootsOnDisk() != 2 || st.Version != 2 || st.Step != "publish" {
		t.Fatalf("published as %+v with %d roots on disk", st, h.rootsOnDisk())
	}
	refusedWith(t, h.step("activate"), "sidecar/payments has not acknowledged")
	h.says("service/payments", "sidecar/payments", 2)
	must(t, h.step("activate"))
	h.wantEvent("ca.activate", audit.Allowed, "mtls.required", "")
	young := h.joined("service/orders")
	if old, now := before.Issuer.String(), young.Issuer.String(); old == now {
		t.Error("the old root still signs")
	}
	if _, err := h.resolve(wire.TypeSession, "x"); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("a plane with a certificate of the old root: %v, want to be served", err)
	}
	refusedWith(t, h.step("retire"), h.sys.ServiceID("orders"), before.SerialNumber.Text(16))
	h.pass(time.Hour + time.Minute)
	must(t, h.step("retire"))
	if st := h.caStatus(); h.rootsOnDisk() != 1 || st.Step != "" || len(st.Roots) != 1 || !st.Roots[0].Signs {
		t.Errorf("retired as %+v with %d roots on disk", st, h.rootsOnDisk())
	}
	refusedWith(t, h.step("rollback"), "does not come back")
}

func (h *house) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// TestRotationByForce: a reason is needed and on record, who breaks is named,
// and what the old root signed is void at once.
func TestRotationByForce(t *testing.T) {
	h := open(t, "")
	old := h.as("service/orders")
	must(t, h.step("prepare"))
	must(t, h.step("publish"))
	h.says("service/orders", "sidecar/orders", 1)
	force := func(to, reason string) (wire.CAStatus, error) {
		var st wire.CAStatus
		err := h.admin(http.MethodPost, wire.AdminCA, wire.CAStep{To: to, Force: true, Reason: reason}, &st)
		return st, err
	}
	if _, err := force("activate", " "); statusOf(err) != http.StatusBadRequest {
		t.Errorf("forced without a reason: %v", err)
	}
	st, err := force("activate", "stolen disk")
	must(t, err)
	if len(st.Broken) != 1 || !strings.Contains(st.Broken[0], "sidecar/orders") {
		t.Errorf("who breaks: %q", st.Broken)
	}
	st, err = force("retire", "stolen disk")
	must(t, err)
	if len(st.Broken) == 0 || !strings.Contains(strings.Join(st.Broken, "\n"), h.sys.ServiceID("orders")) {
		t.Errorf("who breaks: %q", st.Broken)
	}
	e := h.events("ca.retire")
	if len(e) != 1 || e[0].Detail["reason"] != "stolen disk" {
		t.Errorf("on record: %+v", e)
	}
	if err := call(t, old, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{}, nil); statusOf(err) == http.StatusOK || statusOf(err) == http.StatusBadRequest {
		t.Errorf("a certificate of the retired root is served: %v", err)
	}
	h.joined("service/orders")
}

func TestRollback(t *testing.T) {
	h := open(t, "")
	root := h.caStatus().Roots[0].KeyID
	for _, to := range []string{"prepare", "publish", "activate"} {
		must(t, h.step(to))
	}
	young := h.joined("service/orders")
	must(t, h.step("rollback"))
	if st := h.caStatus(); st.Step != "publish" || !st.Roots[0].Signs || st.Roots[0].KeyID != root {
		t.Fatalf("rolled back to %+v", st)
	}
	refusedWith(t, h.step("rollback"), young.SerialNumber.Text(16))
	h.pass(time.Hour + time.Minute)
	must(t, h.step("rollback"))
	if st := h.caStatus(); st.Step != "" || len(st.Roots) != 1 || st.Roots[0].KeyID != root {
		t.Errorf("rolled back to %+v", st)
	}
}

// TestRevokedCertificates: one certificate, and all by one issuer; who was voided
// is refused renewal and joins anew.
func TestRevokedCertificates(t *testing.T) {
	h := open(t, "")
	renew := func(c *http.Client) error {
		_, csr, err := svid.NewKeyAndCSR()
		must(t, err)
		return call(t, c, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{CSR: csr}, nil)
	}
	orders, payments := h.as("service/orders"), h.as("service/payments")
	must(t, renew(orders))
	var list []wire.Issued
	must(t, h.admin(http.MethodGet, wire.AdminIssuing, nil, &list))
	for _, c := range list {
		if c.ID == h.sys.ServiceID("orders") {
			h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedSerial, ID: c.Issuer + "." + c.Serial}, nil)
		}
	}
	if err := renew(orders); statusOf(err) == http.StatusOK {
		t.Error("a revoked certificate was renewed")
	}
	must(t, renew(payments))
	delete(h.tls, "service/orders")
	orders = h.as("service/orders")
	must(t, renew(orders))

	issuer := h.caStatus().Issuing.KeyID
	for name, v := range map[string]wire.Revocation{
		"a root":             {Kind: wire.RevokedIssuer, ID: h.caStatus().Roots[0].KeyID},
		"an unknown issuer":  {Kind: wire.RevokedIssuer, ID: "abcd"},
		"no hex":             {Kind: wire.RevokedIssuer, ID: "XY"},
		"a serial alone":     {Kind: wire.RevokedSerial, ID: "12"},
		"of another's issue": {Kind: wire.RevokedSerial, ID: "ab.12"},
	} {
		if err := h.admin(http.MethodPost, wire.AdminRevoke, v, nil); statusOf(err)/100 != 4 {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedSerial, ID: issuer + ".12"}, nil) // forged, and not on record
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: wire.RevokedIssuer, ID: issuer}, nil)
	for name, c := range map[string]*http.Client{"orders": orders, "payments": payments} {
		if err := renew(c); statusOf(err) == http.StatusOK {
			t.Errorf("%s: what a revoked issuer signed was renewed", name)
		}
	}
	if now := h.caStatus().Issuing.KeyID; now == issuer {
		t.Error("the revoked issuer signs on")
	}
	h.joined("service/orders")
	var crl wire.PEM
	must(t, h.admin(http.MethodGet, wire.AdminCRL, nil, &crl))
	if block, _ := pem.Decode([]byte(crl.PEM)); block == nil || block.Type != "X509 CRL" {
		t.Errorf("got %q", crl.PEM)
	}
}

// TestNothingIsDeliveredUnwritten: without a row there is no certificate, and
// without a record neither.
func TestNothingIsDeliveredUnwritten(t *testing.T) {
	h := open(t, "")
	c := h.as("service/orders")
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	count := func() int {
		t.Helper()
		n, err := h.db.CountIssued(t.Context(), h.now())
		must(t, err)
		return n
	}
	n := count()
	must(t, call(t, c, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{CSR: csr}, nil))
	if got := count(); got != n+1 {
		t.Errorf("%d certificates on record, want %d", got, n+1)
	}
	h.setDeaf(true)
	if err := call(t, c, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{CSR: csr}, nil); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("delivered without a record: %v", err)
	}
	h.setDeaf(false)
}

// TestTrustOnTheStream: planes get the whole trust at the start of the stream,
// and each change.
func TestTrustOnTheStream(t *testing.T) {
	h := open(t, "")
	link := h.link()
	until(t, "the trust arrives", func() bool { return link.State().Trust.Version == 1 })
	must(t, h.step("prepare"))
	must(t, h.step("publish"))
	until(t, "both roots arrive, and are acknowledged", func() bool {
		return strings.Count(string(link.State().Trust.Roots), "BEGIN") == 2 && len(h.caStatus().Waiting) == 0
	})
	must(t, h.step("activate"))
	until(t, "the plane hears that another root signs", func() bool { return link.State().Trust.Version == h.caStatus().Version })
}

// TestAuthorityOfReplicas: of two control planes that take the same step one
// wins, and the other issues from what the winner left.
func TestAuthorityOfReplicas(t *testing.T) {
	for name, openDB := range map[string]func(t *testing.T) func(context.Context) (store.Store, error){
		"SQLite": func(t *testing.T) func(context.Context) (store.Store, error) {
			path := filepath.Join(t.TempDir(), "control.db")
			return func(ctx context.Context) (store.Store, error) { return sqlite.Open(ctx, path) }
		},
		"PostgreSQL": func(t *testing.T) func(context.Context) (store.Store, error) {
			return onPostgres(pgtest.Start(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := replicas(t, openDB(t))
			for _, to := range []string{"prepare", "publish", "activate"} {
				var wg sync.WaitGroup
				errs := make([]error, 2)
				for i, h := range []*house{a, b} {
					wg.Go(func() { errs[i] = h.step(to) })
				}
				wg.Wait()
				if (errs[0] == nil) == (errs[1] == nil) {
					t.Fatalf("%s was taken by both or none: %v", to, errs)
				}
				for _, err := range errs {
					if err != nil {
						refusedWith(t, err, "rotation", to)
					}
				}
			}
			at := a.caStatus()
			leaf := b.joined("service/orders") // at once: b must not deliver what a has overtaken
			if want := at.Issuing.KeyID; hex.EncodeToString(leaf.AuthorityKeyId) != want {
				t.Errorf("the other replica issued by %x, want %s", leaf.AuthorityKeyId, want)
			}
			until(t, "both have the roots on disk", func() bool { return a.rootsOnDisk() == 2 && b.rootsOnDisk() == 2 })
		})
	}
}

// onPostgres opens PostgreSQL alone.
func onPostgres(db pgtest.Server) func(context.Context) (store.Store, error) {
	return func(ctx context.Context) (store.Store, error) {
		return postgres.Open(ctx, postgres.Options{
			URL: fmt.Sprintf("postgres://%s@localhost:%s/postgres", pgtest.User, db.Port), CA: db.CA,
			Password: func(context.Context) (secrets.Secret, error) { return secrets.New([]byte(pgtest.Password), 1), nil },
		})
	}
}

// TestUpstreamAuthority: an authority above ours signs the issuing certificate,
// and its roots are those that planes believe.
func TestUpstreamAuthority(t *testing.T) {
	above := newAbove(t)
	h := found(t, "trust: { upstream: { backend: corp, roots: roots.pem } }\nsecrets: { corp: { kind: vault, address: \"https://127.0.0.1:1\", login: { method: token, secret_file: /nonexistent } } }\n",
		"roots.pem", string(ca.PEM(above.cert)))
	h.upstream = above
	h.start()
	t.Cleanup(func() { h.stop() })
	h.joined("service/orders")
	st := h.caStatus()
	if st.Kind != "upstream" || st.Roots[0].KeyID != svid.KeyID(above.cert) || st.Roots[0].Key || !st.Roots[0].Signs {
		t.Errorf("status %+v", st)
	}
	refusedWith(t, h.step("prepare"), "trust.upstream.roots")
	refusedWith(t, h.admin(http.MethodGet, wire.AdminCASign, nil, nil), "upstream")
}

// above is an authority over ours.
type above struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAbove(t testing.TB) above {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := authorityFor("Corp Root")
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return above{cert, key}
}

func authorityFor(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign,
	}
}

// SignIntermediate implements ca.Signer.
func (a above) SignIntermediate(_ context.Context, csrDER []byte, life time.Duration) ([][]byte, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, err
	}
	c := authorityFor("Corp Issuing")
	c.MaxPathLen, c.MaxPathLenZero, c.NotAfter = 0, true, time.Now().Add(life)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, csr.PublicKey, a.key)
	return [][]byte{der, a.cert.Raw}, err
}

// BenchmarkIssue is all that a renewal costs but the connection: the certificate
// is signed, durable in the database and on record; BenchmarkBareCreateCertificate is the floor.
func BenchmarkIssue(b *testing.B) {
	h := open(b, "")
	_, csr, err := svid.NewKeyAndCSR()
	must(b, err)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := control.Issue(h.plane, csr); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "issued/s")
}

// BenchmarkBareCreateCertificate checks a request and signs, and nothing else.
func BenchmarkBareCreateCertificate(b *testing.B) {
	a, leaf := newAbove(b), authorityFor("leaf")
	leaf.IsCA, leaf.KeyUsage, leaf.MaxPathLen = false, x509.KeyUsageDigitalSignature, 0
	_, csr, err := svid.NewKeyAndCSR()
	must(b, err)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := x509.ParseCertificateRequest(csr)
			if err == nil {
				err = req.CheckSignature()
			}
			if err == nil {
				_, err = x509.CreateCertificate(rand.Reader, leaf, a.cert, req.PublicKey, a.key)
			}
			if err != nil {
				b.Error(err)
			}
		}
	})
}
