package control_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

func TestJoin(t *testing.T) {
	h := open(t, "")
	var tok wire.JoinToken
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "service/orders"}, &tok)
	if _, _, err := h.join(tok.Token); err != nil {
		t.Fatal(err)
	}
	h.wantEvent("svid.join", audit.Allowed, "mtls.required", h.sys.ServiceID("orders"))
	if _, _, err := h.join(tok.Token); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("second use: %v, want 401", err)
	}
	h.wantEvent("svid.join", audit.Refused, "mtls.required", "")
	h.mustAdmin(wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "service/orders"}, &tok)
	h.pass(10 * time.Minute)
	if _, _, err := h.join(tok.Token); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("after ten minutes: %v, want 401", err)
	}
	for _, id := range []string{"service/nobody", "service/edge", "control", "", "store/db"} {
		if err := h.admin(http.MethodPost, wire.AdminJoinToken, wire.JoinTokenRequest{Identity: id}, nil); statusOf(err) != http.StatusNotFound {
			t.Errorf("token for %q: %v, want 404", id, err)
		}
	}
}

func TestJoinIsBounded(t *testing.T) {
	h := open(t, "")
	limited := false
	for range 330 {
		_, _, err := h.join("rjt_guess")
		limited = limited || statusOf(err) == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("330 guesses in a row were all looked up")
	}
}

// TestStrangers: without an SVID of ours nothing but joining answers.
func TestStrangers(t *testing.T) {
	h := open(t, "")
	bare, err := profile.Bootstrap(h.roots, h.sys.ControlID())
	must(t, err)
	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: bare, ForceAttemptHTTP2: true}}
	for _, path := range []string{wire.PathRenew, wire.PathHeartbeat, wire.PathResolve, wire.PathDEK, wire.PathEdgeCert, wire.PathToken, "/login"} {
		if err := call(t, anonymous, http.MethodPost, h.url(path), struct{}{}, nil); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("POST %s without a certificate: %v, want 401", path, err)
		}
	}
	foreign, err := ca.New(h.sys.Info.TrustDomain, nil)
	must(t, err)
	for name, authority := range map[string]*ca.Authority{"another CA": foreign} {
		key, csr, err := svid.NewKeyAndCSR()
		must(t, err)
		chain, _, err := authority.Issue(csr, h.sys.ServiceID("orders"), ca.IssueOptions{})
		must(t, err)
		snap, err := svid.NewSnapshot(chain, key, authority.BundlePEM())
		must(t, err)
		snap.Trust, err = svid.NewTrust(0, h.sys.Info.TrustDomain, h.roots, nil)
		must(t, err)
		src := svid.NewSource()
		src.Set(snap)
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: profile.MTLSClient(src, h.sys.ControlID()), ForceAttemptHTTP2: true}}
		if err := call(t, c, http.MethodPost, h.url(wire.PathRenew), struct{}{}, nil); err == nil || statusOf(err) != 0 {
			t.Errorf("%s: %v, want no connection", name, err)
		}
	}
	h.wantEvent("handshake", audit.Refused, "mtls.required", "")
}

func TestRenewAndEdgeCertificate(t *testing.T) {
	h := open(t, "")
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	var id wire.Identity
	must(t, h.call("service/orders", http.MethodPost, wire.PathRenew, wire.RenewRequest{CSR: csr}, &id))
	if id.ID != h.sys.ServiceID("orders") || len(id.Chain) != 2 {
		t.Errorf("renewed as %s with %d certificates", id.ID, len(id.Chain))
	}
	must(t, h.call("gateway/edge", http.MethodPost, wire.PathEdgeCert, wire.RenewRequest{CSR: csr}, &id))
	leaf, err := x509.ParseCertificate(id.Chain[0])
	must(t, err)
	if err := leaf.VerifyHostname("localhost"); err != nil || len(leaf.URIs) != 0 {
		t.Errorf("edge certificate: %v, URIs %v", err, leaf.URIs)
	}
	if err := h.call("service/orders", http.MethodPost, wire.PathEdgeCert, wire.RenewRequest{CSR: csr}, &id); statusOf(err) != http.StatusForbidden {
		t.Errorf("a service asks for the edge's certificate: %v, want 403", err)
	}
	h.wantEvent("edge_cert.issue", audit.Refused, "mtls.peer_declared", h.sys.ServiceID("orders"))
}

// watcher follows the stream of one plane.
func (h *house) watch(as string) <-chan wire.Update {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url(wire.PathWatch), nil)
	must(h.t, err)
	res, err := h.as(as).Do(req)
	must(h.t, err)
	out := make(chan wire.Update, 1000)
	go func() {
		defer close(out)
		defer res.Body.Close()
		for d := json.NewDecoder(res.Body); ; {
			var u wire.Update
			if d.Decode(&u) != nil {
				return
			}
			out <- u
		}
	}()
	return out
}

// next returns the next update of a kind.
func next(t testing.TB, updates <-chan wire.Update, kind string) wire.Update {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				t.Fatalf("the stream ended before %q", kind)
			}
			if u.Kind == kind {
				return u
			}
		case <-limit:
			t.Fatalf("no %q came", kind)
		}
	}
}

func TestWatch(t *testing.T) {
	h := open(t, "")
	updates := h.watch("service/orders")
	if u := next(t, updates, "keys"); u.Keys.Issuer != issuer || len(u.Keys.Policy) == 0 {
		t.Errorf("issuer %s, policy keys %s", u.Keys.Issuer, u.Keys.Policy)
	}
	if u := next(t, updates, "policies"); len(u.Policies) == 0 || u.Shadow != nil {
		t.Errorf("%d bytes of policies, %d of a candidate", len(u.Policies), len(u.Shadow))
	}
	if u := next(t, updates, "config"); u.Config.Digest != h.sys.Bundle().Digest {
		t.Errorf("configuration %s, want %s", u.Config.Digest, h.sys.Bundle().Digest)
	}
	if u := next(t, updates, "endpoints"); len(u.Endpoints.Sidecars) != 0 {
		t.Errorf("endpoints %v before any heartbeat", u.Endpoints)
	}
	next(t, updates, "revoked")
	next(t, updates, "beat")

	beat := wire.Heartbeat{Plane: "sidecar/payments", Instance: "i", Listen: "127.0.0.1:7001", AuditSeq: 1, AuditHead: make([]byte, 32)}
	must(t, h.call("service/payments", http.MethodPost, wire.PathHeartbeat, beat, nil))
	if u := next(t, updates, "endpoints"); u.Endpoints.Sidecars["payments"] != "127.0.0.1:7001" {
		t.Errorf("endpoints %+v", u.Endpoints)
	}
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "sub", ID: "user:ann"}, nil)
	if u := next(t, updates, "revoked"); len(u.Revoked) != 1 || u.Revoked[0].ID != "user:ann" || u.Revoked[0].Seq == 0 {
		t.Errorf("revocation %+v", u.Revoked)
	}

	h.stop()
	h.start()
	again := h.watch("service/orders")
	if u := next(t, again, "endpoints"); u.Endpoints.Sidecars["payments"] != "127.0.0.1:7001" {
		t.Errorf("a restart forgot where planes listen: %+v", u.Endpoints)
	}
	if u := next(t, again, "revoked"); len(u.Revoked) != 1 {
		t.Errorf("a restart forgot revocations: %+v", u.Revoked)
	}
}

// TestWatchesAreBounded: streams are memory, and one plane needs one.
func TestWatchesAreBounded(t *testing.T) {
	h := open(t, "")
	for range 8 {
		next(t, h.watch("service/orders"), "config")
	}
	if err := h.call("service/orders", http.MethodGet, wire.PathWatch, nil, nil); statusOf(err) != http.StatusTooManyRequests {
		t.Errorf("the ninth stream: %v, want 429", err)
	}
	h.wantEvent("watch", audit.Refused, "limit.pool", h.sys.ServiceID("orders"))
	next(t, h.watch("service/payments"), "config")
}

func TestHeartbeat(t *testing.T) {
	h := open(t, "")
	beat := func(as, plane string, seq uint64, b byte) error {
		return h.call(as, http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: plane, AuditSeq: seq, AuditHead: bytes.Repeat([]byte{b}, 32)}, nil)
	}
	must(t, beat("service/orders", "sidecar/orders", 5, 5))
	must(t, beat("store/events", "queue/events", 1, 1))
	if err := beat("service/orders", "sidecar/payments", 9, 9); statusOf(err) != http.StatusForbidden {
		t.Errorf("speaks for another plane: %v, want 403", err)
	}
	if err := beat("service/orders", "sidecar/orders", 3, 3); statusOf(err) != http.StatusConflict {
		t.Errorf("the log went backwards: %v, want 409", err)
	}
	h.wantEvent("audit.head", audit.Refused, "audit.log", "sidecar/orders")
	heads, err := h.db.Heads(t.Context())
	must(t, err)
	if len(heads) != 2 || heads[1].Plane != "sidecar/orders" || heads[1].Seq != 5 {
		t.Errorf("heads are %+v", heads)
	}
	var st wire.Status
	must(t, h.admin(http.MethodGet, wire.AdminStatus, nil, &st))
	if st.System != "pay" || len(st.Planes) != 2 || st.Planes[0].Plane != "queue/events" {
		t.Errorf("status is %+v", st)
	}
}

// TestHeadsGrowAsFastAsLogsDo: a plane cannot claim records that nobody can
// have written in the time since its last word.
func TestHeadsGrowAsFastAsLogsDo(t *testing.T) {
	h := open(t, "")
	beat := func(seq uint64) int {
		t.Helper()
		hb := wire.Heartbeat{Plane: "sidecar/orders", AuditSeq: seq, AuditHead: bytes.Repeat([]byte{byte(seq)}, 32)}
		return statusOf(h.call("service/orders", http.MethodPost, wire.PathHeartbeat, hb, nil))
	}
	want := func(seq uint64, status int) {
		t.Helper()
		h.pass(time.Second / 2) // under the limit of heartbeats
		if got := beat(seq); got != status {
			t.Errorf("seq %d: %d, want %d", seq, got, status)
		}
	}
	want(1, 200)
	want(3_000_000, 409)
	h.wantEvent("audit.head", audit.Refused, "audit.log", "sidecar/orders")
	before := len(h.events("audit.head"))
	want(3_000_000, 409)
	if got := len(h.events("audit.head")); got != before {
		t.Errorf("the same claim is on record %d times", got-before+1)
	}
	h.pass(11 * time.Second)
	want(3_000_000, 200)
	want(1<<63, 400)

	h.stop()
	h.start()
	want(2_999_999, 409) // cut while the control plane was away
	want(9_000_000, 409)
}

// TestHeartbeatsAreBounded: one plane can neither fill the disk of the control
// plane nor have the others dial where it likes.
func TestHeartbeatsAreBounded(t *testing.T) {
	h := open(t, "")
	beat := func(seq uint64, listen string) error {
		return h.call("service/orders", http.MethodPost, wire.PathHeartbeat,
			wire.Heartbeat{Plane: "sidecar/orders", AuditSeq: seq, AuditHead: make([]byte, 32), Listen: listen}, nil)
	}
	stored := func() (seq uint64) {
		t.Helper()
		heads, err := h.db.Heads(t.Context())
		must(t, err)
		for _, head := range heads {
			if head.Plane == "sidecar/orders" {
				seq = head.Seq
			}
		}
		return seq
	}
	h.freeze()
	for seq := range uint64(3) {
		must(t, beat(seq+1, ""))
	}
	if got := stored(); got != 1 {
		t.Errorf("head %d is stored, want 1: one write a second", got)
	}
	must(t, beat(4, ""))
	must(t, beat(1, "")) // backwards, but the fifth in a second
	h.pass(2 * time.Second)
	must(t, beat(5, ""))
	if got := stored(); got != 5 {
		t.Errorf("head %d is stored, want 5", got)
	}
	for listen, status := range map[string]int{
		"127.0.0.1:7001": 200, "[::1]:7001": 200, "10.0.0.7:7001": 403, "0.0.0.0:7001": 403, "169.254.169.254:80": 403, "[::ffff:10.0.0.7]:7001": 403,
		"127.0.0.1:0": 400, "localhost:7001": 400,
	} {
		h.pass(2 * time.Second)
		if got := statusOf(beat(5, listen)); got != status {
			t.Errorf("listens on %s: %d, want %d", listen, got, status)
		}
	}
	if got := len(h.events("heartbeat")); got != 6 {
		t.Errorf("%d refusals are on record, want 6", got)
	}
}

func (h *house) exchange(as, kind, value, aud string, header ...string) (wire.Exchanged, string) {
	h.t.Helper()
	form := url.Values{"grant_type": {wire.GrantExchange}, "audience": {h.sys.ServiceID(aud)}, "subject_token_type": {kind}, "subject_token": {value}}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url(wire.PathToken), strings.NewReader(form.Encode()))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.as(as).Do(req)
	must(h.t, err)
	defer res.Body.Close()
	var x struct {
		wire.Exchanged
		Error string `json:"error"`
	}
	must(h.t, json.NewDecoder(res.Body).Decode(&x))
	if (res.StatusCode == http.StatusOK) != (x.Error == "") {
		h.t.Errorf("status %d with error %q", res.StatusCode, x.Error)
	}
	return x.Exchanged, x.Error
}

func TestExchange(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	first, code := h.exchange("gateway/edge", wire.TypeSession, b.cookie, "payments")
	if code != "" {
		t.Fatal(code)
	}
	second, code := h.exchange("service/payments", wire.TypeJWT, first.AccessToken, "orders")
	if code != "" {
		t.Fatal(code)
	}
	updates := h.watch("service/orders")
	set, err := jwt.ParseKeySet(next(t, updates, "keys").Keys.Internal)
	must(t, err)
	v := jwt.NewInternal(jwt.InternalOptions{Keys: func() *jwt.KeySet { return set }, Issuer: issuer, Audience: h.sys.ServiceID("orders")})
	claims, err := v.VerifySubject(second.AccessToken)
	must(t, err)
	if want := []string{h.sys.ServiceID("payments"), h.sys.ServiceID("edge")}; !slices.Equal(claims.Actors(), want) || claims.Subject != "user:ann" {
		t.Errorf("token says %s through %v", claims.Subject, claims.Actors())
	}
	h.wantEvent("token.exchange", audit.Allowed, "token.exchange", "user:ann")
	if _, code := h.exchange("service/orders", wire.TypeJWT, second.AccessToken, "payments"); code != "invalid_target" {
		t.Errorf("undeclared flow: %q, want invalid_target", code)
	}
	if _, code := h.exchange("gateway/edge", wire.TypeSession, b.cookie, "payments", wire.HeaderClientIP, "192.0.2.1:1"); code == "" {
		t.Error("a client had the gateway's certificate exchange for it")
	}
	b.do(http.MethodDelete, "/session", nil)
	if _, code := h.exchange("service/payments", wire.TypeJWT, first.AccessToken, "orders"); code != "invalid_grant" {
		t.Errorf("after logout: %q, want invalid_grant", code)
	}
}

func TestAPIKey(t *testing.T) {
	h := open(t, "")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant"}, nil)
	var key wire.APIKey
	h.mustAdmin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop"}, &key)
	r, err := h.resolve(wire.TypeAPIKey, key.Key)
	must(t, err)
	if r.KeyID != key.ID || r.Declared != "merchant" || r.Plan != "standard" || r.Principal.Subject != "client:shop" || r.Principal.Kind != rampart.KindClient {
		t.Errorf("key stands for %+v", r)
	}
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: "key", ID: key.ID}, nil)
	if _, err := h.resolve(wire.TypeAPIKey, key.Key); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("after its end: %v, want 401", err)
	}
	if err := h.admin(http.MethodPost, wire.AdminAPIKeys, wire.APIKeyRequest{Client: "nobody"}, nil); statusOf(err) != http.StatusNotFound {
		t.Errorf("key of an unknown client: %v, want 404", err)
	}
}

func TestSecretsAndKeysFollowTheFlows(t *testing.T) {
	h := open(t, "")
	var v agent.SecretValue
	must(t, h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, &v))
	if !strings.HasPrefix(string(v.Value), "sk_test_") || len(v.Value) != len("sk_test_")+24 || v.Version != 1 {
		t.Errorf("secret is %d bytes, version %d", len(v.Value), v.Version)
	}
	h.wantEvent("secret.read", audit.Allowed, "secret.acl", h.sys.ServiceID("payments"))
	for _, as := range []string{"service/orders", "gateway/edge", "store/events"} {
		if err := h.call(as, http.MethodGet, wire.PathSecret+"key", nil, nil); statusOf(err) != http.StatusForbidden {
			t.Errorf("%s reads the key: %v, want 403", as, err)
		}
	}
	h.wantEvent("secret.read", audit.Refused, "secret.acl", h.sys.StoreID("events"))
	for _, item := range []string{"payment", "nothing", "store:db"} {
		if err := h.call("service/payments", http.MethodGet, wire.PathSecret+item, nil, nil); statusOf(err) != http.StatusForbidden {
			t.Errorf("payments reads %s: %v, want 403", item, err)
		}
	}
	h.mustAdmin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/key", Value: []byte("sk_new")}, nil)
	must(t, h.call("service/payments", http.MethodGet, wire.PathSecret+"key", nil, &v))
	if string(v.Value) != "sk_new" || v.Version != 2 {
		t.Errorf("after a change it is %q, version %d", v.Value, v.Version)
	}

	var one, same, other agent.DEK
	must(t, h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "acme"}, &one))
	must(t, h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "acme", Version: 1}, &same))
	must(t, h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "globex"}, &other))
	if len(one.Key) != 32 || one.Version != 1 || !bytes.Equal(one.Key, same.Key) || bytes.Equal(one.Key, other.Key) {
		t.Error("a tenant's key is its own, and stays")
	}
	for _, tc := range []struct {
		as, item string
		version  uint32
		status   int
	}{
		{"service/orders", "payment", 0, 403}, // it gets the item in requests
		{"service/mail", "payment", 0, 403},   // and this in messages
		{"gateway/edge", "payment", 0, 403},   // it carries the item, and must not read it
		{"service/payments", "order", 0, 403},
		{"service/payments", "payment", 2, 404},
	} {
		if err := h.call(tc.as, http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: tc.item, Tenant: "acme", Version: tc.version}, nil); statusOf(err) != tc.status {
			t.Errorf("%s asks for %s version %d: %v, want %d", tc.as, tc.item, tc.version, err, tc.status)
		}
	}
}

func TestSecretACLOff(t *testing.T) {
	h := open(t, "unsafe: { disable: [secret.acl] }\n")
	must(t, h.call("service/orders", http.MethodGet, wire.PathSecret+"key", nil, nil))
}

func TestConcurrentFirstDEK(t *testing.T) {
	h := open(t, "")
	h.as("service/payments")
	keys := make([]agent.DEK, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			if err := h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "acme"}, &keys[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !bytes.Equal(k.Key, keys[0].Key) {
			t.Fatal("two keys for one tenant")
		}
	}
}
