package sidecar

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/profile"
)

// TestControlAway: both sides of a sidecar close at the bound of each flow.
func TestControlAway(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, "processor_key:", "card: { class: secret }\n  processor_key:", "to: shop\n    carries: [order]", "to: shop\n    carries: [order, card]")
	edge := h.as("gateway/edge")
	tok, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	in := func() int {
		return h.call(edge, "shop", "GET", "/orders/o1", "", "Authorization", "Bearer "+tok).StatusCode
	}
	out := func() int {
		return h.do(http.DefaultTransport, "GET", "http://"+h.of["shop"].out+"/out/stock/mugs", "", "Authorization", "Bearer "+tok).StatusCode
	}
	if i, o := in(), out(); i != 200 || o != 200 {
		t.Fatalf("before: in %d, out %d", i, o)
	}
	h.Stop()
	h.silence(6 * time.Second)
	if i, o := in(), out(); i != 503 || o != 200 {
		t.Errorf("six seconds later: in, with card data, %d; out, without, %d", i, o)
	}
	h.silence(2 * time.Minute)
	if o := out(); o != 503 || h.newest("shop").Control != "revocation.bound" {
		t.Errorf("two minutes later: out %d by %q", o, h.newest("shop").Control)
	}
}

// TestServiceRevoked: a service that was disabled is refused wherever it shows
// up, as the peer, as an actor of a token, and by its own sidecar.
func TestServiceRevoked(t *testing.T) {
	h := open(t, []string{"shop", "stock"})
	shop, edge := h.as("service/shop"), h.as("gateway/edge")
	ann, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	onward, err := shop.Now().Token(t.Context(), wire.TypeJWT, ann, h.System.ServiceID("stock"))
	must(t, err)
	mugs := func() int {
		return h.call(shop, "stock", "GET", "/mugs", "", "Authorization", "Bearer "+onward).StatusCode
	}
	if got := mugs(); got != 200 {
		t.Fatalf("before: %d", got)
	}
	stock := h.of["stock"].opt.Link
	before := stock.State().Epoch
	h.Revoke("svid", h.System.ServiceID("shop"))
	h.Until("the revocation arrives", func() bool {
		return stock.State().Epoch > before && h.of["shop"].opt.Link.Disabled() != nil
	})
	if got := mugs(); got != 403 || h.newest("stock").Control != "mtls.peer_declared" {
		t.Errorf("as a peer: %d by %q", got, h.newest("stock").Control)
	}
	var id wire.Identity
	if err := shop.Call(t.Context(), http.MethodPost, wire.PathRenew, wire.RenewRequest{}, &id); err == nil {
		t.Error("it was given a new certificate")
	}
	through := rampart.Principal{Subject: "user:ann", Actors: []string{h.System.ServiceID("stock"), h.System.ServiceID("shop")}}
	if !stock.State().PrincipalRevoked(through, time.Now().Add(-time.Second)) {
		t.Error("a token that came through it is good")
	}
	res := h.do(http.DefaultTransport, "GET", "http://"+h.of["shop"].out+"/out/stock/mugs", "", "Authorization", "Bearer "+ann)
	if res.StatusCode != 403 || h.newest("shop").Control != "mtls.peer_declared" {
		t.Errorf("on its way out: %d by %q", res.StatusCode, h.newest("shop").Control)
	}
}

// TestCalleeDisabled: what is under way to a service that was disabled ends, a
// caller sends it nothing more, and its own sidecar takes nothing.
func TestCalleeDisabled(t *testing.T) {
	h := open(t, []string{"shop", "stock"})
	edge, id := h.as("gateway/edge"), h.System.ServiceID("stock")
	ann, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	out := func() int {
		return h.do(http.DefaultTransport, "GET", "http://"+h.of["shop"].out+"/out/stock/mugs", "", "Authorization", "Bearer "+ann).StatusCode
	}
	direct := &http.Transport{TLSClientConfig: profile.MTLSClient(edge.Now().Pinned(), id), ForceAttemptHTTP2: true} // knows of no revocation
	t.Cleanup(direct.CloseIdleConnections)
	in := func() int {
		principal := encoded(wire.Vouched{Principal: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}}, Issued: time.Now()})
		return h.do(direct, "GET", "https://"+edge.State().Endpoints.Sidecars["stock"]+"/mugs", "", wire.HeaderPrinc, principal).StatusCode
	}
	h.Until("the sidecar is known", func() bool { return edge.State().Endpoints.Sidecars["stock"] != "" })
	if o, i := out(), in(); o != 200 || i != 200 {
		t.Fatalf("before: out %d, in %d", o, i)
	}
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	res, err := http.DefaultTransport.RoundTrip(streaming(t, "http://"+h.of["shop"].out+"/out/stock/mugs", ann))
	must(t, err)
	defer res.Body.Close()
	h.Revoke("svid", id)
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the answer under way came to a good end")
	}
	h.serve(nil)
	got := len(h.requests())
	if o := out(); o != 503 || h.newest("shop").Control != "mtls.peer_declared" {
		t.Errorf("the caller: %d by %q", o, h.newest("shop").Control)
	}
	h.Until("the service hears of it", func() bool { return h.of["stock"].opt.Link.Disabled() != nil })
	if i := in(); i != 403 || h.newest("stock").Control != "mtls.peer_declared" {
		t.Errorf("its own sidecar: %d by %q", i, h.newest("stock").Control)
	}
	if n := len(h.requests()) - got; n != 0 {
		t.Errorf("the service got %d requests", n)
	}
}

// streaming is a request with ann's token.
func streaming(t *testing.T, at, token string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// TestVouched: the gateway's word says what it rests on, so that a revocation of
// that is found here too, and the age of a proof is not taken for that of a login.
func TestVouched(t *testing.T) {
	h := open(t, []string{"stock"})
	edge, link := h.as("gateway/edge"), h.of["stock"].opt.Link
	ann := rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}, AuthTime: time.Now().Add(-time.Hour)}
	mugs := func(v wire.Vouched) int {
		v.Principal = ann
		return h.call(edge, "stock", "GET", "/mugs", "", wire.HeaderPrinc, encoded(v)).StatusCode
	}
	began := time.Now()
	if got := mugs(wire.Vouched{Issued: began, TokenID: "t1", KeyID: "k1"}); got != 200 {
		t.Fatalf("before: %d", got)
	}
	for kind, id := range map[string]string{"jti": "t1", "key": "k1", "sub": "user:ann"} {
		epoch := link.State().Epoch
		h.Revoke(kind, id)
		h.Until("the revocation arrives", func() bool { return link.State().Epoch > epoch })
	}
	now := time.Now()
	for name, tc := range map[string]struct {
		v    wire.Vouched
		want int
	}{
		"a login since":           {wire.Vouched{Issued: now, TokenID: "t2", KeyID: "k2"}, 200},
		"a login before":          {wire.Vouched{Issued: began}, 401},
		"a login of no date":      {wire.Vouched{}, 401},
		"the token":               {wire.Vouched{Issued: now, TokenID: "t1"}, 401},
		"a token beside the key":  {wire.Vouched{Issued: now, TokenID: "t2", KeyID: "k1"}, 401},
		"another token, no key":   {wire.Vouched{Issued: now, TokenID: "t2"}, 200},
		"names of another's kind": {wire.Vouched{Issued: now, TokenID: "k1", KeyID: "t1"}, 200},
	} {
		if got := mugs(tc.v); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// TestStreamCut: an answer that is still coming ends with the token or the login
// that it is for, and no other does.
func TestStreamCut(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("first"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	stream := func() (tokenID string, ended <-chan error) {
		tok, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
		must(t, err)
		return idOf(t, tok), h.stream(edge, "Authorization", "Bearer "+tok)
	}
	one, first := stream()
	_, second := stream()
	link := h.of["shop"].opt.Link
	for _, row := range []struct {
		kind, id string
		ends     <-chan error
		others   []<-chan error
	}{
		{"sub", "user:bob", nil, []<-chan error{first, second}},
		{"jti", one, first, []<-chan error{second}},
		{"sub", "user:ann", second, nil},
	} {
		epoch := link.State().Epoch
		h.Revoke(row.kind, row.id)
		h.Until("the revocation arrives", func() bool { return link.State().Epoch > epoch })
		if row.ends != nil {
			select {
			case err := <-row.ends:
				if err == nil {
					t.Errorf("after the revocation of %s %s the answer looks whole", row.kind, row.id)
				}
			case <-time.After(30 * time.Second):
				t.Errorf("after the revocation of %s %s the stream goes on", row.kind, row.id)
			}
		}
		time.Sleep(50 * time.Millisecond)
		for _, other := range row.others {
			select {
			case err := <-other:
				t.Errorf("after the revocation of %s %s another stream ended: %v", row.kind, row.id, err)
			default:
			}
		}
	}
}

// idOf reads the jti of a token.
func idOf(t *testing.T, token string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	must(t, err)
	var claims struct {
		ID string `json:"jti"`
	}
	must(t, json.Unmarshal(b, &claims))
	return claims.ID
}
