// Package secrets gets the password of a store that this service opens. The
// sidecar asks the secrets manager and caches; nothing comes from a variable, a
// file or the code.
//
// Most services need it never: package db asks for itself, and what external
// parties want to see the sidecar puts into the calls and shows to nobody.
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

// Get returns the current version of the secret with this name, "store:NAME". A
// secret that the service need not hold is Denied; each hand-out is on record.
// Ask each time rather than keep it: secrets rotate.
func Get(ctx context.Context, svc *sdk.Service, name string) (Secret, error) {
	var v agent.SecretValue
	if err := svc.Call(ctx, http.MethodGet, agent.PathSecret+url.PathEscape(name), nil, &v); err != nil {
		return Secret{}, err
	}
	defer clear(v.Value)
	return secrets.New(v.Value, v.Version), nil
}
