// Package authz answers, inside a service, "may this caller touch this very
// object?": the third layer of authorization, after the gateway's and the
// sidecar's. The policies run in the sidecar; this package enforces the answer.
package authz

import (
	"context"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

const control = "authz.domain"

// Check asks the sidecar's policy decision point whether the caller of the
// request in ctx may do action to resource. Nil is yes. A refusal is Denied; a
// sidecar that does not answer is Unavailable, which refuses as well.
//
// Name the Tenant of a resource: it is refused to callers who do not belong to
// it, whatever the policies say. Which organization an object belongs to is
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
	return nil
}
