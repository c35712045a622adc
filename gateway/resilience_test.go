package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/monitor/audit"
)

// shopFlow adds lines to the flow from the edge to the shop.
func shopFlow(lines string) []string {
	const flow = "    to: shop\n"
	return []string{flow, flow + lines}
}

// TestThousandAtOnce: of a thousand identical requests at once the service gets
// one. The others are told that it is under way, or get its very answer.
func TestThousandAtOnce(t *testing.T) {
	h := open(t)
	var booked atomic.Int64
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		n := booked.Add(1)
		time.Sleep(100 * time.Millisecond)
		w.Header().Set("Location", fmt.Sprint("/orders/o", n))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":"o%d"}`, n)
	})
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	const want = `201 /orders/o1 {"id":"o1"}`
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for range 1000 {
		wg.Go(func() {
			order := func() answer {
				return h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k")
			}
			res := order()
			for res.StatusCode == http.StatusServiceUnavailable { // more at once than there are places: come back
				time.Sleep(10 * time.Millisecond)
				res = order()
			}
			text := fmt.Sprint(res.StatusCode)
			if res.StatusCode == http.StatusCreated {
				text += " " + res.Header.Get("Location") + " " + res.body
			}
			mu.Lock()
			defer mu.Unlock()
			got[text]++
		})
	}
	wg.Wait()
	if booked.Load() != 1 || got[want] == 0 || got[want]+got["409"] != 1000 {
		t.Errorf("booked %d times; answers %v", booked.Load(), got)
	}
	t.Logf("answers %v", got)
	if res := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k"); res.StatusCode != 201 || res.body != `{"id":"o1"}` || res.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("afterwards: %d %s", res.StatusCode, res.body)
	}
}

// TestClientGone: a client that does not wait for its answer finds it later.
func TestClientGone(t *testing.T) {
	h := open(t)
	in, out := make(chan struct{}), make(chan struct{})
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		close(in)
		select {
		case <-out:
		case <-r.Context().Done():
			t.Error("the service was told to stop")
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "booked")
	})
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-in; leave(); close(out) }()
	req, err := http.NewRequestWithContext(ctx, "POST", "https://"+h.gw.Addr()+"/orders", strings.NewReader(good))
	must(t, err)
	for name, v := range map[string]string{"Authorization": ann, "Rampart-Nonce": freshNonce(), "Idempotency-Key": "k", "Content-Type": "application/json"} {
		req.Header.Set(name, v)
	}
	if _, err := h.newClient().Do(req); err == nil {
		t.Fatal("the client waited")
	}
	h.Until("the answer is kept", func() bool {
		res := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k")
		return res.StatusCode == 201 && res.body == "booked" && res.Header.Get("Idempotency-Replayed") == "true"
	})
	if h.served() != 1 {
		t.Errorf("the service was asked %d times", h.served())
	}
}

// TestSlowAndFailing: a service that does not answer in time is 504; one that
// fails is left alone, on record, and asked again after a while.
func TestSlowAndFailing(t *testing.T) {
	h := open(t, shopFlow("    upstream: { timeout: 300ms, breaker: { failures: 50, least: 5, open: 10s } }\n")...)
	ann := h.token("ann", "app")
	ask := func() answer { t.Helper(); return h.do("GET", "/orders/o1", "", "Authorization", ann) }
	release := make(chan struct{})
	h.serve(func(http.ResponseWriter, *http.Request) { <-release })
	for range 5 {
		if res := ask(); res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(res.body, "shop did not answer in time") {
			t.Fatalf("%d %s", res.StatusCode, res.body)
		}
	}
	close(release)
	h.serve(nil)
	asked := h.served()
	if res := ask(); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || h.served() != asked {
		t.Errorf("open: %d, asked %d times more", res.StatusCode, h.served()-asked)
	}
	if res := h.do("GET", "/stock/mugs", "", "Authorization", ann); res.StatusCode != 200 {
		t.Errorf("another service meanwhile: %d", res.StatusCode)
	}
	h.pass(10 * time.Second)
	if res := ask(); res.StatusCode != 200 {
		t.Errorf("after a while: %d %s", res.StatusCode, res.body)
	}
	for _, want := range []audit.Event{{Code: "open", Outcome: audit.Failed}, {Code: "closed", Outcome: audit.Allowed}} {
		h.Until("it is on record that the breaker is "+want.Code, func() bool {
			for _, e := range h.Events("gateway_edge") {
				if e.Action == "upstream.breaker" && e.Code == want.Code && e.Outcome == want.Outcome && e.Resource == "shop" {
					return true
				}
			}
			return false
		})
	}
}

// TestSlowKeeps: the key of a request that did not answer in time stays taken: it
// may still be at work.
func TestSlowKeeps(t *testing.T) {
	h := open(t, shopFlow("    upstream: { timeout: 300ms }\n")...)
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	h.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	order := func() int {
		return h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k").StatusCode
	}
	first, second := order(), order()
	if first != http.StatusGatewayTimeout || second != http.StatusConflict {
		t.Errorf("%d, then %d; want 504, then 409", first, second)
	}
}

// TestWithheldRunsOnce: an order whose answer is withheld was carried out. A retry
// with its key is told so, and the service is not asked again.
func TestWithheldRunsOnce(t *testing.T) {
	h := open(t, toShop, "validate: { max_body: 1KiB, response: strict }")
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "not what the document says")
	})
	asked := h.served()
	for _, want := range []int{http.StatusBadGateway, http.StatusConflict} {
		res := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k")
		if res.StatusCode != want || h.served() != asked+1 {
			t.Errorf("%s %s, want %d; the service was asked %d times", res.Status, res.body, want, h.served()-asked)
		}
	}
}
