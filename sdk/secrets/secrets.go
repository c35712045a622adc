// Package secrets gets the credentials that this service must hold itself, such
// as the password of a store that it opens. The sidecar asks the secrets manager
// and caches; nothing comes from a variable, a file or the code.
//
// Most services need it never: package db asks for itself, and what external
// parties want to see the sidecar puts into the calls and shows to nobody.
package secrets

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/secrets"
)

// Secret does not print; its Use method lends the value. See package secrets.
type Secret = secrets.Secret

// Get returns the current version of the secret with this name, "store:NAME" or
// one that the file lets this service hold. A secret that the service need not
// hold is Denied; each hand-out is on record. Ask each time rather than keep it:
// secrets rotate.
func Get(ctx context.Context, svc *sdk.Service, name string) (Secret, error) {
	return get(ctx, svc, agent.PathSecret+url.PathEscape(name))
}

// GetInstead is Get after a version did not work: the sidecar asks the secrets
// manager whether there is a newer one, but not more often than is needed. It may
// return the same version.
func GetInstead(ctx context.Context, svc *sdk.Service, name string, refused int) (Secret, error) {
	return get(ctx, svc, agent.PathSecret+url.PathEscape(name)+"?refused="+strconv.Itoa(refused))
}

func get(ctx context.Context, svc *sdk.Service, path string) (Secret, error) {
	var v agent.SecretValue
	if err := svc.Call(ctx, http.MethodGet, path, nil, &v); err != nil {
		return Secret{}, err
	}
	defer clear(v.Value)
	return secrets.Make(v.Value, secrets.Meta{Version: v.Version, User: v.User, Until: v.Until}), nil
}
