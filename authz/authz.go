// Package authz answers "Is this user allowed to do this?"
//
// It is the contract between those who ask (gateway, sidecar, SDK), the policy
// decision point (authz/pdp) that answers, and the engines (authz/rbac,
// authz/cedar, authz/rego) that it asks in turn. Engines report facts, a
// Verdict; only the decision point turns facts into a Decision, by one rule:
// any forbid denies, then anything uncertain denies, then one permit allows,
// then everything else denies.
package authz

import (
	"context"

	"github.com/rampart-security/rampart"
)

// Request is one question: may Principal do Action to Resource, in Context?
//
// Resource.Type is the singular noun in lower case, for example "order"; Action
// is "type:verb", for example "orders:read". Context holds JSON-like values as
// Resource.Attrs does. A Request is read only while it is decided and may be
// shared between goroutines.
type Request struct {
	Layer     rampart.Layer     `json:"layer"`
	Principal rampart.Principal `json:"principal"`
	Action    rampart.Action    `json:"action"`
	Resource  rampart.Resource  `json:"resource"`
	Context   map[string]any    `json:"context,omitzero"`

	// Relations are facts of the relation graph: whether Principal stands in
	// the named relation to Resource. The decision point fills in what the
	// engines read; a name that is absent is unknown, and a policy that reads
	// an unknown fact fails. Policies see it as relation.NAME.
	Relations map[string]bool `json:"relations,omitzero"`
	// AtLeast is the oldest revision of the relation graph that may answer; 0
	// takes any that is not stale.
	AtLeast uint64 `json:"at_least,omitzero"`
	// Supported are the types of obligation that the asker can carry out.
	Supported []string `json:"supported,omitzero"`
}

// Decider decides. It is safe for concurrent use, never blocks longer than its
// own time limit, and denies when in doubt.
type Decider interface {
	Decide(ctx context.Context, r Request) rampart.Decision
}

// Engine evaluates the policies of one language. Requests must have passed
// Request.Validate. It is safe for concurrent use.
type Engine interface {
	// Evaluate returns what the policies say; it honours ctx's deadline where
	// its language can run long.
	Evaluate(ctx context.Context, r Request) Verdict
	// Explain returns the permits that came close to matching, closest first.
	// It is for operators, costs more than Evaluate, and may return nothing.
	Explain(ctx context.Context, r Request) []rampart.NearMiss
	// Relations returns the names of relations whose facts the policies for
	// this action and type may read, sorted, each once. It allocates nothing.
	Relations(action rampart.Action, resourceType string) []string
}

// Verdict is what one engine found. The zero Verdict holds no permit, so it
// denies.
type Verdict struct {
	Permits  []Ruling
	Forbids  []Ruling
	Failures []Failure
	Looked   int // permits whose scope fits the request, matched or not
}

// Ruling is a policy that matched, and what it asks for besides.
type Ruling struct {
	Policy      rampart.PolicyRef
	Obligations []rampart.Obligation // of a permit: conditions of the permission; of a forbid: what the denial calls for
	Fields      *rampart.Fields      // of a permit: what may be seen; nil: all
	Detail      string               // what the policy itself says of it, for operators; mostly ""
	Reason      string               // for the user, who may read it; "" when the policy has none
}

// Failure is a policy that could not be evaluated. Policy.Effect is Allow for a
// permit, which then merely permits nothing, and Deny for a forbid or for a
// whole file, which makes the answer uncertain and therefore a denial.
type Failure struct {
	Policy rampart.PolicyRef
	Code   rampart.Code // CodeError or CodeTimeout
	Err    error        // for operators
}
