package sidecar

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/egress"
	"github.com/rampart-security/rampart/network/message"
	"github.com/rampart-security/rampart/tls/profile"
)

const good = `{"org":"acme","item":"mug","count":2}`

// TestInbound is the policy of a sidecar: whom it believes, and what they may.
func TestInbound(t *testing.T) {
	h := open(t, []string{"shop", "stock"})
	edge, stock := h.as("gateway/edge"), h.as("service/stock")
	session := h.session(edge)
	shop := h.System.ServiceID("shop")
	token := func(aud string) string {
		tok, err := edge.Now().Token(t.Context(), wire.TypeSession, session, aud)
		must(t, err)
		return "Bearer " + tok
	}
	ann := token(shop)
	principal := encoded(rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}})
	for _, tc := range []struct {
		name, service, method, path, body string
		header                            []string
		status                            int
		control                           string
	}{
		{"a token for me, from whom it was made for", "shop", "GET", "/orders/o1", "", []string{"Authorization", ann}, 200, ""},
		{"within one's organization", "shop", "POST", "/orders", good, []string{"Authorization", ann}, 200, ""},
		{"the gateway's word, where the flow takes it", "stock", "GET", "/mugs", "", []string{wire.HeaderPrinc, principal}, 200, ""},

		{"no token", "shop", "GET", "/orders/o1", "", nil, 401, "token.exchange"},
		{"a forged token", "shop", "GET", "/orders/o1", "", []string{"Authorization", ann[:len(ann)-4] + "AAAA"}, 401, "authn.jwt"},
		{"the gateway's word, where the flow takes none", "shop", "GET", "/orders/o1", "", []string{wire.HeaderPrinc, principal}, 401, "token.exchange"},
		{"nobody's word", "stock", "GET", "/mugs", "", []string{wire.HeaderPrinc, encoded(rampart.Principal{})}, 401, "token.exchange"},
		{"a token where the gateway's word is due", "stock", "GET", "/mugs", "", []string{"Authorization", ann}, 401, "token.exchange"},
		{"another organization", "shop", "POST", "/orders", strings.Replace(good, "acme", "globex", 1), []string{"Authorization", ann}, 403, "authz.service"},
		{"a verb that no role holds", "stock", "DELETE", "/mugs", "", []string{wire.HeaderPrinc, principal}, 403, "authz.service"},
		{"outside the document", "shop", "GET", "/admin", "", []string{"Authorization", ann}, 404, "edge.route"},
		{"two readings of a path", "shop", "GET", "/orders/..%2fadmin", "", []string{"Authorization", ann}, 400, "edge.route"},
		{"two readings of a path, no document", "stock", "GET", "/mugs/%2e%2e/admin", "", []string{wire.HeaderPrinc, principal}, 400, "edge.route"},
		{"in the place of a message", "stock", "POST", agent.MessagePath + "orders.sold", good, []string{wire.HeaderPrinc, principal}, 404, "edge.route"},
		{"in the place of a message, encoded", "stock", "POST", "/%5FRampart/messages/orders.sold", good, []string{wire.HeaderPrinc, principal}, 404, "edge.route"},
		{"the sidecar's own root", "stock", "GET", "/_rampart", "", []string{wire.HeaderPrinc, principal}, 404, "edge.route"},
		{"a field too many", "shop", "POST", "/orders", strings.Replace(good, "}", `,"price":1}`, 1), []string{"Authorization", ann}, 400, "validate.openapi"},
		{"two readings of a body", "shop", "POST", "/orders", strings.Replace(good, "}", `,"count":1}`, 1), []string{"Authorization", ann}, 400, "validate.json"},
		{"too large", "shop", "POST", "/orders", `"` + strings.Repeat("x", 2000) + `"`, []string{"Authorization", ann}, 413, "validate.max_body"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := h.call(edge, tc.service, tc.method, tc.path, tc.body, tc.header...)
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, tc.status, res.body)
			}
			e := h.newest(tc.service)
			if tc.control != "" && (e.Outcome != audit.Refused || e.Control != tc.control) {
				t.Errorf("on record: %s by %q; want refused by %q", e.Outcome, e.Control, tc.control)
			}
			if tc.control == "authz.service" && (e.Detail["decision"] == "" || len(e.Policies) == 0) {
				t.Errorf("nothing on record leads to the decision: %+v", e)
			}
		})
	}

	t.Run("a token for another service", func(t *testing.T) {
		s := h.of["shop"]
		claims, err := s.tokens.internal(s.opt.Link.State().Keys, h.System.ServiceID("stock"), strings.TrimPrefix(ann, "Bearer "), edge.Now().Fingerprint(), true)
		if e, ok := asError(err); !ok || e.Control != "token.audience" {
			t.Errorf("%+v, %v; want a refusal by token.audience", claims, err)
		}
	})
	t.Run("a token stolen by another plane", func(t *testing.T) {
		other := h.as("gateway/edge") // another certificate of the same identity
		if res := h.call(other, "shop", "GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != 401 || h.newest("shop").Control != "token.binding" {
			t.Errorf("%d by %q; want 401 by token.binding", res.StatusCode, h.newest("shop").Control)
		}
	})
	t.Run("a plane that no flow leads from", func(t *testing.T) {
		rt, addr, err := stock.Now().Service("shop")
		must(t, err)
		req, err := http.NewRequest("GET", "https://"+addr+"/orders/o1", nil)
		must(t, err)
		if res, err := rt.RoundTrip(req); err == nil {
			t.Errorf("answered %s", res.Status)
		}
		h.Until("the refusal is on record", func() bool { return h.newest("shop").Control == "mtls.peer_declared" })
	})
	t.Run("a revoked subject", func(t *testing.T) {
		epoch := h.of["shop"].opt.Link.State().Epoch
		h.Revoke("sub", "user:ann")
		h.Until("the revocation arrives", func() bool { return h.of["shop"].opt.Link.State().Epoch > epoch })
		if res := h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != 401 {
			t.Errorf("%d, want 401", res.StatusCode)
		}
	})
	t.Run("a connection that outlives its certificate", func(t *testing.T) {
		h.pass(2 * time.Hour)
		if res := h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != 401 || h.newest("shop").Control != "mtls.required" {
			t.Errorf("%d by %q; want 401 by mtls.required", res.StatusCode, h.newest("shop").Control)
		}
	})
}

func TestExpiredToken(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	tok, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	h.pass(5 * time.Minute)
	if res := h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", "Bearer "+tok); res.StatusCode != 401 {
		t.Errorf("%d, want 401", res.StatusCode)
	}
}

// TestService: what the service gets, and what it may say.
func TestService(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	tok, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(agent.HeaderIdentity, "leak")
		w.WriteHeader(201)
	})
	res := h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", "Bearer "+tok, agent.HeaderIdentity, "forged", agent.HeaderIdem, "k1", "Cookie", "a=b", "Tracestate", "x=1",
		"Remote-User", "root", "X-Http-Method-Override", "DELETE", "X-Original-Url", "/admin", "X-Kept", "1", "X-Request-Source", "web")
	if res.StatusCode != 201 || res.Header.Get(agent.HeaderIdentity) != "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	got := h.requests()[0].header
	id, err := h.of["shop"].identified(got.Get(agent.HeaderIdentity))
	if err != nil || id.Principal.Subject != "user:ann" || id.Caller != h.System.ServiceID("edge") || id.Flow != "4" {
		t.Errorf("the service is told %+v, %v", id, err)
	}
	for name, want := range map[string]string{"Cookie": "", "Tracestate": "", "Remote-User": "", "X-Http-Method-Override": "", "X-Original-Url": "",
		"X-Kept":           "", // stock reads it, this service does not
		"X-Request-Source": "web", agent.HeaderIdem: "k1"} {
		if v := got.Get(name); v != want {
			t.Errorf("the service got %s: %q, want %q", name, v, want)
		}
	}
	if info, err := os.Stat(h.State.Path("shop.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
}

// TestCheck is layer 3, over the socket: the subject is the one that was let
// in, and another organization's object is refused before any policy speaks.
func TestCheck(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	order := func(owner, tenant string) rampart.Resource {
		return rampart.Resource{Type: "order", ID: "o1", Tenant: tenant, Attrs: map[string]any{"owner": owner}}
	}
	for _, tc := range []struct {
		name     string
		identity string
		action   rampart.Action
		resource rampart.Resource
		allowed  bool
		status   int
	}{
		{"one's own", ann, "shop:read", order("user:ann", "acme"), true, 200},
		{"another's", ann, "shop:read", order("user:bob", "acme"), false, 200},
		{"one's own, of a foreign organization", ann, "shop:read", order("user:ann", "globex"), false, 200},
		{"a verb that no policy permits", ann, "shop:delete", order("user:ann", "acme"), false, 200},
		{"nobody", "", "shop:read", order("user:ann", "acme"), false, 401},
		{"a forged identity", ann[:len(ann)-4] + "AAAA", "shop:read", order("user:ann", "acme"), false, 401},
		{"an identity that this process did not sign", "v1." + encoded(agent.Identified{Principal: rampart.Principal{Subject: "user:ann"}, Expires: time.Now().Add(time.Hour)}) + ".AAAA", "shop:read", order("user:ann", "acme"), false, 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			allowed, status := h.check("shop", agent.CheckRequest{Identity: tc.identity, Action: tc.action, Resource: tc.resource})
			if allowed != tc.allowed || status != tc.status {
				t.Errorf("allowed %v with %d, want %v with %d", allowed, status, tc.allowed, tc.status)
			}
		})
	}
	h.pass(identityLife + time.Second)
	if allowed, status := h.check("shop", agent.CheckRequest{Identity: ann, Action: "shop:read", Resource: order("user:ann", "acme")}); allowed || status != 401 {
		t.Errorf("an old identity: allowed %v with %d", allowed, status)
	}
}

// TestForgedIdentity: a service in the wrong hands knows all that its sidecar
// tells it. It can check who asks with that, and cannot say who asks.
func TestForgedIdentity(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	res, err := h.of["shop"].sock.Get("http://sidecar" + agent.PathService)
	must(t, err)
	defer res.Body.Close()
	var info agent.ServiceInfo
	must(t, json.NewDecoder(res.Body).Decode(&info))

	text, signature := ann[:strings.LastIndexByte(ann, '.')], ann[strings.LastIndexByte(ann, '.')+1:]
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	must(t, err)
	if !ed25519.Verify(info.IdentityKey, []byte(text), raw) {
		t.Error("the service cannot check a genuine identity")
	}
	bob := "v1." + encoded(agent.Identified{Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:bob", Organizations: []string{"acme"}}, Flow: "4", Expires: time.Now().Add(time.Minute)})
	mac := hmac.New(sha256.New, info.IdentityKey)
	mac.Write([]byte(bob))
	own := ed25519.NewKeyFromSeed(info.IdentityKey)
	for name, forged := range map[string]string{
		"the key taken for one that signs": bob + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"the key taken for a seed":         bob + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(own, []byte(bob))),
		"another's signature":              bob + "." + signature,
	} {
		t.Run(name, func(t *testing.T) {
			order := rampart.Resource{Type: "order", ID: "o1", Tenant: "acme", Attrs: map[string]any{"owner": "user:bob"}}
			if allowed, status := h.check("shop", agent.CheckRequest{Identity: forged, Action: "shop:read", Resource: order}); allowed || status != 401 {
				t.Errorf("layer 3: allowed %v with %d, want 401", allowed, status)
			}
			if res := h.do(http.DefaultTransport, "POST", "http://"+h.of["shop"].out+"/sign/events/orders.sold", `{"buyer":"user:bob","count":2}`, agent.HeaderIdentity, forged); res.StatusCode != 401 {
				t.Errorf("a message for bob: %d, want 401", res.StatusCode)
			}
		})
	}
}

// processor plays the external party with a certificate for its name, and
// leaves its CA where the sidecar looks for it.
func (h *house) processor(handler http.HandlerFunc) {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(h.t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "processor"}, DNSNames: []string{"processor.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(h.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:18911")
	must(h.t, err)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	srv.StartTLS()
	h.t.Cleanup(srv.Close)
	file := filepath.Join(h.of["shop"].opt.StandIns, "processor.pem")
	must(h.t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

// TestOutbound is the policy of the way out.
func TestOutbound(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, `url: "https://processor.example"`, `url: "https://processor.example", stand_in: "127.0.0.1:18911"`)
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/processor", Value: []byte("sk_test_123")}, nil)
	h.processor(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Key", r.Header.Get("Authorization"))
		if r.Header.Get(agent.HeaderIdentity) != "" || r.Header.Get("Cookie") != "" || r.Header.Get("X-Http-Method-Override") != "" || r.Header.Get("X-Own") != "1" {
			w.WriteHeader(500)
		}
	})
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	mine := h.requests()[0].header.Get("Authorization")
	h.Until("stock is known", func() bool { _, _, err := h.of["shop"].opt.Link.Now().Service("stock"); return err == nil })
	out := "http://" + h.of["shop"].out
	for _, tc := range []struct {
		name, method, path string
		header             []string
		status             int
		control            string
	}{
		{"to a service, for whom one was called", "GET", "/out/stock/mugs", []string{"Authorization", mine}, 200, ""},
		{"to the processor, as declared", "POST", "/out/processor/v1/charges", []string{"Authorization", "Bearer mine", "Cookie", "a=b", agent.HeaderIdentity, ann, "X-Http-Method-Override", "DELETE", "X-Own", "1"}, 200, ""},
		{"to a service as oneself: no role, no right", "GET", "/out/stock/mugs", nil, 403, ""},
		{"to a service with a stranger's token", "GET", "/out/stock/mugs", []string{"Authorization", "Bearer x.y.z"}, 401, "token.exchange"},
		{"to nobody declared", "GET", "/out/evil.example/", nil, 403, "egress.allow"},
		{"to a service that exists, but not for us", "GET", "/out/mailer/", nil, 403, "egress.allow"},
		{"to an undeclared path", "POST", "/out/processor/v1/refunds", nil, 403, "egress.allow"},
		{"with an undeclared method", "GET", "/out/processor/v1/charges", nil, 403, "egress.allow"},
		{"with two readings", "POST", "/out/processor/v1/charges/..%2frefunds", nil, 400, "edge.route"},
		{"to another protocol", "POST", "/out/processor/v1/charges", []string{"Connection", "Upgrade", "Upgrade", "websocket"}, 400, "edge.route"},
		{"from a web page", "POST", "/out/processor/v1/charges", []string{"Origin", "https://evil.example"}, 403, ""},
		{"from a web page of the same name", "GET", "/out/stock/mugs", []string{"Sec-Fetch-Site", "same-origin"}, 403, ""},
		{"publishing where no flow leads", "POST", "/publish/events/orders.restocked", nil, 403, "egress.allow"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := h.do(http.DefaultTransport, tc.method, out+tc.path, "", tc.header...)
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, tc.status, res.body)
			}
			if e := h.newest("shop"); tc.control != "" && (e.Outcome != audit.Refused || e.Control != tc.control) {
				t.Errorf("on record: %s by %q; want refused by %q", e.Outcome, e.Control, tc.control)
			}
			if strings.Contains(tc.path, "/charges") && tc.status == 200 && res.Header.Get("X-Key") != "Bearer sk_test_123" {
				t.Errorf("the processor got %q", res.Header.Get("X-Key"))
			}
		})
	}
	t.Run("by a name that another's DNS answers for", func(t *testing.T) {
		req, err := http.NewRequest("GET", out+"/out/stock/mugs", nil)
		must(t, err)
		req.Host = "rebound.evil.example:80"
		res, err := http.DefaultTransport.RoundTrip(req)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != 403 {
			t.Errorf("status %d, want 403", res.StatusCode)
		}
	})
	t.Run("the service never had the key", func(t *testing.T) {
		got := h.requests()
		for _, r := range got {
			if strings.Contains(r.header.Get("Authorization"), "sk_test") {
				t.Error("the service got the processor's key")
			}
		}
	})
}

// TestSecrets: the socket gives a service what it must hold itself. What the
// sidecar injects for it stays in the sidecar, though the flow grants it.
func TestSecrets(t *testing.T) {
	h := open(t, []string{"shop", "stock"},
		"stores:\n", "stores:\n  ledger: { kind: postgres, url: \"postgres://shop@db.example:5432/shop\", password: \"secret://embedded/prod/ledger\", ca: ledger-ca.pem, holds: [order] }\n",
		"flows:\n", "flows:\n  - { id: 11, from: shop, to: ledger, carries: [order], db: { role: shop_rw, pool: 5 } }\n")
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/processor", Value: []byte("sk_test_123")}, nil)
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/ledger", Value: []byte("pg_test_123")}, nil)
	_, err := h.of["shop"].secrets.Get(t.Context(), "processor_key") // as a call to the processor does: it is in the cache
	must(t, err)
	for _, tc := range []struct {
		name, service, secret string
		status                int
		value                 string
	}{
		{"the password of a store of its own", "shop", "store:ledger", 200, "pg_test_123"},
		{"once more, from the cache", "shop", "store:ledger", 200, "pg_test_123"},
		{"the key that is injected for it", "shop", "processor_key", 403, ""},
		{"another's injected key", "stock", "processor_key", 403, ""},
		{"the password of another's store", "stock", "store:ledger", 403, ""},
		{"a store without one", "shop", "store:events", 403, ""},
		{"the injected key in disguise", "shop", "store:processor_key", 403, ""},
		{"nothing known", "shop", "x", 403, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(h.Events("sidecar_" + tc.service))
			res, err := h.of[tc.service].sock.Get("http://sidecar" + agent.PathSecret + tc.secret)
			must(t, err)
			defer res.Body.Close()
			var v agent.SecretValue
			json.NewDecoder(res.Body).Decode(&v)
			if res.StatusCode != tc.status || string(v.Value) != tc.value {
				t.Errorf("%d %q, want %d %q", res.StatusCode, v.Value, tc.status, tc.value)
			}
			want := audit.Refused
			if tc.status == 200 {
				want = audit.Allowed
			}
			if e := h.newest(tc.service); len(h.Events("sidecar_"+tc.service)) == before || e.Class != audit.ClassSecret || e.Outcome != want ||
				e.Control != "secret.acl" || e.Resource != "secret:"+tc.secret {
				t.Errorf("on record: %+v", e)
			}
		})
	}
}

// inside answers every name with an address of this machine.
type inside struct{}

func (inside) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// TestPrivateAddress: a declared name that leads inside is refused.
func TestPrivateAddress(t *testing.T) {
	h := open(t, []string{"shop"})
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/processor", Value: []byte("sk_test_123")}, nil)
	e := h.of["shop"].table.Load().external["processor"]
	var err error
	e.transport, err = egress.New(egress.Options{Host: "processor.example", Methods: e.flow.Egress.Methods, Paths: e.flow.Egress.Paths, Resolver: inside{},
		TLS: func(name string) (*tls.Config, error) { return profile.External(name, nil, tls.VersionTLS13), nil }})
	must(t, err)
	res := h.do(http.DefaultTransport, "POST", "http://"+h.of["shop"].out+"/out/processor/v1/charges", "")
	if e := h.newest("shop"); res.StatusCode != 403 || e.Control != "egress.private_ip" {
		t.Errorf("%d by %q; want 403 by egress.private_ip: %s", res.StatusCode, e.Control, res.body)
	}
}

// TestMessages follows messages through the real queue: what is as declared
// arrives, what is not ends in the dead letter, with the control on record.
func TestMessages(t *testing.T) {
	h := open(t, []string{"shop", "mailer", "stock"})
	h.queue(t.TempDir(), "127.0.0.1:0")
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	h.Until("the queue is known", func() bool { return h.of["shop"].opt.Link.State().Endpoints.Queues["events"] != "" })
	out := "http://" + h.of["shop"].out
	publish := func(body string, header ...string) {
		t.Helper()
		if res := h.do(http.DefaultTransport, "POST", out+"/publish/events/orders.sold", body, header...); res.StatusCode != 204 {
			t.Fatalf("publish: %d %s", res.StatusCode, res.body)
		}
	}
	delivered := func() (n int) {
		for _, r := range h.requests() {
			if strings.HasPrefix(r.path, agent.MessagePath) {
				n++
			}
		}
		return n
	}
	const mine = `{"buyer":"user:ann","count":2}`
	if res := h.do(http.DefaultTransport, "POST", out+"/publish/events/orders.sold", mine); res.StatusCode != 401 {
		t.Errorf("publish for nobody: %d", res.StatusCode)
	}

	signed := h.do(http.DefaultTransport, "POST", out+"/sign/events/orders.sold", mine, agent.HeaderIdentity, ann).body
	publish(signed, "Content-Type", joseType)
	h.Until("it is delivered", func() bool { return delivered() == 1 })
	publish(signed, "Content-Type", joseType) // an outbox that missed the answer

	tries := 0
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if tries++; tries == 1 {
			w.WriteHeader(500)
		}
	})
	publish(mine, agent.HeaderIdentity, ann)
	h.Until("it is delivered again after a failure", func() bool { return delivered() == 3 })
	last := h.requests()[len(h.requests())-1]
	if id, err := h.of["mailer"].identified(last.header.Get(agent.HeaderIdentity)); err != nil || id.Caller != h.System.ServiceID("shop") || id.Topic != "orders.sold" || last.body != mine {
		t.Errorf("the consumer got %q of %+v, %v", last.body, id, err)
	}

	// A delivery is recorded once the service has answered: the last record
	// must stand before refusals are counted.
	h.Until("both deliveries are on record", func() bool {
		consumed := 0
		for _, e := range h.Events("sidecar_mailer") {
			if e.Action == "consume orders.sold" && e.Outcome == audit.Allowed {
				consumed++
			}
		}
		return consumed == 2
	})
	for _, tc := range []struct {
		control string
		send    func()
	}{
		{"message.recipient_guard", func() { publish(`{"buyer":"user:bob","count":2}`, agent.HeaderIdentity, ann) }},
		{"message.schema", func() { publish(`{"buyer":"user:ann","count":200}`, agent.HeaderIdentity, ann) }},
		{"message.signature", func() { must(t, h.of["shop"].storeAgain("x.y.z")) }},
		{"message.signature", func() { // a producer that the flow does not accept, in the shop's name
			stranger := message.Signer{Source: h.of["stock"].opt.Link.Source()}
			raw, err := stranger.Sign("orders.sold", "user:ann", []byte(mine))
			must(t, err)
			must(t, h.of["shop"].storeAgain(string(raw)))
		}},
		{"message.replay", func() { // past the broker's memory of ids
			must(t, h.of["shop"].storeAgain(signed))
		}},
	} {
		before := len(h.Events("sidecar_mailer"))
		tc.send()
		h.Until("the refusal is on record", func() bool { return len(h.Events("sidecar_mailer")) > before })
		if e := h.newest("mailer"); e.Outcome != audit.Refused || e.Control != tc.control || e.Detail["dead_letter"] != "dead.orders.sold" {
			t.Errorf("on record: %s by %q into %q; want refused by %s", e.Outcome, e.Control, e.Detail["dead_letter"], tc.control)
		}
	}
	if n := delivered(); n != 3 {
		t.Errorf("%d deliveries, want 3: one, one that failed, and its repetition", n)
	}
}

// TestPublishSignedBefore: a sidecar stores what its own plane signed for the
// topic and nothing else, whoever hands it over.
func TestPublishSignedBefore(t *testing.T) {
	h := open(t, []string{"shop", "stock"})
	h.queue(t.TempDir(), "127.0.0.1:0")
	h.Until("the queue is known", func() bool { return h.of["shop"].opt.Link.State().Endpoints.Queues["events"] != "" })
	sign := func(service, topic string) string {
		s := message.Signer{Source: h.of[service].opt.Link.Source()}
		raw, err := s.Sign(topic, "", []byte(`{"buyer":"user:ann","count":2}`))
		must(t, err)
		return string(raw)
	}
	mine := sign("shop", "orders.sold")
	for _, tc := range []struct {
		name, raw string
		status    int
	}{
		{"its own", mine, 204},
		{"its own, for another topic", sign("shop", "orders.restocked"), 401},
		{"another plane's", sign("stock", "orders.sold"), 403},
		{"altered", "A" + mine, 401},
		{"none at all", "x.y.z", 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var res reply
			h.Until("the queue answers", func() bool {
				res = h.do(http.DefaultTransport, "POST", "http://"+h.of["shop"].out+"/publish/events/orders.sold", tc.raw, "Content-Type", joseType)
				return res.StatusCode != 503
			})
			if res.StatusCode != tc.status {
				t.Errorf("%d %s, want %d", res.StatusCode, res.body, tc.status)
			}
			if e := h.newest("shop"); tc.status != 204 && e.Control != "message.signature" {
				t.Errorf("on record: by %q", e.Control)
			}
		})
	}
}

// storeAgain has the broker store a copy, past its own memory of ids.
func (b *beside) storeAgain(raw string) error {
	js, err := b.queue("events")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = js.Publish(ctx, "orders.sold", []byte(raw))
	return err
}

// TestQueueRestart: the consumer finds the queue again, wherever it comes back.
func TestQueueRestart(t *testing.T) {
	h := open(t, []string{"shop", "mailer"})
	dir := t.TempDir()
	addr, stop := h.queue(dir, "127.0.0.1:0")
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	shop := h.of["shop"]
	h.Until("the queue is known", func() bool { return shop.opt.Link.State().Endpoints.Queues["events"] == addr })
	publish := func() int {
		return h.do(http.DefaultTransport, "POST", "http://"+shop.out+"/publish/events/orders.sold", `{"buyer":"user:ann","count":2}`, agent.HeaderIdentity, ann).StatusCode
	}
	count := func() int { return len(h.requests()) - 1 }
	if got := publish(); got != 204 {
		t.Fatalf("publish: %d", got)
	}
	h.Until("it is delivered", func() bool { return count() == 1 })
	stop()
	if got := publish(); got != 503 {
		t.Errorf("publish without a queue: %d, want 503", got)
	}
	next, _ := h.queue(dir, "127.0.0.1:0")
	h.Until("the queue is known again", func() bool { return shop.opt.Link.State().Endpoints.Queues["events"] == next })
	h.Until("publishing works again", func() bool { return publish() == 204 })
	h.Until("it is delivered", func() bool { return count() >= 2 })
}

// TestQueueConnectionIsRenewed: before the certificates of a connection end
// another takes over, and no message is lost or comes late.
func TestQueueConnectionIsRenewed(t *testing.T) {
	h := open(t, []string{"shop", "mailer"})
	addr, _ := h.queue(t.TempDir(), "127.0.0.1:0")
	edge, shop := h.as("gateway/edge"), h.of["shop"]
	ann := h.identity(edge, h.session(edge))
	before := len(h.requests())
	h.Until("the queue is known", func() bool { return shop.opt.Link.State().Endpoints.Queues["events"] == addr })
	conn := func(service string) (c queueConn) {
		q := &h.of[service].queues
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.byName["events"]
	}
	publish := func(n int) {
		t.Helper()
		body := `{"buyer":"user:ann","count":` + strconv.Itoa(n) + `}`
		if got := h.do(http.DefaultTransport, "POST", "http://"+shop.out+"/publish/events/orders.sold", body, agent.HeaderIdentity, ann); got.StatusCode != 204 {
			t.Fatalf("message %d: %d %s", n, got.StatusCode, got.body)
		}
	}
	publish(1)
	h.Until("the consumer is connected", func() bool { return conn("mailer").Conn != nil })
	first := map[string]queueConn{"shop": conn("shop"), "mailer": conn("mailer")}
	mine, err := shop.opt.Link.Source().Current()
	must(t, err)
	if until := first["shop"].until; !until.Before(mine.NotAfter) || until.Before(time.Now()) {
		t.Errorf("another takes over at %v, and the certificate ends at %v", until, mine.NotAfter)
	}
	for service, c := range first { // as if that were now
		q := &h.of[service].queues
		q.mu.Lock()
		q.byName["events"] = queueConn{c.Conn, time.Now()}
		q.mu.Unlock()
	}
	for n := 2; n <= 10; n++ {
		publish(n)
	}
	for service, old := range first {
		h.Until("another takes over for "+service, func() bool { c := conn(service); return c.Conn != nil && c.Conn != old.Conn })
		if old.IsClosed() {
			t.Errorf("%s: what was under way was cut off", service)
		}
	}
	h.Until("all are delivered", func() bool { return len(h.requests())-before == 10 })
}

// TestReload: a changed file takes effect without a restart, and one with
// fewer subscriptions harms nobody.
func TestReload(t *testing.T) {
	h := open(t, []string{"mailer"})
	s := h.of["mailer"].Sidecar
	tab := *s.table.Load()
	if len(tab.consumes) != 1 {
		t.Fatalf("%d subscriptions", len(tab.consumes))
	}
	tab.consumes = nil
	s.table.Store(&tab)
	s.reloaded <- struct{}{}
	time.Sleep(700 * time.Millisecond) // two attempts of a follower that is still there
	if s.table.Load() != &tab {
		t.Error("the table was replaced")
	}
}

func TestHandles(t *testing.T) {
	now := time.Now()
	h := handles{now: func() time.Time { return now }}
	first := h.put(handle{kind: "a"})
	for range 2 * maxHandles {
		h.put(handle{})
	}
	if n := len(h.young) + len(h.old); n > maxHandles {
		t.Errorf("%d handles are kept", n)
	}
	now = now.Add(identityLife)
	if v, ok := h.get(first); !ok || v.kind != "a" {
		t.Error("a handle is gone before its time")
	}
	now = now.Add(time.Second)
	if _, ok := h.get(first); ok {
		t.Error("a handle outlives its time")
	}
	if next := h.put(handle{kind: "b"}); next == "" || len(h.young) != 1 {
		t.Errorf("after a generation %d young ones", len(h.young))
	}
	now = now.Add(3 * identityLife)
	if h.get(""); len(h.young)+len(h.old) != 0 {
		t.Error("expired credentials stay in memory")
	}
}
