package sidecar

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xds "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/logger"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

// shopHolds are changes of the shop's file by which the shop holds its own
// certificate.
func shopHolds(trust string) []string {
	return []string{
		"policy: shop.cedar }", "policy: shop.cedar, workload: true }",
		"principals:", "trust: " + trust + "\nprincipals:",
	}
}

// source is the unmodified library of the standard beside a service.
func (h *house) source(service string) *workloadapi.X509Source {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	x, err := workloadapi.NewX509Source(ctx, h.at(service))
	must(h.t, err)
	h.t.Cleanup(func() { x.Close() })
	return x
}

// at finds the socket as a service does, by the standard's own variable.
func (h *house) at(service string) workloadapi.SourceOption {
	return workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.workload(service)), workloadapi.WithLogger(logger.Null))
}

func (h *house) svid(x *workloadapi.X509Source) *x509svid.SVID {
	h.t.Helper()
	s, err := x.GetX509SVID()
	must(h.t, err)
	return s
}

// TestWorkload: a service that knows SPIFFE and nothing of us gets its own
// certificate, is let in with it where a flow leads, and loses it with everything
// else when it is disabled.
func TestWorkload(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, shopHolds("{ jwt: true }")...)
	x := h.source("shop")
	own := h.svid(x)
	if own.ID.String() != h.System.ServiceID("shop") {
		t.Errorf("the service is %s", own.ID)
	}
	if link, err := h.of["shop"].opt.Link.Source().Current(); err != nil || link.Certificate.Leaf.Equal(own.Certificates[0]) || equalKeys(link.Certificate.Leaf.PublicKey, own.PrivateKey.Public()) {
		t.Error("the service has the sidecar's own certificate or key")
	}
	if info, err := os.Stat(h.workload("shop")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if e := h.newest("shop"); e.Action != "workload.svid" || e.Resource != own.ID.String() || !strings.HasPrefix(e.Peer, "uid ") {
		t.Errorf("on record: %+v", e)
	}

	edge := h.as("gateway/edge")
	h.Until("the stock is known", func() bool { return edge.State().Endpoints.Sidecars["stock"] != "" })
	stock := edge.State().Endpoints.Sidecars["stock"]
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(x, x, tlsconfig.AuthorizeID(spiffeid.RequireFromString(h.System.ServiceID("stock"))))}}
	defer client.CloseIdleConnections()
	if got := statusAt(t, client, "https://"+stock+"/items"); got != http.StatusUnauthorized {
		t.Errorf("with the certificate and without a token: %d", got)
	}
	if got := statusAt(t, client, "https://"+edge.State().Endpoints.Sidecars["shop"]+"/"); got != 0 {
		t.Errorf("a peer of another name answered %d", got)
	}

	h.openssl(own, x, stock)
	h.tokens()
	h.envoy(own)

	h.Revoke(wire.RevokedSerial, svid.KeyID(own.Certificates[1])+"."+own.Certificates[0].SerialNumber.Text(16))
	h.Until("a revoked certificate is replaced", func() bool { return !h.svid(x).Certificates[0].Equal(own.Certificates[0]) })

	h.Revoke("svid", h.System.ServiceID("shop"))
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+h.workload("shop")))
	must(t, err)
	defer c.Close()
	h.Until("a disabled service is refused", func() bool {
		_, err := c.FetchX509SVID(t.Context())
		return status.Code(err) == codes.PermissionDenied
	})
	if _, err := c.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "x"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token for a disabled service: %v", err)
	}
}

func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// statusAt is the status of a GET, 0 when there is no answer.
func statusAt(t testing.TB, c *http.Client, url string) int {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

// openssl holds that a client in another language is let in with the certificate,
// and not without it.
func (h *house) openssl(own *x509svid.SVID, x *workloadapi.X509Source, addr string) {
	h.t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		h.t.Log("openssl is not installed: test/install.sh brings it")
		return
	}
	dir := h.t.TempDir()
	chain, key, err := own.Marshal()
	must(h.t, err)
	bundle, err := x.GetX509BundleForTrustDomain(own.ID.TrustDomain())
	must(h.t, err)
	roots, err := bundle.Marshal()
	must(h.t, err)
	for name, text := range map[string][]byte{"chain.pem": chain, "key.pem": key, "roots.pem": roots} {
		must(h.t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	ask := func(with ...string) string {
		args := append([]string{"s_client", "-connect", addr, "-CAfile", "roots.pem", "-verify_return_error", "-tls1_3", "-quiet", "-ign_eof"}, with...)
		cmd := exec.CommandContext(h.t.Context(), "openssl", args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader("GET /items HTTP/1.1\r\nHost: stock\r\nConnection: close\r\n\r\n")
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := ask("-cert", "chain.pem", "-cert_chain", "chain.pem", "-key", "key.pem"); !strings.Contains(out, "HTTP/1.1 401") {
		h.t.Errorf("openssl with the certificate:\n%s", out)
	}
	if out := ask(); strings.Contains(out, "HTTP/1.1") || !strings.Contains(out, "alert") {
		h.t.Errorf("openssl without a certificate:\n%s", out)
	}
}

// tokens holds that the library gets and validates a JWT-SVID, and that flows
// decide for whom.
func (h *house) tokens() {
	h.t.Helper()
	j, err := workloadapi.NewJWTSource(h.t.Context(), h.at("shop"))
	must(h.t, err)
	defer j.Close()
	got, err := j.FetchJWTSVID(h.t.Context(), jwtsvid.Params{Audience: h.System.ServiceID("stock")})
	must(h.t, err)
	if _, err := jwtsvid.ParseAndValidate(got.Marshal(), j, []string{h.System.ServiceID("stock")}); err != nil {
		h.t.Errorf("by the bundle: %v", err)
	}
	c, err := workloadapi.New(h.t.Context(), workloadapi.WithAddr("unix://"+h.workload("shop")))
	must(h.t, err)
	defer c.Close()
	if _, err := c.ValidateJWTSVID(h.t.Context(), got.Marshal(), h.System.ServiceID("stock")); err != nil {
		h.t.Errorf("by the API: %v", err)
	}
	if _, err := c.ValidateJWTSVID(h.t.Context(), got.Marshal(), h.System.ServiceID("shop")); status.Code(err) != codes.InvalidArgument {
		h.t.Errorf("for another: %v", err)
	}
	if _, err := j.FetchJWTSVID(h.t.Context(), jwtsvid.Params{Audience: h.System.ServiceID("mailer")}); status.Code(err) != codes.PermissionDenied {
		h.t.Errorf("for whom no flow leads to: %v", err)
	}
}

// envoy holds that the same socket answers Envoy, with the same certificate.
func (h *house) envoy(own *x509svid.SVID) {
	h.t.Helper()
	conn, err := grpc.NewClient("unix://"+h.workload("shop"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(h.t, err)
	defer conn.Close()
	res, err := secret.NewSecretDiscoveryServiceClient(conn).FetchSecrets(h.t.Context(), &xds.DiscoveryRequest{ResourceNames: []string{own.ID.String(), "ROOTCA"}})
	must(h.t, err)
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificates[0].Raw})
	if len(res.Resources) != 2 || !contains(res, leaf) {
		h.t.Errorf("an Envoy gets %d secrets without the certificate", len(res.Resources))
	}
}

func contains(res *xds.DiscoveryResponse, leaf []byte) bool {
	for _, r := range res.Resources {
		if strings.Contains(string(r.Value), string(leaf)) {
			return true
		}
	}
	return false
}

// TestWorkloadPush: what the control plane learns of another trust domain reaches
// the service's library, and a new key is told of long before it signs. How long
// it took is a figure.
func TestWorkloadPush(t *testing.T) {
	far, err := ca.New("partner.example", nil)
	must(t, err)
	text, err := trustbundle.Bundle{Roots: far.BundlePEM(), Sequence: 1}.Marshal("partner.example")
	must(t, err)
	key, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, _, err := far.Issue(csr, "spiffe://partner.example/bundle", ca.IssueOptions{})
	must(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(text) }))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	file := controltest.File(t, shopHolds(`{ jwt: true, federate: { partner.example: { endpoint: "`+srv.URL+`", profile: https_spiffe, identity: "spiffe://partner.example/bundle", bundle: far.json } } }`)...)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "far.json"), text, 0o600))

	h := openFile(t, file, []string{"shop"})
	x := h.source("shop")
	partner := spiffeid.RequireTrustDomainFromString("partner.example")
	h.Until("the partner is known", func() bool {
		b, err := x.GetX509BundleForTrustDomain(partner)
		return err == nil && len(b.X509Authorities()) == 1
	})
	theirs, err := x.GetX509BundleForTrustDomain(partner)
	must(t, err)
	ours, err := x.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(h.System.Info.TrustDomain))
	must(t, err)
	root, err := x509.ParseCertificate(theirs.X509Authorities()[0].Raw)
	must(t, err)
	if ours.HasX509Authority(root) {
		t.Error("the partner's root vouches for us")
	}
	j, err := workloadapi.NewJWTSource(t.Context(), h.at("shop"))
	must(t, err)
	defer j.Close()
	keys := func() int {
		b, err := j.GetJWTBundleForTrustDomain(spiffeid.RequireTrustDomainFromString(h.System.Info.TrustDomain))
		if err != nil {
			return 0
		}
		return len(b.JWTAuthorities())
	}
	before, asked := keys(), time.Now()
	h.Admin(wire.AdminSigning+wire.SubRotate, struct{}{}, nil)
	h.Until("the next key is known", func() bool { return keys() == before+1 })
	t.Logf("from the rotation of the keys to the library: %v", time.Since(asked))
}

// TestWorkloadOff: without workload there is no socket, and without a socket a
// service that asks for it does not start by half.
func TestWorkloadOff(t *testing.T) {
	h := open(t, []string{"shop"})
	if _, err := os.Stat(h.workload("shop")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a socket: %v", err)
	}
	s := &Sidecar{}
	if err := s.serveWorkload(t.Context()); err == nil {
		t.Error("served without a path")
	}
}
