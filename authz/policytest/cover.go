package policytest

import (
	"context"
	"fmt"
	"path"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/rego"
)

// Condition is one part of a policy that must hold. One that was never seen to
// fail, or never to hold, is a condition that no row is about.
type Condition struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Policy string `json:"policy,omitzero"` // its @id; "" in Rego
	Text   string `json:"text"`
	Scope  bool   `json:"scope,omitzero"` // what the policy is about, before any condition
	Held   int    `json:"held"`
	Failed int    `json:"failed"`
}

// Covered reports whether rows saw both outcomes of a condition. Policies about
// something else than the scope of one are no question to it, so that a scope
// need not fail.
func (c Condition) Covered() bool { return c.Held > 0 && (c.Failed > 0 || c.Scope) }

// Cover is Run with what the rows of *_test.yaml reached of each condition;
// native tests do not ask the decision point and do not count.
func Cover(ctx context.Context, s pap.Set, service string) (Report, error) {
	files, err := parseAll(s, service)
	if err != nil {
		return Report{}, err
	}
	t := &tester{set: s, service: service, cover: true}
	if err := t.run(ctx, files); err != nil {
		return Report{}, fmt.Errorf("policytest: %w", err)
	}
	if t.report.Coverage, err = coverage(ctx, s, service, t.asked); err != nil {
		return Report{}, fmt.Errorf("policytest: %w", err)
	}
	return t.report, nil
}

// observe collects the questions that the domain layer was asked, with every
// fact that was looked up.
func (t *tester) observe(_ context.Context, q pdp.Question, _ rampart.Decision) error {
	if t.cover && q.Request != nil && q.Refused == nil {
		t.asked = append(t.asked, *q.Request)
	}
	return nil
}

// coverage asks each engine of a service once more, and has it count.
func coverage(ctx context.Context, s pap.Set, service string, asked []authz.Request) ([]Condition, error) {
	var out []Condition
	if files := byExt(s, service, ".cedar"); len(files) > 0 {
		e, err := cedar.New(files, s.Schema)
		if err != nil {
			return nil, err
		}
		for _, c := range e.Coverage(ctx, asked) {
			out = append(out, Condition{c.File, c.Line, c.Policy, firstText(c.Condition, "its scope"), c.Condition == "", c.True, c.False})
		}
	}
	if files := byExt(s, service, ".rego"); len(files) > 0 {
		e, err := rego.New(files, s.Schema)
		if err != nil {
			return nil, err
		}
		seen, err := e.Coverage(ctx, asked)
		if err != nil {
			return nil, err
		}
		for _, c := range seen {
			out = append(out, Condition{File: c.File, Line: c.Line, Text: c.Condition, Held: c.True, Failed: c.False})
		}
	}
	return out, nil
}

// byExt are the policy files of one language.
func byExt(s pap.Set, service, ext string) map[string][]byte {
	out := map[string][]byte{}
	for _, name := range s.Services[service].Policy {
		if path.Ext(name) == ext {
			out[name] = s.Files[name]
		}
	}
	return out
}
