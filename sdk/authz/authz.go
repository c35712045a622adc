// Package authz answers, inside a service, "may this caller touch this very
// object?": the third layer of authorization, after the gateway's and the
// sidecar's. The policies run in the sidecar; this package enforces the answer.
//
// Check and Decide ask about one object, CheckMany and DecideMany about some that
// are at hand, Filter about a whole table, as a condition for its SQL. What of an
// object may be seen comes with the answer; Project shows no more than that.
package authz

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

const control = "authz.domain"

// Option refines a question.
type Option func(*question)

type question struct {
	context map[string]any
	atLeast uint64
	tenant  string
	handle  map[string]func(context.Context, rampart.Obligation) error
	now     func() time.Time
}

func asked(opts []Option) *question {
	q := &question{now: time.Now}
	for _, o := range opts {
		o(q)
	}
	return q
}

// AtLeast asks for an answer that knows the relations of this revision, as
// relations.Store.Write returned it. A sidecar that does not come to know it
// within moments denies.
func AtLeast(revision uint64) Option {
	return func(q *question) { q.atLeast = max(q.atLeast, revision) }
}

// With adds facts of the request to the context that policies see: strings,
// booleans, int64, float64, and lists and maps of them. What the sidecar knows
// itself (caller, flow, now) cannot be said here.
func With(facts map[string]any) Option {
	return func(q *question) {
		if q.context == nil {
			q.context = map[string]any{}
		}
		maps.Copy(q.context, facts)
	}
}

// Of limits a Filter to the rows of one organization, to which the caller must
// belong. Without it each row's own tenant column is asked.
func Of(tenant string) Option {
	return func(q *question) { q.tenant = tenant }
}

// Handling tells that this service can carry out obligations of a type of its
// own, and how. A decision with an obligation that nobody can carry out is a
// denial. An error of f denies, too. f is called before the decision is
// returned, for denials as well.
func Handling(obligation string, f func(context.Context, rampart.Obligation) error) Option {
	return func(q *question) {
		if q.handle == nil {
			q.handle = map[string]func(context.Context, rampart.Obligation) error{}
		}
		q.handle[obligation] = f
	}
}

// Check asks the sidecar's policy decision point whether the caller of the
// request in ctx may do action to resource. Nil is yes. A refusal is Denied, or
// Unauthenticated when a stronger or fresher login would do (rest.Handler then
// says so, RFC 9470). Where nothing could be decided (rampart.Code.Temporary), or
// the sidecar does not answer, it is Unavailable, which refuses as well.
//
// Name the Tenant of a resource: it is refused to callers who do not belong to
// it, whatever the policies say. Which organization an object belongs to is
// often known only now, after it was loaded.
func Check(ctx context.Context, svc *sdk.Service, action rampart.Action, resource rampart.Resource, opts ...Option) error {
	_, err := Decide(ctx, svc, action, resource, opts...)
	return err
}

// Decide is Check, and returns the decision: its Fields for Project, and its
// Revision. The error is nil exactly when the decision allows and all that it
// obliges to was carried out.
func Decide(ctx context.Context, svc *sdk.Service, action rampart.Action, resource rampart.Resource, opts ...Option) (rampart.Decision, error) {
	if svc.Off(control) {
		return off, nil
	}
	identity, err := caller(ctx)
	if err != nil {
		return rampart.Decision{}, err
	}
	q := asked(opts)
	d, err := twice(ctx, func(d rampart.Decision) rampart.Code { return d.Code }, func() (d rampart.Decision, err error) {
		return d, call(ctx, svc, agent.PathCheck, q.check(identity, action, resource), &d)
	})
	if err != nil {
		return rampart.Decision{}, err
	}
	return d, q.enforce(ctx, d)
}

// CheckMany asks about many objects at once and returns what Check would have
// for each, in order.
func CheckMany(ctx context.Context, svc *sdk.Service, action rampart.Action, resources []rampart.Resource, opts ...Option) []error {
	out := make([]error, len(resources))
	for i, o := range DecideMany(ctx, svc, action, resources, opts...) {
		out[i] = o.Err
	}
	return out
}

// Outcome is what Decide returns.
type Outcome struct {
	Decision rampart.Decision
	Err      error
}

// DecideMany asks about many objects at once and returns what Decide would have
// for each, in order.
func DecideMany(ctx context.Context, svc *sdk.Service, action rampart.Action, resources []rampart.Resource, opts ...Option) []Outcome {
	out := make([]Outcome, len(resources))
	if svc.Off(control) {
		for i := range out {
			out[i].Decision = off
		}
		return out
	}
	identity, err := caller(ctx)
	q, done := asked(opts), 0
	for some := range slices.Chunk(resources, agent.MaxMany) {
		if err == nil {
			err = q.many(ctx, svc, identity, action, some, out[done:done+len(some)])
		}
		for i := done; err != nil && i < done+len(some); i++ {
			out[i] = Outcome{Err: err}
		}
		done += len(some)
	}
	return out
}

func (q *question) many(ctx context.Context, svc *sdk.Service, identity string, action rampart.Action, some []rampart.Resource, out []Outcome) error {
	req := agent.ManyRequest{Identity: identity}
	for _, r := range some {
		req.Checks = append(req.Checks, q.check("", action, r))
	}
	answer, err := twice(ctx, undecided, func() (a agent.ManyAnswer, err error) {
		return a, call(ctx, svc, agent.PathMany, req, &a)
	})
	if err != nil {
		return err
	}
	if len(answer.Decisions) != len(some) {
		return rampart.Errorf(rampart.Unavailable, control, "the decisions are not as many as the questions")
	}
	for i, d := range answer.Decisions {
		out[i] = Outcome{d, q.enforce(ctx, d)}
	}
	return nil
}

// off is the decision where rampart.yaml disables the control.
var off = rampart.Decision{Effect: rampart.Allow, Layer: rampart.LayerDomain}

func (q *question) check(identity string, action rampart.Action, resource rampart.Resource) agent.CheckRequest {
	return agent.CheckRequest{Identity: identity, Action: action, Resource: resource, Context: q.context, AtLeast: q.atLeast, Supported: q.supported()}
}

// caller returns the signed identity of the request in ctx.
func caller(ctx context.Context) (string, error) {
	identity := inbound.From(ctx).Identity
	if identity == "" {
		return "", rampart.Errorf(rampart.Denied, control, "no caller to decide for")
	}
	return identity, nil
}

// again is the pause before a question is asked once more.
const again = 50 * time.Millisecond

// twice asks once more, after a moment, when nothing could be decided: a question
// changes nothing, and what was in the way (a turn that did not come, a graph
// that was just behind) is mostly gone by then. What the second answer is counts.
func twice[T any](ctx context.Context, code func(T) rampart.Code, ask func() (T, error)) (T, error) {
	answer, err := ask()
	if err != nil || !code(answer).Temporary() {
		return answer, err
	}
	select {
	case <-time.After(again):
		return ask()
	case <-ctx.Done():
		return answer, nil
	}
}

// undecided returns the first code that says that nothing was decided.
func undecided(a agent.ManyAnswer) rampart.Code {
	for _, d := range a.Decisions {
		if d.Code.Temporary() {
			return d.Code
		}
	}
	return ""
}

func call(ctx context.Context, svc *sdk.Service, path string, in, out any) error {
	if err := svc.Call(ctx, http.MethodPost, path, in, out); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "no decision could be had", Err: err}
	}
	return nil
}
