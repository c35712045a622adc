package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// adminTrustRoutes is what the system itself is trusted by: signing keys, and
// the identities of services.
func (p *Plane) adminTrustRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminSigning:                                 p.adminListSigning,
		"POST " + wire.AdminSigning + wire.SubRotate:               p.adminRotateSigning,
		"POST " + wire.AdminSigning + "/{kid}" + wire.SubRevoke:    p.adminRevokeSigning,
		"GET " + wire.AdminServices:                                p.adminListServices,
		"POST " + wire.AdminServices + "/{name}" + wire.SubDisable: p.adminDisableService,
		"POST " + wire.AdminServices + "/{name}" + wire.SubEnable:  p.adminEnableService,
	}
}

func (p *Plane) adminListSigning(*http.Request, *audit.Event) (any, error) {
	return p.signingKeys(), nil
}

func (p *Plane) signingKeys() []wire.SigningKey {
	keys := p.SigningKeys()
	out := make([]wire.SigningKey, len(keys))
	for i, k := range keys {
		out[i] = wire.SigningKey{KID: k.ID, Ring: k.Ring, Algorithm: string(k.Algorithm), State: string(k.State), Published: k.Published, From: k.From}
	}
	return out
}

func (p *Plane) adminRotateSigning(r *http.Request, _ *audit.Event) (any, error) {
	err := p.RotateKeys(r.Context())
	return p.signingKeys(), err
}

func (p *Plane) adminRevokeSigning(r *http.Request, e *audit.Event) (any, error) {
	kid := r.PathValue("kid")
	e.Resource = "kid:" + kid[:min(len(kid), maxName)]
	return nil, p.RevokeKey(r.Context(), kid)
}

func (p *Plane) adminListServices(r *http.Request, _ *audit.Event) (any, error) {
	off, _, err := p.disabledServices(r.Context())
	if err != nil {
		return nil, err
	}
	out := []wire.ServiceState{}
	for _, id := range p.ids {
		if id.kind == "service" {
			out = append(out, wire.ServiceState{Name: id.name, ID: id.id, Disabled: slices.Contains(off, id.id)})
		}
	}
	slices.SortFunc(out, func(a, b wire.ServiceState) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// adminDisableService ends what a service may do, for as long as nobody enables
// it: its certificate and all tokens that came through it are void, and it gets
// no other certificate.
func (p *Plane) adminDisableService(r *http.Request, e *audit.Event) (any, error) {
	id, err := p.service(r, e)
	if err != nil {
		return nil, err
	}
	if err := p.setService(r.Context(), id, true); err != nil {
		return nil, err
	}
	return nil, p.revoke(r.Context(), "svid", id.id)
}

func (p *Plane) adminEnableService(r *http.Request, e *audit.Event) (any, error) {
	id, err := p.service(r, e)
	if err != nil {
		return nil, err
	}
	return nil, p.setService(r.Context(), id, false)
}

// service is the service that the path names.
func (p *Plane) service(r *http.Request, e *audit.Event) (identity, error) {
	name := r.PathValue("name")
	e.Resource = "service:" + name[:min(len(name), maxName)]
	var names []string
	for id := range maps.Values(p.ids) {
		if id.kind == "service" && id.name == name {
			return id, nil
		}
		if id.kind == "service" {
			names = append(names, id.name)
		}
	}
	return identity{}, unknown("service", name, names)
}

// sealedServices names the list of disabled services. It is sealed like a key:
// who can write the database cannot enable what an administrator disabled.
const sealedServices = "services:disabled"

const serviceSwaps = 4

// serviceList is what is sealed.
type serviceList struct {
	Disabled []string `json:"disabled"` // SPIFFE IDs
}

// mayAct refuses a service that was disabled: it gets no certificate.
func (p *Plane) mayAct(ctx context.Context, id identity) error {
	if id.kind != "service" {
		return nil
	}
	off, _, err := p.disabledServices(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(off, id.id) {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: %s is disabled; enable it with: rampart service enable %s", id.path(), id.name)
	}
	return nil
}

// voided words why a certificate from before its service was disabled opens
// nothing: the service still is, or it may act again, with another certificate,
// as whoever has copied this one would come back with it. A plane that goes on
// to say that it lives, and to listen, is not on record every second.
func (p *Plane) voided(r *http.Request, id identity) error {
	err := p.mayAct(r.Context(), id)
	if err == nil {
		err = rampart.Errorf(rampart.Unauthenticated, "mtls.peer_declared", "control: this certificate was voided; join anew")
	}
	if r.URL.Path == wire.PathHeartbeat || r.URL.Path == wire.PathWatch {
		return err
	}
	return p.refuse(r.Context(), audit.Event{
		Class: audit.ClassNetwork, Action: "plane.call", Control: "mtls.peer_declared", Subject: id.id, Resource: r.Method + " " + r.URL.Path, Peer: r.RemoteAddr,
	}, err)
}

// disabledList is the list of disabled services as this control plane saw it last,
// a turn of follow old at most. The zero value is empty.
type disabledList struct {
	mu   sync.Mutex // held while it is read, so that an older one never replaces a newer
	seen atomic.Pointer[seenServices]
}

// seenServices is immutable.
type seenServices struct {
	sealed []byte
	ids    []string // SPIFFE IDs
}

func (l *disabledList) has(id string) bool {
	seen := l.seen.Load()
	return seen != nil && slices.Contains(seen.ids, id)
}

// followServices takes over the list as the store has it.
func (p *Plane) followServices(ctx context.Context) error {
	p.authority.off.mu.Lock()
	defer p.authority.off.mu.Unlock()
	ids, sealed, err := p.disabledServices(ctx)
	if err != nil {
		return err
	}
	p.authority.off.seen.Store(&seenServices{sealed, ids})
	return nil
}

// disabledServices returns the SPIFFE IDs of the disabled services, and how the
// store has the list; nil if it has none.
func (p *Plane) disabledServices(ctx context.Context) (ids []string, sealed []byte, err error) {
	sealed, err = p.opt.Store.Sealed(ctx, sealedServices)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, unavailable(err)
	}
	if seen := p.authority.off.seen.Load(); seen != nil && bytes.Equal(seen.sealed, sealed) {
		return slices.Clone(seen.ids), sealed, nil
	}
	plain, err := p.keys.kek.Unwrap(ctx, sealed, sealAAD(sealedServices))
	if err != nil {
		return nil, nil, err
	}
	var list serviceList
	err = json.Unmarshal(plain, &list)
	return list.Disabled, sealed, err
}

// setService puts a service on the list or takes it off, in one step against
// other replicas.
func (p *Plane) setService(ctx context.Context, id identity, disabled bool) error {
	for range serviceSwaps {
		ids, old, err := p.disabledServices(ctx)
		if err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, func(other string) bool { return other == id.id })
		if disabled {
			ids = append(ids, id.id)
		}
		plain, err := json.Marshal(serviceList{ids})
		if err != nil {
			return err
		}
		sealed, err := p.keys.kek.Wrap(ctx, plain, sealAAD(sealedServices))
		if err != nil {
			return err
		}
		won, err := p.opt.Store.SwapSealed(ctx, sealedServices, old, sealed)
		if err != nil {
			return unavailable(err)
		}
		if won {
			return p.followServices(ctx)
		}
	}
	return rampart.Errorf(rampart.Conflict, "", "control: the services are being changed elsewhere; try again")
}
