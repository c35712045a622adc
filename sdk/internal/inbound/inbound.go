// Package inbound carries, from the guard to the other leaves of the SDK, what
// arrived with the request that is being served.
package inbound

import "context"

// Inbound is what the sidecar said about the request. The zero Inbound is
// "no request": a service acting as itself.
type Inbound struct {
	Identity      string // the Rampart-Identity header as received
	Authorization string // the internal token, as "Bearer TOKEN"; "" when there was none
	Caller        string // SPIFFE ID of the direct caller
	Flow          string // id of the flow in rampart.yaml
}

type key struct{}

// With returns a context that carries in.
func With(ctx context.Context, in Inbound) context.Context {
	return context.WithValue(ctx, key{}, in)
}

// From returns what With stored, or the zero Inbound.
func From(ctx context.Context) Inbound {
	in, _ := ctx.Value(key{}).(Inbound)
	return in
}
