package sdk

import (
	"context"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

// Event is something a service did or refused that must stay on record. Who did
// it and the trace come from the context.
type Event struct {
	Class    string            // money | admin | api_read
	Action   string            // "payment.created"
	Outcome  string            // allowed | refused | error
	Control  string            // the control that refused; "" otherwise
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
		Subject:  rampart.PrincipalFrom(ctx).Subject,
		Resource: e.Resource,
		Trace:    rampart.TraceFrom(ctx),
		Detail:   e.Detail,
	}, nil)
}
