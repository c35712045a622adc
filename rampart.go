// Package rampart is the vocabulary that every plane shares: who asks
// (Principal), for what (Action, Resource), and what was answered (Decision).
//
// It imports the standard library alone, so that every other package, the SDK
// and verify included, can speak of the same things without sharing code.
package rampart

import (
	"context"
	"fmt"
	"time"
)

// PrincipalKind says what sort of subject a Principal is.
type PrincipalKind string

// The kinds of principal. The zero value, "", is nobody.
const (
	KindHuman   PrincipalKind = "human"
	KindClient  PrincipalKind = "client"
	KindService PrincipalKind = "service"
)

// Principal is an authenticated subject with the facts that policies may use.
// The zero Principal is nobody and has no rights.
type Principal struct {
	Kind          PrincipalKind `json:"kind,omitzero"`
	Subject       string        `json:"sub,omitzero"`           // "user:ID", "client:ID" or a SPIFFE ID: separate namespaces, so none can pose as another
	Tenant        string        `json:"tenant,omitzero"`        // the subject's home organization
	Organizations []string      `json:"organizations,omitzero"` // organizations that the subject may act for
	Roles         []string      `json:"roles,omitzero"`
	Team          string        `json:"team,omitzero"`
	ManagedTeams  []string      `json:"managed_teams,omitzero"`
	Client        string        `json:"client,omitzero"` // the client that presented the credential (azp); "" for a browser session
	Session       string        `json:"sid,omitzero"`    // handle for revocation; never the cookie's value
	AuthTime      time.Time     `json:"auth_time,omitzero"`
	ACR           string        `json:"acr,omitzero"`    // assurance of the login: "aal1" or "aal2"; "" is less than either
	AMR           []string      `json:"amr,omitzero"`    // how: "pwd", "otp", "hwk", "fed" (RFC 8176)
	Scope         []string      `json:"scope,omitzero"`  // permissions that the credential is limited to; nil: all that the subject has
	Actors        []string      `json:"actors,omitzero"` // RFC 8693 act chain, current actor first
}

// IsZero reports whether p is nobody.
func (p Principal) IsZero() bool { return p.Subject == "" }

// HasRole reports whether p holds role.
func (p Principal) HasRole(role string) bool {
	for _, r := range p.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// Action names what is asked for, as "type:verb", for example "orders:read".
type Action string

// Resource is the thing acted upon. Attrs holds JSON-like values only: string,
// bool, int64, float64, []any, map[string]any.
type Resource struct {
	Type   string         `json:"type"`
	ID     string         `json:"id,omitzero"`
	Tenant string         `json:"tenant,omitzero"`
	Attrs  map[string]any `json:"attrs,omitzero"`
}

// Effect is the outcome of a decision. Its zero value denies.
type Effect uint8

// The two effects.
const (
	Deny Effect = iota
	Allow
)

func (e Effect) String() string {
	if e == Allow {
		return "allow"
	}
	return "deny"
}

// MarshalText renders the effect as "allow" or "deny".
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads "allow"; everything else is Deny.
func (e *Effect) UnmarshalText(b []byte) error {
	*e = Deny
	if string(b) == "allow" {
		*e = Allow
	}
	return nil
}

// Layer says where a decision was taken (the seed's three layers).
type Layer string

// The layers of authorization.
const (
	LayerGateway Layer = "gateway" // may this subject use this API at all?
	LayerService Layer = "service" // may it act for this organization?
	LayerDomain  Layer = "domain"  // may it touch this very object?
)

// Code is the machine-readable reason of a denial. It may leave the house.
type Code string

// The codes of a denial.
const (
	CodeNoPermit    Code = "no_permit"
	CodeForbidden   Code = "forbidden"
	CodeRoleMissing Code = "role_missing"
	CodeNotMember   Code = "not_member"
	CodeError       Code = "error"
	CodeTimeout     Code = "timeout"
	CodeStale       Code = "stale"
	CodeScope       Code = "insufficient_scope" // the credential is limited to other permissions, whatever its subject holds

	CodeSeparation     Code = "separation_of_duty" // the subject holds roles that nobody may use together
	CodeSource         Code = "source_down"        // an attribute or a relation could not be had
	CodeClock          Code = "clock"              // this machine's clock jumped and nobody vouched for it since
	CodeUnenforceable  Code = "unenforceable"      // allowed with an obligation that the PEP cannot carry out
	CodeUntranslatable Code = "untranslatable"     // a list was asked for, and a policy cannot be said as a filter
)

// Temporary reports whether a denial says nothing about the subject's rights: the
// decision could not be made, and asking again later may come out otherwise. It
// is a denial all the same.
func (c Code) Temporary() bool {
	switch c {
	case CodeTimeout, CodeStale, CodeSource, CodeClock:
		return true
	}
	return false
}

// PolicyRef points at the line of policy that decided.
type PolicyRef struct {
	Engine string `json:"engine"` // "rbac", "cedar", "rego", "flow"
	ID     string `json:"id"`
	File   string `json:"file,omitzero"`
	Line   int    `json:"line,omitzero"` // 1-based; 0 when unknown
	Effect Effect `json:"effect"`
}

func (r PolicyRef) String() string {
	if r.File == "" {
		return r.Engine + "/" + r.ID
	}
	return fmt.Sprintf("%s/%s at %s:%d", r.Engine, r.ID, r.File, r.Line)
}

// Decision is the answer of a policy decision point. The zero Decision denies.
// Code and ReasonUser may leave the house; Reason, Policies, Missing and Path
// are for operators and never do.
type Decision struct {
	ID          string       `json:"id,omitzero"` // names the decision in the decision log; "" when it was not logged
	Effect      Effect       `json:"effect"`
	Layer       Layer        `json:"layer,omitzero"` // for a denial, the first that said no
	Code        Code         `json:"code,omitzero"`
	Policies    []PolicyRef  `json:"policies,omitzero"` // those that decided; decisions share them, so they must not be changed
	Obligations []Obligation `json:"obligations,omitzero"`
	Fields      *Fields      `json:"fields,omitzero"` // what of the resource may be seen; nil: all of it
	Revision    Revision     `json:"revision,omitzero"`
	ReasonUser  string       `json:"reason_user,omitzero"`
	Reason      string       `json:"reason,omitzero"`  // for operators
	Missing     []NearMiss   `json:"missing,omitzero"` // of a denial: permits that came close, closest first
	Path        []string     `json:"path,omitzero"`    // of relations: the tuples that lead from the subject to the resource, or how far they led
}

// Obligation is what a PEP must carry out before it acts on a decision. One
// that it does not know makes it deny (OpenID AuthZEN obligations profile,
// draft 1).
type Obligation struct {
	ID         string            `json:"id"`   // of the policy that asks for it
	Type       string            `json:"type"` // "step-up", "notification", "session_termination" or a name of the service's own
	Properties map[string]string `json:"properties,omitzero"`
}

// Fields limits what of a resource may be seen. Names are members of the
// resource's JSON form; "card.last4" is a member of a member.
type Fields struct {
	Only []string `json:"only,omitzero"` // nothing but these; nil: everything
	Mask []string `json:"mask,omitzero"` // shown as null, whatever Only says
}

// NearMiss is a permit that did not match, and why.
type NearMiss struct {
	Policy    PolicyRef `json:"policy"`
	Held      int       `json:"held"`          // conditions that held before the one that failed
	Condition string    `json:"condition"`     // source text of the condition that failed
	Line      int       `json:"line,omitzero"` // of the condition; 0 when only the policy's line is known
	Problem   string    `json:"problem"`       // "is false", or the error
}

// Revision is the state of knowledge that a decision was made with. It is also
// a consistency token: a later question may ask for one at least as new.
type Revision struct {
	Policy    uint64 `json:"policy,omitzero"`    // version of the bundle
	Relations uint64 `json:"relations,omitzero"` // revision of the relation graph; 0 when none was asked
}

// Allowed reports whether the decision permits.
func (d Decision) Allowed() bool { return d.Effect == Allow }

// Class is the sensitivity of data; it drives encryption and redaction.
type Class string

// The classes, least sensitive first.
const (
	ClassPublic       Class = "public"
	ClassInternal     Class = "internal"
	ClassConfidential Class = "confidential"
	ClassSecret       Class = "secret"
)

// Rank orders classes: public 0 to secret 3. An unknown class ranks as secret.
func (c Class) Rank() int {
	switch c {
	case ClassPublic:
		return 0
	case ClassInternal:
		return 1
	case ClassConfidential:
		return 2
	}
	return 3
}

type principalKey struct{}

// WithPrincipal returns a context that carries p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns the principal in ctx, or the zero Principal, nobody.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

type traceKey struct{}

// WithTrace returns a context that carries the W3C trace id (32 hex digits).
func WithTrace(ctx context.Context, id string) context.Context {
	return &traced{ctx, id}
}

// traced is a context with a trace id, in one piece of memory: every request has one.
type traced struct {
	context.Context
	id string
}

// Value implements context.Context.
func (t *traced) Value(key any) any {
	if key == (traceKey{}) {
		return t
	}
	return t.Context.Value(key)
}

// TraceFrom returns the trace id in ctx, or "".
func TraceFrom(ctx context.Context) string {
	if t, ok := ctx.Value(traceKey{}).(*traced); ok {
		return t.id
	}
	return ""
}
