package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
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
// fails is left alone, on record, and asked again after a while. One caller's waiting
// alone is no reason to.
func TestSlowAndFailing(t *testing.T) {
	h := open(t, shopFlow("    upstream: { timeout: 300ms, breaker: { failures: 50, least: 4, open: 10s } }\n")...)
	ann := h.token("ann", "app")
	askAs := func(who string) answer { t.Helper(); return h.do("GET", "/orders/o1", "", "Authorization", who) }
	ask := func() answer { t.Helper(); return askAs(ann) }
	release := make(chan struct{})
	h.serve(func(http.ResponseWriter, *http.Request) { <-release })
	for _, who := range []string{ann, ann, ann, ann, h.token("busy", "app"), h.token("gone", "app"), h.token("vic", "app")} {
		if res := askAs(who); res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(res.body, "shop did not answer in time") {
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
	if list := h.gw.health().Services; len(list) != 1 || list[0].Name != "shop" || list[0].Open.IsZero() || list[0].AtLimit {
		t.Errorf("what heartbeats say of services: %+v", list)
	}
	h.pass(10 * time.Second)
	if res := ask(); res.StatusCode != 200 {
		t.Errorf("after a while: %d %s", res.StatusCode, res.body)
	}
	if list := h.gw.health().Services; len(list) != 0 {
		t.Errorf("all is well, and heartbeats say %+v", list)
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
// with its key gets the refusal again, and the service is not asked again.
func TestWithheldRunsOnce(t *testing.T) {
	h := open(t, toShop, "validate: { max_body: 1KiB, response: strict }")
	ann := h.token("ann", "app")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	for name, service := range map[string]http.HandlerFunc{
		"not as declared": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "not what the document says")
		},
		"too many fields": func(w http.ResponseWriter, _ *http.Request) {
			for range 200 {
				w.Header().Add("X-Many", "1")
			}
		},
	} {
		h.serve(service)
		asked := h.served()
		for i := range 2 {
			res := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", name[:3])
			if res.StatusCode != http.StatusBadGateway || (res.Header.Get("Idempotency-Replayed") != "") != (i == 1) || h.served() != asked+1 || res.Header.Get("Strict-Transport-Security") == "" {
				t.Errorf("%s: %s %s %v; the service was asked %d times", name, res.Status, res.body, res.Header, h.served()-asked)
			}
		}
	}
}

// TestDiesOfIt: an order whose service dies of it may have been booked. A retry of it
// is told that nobody knows, unless the file says that the service knows the key
// again; one that reached nobody, or was refused on its way, may simply come again. No
// client learns what planes say to each other, and no service can say it.
func TestDiesOfIt(t *testing.T) {
	for name, tc := range map[string]struct {
		file    string
		service http.HandlerFunc
		want    [2]int
		asked   int
	}{
		"it dies":          {"", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, [2]int{502, 409}, 1},
		"it knows the key": {", repeat: true", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, [2]int{503, 503}, 2},
		"half of an answer": {"", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "boo")
		}, [2]int{502, 409}, 1},
		"it lies": {"", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Rampart-Outcome", "not-sent")
			w.WriteHeader(http.StatusInternalServerError)
		}, [2]int{500, 500}, 1},
		"it is busy": {"", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, [2]int{503, 503}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, "header: Idempotency-Key }", "header: Idempotency-Key"+tc.file+" }")
			ann := h.token("ann", "app")
			h.serve(tc.service)
			asked := h.served()
			for _, want := range tc.want {
				res := h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k")
				if res.StatusCode != want || res.Header.Get("Rampart-Outcome") != "" {
					t.Errorf("%s %s %v, want %d", res.Status, res.body, res.Header, want)
				}
				if unsure := tc.want[1] == 409; unsure && (res.Header.Get("Retry-After") != "" || !strings.Contains(res.body, "it is not known whether")) {
					t.Errorf("an answer of unknown outcome invites to a retry: %v %s", res.Header, res.body)
				}
			}
			if n := h.served() - asked; n != tc.asked {
				t.Errorf("the service was asked %d times, want %d", n, tc.asked)
			}
		})
	}
}

// TestReachesNobody: an order that reached nobody leaves its key free.
func TestReachesNobody(t *testing.T) {
	h := &house{House: controltest.Start(t, controltest.File(t)), t: t}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h.up = "http://" + l.Addr().String()
	h.sidecar("shop", h.up)
	h.edge("shop")
	ann := h.token("ann", "app")
	order := func() answer {
		return h.do("POST", "/orders", good, "Authorization", ann, "Rampart-Nonce", freshNonce(), "Idempotency-Key", "k")
	}
	must(t, l.Close())
	if res := order(); res.StatusCode != 503 {
		t.Fatalf("nobody there: %s", res.Status)
	}
	l, err = net.Listen("tcp", l.Addr().String())
	must(t, err)
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	if res := order(); res.StatusCode != 200 || res.Header.Get("Idempotency-Replayed") != "" || h.served() != 1 {
		t.Errorf("afterwards: %s %s, asked %d times", res.Status, res.body, h.served())
	}
}
