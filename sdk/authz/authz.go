// Package authz answers, inside a service, "may this caller touch this very
// object?": the third layer of authorization, after the gateway's and the
// sidecar's. The policies run in the sidecar; this package enforces the answer.
package authz

import (
	"context"
	"net/http"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

const (
	control = "authz.domain"
	tenancy = "authz.service"
)

// Check asks the sidecar's policy decision point whether the caller of the
// request in ctx may do action to resource. Nil is yes. A refusal is Denied; a
// sidecar that does not answer is Unavailable, which refuses as well.
//
// A resource that names its Tenant is refused to callers who do not belong to
// it, whatever the policies say: which organization an object belongs to is
// often known only now, after it was loaded.
func Check(ctx context.Context, svc *sdk.Service, action rampart.Action, resource rampart.Resource) error {
	if svc.Off(control) {
		return nil
	}
	identity := inbound.From(ctx).Identity
	if identity == "" {
		return rampart.Errorf(rampart.Denied, control, "no caller to decide for")
	}
	var decision rampart.Decision
	err := svc.Call(ctx, http.MethodPost, agent.PathCheck,
		agent.CheckRequest{Identity: identity, Action: action, Resource: resource}, &decision)
	if err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "no decision could be had", Err: err}
	}
	if !decision.Allowed() {
		return rampart.Errorf(rampart.Denied, control, "not allowed")
	}
	return member(ctx, svc, action, resource)
}

// member refuses across tenants and puts that on record: the sidecar, which
// allowed, cannot know of it.
func member(ctx context.Context, svc *sdk.Service, action rampart.Action, resource rampart.Resource) error {
	p := rampart.PrincipalFrom(ctx)
	if resource.Tenant == "" || slices.Contains(p.Organizations, resource.Tenant) || svc.Off(tenancy) {
		return nil
	}
	denied := rampart.Errorf(rampart.Denied, tenancy, "not allowed")
	denied.Err = svc.Audit(ctx, sdk.Event{
		Class: "api_read", Action: string(action), Outcome: "refused", Control: tenancy,
		Resource: resource.Type + "/" + resource.ID,
	})
	return denied
}
