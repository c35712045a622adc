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
	var q wire.SubjectRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassAPIRead, Action: "directory.subject", Outcome: audit.Allowed, Control: "authz.subject", Actor: id.id, Subject: q.Subject[:min(len(q.Subject), maxName)], Peer: r.RemoteAddr}
	if id.kind != "service" {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: only the sidecar of a service asks about subjects"))
	}
	who, err := p.subject(r.Context(), q.Subject)
	if err != nil {
		return err
	}
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return err
	}
	return writeJSON(w, who)
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
