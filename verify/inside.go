package verify

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

func insideProbes() []Probe {
	return []Probe{
		{ID: "P-050", Title: "a sidecar refuses plain HTTP, TLS 1.2, no certificate and one of another CA", SeedRow: "tls: service to service", Controls: []string{"mtls.required", "tls.min13"},
			Proves: []string{"owasp2021:A02", "owasp2021:A07"}, Vantage: asService, Safety: safe, Run: badHandshakes,
			Blind: "no plane can serve without mutual TLS"},
		{ID: "P-051", Title: "a service that no flow leads from is refused at each sidecar", SeedRow: "checklist: network segmentation", Controls: []string{"mtls.peer_declared"},
			Proves: []string{"owasp2021:A01"}, Vantage: asService, Safety: safe, Needs: needUndeclared, Run: undeclaredPeer},
		{ID: "P-052", Title: "an internal token for one service is refused by another", SeedRow: "authn: token exchange", Controls: []string{"token.audience"},
			Proves: []string{"owasp2021:A01"}, Vantage: asService, Safety: safe, Needs: all(needExchange, needTwoServices), Run: wrongAudience,
			Blind: "a verifier always compares the audience"},
		{ID: "P-053", Title: "an internal token is refused from another certificate than it was issued to", SeedRow: "authn: token exchange", Controls: []string{"token.binding"},
			Proves: []string{"owasp2021:A07"}, Vantage: asService, Safety: safe, Needs: needExchange, Run: stolenToken,
			Blind: "a verifier always compares the certificate"},
		{ID: "P-054", Title: "a service's own port refuses who did not come through the sidecar", SeedRow: "checklist: mTLS for internal traffic", Controls: []string{"mtls.required"},
			Proves: []string{"owasp2021:A01"}, Vantage: onHost, Safety: safe, Run: aroundSidecar,
			Blind: "the guard in the service is its own code's"},
		{ID: "P-055", Title: "the token service gives nothing for an undeclared audience, and nothing for an outside credential to a service", SeedRow: "authn: token exchange", Controls: []string{"token.exchange"},
			Proves: []string{"owasp2021:A01", "owasp2021:A07"}, Vantage: asService, Safety: safe, Needs: needUndeclared, Run: greedyExchange},
	}
}

// undeclared finds a service that no flow leads from to another one.
func undeclared(sys *spec.System) (from, to string, ok bool) {
	t := &target{sys: sys}
	for _, from := range t.services() {
		for _, to := range t.services() {
			leads := slices.ContainsFunc(sys.FlowsFrom(from), func(f spec.Flow) bool { return f.To == to })
			if from != to && !leads {
				return from, to, true
			}
		}
	}
	return "", "", false
}

func needUndeclared(sys *spec.System) (bool, string) {
	_, _, ok := undeclared(sys)
	return ok, "there are no two services without a flow between them"
}

// exchanged lists the gateway's services that take internal tokens.
func exchanged(sys *spec.System) []string {
	var out []string
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		if f.Authn.Pattern == "exchange" {
			out = append(out, f.To)
		}
	}
	return out
}

func needExchange(sys *spec.System) (bool, string) {
	return len(exchanged(sys)) > 0, "no flow from the gateway exchanges tokens"
}

func needTwoServices(sys *spec.System) (bool, string) {
	return len(exchanged(sys)) > 1, "the gateway exchanges tokens for one service only"
}

// sidecarCall is a GET at a service's sidecar, as a workload with a token.
func (e *Env) sidecarCall(as *workload, service, token string) call {
	c := call{as: as, addr: e.running.Sidecars[service], want: e.sys.ServiceID(service), method: http.MethodGet, path: e.innerPath(service), header: http.Header{}}
	if token != "" {
		c.header.Set("Authorization", "Bearer "+token)
	}
	return c
}

// innerPath is a harmless path of a service, as its sidecar knows it.
func (e *Env) innerPath(service string) string {
	for _, o := range e.ops {
		if o.service == service && o.method == http.MethodGet && o.tenant == "" && o.declared {
			if path, err := o.url(nil); err == nil {
				return "/" + strings.TrimPrefix(path, e.sys.Services[service].Mount)
			}
		}
	}
	return "/"
}

// insider plays the gateway with a genuine token of a genuine user: the
// positive control of attacks at a sidecar.
func (e *Env) insider(ctx context.Context, service string) (*workload, string, error) {
	a, err := e.account(ctx, e.facts())
	if err != nil {
		return nil, "", err
	}
	if err := e.login(ctx, a); err != nil {
		return nil, "", err
	}
	gw, err := e.join(ctx, "gateway/"+e.gateway())
	if err != nil {
		return nil, "", err
	}
	token, err := e.tokenFor(ctx, gw, caller{account: a}, service)
	if err != nil {
		return nil, "", err
	}
	res, err := e.inside(ctx, e.sidecarCall(gw, service, token))
	if err != nil {
		return nil, "", fmt.Errorf("the sidecar of %s does not take a genuine call: %w", service, err)
	}
	if res.status == http.StatusUnauthorized || res.status == http.StatusForbidden || res.status >= 500 {
		return nil, "", fmt.Errorf("the sidecar of %s answered a genuine call %d: %.200s", service, res.status, res.body)
	}
	e.note("a genuine call to %s: %d", service, res.status)
	return gw, token, nil
}

func badHandshakes(ctx context.Context, e *Env) (Result, error) {
	declared := exchanged(e.sys)
	if len(declared) == 0 {
		return absent("no flow from the gateway exchanges tokens"), nil
	}
	gw, token, err := e.insider(ctx, declared[0])
	if err != nil {
		return Result{}, err
	}
	stranger, err := foreign(e.sys.ServiceID(e.gateway()))
	if err != nil {
		return Result{}, err
	}
	refusals := 0
	for _, service := range e.services() {
		good := e.sidecarCall(gw, service, token)
		old := e.clientTLS(gw, good.want)
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		for _, h := range []handshake{
			{"plain HTTP", good, nil, true, []string{"mtls.required", "tls.min13"}},
			{"TLS 1.2", good, old, false, []string{"tls.min13", "mtls.required"}},
			{"no certificate", good, e.clientTLS(nil, good.want), false, []string{"mtls.required"}},
			{"a certificate of another CA", good, e.clientTLS(stranger, good.want), false, []string{"mtls.required"}},
		} {
			h.name += " at " + service
			verdict, err := e.handshake(ctx, h)
			if err != nil || verdict.Verdict != Pass {
				return verdict, err
			}
			refusals++
		}
	}
	return passed("%d handshakes refused at %d sidecars", refusals, len(e.services())), nil
}

// handshake is one connection that must not come about.
type handshake struct {
	name   string
	call   call
	config *tls.Config
	plain  bool
	want   []string
}

func (e *Env) handshake(ctx context.Context, h handshake) (Result, error) {
	h.call.config = h.config
	send := e.inside
	if h.plain {
		send = e.plainly
	}
	res, err := send(ctx, h.call)
	if err == nil && res.status < 400 {
		return failed("%s: was answered %d", h.name, res.status), nil
	}
	if res.peer == "" {
		return Result{}, fmt.Errorf("%s: %w", h.name, err)
	}
	return e.refusedPeer(ctx, h.name, res.peer, h.want...)
}

func undeclaredPeer(ctx context.Context, e *Env) (Result, error) {
	attacks := 0
	for _, to := range e.services() {
		from := ""
		for _, name := range e.services() {
			if name != to && !slices.ContainsFunc(e.sys.FlowsFrom(name), func(f spec.Flow) bool { return f.To == to }) {
				from = name
				break
			}
		}
		if from == "" || len(e.sys.FlowsTo(to)) == 0 {
			continue
		}
		w, err := e.join(ctx, "service/"+from)
		if err != nil {
			return Result{}, err
		}
		c := e.sidecarCall(w, to, "")
		verdict, err := e.handshake(ctx, handshake{from + " at " + to, c, nil, false, []string{"mtls.peer_declared"}})
		if err == nil && verdict.Verdict == Inconclusive {
			verdict, err = e.pastHandshake(ctx, from+" at "+to, c, verdict)
		}
		if err != nil || verdict.Verdict != Pass {
			return verdict, err
		}
		attacks++
	}
	return passed("%d services refused at sidecars that no flow leads them to", attacks), nil
}

// pastHandshake tells a refusal that nobody recorded from a connection that
// came about: an answer by any later control means that the peer was let in.
func (e *Env) pastHandshake(ctx context.Context, name string, c call, before Result) (Result, error) {
	res, err := e.inside(ctx, c)
	if err != nil {
		return before, nil
	}
	who, _, err := e.refuser(ctx, res.trace, []string{"mtls.peer_declared"})
	if who.Control == "mtls.peer_declared" {
		return passed("%s: refused by %s", name, who.Control), err
	}
	return failed("%s: mtls.peer_declared let it through; %s answered %d", name, orNobody(who.Control), res.status), err
}

func wrongAudience(ctx context.Context, e *Env) (Result, error) {
	declared := exchanged(e.sys)
	gw, token, err := e.insider(ctx, declared[0])
	if err != nil {
		return Result{}, err
	}
	return e.refusedInside(ctx, "a token for "+declared[0]+" at "+declared[1], e.sidecarCall(gw, declared[1], token), "token.audience")
}

func stolenToken(ctx context.Context, e *Env) (Result, error) {
	to := exchanged(e.sys)[0]
	_, token, err := e.insider(ctx, to)
	if err != nil {
		return Result{}, err
	}
	thief, err := e.join(ctx, "gateway/"+e.gateway())
	if err != nil {
		return Result{}, err
	}
	return e.refusedInside(ctx, "a token from another certificate", e.sidecarCall(thief, to, token), "token.binding")
}

// refusedInside makes a call inside that must be refused.
func (e *Env) refusedInside(ctx context.Context, name string, c call, want ...string) (Result, error) {
	res, err := e.inside(ctx, c)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	return e.attribute(ctx, attack{name, request{}, want}, res)
}

// aroundSidecar knocks at each service's loopback port, as any process on the
// host can. A service without the SDK cannot tell, which is said and not
// called proven.
func aroundSidecar(ctx context.Context, e *Env) (Result, error) {
	var guarded, open []string
	for _, name := range e.services() {
		addr := strings.TrimPrefix(e.running.Upstream[name], "http://")
		res, err := e.plainly(ctx, call{addr: addr, method: http.MethodGet, path: e.innerPath(name), header: http.Header{"Rampart-Identity": {"v1.e30.AAAA"}}})
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", name, err)
		}
		e.note("%s: %d", name, res.status)
		if res.status == http.StatusUnauthorized || res.status == http.StatusForbidden {
			guarded = append(guarded, name)
			continue
		}
		open = append(open, name)
	}
	switch {
	case len(open) == 0:
		return passed("%d services answer nobody but their sidecar", len(guarded)), nil
	case len(guarded) == 0:
		return absent("no service uses the SDK's guard: any process on this host can reach %s", strings.Join(open, ", ")), nil
	}
	return unsure("%s answers any process on this host", strings.Join(open, ", ")), nil
}

func greedyExchange(ctx context.Context, e *Env) (Result, error) {
	from, to, _ := undeclared(e.sys)
	if declared := exchanged(e.sys); len(declared) > 0 {
		if _, _, err := e.insider(ctx, declared[0]); err != nil {
			return Result{}, err
		}
	}
	w, err := e.join(ctx, "service/"+from)
	if err != nil {
		return Result{}, err
	}
	a, err := e.account(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if err := e.login(ctx, a); err != nil {
		return Result{}, err
	}
	for _, x := range []struct{ name, kind, subject string }{
		{"as itself", wire.TypeSVIDOnly, ""},
		{"with a user's session", wire.TypeSession, a.session},
	} {
		name := fmt.Sprintf("%s asks for a token to %s %s", from, to, x.name)
		token, res, err := e.exchange(ctx, w, x.kind, x.subject, e.sys.ServiceID(to))
		if err != nil {
			return Result{}, err
		}
		if token != "" {
			return failed("%s: got one", name), nil
		}
		e.note("%s: %d", name, res.status)
		verdict, err := e.refusedPeer(ctx, name, res.peer, "token.exchange")
		if err != nil || verdict.Verdict != Pass {
			return verdict, err
		}
	}
	return passed("no token for an audience without a flow, with or without a user's credential"), nil
}
