// Package secrets gets a secret that rampart.yaml grants to this service. The
// sidecar asks the secrets manager and caches; nothing comes from a variable, a
// file or the code.
//
// Most services need it never: the sidecar itself injects credentials into calls
// to external parties.
package secrets

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/secrets"
)

// Secret does not print; its Use method lends the value. See package secrets.
type Secret = secrets.Secret

// Get returns the current version of the secret with this name, a data item of
// kind credential. A secret that is not this service's is Denied. Ask each time
// rather than keep it: secrets rotate.
func Get(ctx context.Context, svc *sdk.Service, name string) (Secret, error) {
	var v agent.SecretValue
	if err := svc.Call(ctx, http.MethodGet, agent.PathSecret+url.PathEscape(name), nil, &v); err != nil {
		return Secret{}, err
	}
	defer clear(v.Value)
	return secrets.New(v.Value, v.Version), nil
}
