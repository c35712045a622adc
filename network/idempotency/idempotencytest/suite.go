// Package idempotencytest holds what every idempotency.Store must do.
package idempotencytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/network/idempotency"
)

// Test runs the suite. open returns an empty store that ends with the test.
func Test(t *testing.T, open func(t *testing.T) idempotency.Store) {
	for name, test := range map[string]func(*testing.T, idempotency.Store){
		"a key runs once":                         runsOnce,
		"an answer is repeated as it was":         repeats,
		"another body is a mismatch":              mismatch,
		"an abandoned key is new":                 abandoned,
		"a lease ends":                            leaseEnds,
		"a late finish does not count":            lateFinish,
		"an answer expires":                       expires,
		"a hundred duplicates run once":           duplicates,
		"keys do not hold each other up or blend": manyKeys,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

var now = time.Unix(1_700_000_000, 0)

func request(key, body string) idempotency.Request {
	return idempotency.Request{ID: sha256.Sum256([]byte(key)), Hash: sha256.Sum256([]byte(body)), Keep: time.Hour}
}

// begin demands a state.
func begin(t *testing.T, s idempotency.Store, r idempotency.Request, at time.Time, want idempotency.State) idempotency.Claim {
	t.Helper()
	c, err := s.Begin(context.Background(), r, at)
	if err != nil {
		t.Fatal(err)
	}
	if c.State != want {
		t.Fatalf("state %d, want %d", c.State, want)
	}
	return c
}

func finish(t *testing.T, s idempotency.Store, c idempotency.Claim, r idempotency.Response) {
	t.Helper()
	if err := s.Finish(context.Background(), c, r); err != nil {
		t.Fatal(err)
	}
}

func created(body string) idempotency.Response {
	return idempotency.Response{Status: 201, Header: http.Header{"Location": {"/payments/1"}, "X": {"a", "b"}}, Body: []byte(body)}
}

func runsOnce(t *testing.T, s idempotency.Store) {
	c := begin(t, s, request("k", "b"), now, idempotency.New)
	begin(t, s, request("k", "b"), now.Add(time.Second), idempotency.InFlight)
	finish(t, s, c, created("x"))
	begin(t, s, request("k", "b"), now.Add(time.Minute), idempotency.Done)
}

func repeats(t *testing.T, s idempotency.Store) {
	for key, want := range map[string]idempotency.Response{
		"text":   created(`{"id":"pay_1"}`),
		"bytes":  created("\x00\xff\n\r\n"),
		"full":   created(string(bytes.Repeat([]byte{'x'}, idempotency.MaxResponse))),
		"large":  {Status: 200, TooLarge: true},
		"header": {Status: 404, Header: http.Header{"Content-Type": {"application/problem+json"}}},
	} {
		finish(t, s, begin(t, s, request(key, "b"), now, idempotency.New), want)
		got := begin(t, s, request(key, "b"), now, idempotency.Done).Response
		if len(got.Body) == 0 && len(want.Body) == 0 {
			got.Body, want.Body = nil, nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
}

func mismatch(t *testing.T, s idempotency.Store) {
	c := begin(t, s, request("k", "b"), now, idempotency.New)
	begin(t, s, request("k", "other"), now, idempotency.Mismatch)
	finish(t, s, c, created("x"))
	begin(t, s, request("k", "other"), now, idempotency.Mismatch)
	begin(t, s, request("k", "b"), now, idempotency.Done)
}

func abandoned(t *testing.T, s idempotency.Store) {
	c := begin(t, s, request("k", "b"), now, idempotency.New)
	if err := s.Abandon(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	finish(t, s, c, created("late")) // no longer held
	again := begin(t, s, request("k", "other"), now, idempotency.New)
	if err := s.Abandon(context.Background(), c); err != nil { // not this one's to free
		t.Fatal(err)
	}
	begin(t, s, request("k", "other"), now, idempotency.InFlight)
	finish(t, s, again, created("x"))
	begin(t, s, request("k", "other"), now, idempotency.Done)
}

func leaseEnds(t *testing.T, s idempotency.Store) {
	begin(t, s, request("k", "b"), now, idempotency.New)
	begin(t, s, request("k", "b"), now.Add(idempotency.Lease-time.Millisecond), idempotency.InFlight)
	begin(t, s, request("k", "b"), now.Add(idempotency.Lease), idempotency.New)
	begin(t, s, request("k", "b"), now.Add(idempotency.Lease), idempotency.InFlight)

	long := request("long", "b")
	long.Lease = 10 * time.Minute
	begin(t, s, long, now, idempotency.New)
	short := long // who asks again does not shorten the lease of who runs
	short.Lease = time.Second
	begin(t, s, short, now.Add(10*time.Minute-time.Millisecond), idempotency.InFlight)
	begin(t, s, long, now.Add(10*time.Minute), idempotency.New)
}

func lateFinish(t *testing.T, s idempotency.Store) {
	first := begin(t, s, request("k", "b"), now, idempotency.New)
	second := begin(t, s, request("k", "b"), now.Add(idempotency.Lease), idempotency.New)
	finish(t, s, first, created("first"))
	begin(t, s, request("k", "b"), now.Add(idempotency.Lease), idempotency.InFlight)
	finish(t, s, second, created("second"))
	c := begin(t, s, request("k", "b"), now.Add(idempotency.Lease), idempotency.Done)
	if string(c.Response.Body) != "second" {
		t.Errorf("got the answer %q of a claim that was lost", c.Response.Body)
	}
}

func expires(t *testing.T, s idempotency.Store) {
	finish(t, s, begin(t, s, request("k", "b"), now, idempotency.New), created("x"))
	begin(t, s, request("k", "b"), now.Add(time.Hour-time.Millisecond), idempotency.Done)
	begin(t, s, request("k", "other"), now.Add(time.Hour), idempotency.New)
}

func duplicates(t *testing.T, s idempotency.Store) {
	var ran, answered atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := s.Begin(context.Background(), request("k", "b"), now)
			if err != nil {
				t.Error(err)
				return
			}
			switch c.State {
			case idempotency.New:
				ran.Add(1)
				if err := s.Finish(context.Background(), c, created("x")); err != nil {
					t.Error(err)
				}
			case idempotency.Done:
				answered.Add(1)
			case idempotency.InFlight:
			default:
				t.Errorf("state %d", c.State)
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1 {
		t.Errorf("%d ran, want one", ran.Load())
	}
	begin(t, s, request("k", "b"), now, idempotency.Done)
}

func manyKeys(t *testing.T, s idempotency.Store) {
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			key := string(rune('a' + i))
			c, err := s.Begin(context.Background(), request(key, key), now)
			if err != nil || c.State != idempotency.New {
				t.Errorf("%q: state %d, %v", key, c.State, err)
				return
			}
			if err := s.Finish(context.Background(), c, created(key)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		key := string(rune('a' + i))
		if c := begin(t, s, request(key, key), now, idempotency.Done); string(c.Response.Body) != key {
			t.Errorf("%q: got the answer %q", key, c.Response.Body)
		}
	}
}
