//go:build system

package system

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestSegments knocks at a sidecar and at the edge with other people's tools:
// who is no declared peer with a certificate of this system is refused, and the
// refusal is on record with the control that did it.
func TestSegments(t *testing.T) {
	t.Parallel()
	need(t, "curl", "openssl")
	r := start(t, variant(t))
	orders, edge := r.Sidecars["orders"], r.Edge
	gatewayCert, gatewayKey := r.join("gateway/gateway")
	strangerCert, strangerKey := r.join("service/notifications")
	otherCert, otherKey := otherCA(t)

	for name, tc := range map[string]struct {
		plane, control string
		code           string // HTTP status that curl saw; 000 is none
		args           []string
	}{
		"plain HTTP":                   {"sidecar/orders", "tls.min13", "400", []string{"http://" + orders + "/orders"}},
		"no client certificate":        {"sidecar/orders", "mtls.required", "000", []string{"https://" + orders + "/orders"}},
		"a certificate of another CA":  {"sidecar/orders", "mtls.required", "000", []string{"--cert", otherCert, "--key", otherKey, "https://" + orders + "/orders"}},
		"a peer without a flow":        {"sidecar/orders", "mtls.peer_declared", "000", []string{"--cert", strangerCert, "--key", strangerKey, "https://" + orders + "/orders"}},
		"a declared peer, but nobody":  {"sidecar/orders", "token.exchange", "401", []string{"--cert", gatewayCert, "--key", gatewayKey, "https://" + orders + "/orders"}},
		"plain HTTP at the edge":       {"gateway/gateway", "tls.min13", "400", []string{"http://" + edge + "/orders"}},
		"the edge, over TLS 1.3":       {"gateway/gateway", "authn.session", "401", []string{"https://" + edge + "/orders"}},
		"a gateway is no secret agent": {"control", "secret.acl", "403", []string{"--cert", gatewayCert, "--key", gatewayKey, "https://" + r.Control + wire.PathSecret + "processor_key"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			r.refuses(tc.plane, tc.control, func() {
				// The certificate of a sidecar names a SPIFFE ID, which curl does not know.
				args := append([]string{"--silent", "--insecure", "--noproxy", "*", "--max-time", "10", "--output", os.DevNull, "--write-out", "%{http_code}"}, tc.args...)
				out, code := command(t, "", "curl", args...)
				if out != tc.code || (code == 0) != (tc.code != "000") {
					t.Errorf("curl says %s with exit code %d, want %s", out, code, tc.code)
				}
			})
		})
	}
	for name, tc := range map[string]struct {
		plane, addr, version string
		args                 []string
	}{
		"TLS 1.2 at a sidecar": {"sidecar/orders", orders, "-tls1_2", []string{"-cert", gatewayCert, "-key", gatewayKey}},
		"TLS 1.2 at the edge":  {"gateway/gateway", edge, "-tls1_2", nil},
		"TLS 1.1 at the edge":  {"gateway/gateway", edge, "-tls1_1", []string{"-cipher", "ALL:@SECLEVEL=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			args := append([]string{"s_client", "-connect", tc.addr}, tc.args...)
			r.refuses(tc.plane, "tls.min13", func() {
				if out, _ := command(t, "", "openssl", append(args, tc.version)...); !strings.Contains(out, "alert protocol version") {
					t.Errorf("not refused for its version:\n%s", out)
				}
			})
			if out, _ := command(t, "", "openssl", append(args, "-tls1_3")...); !strings.Contains(out, "TLSv1.3, Cipher is TLS_") {
				t.Errorf("the same over TLS 1.3 does not work:\n%s", out)
			}
		})
	}
}

// in returns r for a subtest.
func (r *running) in(t *testing.T) *running {
	c := *r
	c.t = t
	return &c
}

// join has the administrator admit this test as one identity, and returns the
// files of its certificate and key.
func (r *running) join(identity string) (certFile, keyFile string) {
	r.t.Helper()
	var d net.Dialer
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", r.Admin) }}}
	defer admin.CloseIdleConnections()
	var token wire.JoinToken
	r.post(admin, "http://admin"+wire.AdminJoinToken, wire.JoinTokenRequest{Identity: identity}, &token)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: r.toSPIFFE()}}
	defer stranger.CloseIdleConnections()
	var id wire.Identity
	r.post(stranger, "https://"+r.Control+wire.PathJoin, wire.JoinRequest{Token: token.Token, CSR: csr}, &id)

	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	var chain []byte
	for _, c := range id.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	return writeFile(r.t, "svid.pem", chain), writeFile(r.t, "svid.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// toSPIFFE trusts whoever the system's roots vouch for: these certificates hold
// no host name to compare.
func (r *running) toSPIFFE() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		pool := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			pool.AddCert(c)
		}
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: r.roots, Intermediates: pool})
		return err
	}}
}

func (r *running) post(c *http.Client, url string, in, out any) {
	r.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := c.Post(url, "application/json", bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		r.t.Fatalf("%s: %v", url, err)
	}
}

// otherCA has openssl make a CA and a certificate that claims the gateway's
// identity.
func otherCA(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	newKey := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"}
	must(t, "", "openssl", append([]string{"req", "-x509", "-days", "2", "-subj", "/CN=Rampart CA", "-keyout", in("ca.key"), "-out", in("ca.pem")}, newKey...)...)
	must(t, "", "openssl", append([]string{"req", "-x509", "-days", "2", "-subj", "/", "-CA", in("ca.pem"), "-CAkey", in("ca.key"), "-keyout", in("key.pem"), "-out", in("cert.pem"),
		"-addext", "subjectAltName=URI:spiffe://pay.example/gateway/gateway", "-addext", "basicConstraints=critical,CA:FALSE",
		"-addext", "keyUsage=critical,digitalSignature", "-addext", "extendedKeyUsage=clientAuth,serverAuth"}, newKey...)...)
	return in("cert.pem"), in("key.pem")
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serial of the certificate that a sidecar shows.
func (r *running) serial(service string) string {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.Sidecars[service], r.toSPIFFE())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}
