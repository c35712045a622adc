package sidecar

import (
	"context"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ring"
)

// defaultDecisions is how many decisions one asker gets in any second. Each costs
// a record: without a bound, whoever may ask a little could fill the log.
const defaultDecisions = 5000

func newAsks(perSecond int, now func() time.Time) ratelimit.Limiter {
	if perSecond <= 0 {
		perSecond = defaultDecisions
	}
	return ring.New(perSecond, time.Second, ring.Options{Now: now})
}

// spend counts decisions that a asks for. The error is a 429, and on record.
func (s *Sidecar) spend(ctx context.Context, a asker, decisions int) error {
	v := s.asks.Allow(a.caller, decisions)
	if v.OK {
		return nil
	}
	err := rampart.Errorf(rampart.Limited, "authz.domain", "more than %d decisions a second are not made for one caller; ask again in a moment", v.Limit)
	s.record(ctx, audit.Event{Class: audit.ClassLimit, Action: "ask for decisions", Outcome: audit.Refused, Control: "authz.domain", Flow: a.flow,
		Layer: string(rampart.LayerDomain), Subject: a.caller, Actor: a.caller, Detail: map[string]string{"error": err.Error()}})
	return &problem.Details{Err: err, RetryAfter: v.RetryAfter}
}

// spendAsked is spend for the decision point, whose context names the asker.
func (s *Sidecar) spendAsked(ctx context.Context, decisions int) error {
	a, _ := ctx.Value(askerKey{}).(asker)
	return s.spend(ctx, a, decisions)
}

// spendOwn is spend for the service itself.
func (s *Sidecar) spendOwn(ctx context.Context, decisions int) error {
	return s.spend(ctx, asker{caller: s.table.Load().id}, decisions)
}
