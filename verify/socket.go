package verify

import (
	"context"
	"net"
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart/internal/agent"
)

// socket asks a sidecar over its service's own socket, as whoever has taken
// the service over can.
func (e *Env) socket(ctx context.Context, service string, c call) (response, error) {
	out := response{trace: randomID(16)}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", e.running.Sockets[service])
	}
	return out.from(ctx, &http.Transport{DisableKeepAlives: true, DialContext: dial}, "http://sidecar", c)
}

// injectedSecret asks, as the service itself, for the credential that its
// sidecar puts into its calls. It must never hold it.
func injectedSecret(ctx context.Context, e *Env) (Result, error) {
	item, owner, _ := grantedSecret(e.sys)
	value, res, err := e.secretAs(ctx, owner, item)
	if err != nil {
		return Result{}, err
	}
	if len(value) == 0 {
		return unsure("the sidecar of %s is refused the secret that it injects: %d", owner, res.status), nil
	}
	e.note("the sidecar of %s: got it", owner)
	res, err = e.socket(ctx, owner, call{method: http.MethodGet, path: agent.PathSecret + url.PathEscape(item)})
	if err != nil {
		return Result{}, err
	}
	return e.attribute(ctx, attack{name: owner + " asks its own sidecar for " + item, want: []string{"secret.acl"}}, res)
}
