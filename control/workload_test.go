package control_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

const far = "partner.example"

// trust reads whom planes are told to believe, at the beginning of a stream.
func (h *house) trust() wire.Trust {
	h.t.Helper()
	res, err := h.as("service/orders").Get(h.url(wire.PathWatch))
	must(h.t, err)
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var u wire.Update
		must(h.t, json.Unmarshal(lines.Bytes(), &u))
		if u.Trust != nil {
			return *u.Trust
		}
	}
	h.t.Fatal("the stream tells of no trust")
	return wire.Trust{}
}

// withWorkload is a house whose payments service has the workload API.
func withWorkload(t testing.TB, trust string, beside ...string) *house {
	t.Helper()
	h := found(t, "trust: "+trust+"\n", beside...)
	svc := h.sys.Services["payments"]
	svc.Workload = true
	h.sys.Services["payments"] = svc
	return h
}

func (h *house) run() *house {
	h.t.Helper()
	h.start()
	h.t.Cleanup(func() { h.stop() })
	return h
}

// TestJWTSVID: who gets which token, and that go-spiffe takes it by the bundle
// that the edge publishes.
func TestJWTSVID(t *testing.T) {
	h := withWorkload(t, "{ jwt: true, serve: true }").run()
	own := "spiffe://" + h.sys.Info.TrustDomain
	for name, tc := range map[string]struct {
		as       string
		audience []string
		status   int
	}{
		"for somebody outside":           {"service/payments", []string{"https://partner.example"}, 200},
		"for whom a flow leads to":       {"service/payments", []string{own + "/service/orders"}, 200},
		"for whom no flow leads to":      {"service/payments", []string{own + "/service/mail"}, 403},
		"for such a one in another case": {"service/payments", []string{strings.ToUpper(own) + "/service/mail"}, 403},
		"for all of us":                  {"service/payments", []string{own}, 403},
		"for nobody":                     {"service/payments", nil, 400},
		"for somebody without a name":    {"service/payments", []string{""}, 400},
		"for too many":                   {"service/payments", []string{"a", "b", "c", "d", "e"}, 400},
		"of a service without the API":   {"service/orders", []string{"https://partner.example"}, 403},
		"of the gateway":                 {"gateway/edge", []string{"https://partner.example"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			var out wire.JWTSVID
			err := h.call(tc.as, http.MethodPost, wire.PathJWTSVID, wire.JWTSVIDRequest{Audience: tc.audience}, &out)
			if statusOf(err) != tc.status {
				t.Fatalf("%v, want %d", err, tc.status)
			}
			if err != nil {
				return
			}
			got, err := jwtsvid.ParseAndValidate(out.Token, h.published(), tc.audience)
			must(t, err)
			if got.ID.String() != own+"/service/payments" || time.Until(got.Expiry) > jwt.SVIDLife {
				t.Errorf("the token is of %s until %s", got.ID, got.Expiry)
			}
		})
	}
	must(t, h.call("service/payments", http.MethodPost, wire.PathJWTSVID, wire.JWTSVIDRequest{Audience: []string{"https://partner.example"}}, nil))
	h.wantEvent("svid.jwt", audit.Allowed, "mtls.required", own+"/service/payments")
	h.setDeaf(true)
	if err := h.call("service/payments", http.MethodPost, wire.PathJWTSVID, wire.JWTSVIDRequest{Audience: []string{"x"}}, nil); statusOf(err) != 503 {
		t.Errorf("unrecorded: %v", err)
	}
}

// published fetches our bundle as another trust domain does, through the gateway.
func (h *house) published() *spiffebundle.Bundle {
	h.t.Helper()
	status, header, text := h.bundle()
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" {
		h.t.Fatalf("%d %s", status, header)
	}
	b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(h.sys.Info.TrustDomain), text)
	must(h.t, err)
	return b
}

func (h *house) bundle() (status int, header http.Header, body []byte) {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, h.url("/.well-known/spiffe/bundle"), nil)
	must(h.t, err)
	req.Header.Set(wire.HeaderClientIP, "192.0.2.1:4711")
	res, err := h.as("gateway/edge").Do(req)
	must(h.t, err)
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	must(h.t, err)
	return res.StatusCode, res.Header, body
}

// TestBundleEndpoint: what we publish is what our planes believe; a key is
// published long before it signs.
func TestBundleEndpoint(t *testing.T) {
	h := withWorkload(t, "{ jwt: true, serve: true }").run()
	before := h.published()
	if seq, ok := before.SequenceNumber(); !ok || seq != h.trust().Version {
		t.Errorf("sequence %d, want that of the trust, %d", seq, h.trust().Version)
	}
	if hint, _ := before.RefreshHint(); hint != 5*time.Minute || len(before.X509Authorities()) != 1 || len(before.JWTAuthorities()) != 1 {
		t.Errorf("published %v, %d, %d", hint, len(before.X509Authorities()), len(before.JWTAuthorities()))
	}
	must(t, h.plane.RotateKeys(t.Context()))
	after := h.published()
	seq, _ := after.SequenceNumber()
	old, _ := before.SequenceNumber()
	if len(after.JWTAuthorities()) != 2 || seq <= old {
		t.Errorf("after a rotation: %d keys, sequence %d after %d", len(after.JWTAuthorities()), seq, old)
	}
	kid := func() string {
		var out wire.JWTSVID
		must(t, h.call("service/payments", http.MethodPost, wire.PathJWTSVID, wire.JWTSVIDRequest{Audience: []string{"x"}}, &out))
		var head struct{ Kid string }
		part, _, _ := strings.Cut(out.Token, ".")
		must(t, json.Unmarshal(decoded(t, part), &head))
		return head.Kid
	}
	first := kid()
	if !before.HasJWTAuthority(first) {
		t.Error("a key signs that was published a moment ago")
	}
	h.pass(24 * time.Minute)
	if kid() != first {
		t.Error("the new key signs before five hints have passed")
	}
	h.pass(2 * time.Minute)
	if next := kid(); next == first || !after.HasJWTAuthority(next) {
		t.Error("the new key does not sign, or was not published")
	}
	quiet := withWorkload(t, "{ jwt: true }").run()
	if status, _, _ := quiet.bundle(); status != http.StatusNotFound {
		t.Errorf("a bundle that is not to be served: %d", status)
	}
}

func decoded(t testing.TB, part string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	must(t, err)
	return b
}

// neighbour is another trust domain with its bundle endpoint.
type neighbour struct {
	*ca.Authority
	t   testing.TB
	srv *httptest.Server

	mu     sync.Mutex
	bundle trustbundle.Bundle
	raw    []byte // instead of bundle
	status int
}

func (n *neighbour) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *neighbour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status != 0 {
		http.Redirect(w, r, "https://evil.example/", n.status)
		return
	}
	if n.raw != nil {
		w.Write(n.raw)
		return
	}
	text, err := n.bundle.Marshal(far)
	if err != nil {
		n.t.Error(err)
	}
	w.Write(text)
}

// newNeighbour serves its bundle with a certificate from issue.
func newNeighbour(t testing.TB, issue func(*ca.Authority, []byte) ([][]byte, time.Time, error)) *neighbour {
	t.Helper()
	a, err := ca.New(far, nil)
	must(t, err)
	n := &neighbour{Authority: a, t: t, bundle: trustbundle.Bundle{Roots: a.BundlePEM(), Sequence: 5, Hint: time.Hour}}
	key, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, _, err := issue(a, csr)
	must(t, err)
	n.srv = httptest.NewUnstartedServer(n)
	n.srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
	n.srv.StartTLS()
	t.Cleanup(n.srv.Close)
	return n
}

func (n *neighbour) port() string {
	_, port, _ := net.SplitHostPort(n.srv.Listener.Addr().String())
	return port
}

// web is an endpoint with a certificate for localhost, and the house that follows
// it.
func web(t testing.TB) (*neighbour, *house) {
	t.Helper()
	n := newNeighbour(t, func(a *ca.Authority, csr []byte) ([][]byte, time.Time, error) {
		return a.Issue(csr, "", ca.IssueOptions{DNS: []string{"localhost"}, ServerOnly: true})
	})
	h := withWorkload(t, fmt.Sprintf("{ jwt: true, federate: { %s: { endpoint: %q, ca: far.pem, max_age: 1h } } }", far, "https://localhost:"+n.port()+"/bundle"), "far.pem", string(n.BundlePEM()))
	return n, h
}

func (h *house) until(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestFederation: a partner's bundle reaches the planes, under the name that the
// file gives it; it is kept over a restart, and believed no longer than the file
// says.
func TestFederation(t *testing.T) {
	n, h := web(t)
	h.start()
	h.until("the partner is believed", func() bool { return len(h.trust().Federated[far]) > 0 })
	must(t, h.plane.FetchPartner(t.Context(), far)) // what was under way is done then
	first := h.trust()
	if string(first.Federated[far]) != string(n.BundlePEM()) || first.Sequence[far] != 5 || strings.Contains(string(first.Roots), string(first.Federated[far])) {
		t.Errorf("told %+v", first)
	}
	h.wantEvent("federation.bundle", audit.Allowed, "mtls.required", "")

	other, err := ca.New(far, nil)
	must(t, err)
	for _, tc := range []struct {
		name   string
		change func()
		ok     bool
	}{
		{"it goes back", func() { n.bundle.Sequence = 4 }, false},
		{"it is no bundle", func() { n.raw = []byte("{}") }, false},
		{"it is too long", func() { n.raw = make([]byte, trustbundle.MaxSize+1) }, false},
		{"it is elsewhere", func() { n.status = http.StatusFound }, false},
		{"it is away", func() { n.status = http.StatusServiceUnavailable }, false},
		{"it has another root", func() { n.raw, n.status, n.bundle.Roots, n.bundle.Sequence = nil, 0, other.BundlePEM(), 6 }, true},
	} {
		before := h.trust()
		n.set(tc.change)
		err := h.plane.FetchPartner(t.Context(), far)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		after := h.trust()
		if (after.Version > before.Version) != tc.ok || (string(after.Federated[far]) != string(before.Federated[far])) != tc.ok {
			t.Errorf("%s: version %d after %d", tc.name, after.Version, before.Version)
		}
	}

	n.set(func() { n.status = http.StatusServiceUnavailable })
	h.stop()
	h.start()
	if got := h.trust(); string(got.Federated[far]) != string(other.BundlePEM()) {
		t.Errorf("after a restart: %+v", got)
	}
	kept := h.trust()
	h.pass(61 * time.Minute)
	if h.plane.FetchPartner(t.Context(), far) == nil {
		t.Error("fetched from an endpoint that is away")
	}
	if got := h.trust(); got.Federated[far] != nil || got.JWT[far] != nil || got.Version <= kept.Version {
		t.Errorf("past its bound the partner is still believed: %+v", got)
	}
	h.wantEvent("federation.bundle", audit.Refused, "mtls.required", "")
	n.set(func() { n.status, n.bundle.Sequence = 0, 1 }) // began anew: what had lapsed does not bind
	must(t, h.plane.FetchPartner(t.Context(), far))
	n.set(func() { n.bundle.Roots, n.bundle.Sequence = nil, 2 }) // and takes everything back
	must(t, h.plane.FetchPartner(t.Context(), far))
	if got := h.trust(); got.Federated[far] != nil {
		t.Error("a partner that published no keys is still believed")
	}
	h.stop()
}

// TestFederationSPIFFE: the endpoint is who its own bundle says it is, from the
// file's on; after that by the newest there is.
func TestFederationSPIFFE(t *testing.T) {
	const endpoint = "spiffe://" + far + "/bundle"
	for name, tc := range map[string]struct {
		id string
		ok bool
	}{
		"the endpoint":           {endpoint, true},
		"another of the partner": {"spiffe://" + far + "/till", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNeighbour(t, func(a *ca.Authority, csr []byte) ([][]byte, time.Time, error) {
				return a.Issue(csr, tc.id, ca.IssueOptions{})
			})
			begin, err := trustbundle.Bundle{Roots: n.BundlePEM(), Sequence: 1}.Marshal(far)
			must(t, err)
			h := withWorkload(t, fmt.Sprintf("{ federate: { %s: { endpoint: %q, profile: https_spiffe, identity: %q, bundle: far.json } } }",
				far, n.srv.URL+"/bundle", endpoint), "far.json", string(begin)).run()
			if err := h.plane.FetchPartner(t.Context(), far); (err == nil) != tc.ok {
				t.Fatal(err)
			}
			if got := h.trust(); (len(got.Federated[far]) > 0) != tc.ok {
				t.Errorf("believed %+v", got)
			}
			if !tc.ok {
				return
			}
			other, err := ca.New(far, nil)
			must(t, err)
			n.set(func() { n.bundle.Roots, n.bundle.Sequence = other.BundlePEM(), 6 })
			must(t, h.plane.FetchPartner(t.Context(), far))
			if h.plane.FetchPartner(t.Context(), far) == nil {
				t.Error("the endpoint is believed by a bundle that was superseded")
			}
		})
	}
}

// TestFederationRefused: an endpoint under another authority than the file's is
// not believed, whatever it serves.
func TestFederationRefused(t *testing.T) {
	n, h := web(t)
	impostor, err := ca.New(far, nil)
	must(t, err)
	key, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, _, err := impostor.Issue(csr, "", ca.IssueOptions{DNS: []string{"localhost"}, ServerOnly: true})
	must(t, err)
	n.srv.TLS.Certificates[0] = tls.Certificate{Certificate: chain, PrivateKey: key}
	h.run()
	if h.plane.FetchPartner(t.Context(), far) == nil || len(h.trust().Federated) > 0 {
		t.Error("a bundle of an impostor is believed")
	}
}
