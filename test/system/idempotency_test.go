//go:build system

package system

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// parallel is how many identical payments go out at once.
const parallel = 1000

// TestThousandPayments sends one payment a thousand times at once, with kill -9 of
// the gateway in between: afterwards it is booked once. Meanwhile every answer is
// the payment, byte by byte the same, or says that it is under way, or that the
// gateway is not there.
func TestThousandPayments(t *testing.T) {
	t.Parallel()
	r := start(t, variant(t, "limit: { ip: 300/m, user: 60/m }", "limit: { ip: 60000/m, user: 60000/m }"))
	alice := r.login("alice")
	for name, kill := range map[string]bool{"undisturbed": false, "the gateway is killed": true} {
		t.Run(name, func(t *testing.T) {
			r.payOnce(t, alice, map[bool]string{false: "thousand", true: "thousand-and-a-kill"}[kill], kill)
		})
	}
}

func (r *running) payOnce(t *testing.T, c *http.Client, key string, kill bool) {
	o := r.order(c, "acme")
	var mu sync.Mutex
	bodies, statuses := map[string]int{}, map[string]int{}
	note := func() bool {
		status, body, err := r.pay(c, o, key)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			statuses["no answer"]++
		case status == http.StatusCreated:
			bodies[body]++
			return true
		case status == http.StatusConflict, status >= 500:
			statuses[fmt.Sprint(status)]++
		default:
			t.Errorf("%d %s", status, body)
		}
		return false
	}
	var wg sync.WaitGroup
	for i := range parallel {
		wg.Go(func() {
			if kill && i == parallel/4 {
				r.kill("gateway/gateway")
			}
			note()
		})
	}
	wg.Wait()
	// A key whose holder died is free when its lease ends.
	for deadline := time.Now().Add(90 * time.Second); !note(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the payment never went through: %v", statuses)
		}
	}
	t.Logf("%d answers with the payment; others: %v", sum(bodies), statuses)
	if len(bodies) != 1 {
		t.Errorf("answers differ: %v", bodies)
	}
	var rows []struct{ ID, Status string }
	status, body := r.call(c, http.MethodGet, "/payments?order_id="+o.ID, nil)
	if err := json.Unmarshal([]byte(body), &rows); err != nil || status != http.StatusOK || len(rows) != 1 || rows[0].Status != "completed" {
		t.Errorf("the ledger has %d %s", status, body)
	}
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}
