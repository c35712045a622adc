package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/network/nonce"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// table is rampart.yaml compiled for the edge. It is immutable but for the
// counters of its limiters.
type table struct {
	sys     *spec.System
	hops    hops            // in front of this gateway
	targets []*target       // longest mount first
	entries []entry         // flows from outside into this gateway
	keyed   map[string]bool // principals whose clients show an API key beside the token, and come in by no other's flow
	plans   map[string]plan
	ip      ratelimit.Limiter
	user    ratelimit.Limiter       // all ways in together
	nonces  map[string]*nonce.Guard // by flow
	once    *idempotency.Guard      // set by limiters.compile
	store   *sharing                // the same; nil: limits are not shared

	hasCORS        bool // some target has
	hasWebSocket   bool // some target may become one
	stages, public []stage
}

// entry is one flow by which callers come in.
type entry struct {
	flow  spec.Flow
	need  method // the set of credentials that it takes, exactly
	users ratelimit.Limiter
}

// target is one service that the gateway may reach.
type target struct {
	name  string
	mount string // "/" or "/NAME/"
	svc   spec.Service
	flow  spec.Flow
	api   *openapi.API // nil: no document, methods are bounded instead

	backend *backend // set by Gateway.meet
}

func compile(sys *spec.System, self string, now func() time.Time, pick picker) (*table, error) {
	t := &table{sys: sys, hops: hopsOf(sys.Services[self].Edge), keyed: map[string]bool{}, plans: map[string]plan{}, nonces: map[string]*nonce.Guard{}}
	for _, f := range sys.FlowsFrom(self) {
		tg, err := newTarget(sys, f)
		if err != nil {
			return nil, err
		}
		t.targets = append(t.targets, tg)
		if f.Nonce != nil {
			t.nonces[f.ID] = nonce.New(nonce.Options{Window: time.Duration(f.Nonce.Window), Now: now})
		}
	}
	if err := disjoint(t.targets); err != nil {
		return nil, err
	}
	sort.SliceStable(t.targets, func(i, j int) bool { return len(t.targets[i].mount) > len(t.targets[j].mount) })
	t.limits(sys.FlowsTo(self), pick)
	return t, nil
}

func newTarget(sys *spec.System, f spec.Flow) (*target, error) {
	svc := sys.Services[f.To]
	tg := &target{name: f.To, mount: svc.Mount, svc: svc, flow: f}
	if svc.OpenAPI == "" {
		return tg, nil
	}
	doc, ok := sys.Resource(svc.OpenAPI)
	if !ok {
		return nil, fmt.Errorf("services.%s.openapi: %s is not in the bundle", f.To, svc.OpenAPI)
	}
	api, err := openapi.Compile(f.To, doc)
	if err != nil {
		return nil, fmt.Errorf("services.%s.openapi: %s: %w", f.To, svc.OpenAPI, err)
	}
	tg.api = api
	return tg, nil
}

// remember takes over, flow by flow, the nonces that were used under the table
// before: a new file must not make them good again.
func (t *table) remember(old *table) {
	if old == nil {
		return
	}
	for _, tg := range t.targets {
		if used, f := old.nonces[tg.flow.ID], tg.flow; f.Nonce != nil && used != nil {
			used.SetWindow(time.Duration(f.Nonce.Window))
			t.nonces[f.ID] = used
		}
	}
}

// disjoint refuses two services that claim one operation: the router would
// have to guess which authorization counts.
func disjoint(targets []*target) error {
	seen := map[string]string{}
	for _, t := range targets {
		if t.api == nil {
			continue
		}
		for _, op := range t.api.Operations() {
			key := op.Method + " " + strings.TrimSuffix(t.mount, "/") + op.Path
			if other, ok := seen[key]; ok {
				return fmt.Errorf("services %s and %s both declare %s; give one of them a mount", other, t.name, key)
			}
			seen[key] = t.name
		}
	}
	return nil
}

// find routes a canonical path. An unknown one is not found, whoever asks, and so
// is one that belongs to a service's sidecar.
func (t *table) find(method, path string) (*target, *openapi.Operation, openapi.Params, error) {
	var methodErr error
	for _, tg := range t.targets {
		rest, ok := tg.strip(path)
		if !ok || agent.IsReserved(rest) {
			continue
		}
		if tg.api == nil {
			return tg, nil, nil, tg.allowsMethod(method)
		}
		op, params, err := tg.api.Route(method, rest)
		if err == nil {
			return tg, op, params, nil
		}
		if rampart.KindOf(err) != rampart.NotFound {
			methodErr = err
		}
	}
	if methodErr != nil {
		return nil, nil, nil, methodErr
	}
	return nil, nil, nil, rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
}

// strip removes the mount prefix.
func (t *target) strip(path string) (string, bool) {
	if t.mount == "/" {
		return path, true
	}
	if path == strings.TrimSuffix(t.mount, "/") {
		return "/", true
	}
	if !strings.HasPrefix(path, t.mount) {
		return "", false
	}
	return path[len(t.mount)-1:], true // from the slash that the mount ends with
}

func (t *target) allowsMethod(method string) error {
	if slices.Contains(t.svc.Methods, method) {
		return nil
	}
	return methodNotAllowed(t.svc.Methods)
}

// permission is what layer 1 asks for on this route.
func (t *target) permission(op *openapi.Operation, method string) string {
	if op != nil {
		return op.Permission
	}
	switch method {
	case http.MethodPost:
		return t.name + ":create"
	case http.MethodPut, http.MethodPatch:
		return t.name + ":update"
	case http.MethodDelete:
		return t.name + ":delete"
	}
	return t.name + ":read"
}
