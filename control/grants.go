package control

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

// aclControl decides who gets a secret or a data key.
const aclControl = "secret.acl"

// grants says which service may have which secret and which data key, as the
// flows of the file imply. What is not here is denied.
type grants struct {
	secrets map[grant]secrets.Ref // -> where it is
	deks    map[grant]bool
	known   map[string]secrets.Ref // every secret, for a system without the control
	items   map[string]bool        // every item with data keys
}

type grant struct{ service, item string }

func grantsOf(sys *spec.System) grants {
	g := grants{secrets: map[grant]secrets.Ref{}, deks: map[grant]bool{}, known: map[string]secrets.Ref{}, items: map[string]bool{}}
	for name, d := range sys.Data {
		g.know(name, d.Source)
		g.items[name] = d.Encrypt == "envelope" || d.RowMAC
	}
	for name, st := range sys.Stores {
		g.know("store:"+name, st.Password)
		if st.Rotate != nil || st.Dynamic != nil {
			g.known["store:"+name] = secrets.Ref{Backend: accessBackend, Path: name}
		}
	}
	for name, svc := range sys.Services {
		for item := range svc.Secrets {
			g.give(name, item)
		}
	}
	g.openFGA(sys)
	for _, f := range sys.Flows {
		g.flow(sys, f)
	}
	return g
}

// know notes where a secret is. What is no reference is no secret: Load has
// refused it where one must stand.
func (g *grants) know(name, source string) {
	if ref, err := secrets.ParseRef(source); err == nil {
		g.known[name] = ref
	}
}

// give grants a secret that is known.
func (g *grants) give(service, name string) {
	if ref, ok := g.known[name]; ok {
		if ref.Backend == accessBackend {
			ref.Field = service // a user that Vault makes is one service's alone
		}
		g.secrets[grant{service, name}] = ref
	}
}

// openFGA gives the key of the server that holds the relations to those whose
// policies may ask for them.
func (g *grants) openFGA(sys *spec.System) {
	if sys.Authz.OpenFGA == nil {
		return
	}
	g.know(wire.SecretOpenFGA, sys.Authz.OpenFGA.Token)
	for name, svc := range sys.Services {
		if len(svc.Policy) > 0 {
			g.give(name, wire.SecretOpenFGA)
		}
	}
}

// flow adds what one flow implies: the secret it injects, the password of the
// store it reaches, and, if that is a database, the keys of the data that rests
// there. Data on its way needs none: requests and messages carry it in the
// clear inside TLS, and whoever gets them must not be able to open the rows.
func (g *grants) flow(sys *spec.System, f spec.Flow) {
	g.give(f.From, "store:"+f.To)
	if f.Inject != nil {
		g.give(f.From, f.Inject.Secret)
	}
	st := sys.Stores[f.To]
	if st.Kind != "sqlite" && st.Kind != "postgres" {
		return
	}
	for _, item := range slices.Concat(f.Carries, st.Holds) {
		if g.items[item] {
			g.deks[grant{f.From, item}] = true
		}
	}
}

// secret returns where a secret is that the service may have.
func (p *Plane) secret(service, item string) (secrets.Ref, error) {
	now := p.living()
	ref, ok := now.grants.secrets[grant{service, item}]
	if !ok && now.sys.Off(aclControl) {
		ref, ok = now.grants.known[item]
	}
	if !ok {
		return secrets.Ref{}, rampart.Errorf(rampart.Denied, aclControl, "control: no flow of %s grants %.100q", service, item)
	}
	return ref, nil
}

// mayDEK reports whether a service may have the data keys of an item.
func (p *Plane) mayDEK(service, item string) bool {
	now := p.living()
	return now.grants.deks[grant{service, item}] || now.sys.Off(aclControl) && now.grants.items[item]
}

// serveSecret hands a secret to a sidecar whose flows need it.
func (p *Plane) serveSecret(w http.ResponseWriter, r *http.Request, id identity) error {
	item := r.PathValue("item")
	e := audit.Event{Class: audit.ClassSecret, Action: "secret.read", Control: aclControl, Subject: id.id, Resource: "secret:" + item[:min(len(item), 100)], Peer: r.RemoteAddr}
	ref, err := p.secret(id.name, item)
	if err == nil && id.kind != "service" {
		err = rampart.Errorf(rampart.Denied, aclControl, "control: secrets go to sidecars alone")
	}
	if err != nil {
		return p.refuse(r.Context(), e, err)
	}
	s, err := p.read(r.Context(), e, ref)
	if err != nil {
		return err
	}
	return s.Use(func(b []byte) error {
		return writeJSON(w, agent.SecretValue{Value: b, Version: s.Version(), User: s.User(), Until: s.Until()})
	})
}

// read fetches a secret for whom the event names, who was found to be allowed,
// and has put that on record, with backend and version, before it returns.
func (p *Plane) read(ctx context.Context, e audit.Event, ref secrets.Ref) (secrets.Secret, error) {
	e.Detail = map[string]string{"backend": ref.Backend}
	s, err := p.backends.fetch(ctx, ref)
	if err != nil {
		return secrets.Secret{}, p.refuse(ctx, e, err)
	}
	e.Outcome, e.Detail["version"] = audit.Allowed, strconv.Itoa(s.Version())
	return s, p.opt.Audit.Record(ctx, e)
}
