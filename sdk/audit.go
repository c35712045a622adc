package sdk

import (
	"context"
	"net/http"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

// Event is something a service did or refused that must stay on record. For whom
// and the trace are the request's in the context, as the sidecar signed them;
// without one the service did it for itself.
type Event struct {
	Class    string            // money | admin | api_read
	Action   string            // "payment.created"
	Outcome  string            // allowed | refused | error
	Control  string            // the control that refused, of those that services enforce; "" otherwise
	Resource string            // "payment/0198..."
	Detail   map[string]string // identifiers and amounts; never personal data or secrets
}

// Audit records e and returns once it is durable. Book money only after, or
// answer only after: an event that cannot be recorded fails the request.
func (s *Service) Audit(ctx context.Context, e Event) error {
	return s.Call(ctx, http.MethodPost, agent.PathAudit, agent.AuditRequest{
		Class:    e.Class,
		Action:   e.Action,
		Outcome:  e.Outcome,
		Control:  e.Control,
		Identity: inbound.From(ctx).Identity,
		Resource: e.Resource,
		Detail:   e.Detail,
	}, nil)
}
