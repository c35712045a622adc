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
)

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
// Reason is for operators and never leaves the house; Code may.
type Decision struct {
	Effect   Effect      `json:"effect"`
	Layer    Layer       `json:"layer,omitzero"`
	Code     Code        `json:"code,omitzero"`
	Policies []PolicyRef `json:"policies,omitzero"`
	Reason   string      `json:"reason,omitzero"`
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
	return context.WithValue(ctx, traceKey{}, id)
}

// TraceFrom returns the trace id in ctx, or "".
func TraceFrom(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}
