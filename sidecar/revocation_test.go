package sidecar

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
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

// TestStreamCut: an answer that is still coming ends with the login that it is
// for, and no other does.
func TestStreamCut(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	tok, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("first"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	rt, addr, err := edge.Now().Service("shop")
	must(t, err)
	req, err := http.NewRequest("GET", "https://"+addr+"/orders/o1", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+tok)
	res, err := rt.RoundTrip(req)
	must(t, err)
	defer res.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("the answer begins with %q, %v", first, err)
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, res.Body); ended <- err }()
	link := h.of["shop"].opt.Link
	for _, who := range []string{"user:bob", "user:ann"} {
		epoch := link.State().Epoch
		h.Revoke("sub", who)
		h.Until("the revocation arrives", func() bool { return link.State().Epoch > epoch })
		select {
		case err := <-ended:
			if who != "user:ann" || err == nil {
				t.Errorf("after the revocation of %s: %v", who, err)
			}
		case <-time.After(map[string]time.Duration{"user:bob": 50 * time.Millisecond, "user:ann": 5 * time.Second}[who]):
			if who == "user:ann" {
				t.Error("the stream goes on")
			}
		}
	}
}
