package httpguard

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

var alice = rampart.Principal{
	Kind: rampart.KindHuman, Subject: "user:alice", Roles: []string{"customer"},
	ACR: "aal2", AMR: []string{"pwd", "otp"}, AuthTime: time.Unix(1_700_000_000, 0).UTC(), Scope: []string{"orders:read"}, Actors: []string{"spiffe://x/gateway/gateway"},
}

func connect(t testing.TB) (*sdktest.Agent, *sdk.Service) {
	t.Helper()
	a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders"}}
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a, svc
}

func TestGuard(t *testing.T) {
	a, svc := connect(t)
	foreign, _ := connect(t)
	valid := agent.Identified{Principal: alice, Caller: "spiffe://x/gateway/gateway", Flow: "10", Trace: strings.Repeat("ab", 16), Expires: time.Now().Add(time.Minute)}
	with := func(change func(*agent.Identified)) []string {
		id := valid
		change(&id)
		return []string{a.Sign(id)}
	}
	good := a.Sign(valid)
	content, signature, _ := strings.Cut(strings.TrimPrefix(good, "v1."), ".")
	for name, tc := range map[string]struct {
		headers []string
		status  int
	}{
		"from the sidecar":                   {[]string{good}, 200},
		"straight to the port":               {nil, 401},
		"empty":                              {[]string{""}, 401},
		"twice":                              {[]string{good, good}, 401},
		"unsigned":                           {[]string{"v1." + content + "."}, 401},
		"no signature part":                  {[]string{"v1." + content}, 401},
		"another sidecar's":                  {[]string{foreign.Sign(valid)}, 401},
		"forged with what the service knows": {[]string{forged("v1."+content, svc.Info().IdentityKey)}, 401},
		"another version":                    {[]string{"v2." + content + "." + signature}, 401},
		"another content":                    {[]string{"v1." + base64.RawURLEncoding.EncodeToString([]byte(`{"principal":{"sub":"user:root"},"flow":"10"}`)) + "." + signature}, 401},
		"padded":                             {[]string{good + "="}, 401},
		"a loose last bit":                   {[]string{loosen(good)}, 401},
		"too long":                           {[]string{good + strings.Repeat("A", maxHeader)}, 401},
		"expired":                            {with(func(id *agent.Identified) { id.Expires = time.Now().Add(-time.Second) }), 401},
		"without expiry":                     {with(func(id *agent.Identified) { id.Expires = time.Time{} }), 401},
		"valid for a day":                    {with(func(id *agent.Identified) { id.Expires = time.Now().Add(24 * time.Hour) }), 401},
		"over no flow":                       {with(func(id *agent.Identified) { id.Flow = "" }), 401},
		"for nobody":                         {with(func(id *agent.Identified) { id.Principal = rampart.Principal{} }), 401},
		"over another flow":                  {with(func(id *agent.Identified) { id.Flow = "7" }), 200},
		"from a service acting as itself": {with(func(id *agent.Identified) {
			id.Principal = rampart.Principal{Kind: rampart.KindService, Subject: "spiffe://x/service/payments"}
		}), 200},
	} {
		t.Run(name, func(t *testing.T) {
			called := false
			h := New(svc).Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
			r := httptest.NewRequest("GET", "/", nil)
			r.Header[agent.HeaderIdentity] = tc.headers
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.status || called != (tc.status == 200) {
				t.Errorf("status %d, want %d; handler called: %v", w.Code, tc.status, called)
			}
			if tc.status == 401 && w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
}

// forged is what a service could make of the key that it is given, were that key
// one to sign with.
func forged(text string, key []byte) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// loosen flips a bit that lax base64 ignores: 64 bytes leave four of them.
func loosen(header string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, header[len(header)-1])
	return header[:len(header)-1] + string(alphabet[last|1])
}

func TestGuardTellsTheHandler(t *testing.T) {
	a, svc := connect(t)
	header := a.Identity(alice, "10")
	var (
		got   rampart.Principal
		trace string
		in    inbound.Inbound
	)
	h := New(svc).Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, trace, in = rampart.PrincipalFrom(r.Context()), rampart.TraceFrom(r.Context()), inbound.From(r.Context())
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(agent.HeaderIdentity, header)
	r.Header.Set("Authorization", "Bearer internal")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if diff := cmp.Diff(alice, got); diff != "" {
		t.Error(diff)
	}
	if want := strings.Repeat("ab", 16); trace != want {
		t.Errorf("trace %q", trace)
	}
	want := inbound.Inbound{Identity: header, Authorization: "Bearer internal", Caller: "spiffe://test.internal/gateway/gateway", Flow: "10"}
	if diff := cmp.Diff(want, in); diff != "" {
		t.Error(diff)
	}
}

// A message comes from the sidecar's own hand, with its topic in the identity: no
// caller's identity opens the paths of messages, and no delivery's another path.
func TestGuardKeepsMessagesApart(t *testing.T) {
	a, svc := connect(t)
	producer := agent.Identified{Principal: rampart.Principal{Kind: rampart.KindService, Subject: "spiffe://x/service/payments"}, Flow: "6", Expires: time.Now().Add(time.Minute)}
	sold := producer
	sold.Topic = "sold"
	for name, tc := range map[string]struct {
		id     agent.Identified
		path   string
		status int
	}{
		"a delivery":                          {sold, agent.MessagePath + "sold", 200},
		"of another topic":                    {sold, agent.MessagePath + "returned", 403},
		"elsewhere":                           {sold, "/orders", 403},
		"a request in the place of a message": {producer, agent.MessagePath + "sold", 403},
		"in another case":                     {producer, "/_Rampart/messages/sold", 403},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("POST", tc.path, nil)
			r.Header.Set(agent.HeaderIdentity, a.Sign(tc.id))
			w := httptest.NewRecorder()
			New(svc).Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
			if w.Code != tc.status {
				t.Errorf("status %d, want %d", w.Code, tc.status)
			}
		})
	}
}

// TestRefetchByWhoWasSlow: who judged by the old key, while others had learned
// the new one, is told so at once, and not refused for asking too soon.
func TestRefetchByWhoWasSlow(t *testing.T) {
	a, svc := connect(t)
	used := svc.Info()
	a.Rekey()
	if !svc.Refetch(t.Context(), used) || !svc.Refetch(t.Context(), used) {
		t.Error("there is a new key, and who used the old one is not told")
	}
	if svc.Refetch(t.Context(), svc.Info()) {
		t.Error("there is no newer key")
	}
}

// A sidecar that restarts signs with a new key. The guard learns it at the
// first request; forged requests cannot make it ask again and again.
func TestGuardFollowsARestart(t *testing.T) {
	a, svc := connect(t)
	h := New(svc).Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ask := func() int {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(agent.HeaderIdentity, a.Identity(alice, "10"))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	a.Rekey()
	if got := ask(); got != 200 {
		t.Errorf("after a restart: %d, want 200", got)
	}
	a.Rekey()
	if got := ask(); got != 401 {
		t.Errorf("a second new key within a second: %d, want 401", got)
	}
}

func FuzzParse(f *testing.F) {
	a, svc := connect(f)
	key := svc.Info().IdentityKey
	f.Add(a.Identity(alice, "10"))
	f.Add("v1..")
	f.Add("v1.e30.e30")
	now := time.Now()
	f.Fuzz(func(t *testing.T, header string) {
		id, err := parse(header, key, now)
		if err == nil && header != a.Sign(id) {
			t.Errorf("accepted %q, which is not what the sidecar signs", header)
		}
	})
}

func BenchmarkGuard(b *testing.B) {
	a, svc := connect(b)
	h := New(svc).Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(agent.HeaderIdentity, a.Identity(alice, "10"))
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
	if w.Code != 200 {
		b.Fatal(w.Code)
	}
}
