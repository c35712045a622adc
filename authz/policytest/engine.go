package policytest

import (
	"context"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

func (t *tester) filter(ctx context.Context, r authz.Request) (filter.Filter, rampart.Decision) {
	if l, ok := any(t.pdp).(interface {
		Filter(context.Context, authz.Request) (filter.Filter, rampart.Decision)
	}); ok {
		return l.Filter(ctx, r)
	}
	return filter.None(), rampart.Decision{Code: rampart.CodeUntranslatable}
}
