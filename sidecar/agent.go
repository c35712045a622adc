package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/authzen"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

// maxAgentBody bounds what a service may ask in one call.
const maxAgentBody = 256 << 10

func asError(err error) (*rampart.Error, bool) { return errors.AsType[*rampart.Error](err) }

// agentMux answers the service's own questions, over a socket that only its
// user can open.
func (s *Sidecar) agentMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+agent.PathService, s.serviceInfo)
	mux.HandleFunc("POST "+agent.PathCheck, s.checkObject)
	mux.HandleFunc("POST "+agent.PathMany, s.checkMany)
	mux.HandleFunc("POST "+agent.PathFilter, s.filterObjects)
	mux.HandleFunc("GET "+agent.PathTuples, s.relationState)
	mux.HandleFunc("POST "+agent.PathTuples, s.pushTuples)
	mux.HandleFunc("GET "+agent.PathSecret+"{name}", s.secret)
	mux.HandleFunc("POST "+agent.PathDEK, s.dek)
	mux.HandleFunc("GET "+agent.PathForget, s.forget)
	mux.HandleFunc("POST "+agent.PathInUse, s.secretsInUse)
	mux.HandleFunc("POST "+agent.PathDBCert+"{store}", s.dbCert)
	mux.HandleFunc("POST "+agent.PathAudit, s.auditEvent)
	mux.Handle("POST /access/", s.askedByService(s.pdpHandler))
	mux.Handle("GET "+authzen.PathMetadata, s.pdpHandler)
	mux.Handle("/", s.outboundMux())
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v)
}

// ask reads one bounded JSON question.
func ask(r *http.Request, into any) error { return askWithin(r, maxAgentBody, into) }

func (s *Sidecar) serviceInfo(w http.ResponseWriter, r *http.Request) {
	t := s.table.Load()
	info := agent.ServiceInfo{
		Name: s.opt.Service, IdentityKey: s.identityPublic, Off: t.sys.Unsafe.Disable, Relations: s.relations.writable(),
		Stores: map[string]agent.StoreInfo{}, ServerOwned: map[string]agent.ServerOwned{}, Encrypt: map[string][]string{},
		Shred: map[string]string{}, Search: map[string]map[string]string{},
	}
	for _, f := range t.sys.FlowsTo(s.opt.Service) {
		if len(f.ServerOwned.Fields) > 0 && !t.sys.Off("field.server_owned") {
			info.ServerOwned[f.ID] = agent.ServerOwned{Fields: f.ServerOwned.Fields, Mode: f.ServerOwned.Mode}
		}
	}
	for _, f := range t.sys.FlowsFrom(s.opt.Service) {
		s.storeInfo(t, f.To, f.DB != nil, &info)
		if st, ok := info.Stores[f.To]; ok && f.DB != nil {
			st.Pool, st.Timeout = f.DB.Pool, time.Duration(f.DB.Timeout)
			info.Stores[f.To] = st
		}
	}
	answer(w, info)
}

// storeInfo tells how to open one store and what must be protected in it.
func (s *Sidecar) storeInfo(t *table, name string, db bool, info *agent.ServiceInfo) {
	store, ok := t.sys.Stores[name]
	if !ok || store.Kind == "nats" {
		return
	}
	si := agent.StoreInfo{Kind: store.Kind, URL: store.URL, AuditTable: store.AuditTable, Pool: 10}
	if store.Kind == "sqlite" {
		si.Path = filepath.Join(s.opt.DataDir, name+".db")
	}
	login(store, name, &si)
	if store.CA != "" {
		si.CA, _ = t.sys.Resource(store.CA)
	}
	info.Stores[name] = si
	for _, item := range store.Holds {
		d := t.sys.Data[item]
		if d.Encrypt == "envelope" && !t.sys.Off("data.envelope") {
			info.Encrypt[item], info.Shred[item] = d.PII, d.Shred
			if len(d.Search) > 0 {
				info.Search[item] = d.Search
			}
		}
		if d.RowMAC && !t.sys.Off("db.row_mac") {
			info.RowMAC = append(info.RowMAC, item)
		}
	}
}

// login says how the service gets into a database: with a password from the
// control plane, that of one role or of whichever is in use, or a certificate.
func login(store spec.Store, name string, to *agent.StoreInfo) {
	if store.Password != "" || store.Rotate != nil || store.Dynamic != nil {
		to.Password = "store:" + name
	}
	to.Pooler, to.ClientCert = store.Pooler, store.ClientCert
	switch {
	case store.Rotate != nil:
		to.Owner = store.Rotate.Owner
	case store.Dynamic != nil:
		to.Owner = store.Dynamic.Owner
	}
}

// secret hands out what the service itself must hold: the password of a store
// that it opens, and what secrets of the service names. What this process injects into calls it keeps.
func (s *Sidecar) secret(w http.ResponseWriter, r *http.Request) {
	name, t := r.PathValue("name"), s.table.Load()
	e := audit.Event{Class: audit.ClassSecret, Action: "hand secret to service", Outcome: audit.Allowed, Control: "secret.acl",
		Subject: t.id, Resource: "secret:" + name[:min(len(name), 100)], Trace: trace.Of(r.Header)}
	var sec secrets.Secret
	var err error
	if t.handsOut(name) {
		s.refusedVersion(r, name)
		sec, err = s.held(r.Context(), name)
	} else {
		err = rampart.Errorf(rampart.Denied, "secret.acl", "a service is given the passwords of its own stores, the credentials that rampart.yaml lets it hold, and no other secret")
	}
	if err != nil {
		e.Outcome, e.Detail = audit.Refused, map[string]string{"error": err.Error()}
		if rampart.KindOf(err) == rampart.Unavailable {
			e.Outcome = audit.Failed
		}
		s.record(r.Context(), e)
		problem.Write(w, err, "")
		return
	}
	if err := s.opt.Audit.Record(r.Context(), e); err != nil {
		problem.Write(w, &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the hand-out cannot be recorded", Err: err}, "")
		return
	}
	s.inUse.gave(name, sec.Version())
	err = sec.Use(func(b []byte) error {
		answer(w, agent.SecretValue{Value: b, Version: sec.Version(), User: sec.User(), Until: sec.Until()})
		return nil
	})
	if err != nil {
		problem.Write(w, err, "")
	}
}

// held is a secret for this process or its service. Whose service is disabled, or
// whose certificate is revoked, has none any more, in an outage too: closed, and
// what was cached goes.
func (s *Sidecar) held(ctx context.Context, name string) (secrets.Secret, error) {
	if err := s.opt.Link.Disabled(); err != nil {
		s.dropSecrets()
		return secrets.Secret{}, err
	}
	return s.secrets.Get(ctx, name)
}

// dropSecrets forgets every secret, and has those in files removed.
func (s *Sidecar) dropSecrets() {
	s.secrets.Forget(s.inUse.drop()...)
	s.files.look()
}

// handsOut reports whether the service itself needs this secret. A credential
// that a flow injects is for this process alone; the control plane, which grants
// it to the flow, cannot tell the two apart.
func (t *table) handsOut(name string) bool {
	if t.sys.Off("secret.acl") || t.holds(name) {
		return true
	}
	store, ok := strings.CutPrefix(name, "store:")
	st := t.sys.Stores[store]
	return ok && (st.Password != "" || st.Rotate != nil || st.Dynamic != nil) &&
		slices.ContainsFunc(t.sys.FlowsFrom(t.name), func(f spec.Flow) bool { return f.To == store })
}

func (s *Sidecar) dek(w http.ResponseWriter, r *http.Request) {
	var q agent.DEKRequest
	err := ask(r, &q)
	var k agent.DEK
	if err == nil {
		err = s.opt.Link.Disabled()
	}
	if err == nil {
		err = s.keysOut.note()
	}
	if err == nil {
		err = s.opt.Link.Call(r.Context(), http.MethodPost, wire.PathDEK, q, &k)
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	answer(w, k)
}

// auditEvent records an event of the service's own; the answer comes when it
// is durable.
func (s *Sidecar) auditEvent(w http.ResponseWriter, r *http.Request) {
	var q agent.AuditRequest
	err := ask(r, &q)
	var e audit.Event
	if err == nil {
		e, err = s.eventOf(q)
	}
	if err == nil {
		err = s.opt.Audit.Record(r.Context(), e)
	}
	if err != nil {
		problem.Write(w, err, e.Trace)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// eventOf is what goes on record: for whom is what this process signed.
func (s *Sidecar) eventOf(q agent.AuditRequest) (audit.Event, error) {
	self := s.table.Load().id
	e := audit.Event{Class: q.Class, Action: q.Action, Outcome: audit.Outcome(q.Outcome), Control: q.Control, Subject: self, Actor: self, Resource: q.Resource, Detail: q.Detail}
	switch {
	case !slices.Contains([]string{audit.ClassMoney, audit.ClassAdmin, audit.ClassAPIRead}, q.Class):
		return audit.Event{}, rampart.Errorf(rampart.Invalid, "", "class must be money, admin or api_read")
	case !agent.MayClaim(q.Control):
		return audit.Event{}, rampart.Errorf(rampart.Invalid, "", "control must be one that a service enforces")
	case q.Identity == "":
		return e, nil
	}
	id, err := s.identified(q.Identity)
	e.Subject, e.Flow, e.Trace = id.Principal.Subject, id.Flow, id.Trace
	return e, err
}
