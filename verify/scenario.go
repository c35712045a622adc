package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

// story is one run of the scenario's preparation: somebody who may make the
// consequential request, and what was taken from the answers.
type story struct {
	who  caller
	vars map[string]any
	op   operation
}

// begin makes a user with these facts, in by a flow, and prepares.
func (e *Env) begin(ctx context.Context, facts spec.DemoUser, flow spec.Flow) (*story, error) {
	who, err := e.enter(ctx, facts, flow)
	if err != nil {
		return nil, err
	}
	return e.prepare(ctx, who)
}

// storytellers is how many users share the preparations of a run: more than
// one, for each has the limit of one user.
const storytellers = 3

// beginUsual is begin for the scenario's user by the usual way in. What is
// prepared is the caller's alone; the user is not.
func (e *Env) beginUsual(ctx context.Context) (*story, error) {
	e.target.mu.Lock()
	e.stories++
	slot := 1 + e.stories%storytellers
	e.target.mu.Unlock()
	who, err := e.shared(ctx, e.facts(), slot)
	if err != nil {
		return nil, err
	}
	return e.prepare(ctx, who)
}

// prepare runs the scenario's steps as somebody.
func (e *Env) prepare(ctx context.Context, who caller) (*story, error) {
	sc := e.sys.Verify.Scenario
	st := &story{who: who, vars: map[string]any{}}
	for _, step := range sc.Prepare {
		res, err := e.step(ctx, st, step)
		if err != nil {
			return nil, fmt.Errorf("prepare %s: %w", step.Call, err)
		}
		var answer any
		if err := decode(res.body, &answer); err != nil {
			return nil, fmt.Errorf("prepare %s: the answer is no JSON", step.Call)
		}
		for name, pointer := range step.Take {
			if st.vars[name], err = at(answer, pointer); err != nil {
				return nil, fmt.Errorf("prepare %s: %w", step.Call, err)
			}
		}
	}
	if sc.Call == "" {
		return st, nil
	}
	method, path, err := splitCall(sc.Call)
	if err != nil {
		return nil, err
	}
	op, ok := e.find(method, st.text(path))
	if !ok {
		return nil, fmt.Errorf("verify.scenario.call: no operation %s", sc.Call)
	}
	st.op = op
	return st, nil
}

func (e *Env) step(ctx context.Context, st *story, step spec.Step) (response, error) {
	method, path, err := splitCall(step.Call)
	if err != nil {
		return response{}, err
	}
	r := request{method: method, path: st.text(path)}
	if step.Body != nil {
		if r.body, err = json.Marshal(st.fill(step.Body)); err != nil {
			return response{}, err
		}
	}
	if op, ok := e.find(method, r.path); ok {
		r = e.stamp(r, op.flow)
	}
	return e.mustPass(ctx, step.Call, r.with(st.who))
}

// body is the scenario's body, filled in. Each call returns a new one.
func (e *Env) body(st *story) map[string]any {
	m, _ := st.fill(e.sys.Verify.Scenario.Body).(map[string]any)
	return m
}

// consequential is the scenario's request with a body, under a fresh key and
// nonce, as the story's user.
func (e *Env) consequential(st *story, body map[string]any) (request, error) {
	method, path, err := splitCall(e.sys.Verify.Scenario.Call)
	if err != nil {
		return request{}, err
	}
	b, err := json.Marshal(body)
	if err != nil {
		return request{}, err
	}
	return e.stamp(request{method: method, path: st.text(path), body: b}.with(st.who), st.op.flow), nil
}

// book makes the consequential request and demands that it is done.
func (e *Env) book(ctx context.Context, st *story) (response, error) {
	r, err := e.consequential(st, e.body(st))
	if err != nil {
		return response{}, err
	}
	return e.mustPass(ctx, "the honest request", r)
}

// stamp gives an unsafe request the key and nonce that a flow asks for.
func (e *Env) stamp(r request, f spec.Flow) request {
	if r.method == http.MethodGet {
		return r
	}
	if f.Idempotency != nil {
		r = r.set(f.Idempotency.Header, "verify-"+randomID(12))
	}
	if f.Nonce != nil {
		r = r.set(f.Nonce.Header, e.nonce(0))
	}
	return r
}

// nonce makes a nonce stamped some seconds from now.
func (e *Env) nonce(seconds int64) string {
	return strconv.FormatInt(e.now().Unix()+seconds, 10) + "." + b64.EncodeToString(randomBytes(16))
}

// ledger counts what was booked for the story.
func (e *Env) ledger(ctx context.Context, st *story) ([]map[string]any, error) {
	method, path, err := splitCall(e.sys.Verify.Scenario.Ledger)
	if err != nil {
		return nil, err
	}
	res, err := e.do(ctx, request{method: method, path: st.text(path)}.with(st.who))
	if err != nil {
		return nil, err
	}
	if !res.ok() {
		return nil, fmt.Errorf("the ledger was answered %d: %.200s", res.status, res.body)
	}
	var rows []map[string]any
	if err := decode(res.body, &rows); err != nil {
		return nil, fmt.Errorf("the ledger is no JSON array: %w", err)
	}
	return rows, nil
}

var variable = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)

// text fills ${name} into a text.
func (st *story) text(s string) string {
	return variable.ReplaceAllStringFunc(s, func(m string) string { return fmt.Sprint(st.vars[m[2:len(m)-1]]) })
}

// fill copies a value with ${name} filled in; a text that is one variable and
// nothing else becomes its value, a number stays one.
func (st *story) fill(v any) any {
	switch x := v.(type) {
	case string:
		if m := variable.FindStringSubmatch(x); m != nil && m[0] == x {
			return st.vars[m[1]]
		}
		return st.text(x)
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = st.fill(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = st.fill(e)
		}
		return out
	}
	return v
}

// decode reads JSON and keeps numbers as they are written.
func decode(b []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	return d.Decode(into)
}

// at follows a JSON pointer (RFC 6901) through objects and arrays.
func at(v any, pointer string) (any, error) {
	if pointer == "" {
		return v, nil
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[part]
			if !ok {
				return nil, fmt.Errorf("the answer has nothing at %s", pointer)
			}
			v = next
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(x) {
				return nil, fmt.Errorf("the answer has nothing at %s", pointer)
			}
			v = x[i]
		default:
			return nil, fmt.Errorf("the answer has nothing at %s", pointer)
		}
	}
	return v, nil
}

// amountField is the member of the body that the scenario calls its amount.
func (e *Env) amountField() (string, error) {
	name := strings.TrimPrefix(e.sys.Verify.Scenario.Amount, "/")
	if name == "" || strings.Contains(name, "/") {
		return "", errors.New("verify.scenario.amount is not a member of the body")
	}
	return name, nil
}

// amountOf reads the amount of a body or of a row.
func (e *Env) amountOf(m map[string]any) (int64, error) {
	name, err := e.amountField()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(fmt.Sprint(m[name]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the amount %v is no whole number", m[name])
	}
	return n, nil
}

// altered copies a body with one member changed.
func altered(body map[string]any, name string, value any) map[string]any {
	out := maps.Clone(body)
	out[name] = value
	return out
}
