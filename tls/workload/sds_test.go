package workload_test

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	envoytls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	xds "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart/tls/svid"
	ours "github.com/rampart-security/rampart/tls/workload"
)

const typeSecret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// envoy is one SDS stream, as an Envoy holds it.
type envoy struct {
	t      testing.TB
	stream secret.SecretDiscoveryService_StreamSecretsClient
	got    chan *xds.DiscoveryResponse
}

func openEnvoy(t testing.TB, addr string) *envoy {
	t.Helper()
	stream, err := secret.NewSecretDiscoveryServiceClient(connect(t, addr)).StreamSecrets(t.Context())
	must(t, err)
	e := &envoy{t: t, stream: stream, got: make(chan *xds.DiscoveryResponse, 16)}
	go func() {
		defer close(e.got)
		for {
			res, err := stream.Recv()
			if err != nil {
				return
			}
			e.got <- res
		}
	}()
	return e
}

func (e *envoy) ask(last *xds.DiscoveryResponse, refusal string, names ...string) {
	e.t.Helper()
	q := &xds.DiscoveryRequest{TypeUrl: typeSecret, ResourceNames: names, ResponseNonce: last.GetNonce(), VersionInfo: last.GetVersionInfo()}
	if refusal != "" {
		q.ErrorDetail = &rpc.Status{Code: int32(codes.InvalidArgument), Message: refusal}
	}
	must(e.t, e.stream.Send(q))
}

// next returns the next response and its secrets by name.
func (e *envoy) next() (*xds.DiscoveryResponse, map[string]*envoytls.Secret) {
	e.t.Helper()
	select {
	case res := <-e.got:
		if res == nil {
			e.t.Fatal("the stream has ended")
		}
		return res, secrets(e.t, res)
	case <-time.After(10 * time.Second):
		e.t.Fatal("no response")
	}
	return nil, nil
}

// quiet holds that nothing more comes, for as long as a loop would take to show.
func (e *envoy) quiet(why string) {
	e.t.Helper()
	select {
	case res := <-e.got:
		e.t.Fatalf("%s: got %v", why, res)
	case <-time.After(50 * time.Millisecond):
	}
}

func secrets(t testing.TB, res *xds.DiscoveryResponse) map[string]*envoytls.Secret {
	t.Helper()
	out := map[string]*envoytls.Secret{}
	for _, packed := range res.Resources {
		s := new(envoytls.Secret)
		must(t, packed.UnmarshalTo(s))
		must(t, s.Validate()) // by Envoy's own rules
		out[s.Name] = s
	}
	return out
}

// TestSDS: an Envoy gets what it names, again when it changes, and no more after
// it refused.
func TestSDS(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	src := shop.source(t, orders, far)
	e := openEnvoy(t, serve(t, src, nil))
	e.ask(nil, "", "default", "ROOTCA")
	first, got := e.next()
	cert := got["default"].GetTlsCertificate()
	pair, err := tls.X509KeyPair(cert.GetCertificateChain().GetInlineBytes(), cert.GetPrivateKey().GetInlineBytes())
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(got["ROOTCA"].GetValidationContext().GetTrustedCa().GetInlineBytes())
	chain, err := svid.ParseChain(pair.Certificate)
	must(t, err)
	between := x509.NewCertPool()
	between.AddCert(chain[1])
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		t.Errorf("the certificate is not by the roots: %v", err)
	}
	e.ask(first, "", "default", "ROOTCA")
	e.quiet("an acknowledgement")

	src.set(shop.issue(t, orders))
	second, got := e.next()
	if second.VersionInfo == first.VersionInfo || string(got["default"].GetTlsCertificate().GetCertificateChain().GetInlineBytes()) == string(cert.GetCertificateChain().GetInlineBytes()) {
		t.Error("a rotation brought nothing new")
	}
	e.ask(second, "cannot be loaded", "default", "ROOTCA")
	wait(t, "the refusal is on record", func() bool { return src.recorded(ours.ActionNACK) == 1 })
	e.quiet("after a refusal")
	e.ask(first, "", orders) // about what has been superseded
	e.quiet("an old nonce")
	e.ask(second, "", orders)
	third, got := e.next()
	if len(got) != 1 || got[orders].GetTlsCertificate() == nil {
		t.Errorf("by its SPIFFE ID: %v", slices.Collect(maps.Keys(got)))
	}
	if n := src.recorded(ours.ActionSecret); n != 3 {
		t.Errorf("%d deliveries of a key on record, want 3", n)
	}
	e.ask(third, "", stock)
	_, got = e.next()
	if len(got) != 0 || src.recorded(ours.ActionRefuse) != 1 {
		t.Errorf("somebody else's certificate: %v, %d refusals on record", got, src.recorded(ours.ActionRefuse))
	}
}

// TestSDSNames: which name is what, and that each root stays with its domain.
func TestSDSNames(t *testing.T) {
	shop, far := newHouse(t, domain), newHouse(t, partner)
	src := shop.source(t, orders, far)
	addr := serve(t, src, nil)
	fetch := func(names ...string) (map[string]*envoytls.Secret, error) {
		res, err := secret.NewSecretDiscoveryServiceClient(connect(t, addr)).FetchSecrets(t.Context(), &xds.DiscoveryRequest{ResourceNames: names})
		if err != nil {
			return nil, err
		}
		return secrets(t, res), nil
	}
	for name, tc := range map[string]struct {
		asked   string
		domains []string // of a validator; nil: a certificate or plain roots
		plain   bool
	}{
		"own roots":               {"ROOTCA", nil, true},
		"own domain":              {domain, nil, true},
		"own domain, as an ID":    {"spiffe://" + domain, nil, true},
		"the partner's":           {partner, []string{partner}, false},
		"the partner's, as an ID": {"spiffe://" + partner, []string{partner}, false},
		"everybody's":             {"ALL", []string{partner, domain}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fetch(tc.asked)
			must(t, err)
			v := got[tc.asked].GetValidationContext()
			if (len(v.GetTrustedCa().GetInlineBytes()) > 0) != tc.plain {
				t.Fatalf("plain roots: %v", v)
			}
			if diff := cmp.Diff(tc.domains, validated(t, v.GetCustomValidatorConfig())); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, asked := range map[string][]string{"too many": make([]string, 65), "too long": {strings.Repeat("a", 2049)}} {
		if _, err := fetch(asked...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s names: %v", name, err)
		}
	}
	if got, err := fetch(); err != nil || got["default"] == nil || got["ROOTCA"] == nil {
		t.Errorf("no name: %v, %v", got, err)
	}
	if got, err := fetch("", "spiffe://", "x"); err != nil || len(got) != 0 {
		t.Errorf("names of nothing: %v, %v", got, err)
	}
}

// validated lists the trust domains of a SPIFFE validator.
func validated(t testing.TB, c *core.TypedExtensionConfig) []string {
	t.Helper()
	if c == nil {
		return nil
	}
	config := new(envoytls.SPIFFECertValidatorConfig)
	must(t, c.GetTypedConfig().UnmarshalTo(config))
	var out []string
	for _, d := range config.TrustDomains {
		out = append(out, d.Name)
		if len(d.GetTrustBundle().GetInlineBytes()) == 0 {
			t.Errorf("no roots of %s", d.Name)
		}
	}
	return out
}

// TestSDSStranger: who may not have the certificate does not get it here either.
func TestSDSStranger(t *testing.T) {
	src := newHouse(t, domain).source(t, orders)
	addr := serve(t, src, func(o *ours.Options) { o.Allow = func(uid uint32) bool { return uid != uint32(os.Geteuid()) } })
	_, err := secret.NewSecretDiscoveryServiceClient(connect(t, addr)).FetchSecrets(t.Context(), &xds.DiscoveryRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger gets %v", err)
	}
}
