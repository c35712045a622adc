package control

import (
	"context"
	"time"

	"github.com/rampart-security/rampart/secrets"
)

// Opened opens what the control plane has sealed under a key file.
func Opened(ctx context.Context, kek secrets.KEK, sealed, aad []byte) ([]byte, error) {
	return newKeyring(time.Now, held{kek: kek, prefix: filePrefix}, nil).Unwrap(ctx, sealed, aad)
}

// AskBackends has the control plane ask all backends whether they are there, as it
// does by itself from time to time.
func AskBackends(ctx context.Context, p *Plane) { p.health.round(ctx) }

// PolicyContent is what the policies say that are shipped, whatever their version.
func (p *Plane) PolicyContent() string {
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	return p.policies.now.Content
}
