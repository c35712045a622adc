package control

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

// serveSubject tells a sidecar what the directory knows of somebody who is not
// there: it is asked who may do what, not only whether the caller may. What it
// learns is on record.
func (p *Plane) serveSubject(w http.ResponseWriter, r *http.Request, id identity) error {
	return p.tellDirectory(w, r, id, "directory.subject", func(ctx context.Context, q string) (any, error) { return p.subject(ctx, q) })
}

// serveSubjects lists all who may act: a search asks who may do something.
func (p *Plane) serveSubjects(w http.ResponseWriter, r *http.Request, id identity) error {
	return p.tellDirectory(w, r, id, "directory.subjects", func(ctx context.Context, q string) (any, error) { return p.subjects(ctx, q) })
}

func (p *Plane) tellDirectory(w http.ResponseWriter, r *http.Request, id identity, action string, look func(context.Context, string) (any, error)) error {
	var q wire.SubjectRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassAPIRead, Action: action, Outcome: audit.Allowed, Control: "authz.subject", Actor: id.id, Subject: q.Subject[:min(len(q.Subject), maxName)], Peer: r.RemoteAddr}
	if id.kind != "service" {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: only the sidecar of a service asks about subjects"))
	}
	found, err := look(r.Context(), q.Subject)
	if err != nil {
		return p.refuse(r.Context(), e, err) // who asks for many that are not there is guessing
	}
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return err
	}
	return writeJSON(w, found)
}

// subject returns the facts of a person or client that may act. Anybody else is
// NotFound.
func (p *Plane) subject(ctx context.Context, subject string) (rampart.Principal, error) {
	gone := rampart.Errorf(rampart.NotFound, "", "control: no such subject")
	if name, ok := strings.CutPrefix(subject, "client:"); ok {
		c, err := p.opt.Store.Client(ctx, name)
		if errors.Is(err, token.ErrNotFound) || err == nil && c.Disabled {
			return rampart.Principal{}, gone
		}
		return c.Self(), unavailable(err)
	}
	who, err := directory{p}.Facts(ctx, subject)
	if rampart.KindOf(err) == rampart.Unauthenticated {
		return rampart.Principal{}, gone
	}
	return who, err
}

// maxSubjects bounds what a search may look through.
const maxSubjects = 10_000

// subjects returns the ids of all people ("user:") or clients ("client:") that
// may act. Probe identities are nobody that a service should find.
func (p *Plane) subjects(ctx context.Context, kind string) ([]string, error) {
	ids := []string{}
	switch kind {
	case "user:":
		all, err := p.opt.Store.Users(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		for _, u := range all {
			if !u.Disabled && u.Tag == "" {
				ids = append(ids, u.Name)
			}
		}
	case "client:":
		all, err := p.opt.Store.Clients(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		for _, c := range all {
			if !c.Disabled {
				ids = append(ids, c.ID)
			}
		}
	default:
		return nil, rampart.Errorf(rampart.Invalid, "", `control: the subject is "user:" or "client:"`)
	}
	if len(ids) > maxSubjects {
		return nil, rampart.Errorf(rampart.Limited, "", "control: more than %d subjects are not listed", maxSubjects)
	}
	return ids, nil
}
