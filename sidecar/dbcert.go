package sidecar

import (
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
)

// dbCert gets the service a client certificate for a database of its own. The key
// stays in the service; the control plane decides what the certificate says.
func (s *Sidecar) dbCert(w http.ResponseWriter, r *http.Request) {
	store, t := r.PathValue("store"), s.table.Load()
	var q agent.DBCertRequest
	err := ask(r, &q)
	if err == nil && !t.sys.Stores[store].ClientCert {
		err = rampart.Errorf(rampart.NotFound, "", "%.100q asks for no client certificate", store)
	}
	if err == nil {
		err = s.opt.Link.Disabled()
	}
	var id wire.Identity
	if err == nil {
		err = s.opt.Link.Call(r.Context(), http.MethodPost, wire.PathDBCert+url.PathEscape(store), wire.RenewRequest{CSR: q.CSR}, &id)
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	answer(w, agent.DBCert{Chain: id.Chain, NotAfter: id.NotAfter})
}
