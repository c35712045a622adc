package verify

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/rampart-security/rampart/spec"
)

func replayProbes() []Probe {
	return []Probe{
		{ID: "P-101", Title: "a stolen API key alone, or with another client's token, makes no charge, and neither does the token alone", SeedRow: "payment: 1 stolen API key", Controls: []string{"authn.api_key_bound_to_jwt"},
			Proves: []string{"PAY-1", "owasp2021:A07"}, Vantage: fromOutside, Safety: intrusive, Needs: all(needMethod("api_key", "jwt"), needLedger), Run: stolenKey},
		{ID: "P-111", Title: "nobody between client and edge can downgrade: no plain HTTP, no TLS 1.2 on the consequential call", SeedRow: "payment: 1 tampered amount", Controls: []string{"tls.min13"},
			Proves: []string{"PAY-2", "owasp2021:A02"}, Vantage: fromOutside, Safety: safe, Needs: needScenario, Run: downgrade},
		{ID: "P-112", Title: "a changed amount is refused, and nothing is booked", SeedRow: "payment: 1 tampered amount", Controls: []string{"field.server_owned"},
			Proves: []string{"PAY-2", "owasp2021:A04", "api2023:API3"}, Vantage: fromOutside, Safety: intrusive, Needs: all(needLedger, needCompare), Run: changedAmount},
		{ID: "P-121", Title: "a repeated request is answered with the first answer and booked once", SeedRow: "payment: 2 replayed request", Controls: []string{"idempotency.key"},
			Proves: []string{"PAY-3", "owasp2021:A04", "api2023:API6"}, Vantage: asUser, Safety: intrusive, Needs: all(needLedger, needIdempotency, needAmount), Run: repeated},
		{ID: "P-122", Title: "a captured request is worthless, also under a new key", SeedRow: "payment: 2 replayed request", Controls: []string{"nonce.window"},
			Proves: []string{"PAY-3", "owasp2021:A08"}, Vantage: fromOutside, Safety: intrusive, Needs: all(needLedger, needNonce), Run: captured},
	}
}

// callFlow is the flow that the consequential request takes from the gateway.
func callFlow(sys *spec.System) spec.Flow {
	if sys.Verify.Scenario == nil {
		return spec.Flow{}
	}
	ops, err := operations(sys)
	method, path, err2 := splitCall(sys.Verify.Scenario.Call)
	if err != nil || err2 != nil {
		return spec.Flow{}
	}
	op, _ := (&target{sys: sys, ops: ops}).find(method, path)
	return op.flow
}

func needIdempotency(sys *spec.System) (bool, string) {
	return callFlow(sys).Idempotency != nil, "the flow of the consequential request has no idempotency"
}

// needAmount: another body under the same key is the same body with another amount.
func needAmount(sys *spec.System) (bool, string) {
	return sys.Verify.Scenario.Amount != "", "verify.scenario names no amount, a number of the body to change" + sayHow
}

func needNonce(sys *spec.System) (bool, string) {
	return callFlow(sys).Nonce != nil, "the flow of the consequential request has no nonce"
}

func needCompare(sys *spec.System) (bool, string) {
	return sys.Verify.Scenario.Amount != "" && len(callFlow(sys).ServerOwned.Fields) > 0, "the flow of the consequential request has no server_owned field"
}

func stolenKey(ctx context.Context, e *Env) (Result, error) {
	flow, _ := entryWith(e.sys, "api_key", "jwt")
	st, err := e.begin(ctx, e.facts(), flow)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.book(ctx, st); err != nil {
		return Result{}, err
	}
	other, err := e.newClient(ctx, flow.From)
	if err != nil {
		return Result{}, err
	}
	foreign, err := e.accessToken(ctx, st.who.account, other)
	if err != nil {
		return Result{}, err
	}
	r, err := e.consequential(st, e.body(st))
	if err != nil {
		return Result{}, err
	}
	alone := r
	alone.header = r.header.Clone()
	alone.header.Del("Authorization")
	keyless := r
	keyless.header = r.header.Clone()
	keyless.header.Del("X-Api-Key")
	verdict, err := e.refusedAll(ctx, []attack{
		{"the key with another client's token", r.set("Authorization", "Bearer "+foreign.Access), []string{"authn.api_key_bound_to_jwt"}},
		{"the key alone", e.stamp(alone, st.op.flow), []string{"authn.api_key_bound_to_jwt", "authn.jwt"}},
		{"the token alone, past the key's limits", e.stamp(keyless, st.op.flow), []string{"authn.api_key"}},
	})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	return e.bookedOnce(ctx, st, verdict)
}

// bookedOnce demands that only the honest request is in the ledger.
func (e *Env) bookedOnce(ctx context.Context, st *story, verdict Result) (Result, error) {
	rows, err := e.ledger(ctx, st)
	if err != nil {
		return Result{}, err
	}
	e.note("rows in the ledger: %d", len(rows))
	if len(rows) != 1 {
		return failed("%d rows in the ledger after one honest request", len(rows)), nil
	}
	return verdict, nil
}

func downgrade(ctx context.Context, e *Env) (Result, error) {
	for _, attempt := range []func(context.Context, *Env) (Result, error){plainEdge, oldTLS} {
		verdict, err := attempt(ctx, e)
		if err != nil || verdict.Verdict != Pass {
			return verdict, err
		}
	}
	return passed("plain HTTP and TLS 1.2 end at the handshake, before a byte of the request"), nil
}

func changedAmount(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	field, err := e.amountField()
	if err != nil {
		return Result{}, err
	}
	honest, err := e.amountOf(e.body(st))
	if err != nil {
		return Result{}, err
	}
	r, err := e.consequential(st, altered(e.body(st), field, 1))
	if err != nil {
		return Result{}, err
	}
	verdict, err := e.refused(ctx, attack{fmt.Sprintf("%d instead of %d", 1, honest), r, []string{"field.server_owned"}})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	rows, err := e.ledger(ctx, st)
	if err != nil {
		return Result{}, err
	}
	if len(rows) > 0 {
		return failed("the refused request left %d rows in the ledger", len(rows)), nil
	}
	if _, err := e.book(ctx, st); err != nil {
		return Result{}, err
	}
	if rows, err = e.ledger(ctx, st); err != nil || len(rows) != 1 {
		return unsure("the honest request left %d rows in the ledger", len(rows)), err
	}
	booked, err := e.amountOf(rows[0])
	if err != nil {
		return Result{}, err
	}
	if booked != honest {
		return failed("%d was booked for %d", booked, honest), nil
	}
	e.note("the honest request booked %d", booked)
	return verdict, nil
}

// renonce gives a captured request a fresh nonce, so that the nonce does not
// hide what the idempotency key does.
func (e *Env) renonce(r request, f spec.Flow) request {
	if f.Nonce == nil {
		return r
	}
	return r.set(f.Nonce.Header, e.nonce(0))
}

const parallelRetries = 8

func repeated(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	r, err := e.consequential(st, e.body(st))
	if err != nil {
		return Result{}, err
	}
	first, err := e.mustPass(ctx, "the honest request", r)
	if err != nil {
		return Result{}, err
	}
	again, err := e.do(ctx, e.renonce(r, st.op.flow))
	if err != nil {
		return Result{}, err
	}
	e.note("the same again: %d", again.status)
	if again.status != first.status || !bytes.Equal(again.body, first.body) {
		rows, err := e.ledger(ctx, st)
		return failed("a retry got another answer (%d after %d), %d rows in the ledger", again.status, first.status, len(rows)), err
	}
	if verdict, err := e.stampede(ctx, st, r); err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	body := e.body(st)
	field, err := e.amountField()
	if err != nil {
		return Result{}, err
	}
	other, err := e.consequential(st, altered(body, field, 1))
	if err != nil {
		return Result{}, err
	}
	key := st.op.flow.Idempotency.Header
	other = other.set(key, r.header.Get(key))
	verdict, err := e.refused(ctx, attack{"the same key with another body", other, []string{"idempotency.key"}})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	return e.bookedOnce(ctx, st, passed("the retry got the first answer, %d at once booked nothing, another body was refused", parallelRetries))
}

// stampede sends the same request many times at once. Each gets the stored
// answer or is told that it is in hand.
func (e *Env) stampede(ctx context.Context, st *story, r request) (Result, error) {
	var wg sync.WaitGroup
	codes := make([]int, parallelRetries)
	errs := make([]error, parallelRetries)
	for i := range parallelRetries {
		wg.Go(func() {
			res, err := e.do(ctx, e.renonce(r, st.op.flow))
			codes[i], errs[i] = res.status, err
		})
	}
	wg.Wait()
	for i, code := range codes {
		if errs[i] != nil {
			return Result{}, errs[i]
		}
		if code/100 != 2 && code != http.StatusConflict {
			return unsure("a parallel retry was answered %d", code), nil
		}
	}
	e.note("%d at once: %v", parallelRetries, codes)
	return e.bookedOnce(ctx, st, passed("booked once"))
}

func captured(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	r, err := e.consequential(st, e.body(st))
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustPass(ctx, "the honest request", r); err != nil {
		return Result{}, err
	}
	f := st.op.flow
	fresh := func(r request) request {
		if f.Idempotency == nil {
			return r
		}
		return r.set(f.Idempotency.Header, "verify-"+randomID(12))
	}
	window := int64(f.Nonce.Window) / 1e9
	bare := fresh(r)
	bare.header.Del(f.Nonce.Header)
	verdict, err := e.refusedAll(ctx, []attack{
		{"the captured request under a new key", fresh(r), []string{"nonce.window"}},
		{"a nonce from before the window", fresh(r).set(f.Nonce.Header, e.nonce(-window-60)), []string{"nonce.window"}},
		{"a nonce from the future", fresh(r).set(f.Nonce.Header, e.nonce(3600)), []string{"nonce.window"}},
		{"no nonce", bare, []string{"nonce.window"}},
	})
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	return e.bookedOnce(ctx, st, verdict)
}
