package verify

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// patience is how long an event may take to appear in the log.
const patience = 2 * time.Second

// order is the documented path of a request: which control speaks before
// which. A refusal by a later control means that the one under test let the
// attack through; a refusal by an earlier one, that it was never asked.
var order = map[string]int{
	"http.framing": 5, "edge.route": 10, "limit.ip": 20, "validate.max_body": 30,
	"authn.session": 40, "authn.jwt": 40, "authn.dpop": 40, "authn.api_key": 40, "authn.api_key_bound_to_jwt": 45, "authn.csrf": 50,
	"limit.api_key": 60, "limit.user": 61, "authz.gateway": 70, "authn.step_up": 75, "validate.json": 80, "validate.openapi": 81, "waf.rules": 85,
	"nonce.window": 90, "idempotency.key": 91, "token.exchange": 100,
	"mtls.required": 110, "mtls.revocation": 111, "mtls.peer_declared": 111, "token.binding": 120, "token.audience": 121, "authz.service": 130,
	"egress.allow": 200, "egress.private_ip": 201,
	"field.server_owned": 310, "authz.domain": 320, "db.row_mac": 330,
}

// theService is the place of a service's own refusals in order: behind every
// plane.
const theService = 300

// attack is one hostile request and the controls that may refuse it; the
// first is the one under test.
type attack struct {
	name string
	req  request
	want []string
}

// refusedAll sends attacks one after another. All must be refused by what they
// name; the first that is not decides.
func (e *Env) refusedAll(ctx context.Context, attacks []attack) (Result, error) {
	for _, a := range attacks {
		res, err := e.refused(ctx, a)
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", a.name, err)
		}
		if res.Verdict != Pass {
			return res, nil
		}
	}
	if len(attacks) == 0 {
		return absent("the system has nothing of the kind to attack"), nil
	}
	return passed("%d attacks refused by %s", len(attacks), attacks[0].want[0]), nil
}

// refused sends one attack and looks who refused it.
func (e *Env) refused(ctx context.Context, a attack) (Result, error) {
	res, err := e.do(ctx, a.req)
	if err != nil {
		return Result{}, err
	}
	return e.attribute(ctx, a, res)
}

// attribute judges an answer by the audit log.
func (e *Env) attribute(ctx context.Context, a attack, res response) (Result, error) {
	if res.status < 400 {
		e.note("%s: answered %d", a.name, res.status)
		return failed("%s: was answered %d", a.name, res.status), nil
	}
	who, ok, err := e.refuser(ctx, res.trace, a.want)
	if err != nil {
		return Result{}, err
	}
	e.note("%s: %d by %s", a.name, res.status, orNobody(who.Control))
	return verdictOn(a, res.status, who, ok), nil
}

// verdictOn compares the control that refused with the one under test. seen is
// false when no refusal is on record.
func verdictOn(a attack, status int, who event, seen bool) Result {
	want := a.want[0]
	switch {
	case seen && slices.Contains(a.want, who.Control):
		return passed("%s: refused by %s", a.name, who.Control)
	case !seen && status >= 500:
		return unsure("%s: answered %d, and the audit log does not say why", a.name, status)
	case !seen && order[want] < theService && order[want] > 0:
		return failed("%s: %s let it through to the service, which answered %d", a.name, want, status)
	case !seen:
		return unsure("%s: answered %d, and no refusal is in the audit log", a.name, status)
	case order[who.Control] > order[want]:
		return failed("%s: %s let it through; %s stopped it", a.name, want, who.Control)
	}
	return unsure("%s: masked by %s", a.name, orNobody(who.Control))
}

// refuser finds the refusal of a trace, one of the wanted controls for
// preference: a request that is refused inside may be on record in several
// planes. Once the edge has let a request in, the refusal may come from a
// service that records none, so that the wait is shorter then.
func (e *Env) refuser(ctx context.Context, trace string, want []string) (event, bool, error) {
	isWanted := func(v event) bool { return v.Trace == trace && v.refused() && slices.Contains(want, v.Control) }
	if v, ok, err := e.trail.wait(ctx, 300*time.Millisecond, isWanted); err != nil || ok {
		return v, ok, err
	}
	anything := func(v event) bool {
		return v.Trace == trace && (v.refused() || v.Outcome == "allowed" && v.Layer == "service")
	}
	if _, _, err := e.trail.wait(ctx, patience, anything); err != nil {
		return event{}, false, err
	}
	got, err := e.trail.match(func(v event) bool { return v.Trace == trace && v.refused() })
	if i := slices.IndexFunc(got, isWanted); i >= 0 {
		return got[i], true, err
	}
	return first(got), len(got) > 0, err
}

func orNobody(control string) string {
	if control == "" {
		return "nobody on record"
	}
	return control
}

// mustPass is a positive control: the legitimate request must be answered 2xx.
func (e *Env) mustPass(ctx context.Context, what string, r request) (response, error) {
	res, err := e.do(ctx, r)
	if err != nil {
		return res, err
	}
	if !res.ok() {
		return res, fmt.Errorf("%s: the legitimate request was answered %d: %.200s", what, res.status, res.body)
	}
	e.note("%s: %d", what, res.status)
	return res, nil
}

// mustEnter is a positive control where the service may not know what we ask
// for: the request must get past every plane.
func (e *Env) mustEnter(ctx context.Context, what string, r request) (response, error) {
	res, err := e.do(ctx, r)
	if err != nil {
		return res, err
	}
	switch res.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway:
		return res, fmt.Errorf("%s: the legitimate request was answered %d: %.200s", what, res.status, res.body)
	}
	e.note("%s: %d", what, res.status)
	return res, nil
}

// refusedPeer waits for the refusal of a connection, known by our own address.
func (e *Env) refusedPeer(ctx context.Context, name, peer string, want ...string) (Result, error) {
	v, ok, err := e.trail.wait(ctx, patience, byPeer(peer))
	if err != nil {
		return Result{}, err
	}
	e.note("%s: refused by %s", name, orNobody(v.Control))
	switch {
	case !ok:
		return unsure("%s: no refusal of %s is in the audit log", name, peer), nil
	case !slices.Contains(want, v.Control):
		return unsure("%s: masked by %s", name, v.Control), nil
	}
	return passed("%s: refused by %s", name, v.Control), nil
}
