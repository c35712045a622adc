package sidecar

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/authzen"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// pdpPrefix is where other services reach this decision point over mutual TLS;
// no request of theirs to the service itself begins so. On the service's own
// socket the prefix is absent.
const pdpPrefix = "/_rampart/pdp"

// asker is who asks over one connection, and what it may ask.
type asker struct {
	rights authzen.Rights
	flow   string // "" for the service itself
	caller string // SPIFFE ID
}

type askerKey struct{}

// decisionPoint is OpenID AuthZEN for this service's policies.
func (s *Sidecar) decisionPoint() http.Handler {
	server := authzen.New(authzen.Options{
		Base: "https://" + s.opt.Service + pdpPrefix,
		Rights: func(r *http.Request) (authzen.Rights, error) {
			a, ok := r.Context().Value(askerKey{}).(asker)
			if !ok {
				return authzen.Rights{}, rampart.Errorf(rampart.Unauthenticated, "authz.domain", "nobody asks")
			}
			return a.rights, nil
		},
		Schema:   func() *authz.Schema { return s.table.Load().schema },
		Subject:  s.subject,
		Decide:   s.decideAbout,
		Subjects: s.subjects,
		Objects:  s.objects,
		Refused:  s.notForAsker,
		Spend:    s.spendAsked,
		Now:      s.opt.Now,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { server.ServeHTTP(w, r) })
}

// notForAsker records a question that its asker had no right to.
func (s *Sidecar) notForAsker(ctx context.Context, r authzen.Rights, path string, err error) {
	a, _ := ctx.Value(askerKey{}).(asker)
	s.record(ctx, audit.Event{Class: "authz_deny", Action: "POST " + path, Outcome: audit.Refused, Control: "authz.domain", Flow: a.flow,
		Layer: string(rampart.LayerDomain), Subject: r.Caller, Actor: a.caller, Detail: map[string]string{"error": err.Error()}})
}

// askedByService lets the service ask its own decision point: its rows are what
// the policies protect, so it may ask and search all of its types.
func (s *Sidecar) askedByService(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := s.table.Load()
		var types []string
		if t.schema != nil {
			for name := range t.schema.Types {
				types = append(types, name)
			}
		}
		slices.Sort(types)
		a := asker{rights: authzen.Rights{Caller: t.id, Evaluate: types, Batch: true, Search: types}, caller: t.id}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), askerKey{}, a)))
	})
}

// askedByCaller lets a calling service ask as far as its flow says.
func (s *Sidecar) askedByCaller(w http.ResponseWriter, a *arrival) {
	may := a.flow.Authz
	who := asker{flow: a.flow.ID, caller: a.caller,
		rights: authzen.Rights{Caller: a.caller, Evaluate: slices.Concat(may.Ask, may.Search), Batch: len(may.Ask) > 0, Search: may.Search}}
	r := a.r.Clone(context.WithValue(a.r.Context(), askerKey{}, who))
	r.URL.Path = strings.TrimPrefix(r.URL.Path, pdpPrefix)
	s.pdpHandler.ServeHTTP(w, r)
}

// forDecisionPoint reports whether a request is for the decision point, and its
// flow opens it.
func (a *arrival) forDecisionPoint() bool {
	return strings.HasPrefix(a.r.URL.Path, pdpPrefix+"/") && len(a.flow.Authz.Ask)+len(a.flow.Authz.Search) > 0
}

// subject asks the directory about somebody who is not there.
func (s *Sidecar) subject(ctx context.Context, kind, id string) (rampart.Principal, error) {
	var p rampart.Principal
	if kind == "service" {
		svc := s.table.Load().sys
		if _, ok := svc.Services[id]; !ok {
			return p, rampart.Errorf(rampart.NotFound, "", "no such service")
		}
		return rampart.Principal{Kind: rampart.KindService, Subject: svc.ServiceID(id)}, nil
	}
	if kind != "user" && kind != "client" {
		return p, rampart.Errorf(rampart.NotFound, "", "no such type of subject")
	}
	err := s.opt.Link.Call(ctx, http.MethodPost, wire.PathSubject, wire.SubjectRequest{Subject: kind + ":" + id}, &p)
	return p, err
}

// subjects lists whom a search may find.
func (s *Sidecar) subjects(ctx context.Context, kind string) ([]string, error) {
	if kind != "user" && kind != "client" {
		return nil, nil
	}
	var ids []string
	err := s.opt.Link.Call(ctx, http.MethodPost, wire.PathSubjects, wire.SubjectRequest{Subject: kind + ":"}, &ids)
	return ids, err
}

// decideAbout decides for somebody else, and puts it on record under the asker.
func (s *Sidecar) decideAbout(ctx context.Context, r authz.Request) rampart.Decision {
	a, _ := ctx.Value(askerKey{}).(asker)
	t := s.table.Load()
	r.Context["caller"] = a.caller
	r.Context["flow"] = a.flow
	delete(r.Context, "relation") // facts of the graph
	d := t.pdp.DecideObject(ctx, r)
	e := audit.Event{Class: "authz_allow", Action: string(r.Action), Outcome: audit.Allowed, Control: "authz.domain", Flow: a.flow, Layer: string(rampart.LayerDomain),
		Code: string(d.Code), Policies: d.Policies, Subject: r.Principal.Subject, Actor: a.caller, Resource: r.Resource.Type + "/" + r.Resource.ID,
		Detail: map[string]string{"asked": "about somebody else", "decision": d.ID}}
	if !d.Allowed() {
		e.Class, e.Outcome, e.Detail["reason"] = "authz_deny", audit.Refused, d.Reason
	}
	if err := s.opt.Audit.Record(ctx, e); err != nil {
		return rampart.Decision{Layer: rampart.LayerDomain, Code: rampart.CodeError, Reason: "the decision cannot be recorded: " + err.Error()}
	}
	return d
}

// objects lists what a search may find: resources that the policies name, by
// relations for example. Rows that they only describe are the service's own; it
// lists them by a filter.
func (s *Sidecar) objects(ctx context.Context, r authz.Request) ([]rampart.Resource, error) {
	t := s.table.Load()
	f, d := t.pdp.Filter(ctx, r)
	if d.Code == rampart.CodeUntranslatable || d.Code == rampart.CodeStale || d.Code == rampart.CodeSource || d.Code == rampart.CodeTimeout {
		return nil, rampart.Errorf(rampart.Unavailable, "authz.domain", "the search could not be made: %s", d.Code)
	}
	ids, all := f.IDs()
	if !all {
		return nil, rampart.Errorf(rampart.Invalid, "authz.domain", "only %s knows all its resources of type %q: it lists them by the same policies", s.opt.Service, r.Resource.Type)
	}
	out := make([]rampart.Resource, len(ids))
	for i, id := range ids {
		out[i] = r.Resource
		out[i].ID = id
	}
	return out, nil
}
