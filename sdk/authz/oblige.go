package authz

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// stepUp is the type of obligation that this package carries out itself (OpenID
// AuthZEN obligations profile, draft 1). Its properties are "acr", the level of
// the login, and "max_age", how old it may be, in seconds or as "5m".
const stepUp = "step-up"

// clockSkew is how far the clocks of planes may be apart.
const clockSkew = 5 * time.Second

// supported lists the types of obligation that q can carry out.
func (q *question) supported() []string {
	return slices.Sorted(maps.Keys(q.withStepUp()))
}

func (q *question) withStepUp() map[string]func(context.Context, rampart.Obligation) error {
	all := maps.Clone(q.handle)
	if all == nil {
		all = map[string]func(context.Context, rampart.Obligation) error{}
	}
	all[stepUp] = q.stepUp
	return all
}

// enforce carries out what d obliges to, all that can be, and returns nil when d
// allows and nothing was left undone. A denial that a stronger login would turn
// says so.
func (q *question) enforce(ctx context.Context, d rampart.Decision) error {
	var failed []error
	handlers := q.withStepUp()
	for _, o := range d.Obligations {
		f := handlers[o.Type]
		if f == nil {
			failed = append(failed, rampart.Errorf(rampart.Denied, control, "not allowed"))
			continue
		}
		if err := f(ctx, o); err != nil {
			failed = append(failed, &rampart.Error{Kind: rampart.Denied, Control: control, Msg: "not allowed", Err: err})
		}
	}
	for _, err := range failed {
		if challenge, ok := errors.AsType[*problem.Details](err); ok {
			return challenge
		}
	}
	if len(failed) > 0 {
		return failed[0]
	}
	if !d.Allowed() {
		return refused(d)
	}
	return nil
}

// refused tells the caller what the policy means it to be told. Whoever is
// refused because nothing could be decided may come again: after a restart the
// relations are not there for a moment.
func refused(d rampart.Decision) error {
	kind, msg := rampart.Denied, "not allowed"
	if d.Code.Temporary() {
		kind = rampart.Unavailable
	}
	if d.ReasonUser != "" {
		msg = d.ReasonUser
	}
	return rampart.Errorf(kind, control, "%s", msg)
}

// stepUp asks for another login where that of the caller does not meet o. What
// o asks for in words that are not known is never met.
func (q *question) stepUp(ctx context.Context, o rampart.Obligation) error {
	p, acr := rampart.PrincipalFrom(ctx), o.Properties["acr"]
	age, err := maxAge(o.Properties["max_age"])
	if err != nil || acr != "" && levelOf(acr) == 0 {
		return errors.New("the policy asks for a step-up in words that are not known: acr is aal1 or aal2, max_age a time")
	}
	fresh := age == 0 || q.now().Sub(p.AuthTime) <= age+clockSkew
	if levelOf(p.ACR) >= levelOf(acr) && fresh {
		return nil
	}
	return problem.StepUp(acr, age, "")
}

func maxAge(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	age, err := time.ParseDuration(text)
	if seconds, serr := strconv.ParseUint(text, 10, 31); serr == nil {
		age, err = time.Duration(seconds)*time.Second, nil
	}
	if err == nil && age <= 0 {
		err = errors.New("no time at all")
	}
	return age, err
}

// levelOf orders levels of a login; an unknown one is below all.
func levelOf(acr string) int {
	switch acr {
	case "aal1":
		return 1
	case "aal2":
		return 2
	}
	return 0
}
