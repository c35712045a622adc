package control

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

func (p *Plane) adminListSessions(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	return p.sessionsOf(r.Context(), u.Facts.Subject, "")
}

// sessionsOf tells the live sessions of a subject, newest first. this is the
// SID of the one that asks, "" for none.
func (p *Plane) sessionsOf(ctx context.Context, subject, this string) ([]wire.Session, error) {
	live, err := p.sessions.List(ctx, subject)
	out := make([]wire.Session, len(live))
	for i, s := range live {
		out[i] = wire.Session{
			SID: s.SID, Device: deviceName(s.Agent), IP: s.IP, Created: s.Created, LastSeen: s.LastSeen, Expires: p.sessions.Until(s),
			ACR: s.ACR, AMR: s.AMR, Upstream: s.Upstream.Issuer, This: this != "" && s.SID == this,
		}
	}
	return out, err
}

func (p *Plane) adminEndSession(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	sid := r.PathValue("sid")
	e.Detail["sid"] = sid[:min(len(sid), maxName)]
	if err := p.endOwnSession(r.Context(), u.Facts.Subject, sid); err != nil {
		return nil, err
	}
	return told(e, wire.Ended{Sessions: 1}), nil
}

// endOwnSession ends one session if it is the subject's, with the apps that
// were let in from it.
func (p *Plane) endOwnSession(ctx context.Context, subject, sid string) error {
	live, err := p.sessions.List(ctx, subject)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(live, func(s session.Session) bool { return s.SID == sid }) {
		return rampart.Errorf(rampart.NotFound, "", "control: there is no session %.64q of this account", sid)
	}
	return p.revoke(ctx, "sid", sid)
}

// adminEndSessions ends all sessions and apps of an account, or all sessions
// but one.
func (p *Plane) adminEndSessions(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	keep := r.URL.Query().Get("except")
	if keep == "" {
		ended, err := p.endAccount(r.Context(), u.Facts.Subject)
		return told(e, ended), err
	}
	ended, err := p.endOthers(r.Context(), u.Facts.Subject, keep)
	return told(e, ended), err
}

// endOthers ends every session of the subject but one, and every app that does
// not hang on that one. Which apps there are is asked once the sessions are
// gone: from then on none of them lets another in.
func (p *Plane) endOthers(ctx context.Context, subject, keep string) (wire.Ended, error) {
	var ended wire.Ended
	live, err := p.sessions.List(ctx, subject)
	if err != nil {
		return ended, err
	}
	if !slices.ContainsFunc(live, func(s session.Session) bool { return s.SID == keep }) {
		return ended, rampart.Errorf(rampart.NotFound, "", "control: there is no session %.64q of this account", keep)
	}
	for _, s := range live {
		if s.SID == keep {
			continue
		}
		if err := p.revoke(ctx, "sid", s.SID); err != nil {
			return ended, err
		}
		ended.Sessions++
	}
	families, err := p.opt.Store.Families(ctx, subject)
	if err != nil {
		return ended, unavailable(err)
	}
	for _, f := range families {
		if f.SID == keep {
			continue
		}
		if err := p.revoke(ctx, "family", f.ID); err != nil {
			return ended, err
		}
		ended.Apps++
	}
	return ended, nil
}

func (p *Plane) adminListApps(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	return p.appsOf(r.Context(), u.Facts.Subject)
}

// appsOf tells which clients hold refresh tokens of a subject.
func (p *Plane) appsOf(ctx context.Context, subject string) ([]wire.App, error) {
	families, err := p.opt.Store.Families(ctx, subject)
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.App, len(families))
	for i, f := range families {
		c, err := p.opt.Store.Client(ctx, f.Client)
		if err != nil && !errors.Is(err, token.ErrNotFound) {
			return nil, unavailable(err)
		}
		name := c.Name
		if name == "" {
			name = f.Client
		}
		out[i] = wire.App{ID: f.ID, Client: f.Client, Name: name, Since: f.AuthTime, Used: f.Rotated, Expires: f.Expires, Scope: f.Scope}
	}
	return out, nil
}

func (p *Plane) adminEndApp(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	e.Detail["family"] = id[:min(len(id), maxName)]
	if err := p.endApp(r.Context(), u.Facts.Subject, id); err != nil {
		return nil, err
	}
	return told(e, wire.Ended{Apps: 1}), nil
}

// endApp ends one refresh family if it is the subject's.
func (p *Plane) endApp(ctx context.Context, subject, id string) error {
	families, err := p.opt.Store.Families(ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	if !slices.ContainsFunc(families, func(f token.Family) bool { return f.ID == id }) {
		return rampart.Errorf(rampart.NotFound, "", "control: there is no app %.64q of this account", id)
	}
	return p.revoke(ctx, "family", id)
}
