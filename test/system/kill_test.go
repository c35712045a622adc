//go:build system

package system

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestKill ends one process after the other with kill -9 while people pay.
// Clients do what clients of payments must: they keep their idempotency key
// until they have an answer. Afterwards every payment that was acknowledged is
// there once, on record, and its mail was sent. ROUNDS says how often all are
// killed.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds, err := strconv.Atoi(os.Getenv("ROUNDS"))
	if err != nil {
		rounds = 1
	}
	r := start(t, variant(t, "limit: { ip: 300/m, user: 60/m }", "limit: { ip: 60000/m, user: 60000/m }"))
	l := &load{r: r, stop: make(chan struct{})}
	users := map[string]string{"alice": "acme", "bob": "acme", "dave": "globex", "erin": "globex"}
	for user, org := range users {
		c := r.login(user)
		l.wg.Go(func() { l.pay(c, user, org) })
	}
	for round := range rounds {
		for _, name := range []string{"gateway/gateway", "sidecar/payments", "control", "payments", "queue/events", "sidecar/notifications", "notifications", "sidecar/orders", "orders"} {
			l.mustProgress(name)
			t.Logf("round %d: %-17s is back %v after kill -9", round+1, name, r.kill(name).Round(10*time.Millisecond))
		}
	}
	l.mustProgress("the end")
	r.login("carol") // the control plane too is back, which payments could do without
	close(l.stop)
	l.wg.Wait()
	if t.Failed() {
		return
	}
	t.Logf("%d payments acknowledged, %d attempts failed and were repeated", len(l.acknowledged), l.repeated)
	r.eachOnce(l.acknowledged)
	r.eachOnRecord(l.acknowledged)
	r.eachMailed(l.acknowledged)
	r.auditHolds()
	r.stop()
	r.auditHolds()
}

// kill ends a child of the runner at once and waits until the runner has said
// so and another one runs in its place.
func (r *running) kill(name string) time.Duration {
	r.t.Helper()
	pid, said := r.pid(name), strings.Count(r.out.String(), "rampart: "+name+" ended (signal: killed)")
	began := time.Now()
	if pid == 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		r.t.Fatalf("%s does not run", name)
	}
	r.await(name+" started again", time.Minute, func() bool {
		again := r.pid(name)
		return again != 0 && again != pid && strings.Count(r.out.String(), "rampart: "+name+" ended (signal: killed)") > said
	})
	return time.Since(began)
}

// payment is one that was acknowledged.
type payment struct {
	client *http.Client
	order  string
	id     string
	owner  string
}

// load pays in parallel until it is stopped.
type load struct {
	r    *running
	stop chan struct{}
	wg   sync.WaitGroup

	mu           sync.Mutex
	acknowledged []payment
	repeated     int
}

// attempt is a payment without an answer yet.
type attempt struct {
	order order
	key   string
	tries int
}

// pay makes one payment after the other. One that finds its key still held by a
// request that died waits its turn, as the lease of a key does, and is tried
// again after the others.
func (l *load) pay(c *http.Client, user, org string) {
	var open []attempt
	deadline := time.Now().Add(20 * time.Minute)
	for n := 0; ; n++ {
		stopped := false
		select {
		case <-l.stop:
			stopped = true
		default:
			if a, ok := l.order(c, org); ok {
				a.key = fmt.Sprintf("%s-%d", user, n)
				open = append(open, a)
			}
		}
		open = slices.DeleteFunc(open, func(a attempt) bool { return l.try(c, user, a) })
		if stopped && len(open) == 0 {
			return
		}
		if stopped {
			time.Sleep(200 * time.Millisecond)
			deadline = minTime(deadline, time.Now().Add(90*time.Second))
		}
		if time.Now().After(deadline) {
			l.r.t.Errorf("%s: %d payments never had an answer", user, len(open))
			return
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (l *load) order(c *http.Client, org string) (attempt, bool) {
	var a attempt
	status, body, err := l.r.try(c, http.MethodPost, "/orders", map[string]any{"org": org, "items": []map[string]any{{"sku": "MUG", "quantity": 1}}})
	if l.again(status, body, err) || status != http.StatusCreated {
		return a, false
	}
	if err := json.Unmarshal([]byte(body), &a.order); err != nil {
		l.r.t.Errorf("order: %v: %s", err, body)
		return a, false
	}
	return a, true
}

// try reports whether the payment had its answer.
func (l *load) try(c *http.Client, user string, a attempt) bool {
	status, body, err := l.r.pay(c, a.order, a.key)
	if l.again(status, body, err) {
		return false
	}
	var p struct{ ID string }
	if err := json.Unmarshal([]byte(body), &p); err != nil || status != http.StatusCreated {
		return true // reported
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acknowledged = append(l.acknowledged, payment{c, a.order.ID, p.ID, "user:" + user})
	return true
}

// again reports whether an answer, or none, asks for another attempt. Whatever
// else is not a success must not happen: a killed process is no reason to tell
// a client that it did something wrong.
func (l *load) again(status int, body string, err error) bool {
	switch {
	case err == nil && status == http.StatusCreated:
		return false
	case err != nil, status == http.StatusConflict, status >= 500:
		l.mu.Lock()
		l.repeated++
		l.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		return true
	}
	l.r.t.Errorf("a client is refused: %d %s", status, body)
	return false
}

// mustProgress waits until payments go through again.
func (l *load) mustProgress(before string) {
	l.r.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.acknowledged)
	}
	first := count()
	l.r.await("progress before "+before, time.Minute, func() bool { return count() >= first+10 || l.r.t.Failed() })
}

// eachOnce demands that every acknowledged payment is the one row of its order.
func (r *running) eachOnce(paid []payment) {
	r.t.Helper()
	for _, p := range paid {
		var rows []struct{ ID, Status string }
		status, body := r.call(p.client, http.MethodGet, "/payments?order_id="+p.order, nil)
		if err := json.Unmarshal([]byte(body), &rows); err != nil || status != http.StatusOK {
			r.t.Fatalf("payments of %s: %d %s", p.order, status, body)
		}
		if len(rows) != 1 || rows[0].ID != p.id || rows[0].Status != "completed" {
			r.t.Errorf("order %s was paid by %s, but has %s", p.order, p.id, body)
		}
	}
}

// eachOnRecord demands an audit event for every acknowledged payment.
func (r *running) eachOnRecord(paid []payment) {
	r.t.Helper()
	events := map[string]bool{}
	for _, e := range r.events("sidecar/payments") {
		if e.Action == "payment.created" && e.Outcome == "allowed" {
			events[e.Resource] = true
		}
	}
	for _, p := range paid {
		if !events["payment/"+p.id] {
			r.t.Errorf("payment %s was acknowledged and is not on record", p.id)
		}
	}
}

// eachMailed demands one mail for every acknowledged payment, to whoever paid,
// and none for anything else.
func (r *running) eachMailed(paid []payment) {
	r.t.Helper()
	want := map[string]int{}
	for _, p := range paid {
		want[p.id+" "+p.owner] = 1
	}
	var got map[string]int
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = r.mails(); maps.Equal(got, want) {
			return
		}
	}
	for p := range want {
		if got[p] != 1 {
			r.t.Errorf("%d mails for %s, want 1", got[p], p)
		}
	}
	for p := range got {
		if want[p] == 0 {
			r.t.Errorf("a mail for %s, which nobody was promised", p)
		}
	}
}

// mails counts what was sent, by payment and recipient.
func (r *running) mails() map[string]int {
	out := map[string]int{}
	files, _ := filepath.Glob(filepath.Join(r.dir, "data", "notifications", "mail", "*.json"))
	for _, f := range files {
		var m struct {
			To        string `json:"to"`
			PaymentID string `json:"payment_id"`
		}
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &m) == nil {
			out[m.PaymentID+" "+m.To]++
		}
	}
	return out
}
