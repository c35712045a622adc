package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// maxBurst is the largest limit that a probe spends: beyond it a run would be
// a load test.
const maxBurst = 600

func limitProbes() []Probe {
	return []Probe{
		{ID: "P-040", Title: "one address cannot exceed its limit", SeedRow: "limits: IP address", Controls: []string{"limit.ip"},
			Proves: []string{"owasp2021:A04", "api2023:API4"}, Vantage: fromOutside, Safety: intrusive, Needs: needRate(ipRate), Run: ipBurst},
		{ID: "P-042", Title: "one user cannot exceed the limit, spread over addresses", SeedRow: "limits: user", Controls: []string{"limit.user"},
			Proves: []string{"owasp2021:A04", "api2023:API4"}, Vantage: asUser, Safety: intrusive, Needs: needRate(userRate), Run: userBurst},
		{ID: "P-102", Title: "a stolen key is worth its plan at most: the call over the limit is refused", SeedRow: "payment: 1 stolen API key", Controls: []string{"limit.api_key"},
			Proves: []string{"PAY-1", "owasp2021:A07"}, Vantage: fromOutside, Safety: intrusive, Needs: all(needMethod("api_key", "jwt"), needRate(planRate)), Run: keyBurst},
	}
}

// ipRate is the widest rate of an address: it is counted before the flow is
// known.
func ipRate(sys *spec.System) spec.Rate {
	var r spec.Rate
	for _, f := range sys.FlowsTo(sys.Gateway()) {
		if f.Limit.IP.N > r.N {
			r = f.Limit.IP
		}
	}
	return r
}

func userRate(sys *spec.System) spec.Rate {
	f, err := (&target{sys: sys}).entry()
	if err != nil {
		return spec.Rate{}
	}
	return f.Limit.User
}

func planRate(sys *spec.System) spec.Rate {
	f, _ := entryWith(sys, "api_key", "jwt")
	return sys.Plans[sys.Principals[f.From].Plan].APIKey
}

func needRate(of func(*spec.System) spec.Rate) func(*spec.System) (bool, string) {
	return func(sys *spec.System) (bool, string) {
		r := of(sys)
		return r.N > 0 && r.N <= maxBurst && r.Per >= 10*time.Second, fmt.Sprintf("%d in %s is not a limit that a probe can reach without being a load test", r.N, r.Per)
	}
}

// burst makes n requests, a few at a time, and returns the refused ones.
// send gets the number of the request.
func burst(n int, send func(i int) (response, error)) ([]response, error) {
	var mu sync.Mutex // guards refused and first
	var refused []response
	var failure error
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			res, err := send(i)
			mu.Lock()
			defer mu.Unlock()
			failure = errors.Join(failure, err)
			if res.status == http.StatusTooManyRequests {
				refused = append(refused, res)
			}
		})
	}
	wg.Wait()
	return refused, failure
}

// overLimit judges a burst of one request more than a limit: that one, and no
// fewer than the limit's, must be refused, with the headers that tell a client
// what to do.
func (e *Env) overLimit(ctx context.Context, limit, sent int, refused []response, want string) (Result, error) {
	e.note("%d requests under a limit of %d: %d refused", sent, limit, len(refused))
	if len(refused) == 0 {
		return failed("%d requests passed under a limit of %d", sent, limit), nil
	}
	if len(refused) > sent-limit {
		return unsure("%d of %d requests were refused under a limit of %d: something else limits, too", len(refused), sent, limit), nil
	}
	last := refused[len(refused)-1]
	if last.header.Get("Retry-After") == "" || last.header.Get("RateLimit") == "" {
		return failed("the refusal carries no Retry-After and RateLimit"), nil
	}
	name := fmt.Sprintf("request %d under a limit of %d", limit+1, limit)
	for _, res := range refused {
		verdict, err := e.attribute(ctx, attack{name, request{}, []string{want}}, res)
		if err != nil || verdict.Verdict != Inconclusive || !strings.Contains(verdict.Signal, "no refusal") {
			return verdict, err
		}
	}
	return unsure("%s: refused, but a flood of equal refusals is counted on record without traces", name), nil
}

func ipBurst(ctx context.Context, e *Env) (Result, error) {
	r := ipRate(e.sys)
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	sent := r.N + 1
	refused, err := burst(sent-1, func(int) (response, error) { return e.do(ctx, get("/_rampart/health")) }) // the positive control was the first
	if err != nil {
		return Result{}, err
	}
	return e.overLimit(ctx, r.N, sent, refused, "limit.ip")
}

func userBurst(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	flow, err := e.entry()
	if err != nil {
		return Result{}, err
	}
	who, err := e.enter(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "the first request", r.with(who)); err != nil {
		return Result{}, err
	}
	ways := e.ways(4)
	limit := who.flow.Limit.User.N
	refused, err := burst(limit, func(i int) (response, error) { return ways[i%len(ways)].do(ctx, r.with(who)) })
	if err != nil {
		return Result{}, err
	}
	return e.overLimit(ctx, limit, limit+1, refused, "limit.user")
}

// ways are clients at further addresses of our own, so that no address limit
// hides another.
func (e *Env) ways(n int) []*edgeClient {
	out := []*edgeClient{e.http}
	for range n - 1 {
		c := newEdgeClient(e.target, e.source())
		e.atClose(c.close)
		out = append(out, c)
	}
	return out
}

// keyBurst aims at the consequential operation, where one is known. An empty
// body fits no schema, so that the calls within the limit do nothing.
func keyBurst(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if sc := e.sys.Verify.Scenario; sc != nil && sc.Call != "" {
		r = request{body: []byte("{}")}
		r.method, r.path, err = splitCall(sc.Call)
	}
	if err != nil {
		return Result{}, err
	}
	return e.burstWithKey(ctx, r)
}

// burstWithKey spends one key's plan by several users: one user alone would
// meet the limit of users first.
func (e *Env) burstWithKey(ctx context.Context, r request) (Result, error) {
	flow, _ := entryWith(e.sys, "api_key", "jwt")
	limit := planRate(e.sys).N
	client, err := e.newClient(ctx, flow.From)
	if err != nil {
		return Result{}, err
	}
	var crowd []caller
	for range limit/max(1, flow.Limit.User.N-2) + 1 {
		a, err := e.account(ctx, e.facts())
		if err != nil {
			return Result{}, err
		}
		who, err := e.enterAs(ctx, a, flow, client)
		if err != nil {
			return Result{}, err
		}
		if len(crowd) > 0 {
			who.header.Set("X-Api-Key", crowd[0].header.Get("X-Api-Key"))
		}
		crowd = append(crowd, who)
	}
	if _, err := e.mustEnter(ctx, "the first request", r.with(crowd[0])); err != nil {
		return Result{}, err
	}
	ways := e.ways(3)
	refused, err := burst(limit, func(i int) (response, error) { return ways[i%len(ways)].do(ctx, r.with(crowd[i%len(crowd)])) })
	if err != nil {
		return Result{}, err
	}
	e.note("%d users share one key", len(crowd))
	return e.overLimit(ctx, limit, limit+1, refused, "limit.api_key")
}
