package control

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/ca"
)

// databaseRole is as whom a service logs in at a store with a certificate: the
// role of its flow, or the owner of the roles that take turns, which the server
// maps to both, or the user of the store's URL. "" when no flow leads there, or
// the store asks for no certificate.
func databaseRole(sys *spec.System, service, store string) string {
	st := sys.Stores[store]
	flows := sys.FlowsFrom(service)
	i := slices.IndexFunc(flows, func(f spec.Flow) bool { return f.To == store })
	if i < 0 || !st.ClientCert {
		return ""
	}
	role := ""
	if flows[i].DB != nil {
		role = flows[i].DB.Role
	}
	switch {
	case st.Rotate != nil:
		role = cmp.Or(role, st.Rotate.Owner)
	case st.Dynamic != nil:
		role = cmp.Or(role, st.Dynamic.Owner)
	}
	if u, err := url.Parse(st.URL); err == nil {
		role = cmp.Or(role, u.User.Username())
	}
	return role
}

// serveDBCert gives a service the client certificate of a database that a flow
// leads it to. What it says comes from the file; the request adds a public key.
func (p *Plane) serveDBCert(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.RenewRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	store := r.PathValue("store")
	e := audit.Event{Class: audit.ClassKey, Action: "db_cert.issue", Control: aclControl, Subject: id.id, Resource: "store:" + store[:min(len(store), 100)], Peer: r.RemoteAddr}
	role := databaseRole(p.system(), id.name, store)
	if id.kind != "service" || role == "" {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, aclControl, "control: no flow of %s leads to a store %.100q with client_cert", id.name, store))
	}
	if err := p.mayAct(r.Context(), id); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	e.Detail = map[string]string{"role": role}
	return p.deliver(w, r, "database", role, e, func(a *ca.Authority) (ca.Certificate, error) {
		return a.IssueDatabaseClient(q.CSR, role, min(p.leafLife(), time.Hour))
	})
}
