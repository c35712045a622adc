package control

import (
	"context"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

// secretControl answers for secrets that cannot be had.
const secretControl = "secret.manager"

// accessBackend is under which name the credentials of stores are read that
// nobody keeps in a backend as they are: of roles that take turns, and of those
// that Vault makes. No backend of the file can have it. The path is the store.
const accessBackend = "access:"

// backends reads secrets where the file says they are. Who may have one is
// decided before it is asked. Safe for concurrent use after assemble.
type backends struct {
	from map[string]secrets.Backend // by the name in a reference
}

func newBackends(embedded secrets.Backend) *backends {
	return &backends{from: map[string]secrets.Backend{spec.EmbeddedBackend: embedded}}
}

// fetch reads one secret.
func (b *backends) fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	at, ok := b.from[ref.Backend]
	if !ok {
		return secrets.Secret{}, rampart.Errorf(rampart.Unavailable, secretControl, "control: backend %.64q is not open", ref.Backend)
	}
	return at.Fetch(ctx, ref)
}
