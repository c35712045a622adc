package control

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

// sessionsPath is the page where people see and end their own logins.
const sessionsPath = "/account/sessions"

// deviceRoutes is what people reach of their own logins: a page whose forms
// need no script, and the same as JSON.
func (p *Plane) deviceRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET " + sessionsPath:  p.serveSessionsPage,
		"POST " + sessionsPath: p.serveSessionsForm,
		"GET /sessions":        p.serveSessions,
		"DELETE /sessions":     p.serveEndSessions,
	}
}

// sessionsView is what the page shows.
type sessionsView struct {
	Username string
	Sessions []wire.Session
	Apps     []wire.App
	Now      time.Time
}

func (p *Plane) serveSessionsPage(w http.ResponseWriter, r *http.Request) error {
	who, err := p.who(r)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return p.redirect(w, "/login?next="+sessionsPath)
	}
	if err != nil {
		return err
	}
	v, err := p.sessionsView(r, who)
	if err != nil {
		return err
	}
	return p.render(w, http.StatusOK, "sessions", view{
		Title: "Devices", Nav: sessionsPath, User: v.Username, Done: doneText(r.URL.Query().Get("done")), Body: v,
	})
}

// date is a time as the page shows it; the reader's zone is not known here.
func date(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ago words how long before now a time was, to the precision that sessions have.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case d < 2*time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " minutes ago"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " hours ago"
	}
	return strconv.Itoa(int(d.Hours())/24) + " days ago"
}

func (p *Plane) sessionsView(r *http.Request, who token.Subject) (sessionsView, error) {
	v := sessionsView{Username: strings.TrimPrefix(who.Principal.Subject, "user:"), Now: p.opt.Now()}
	var err error
	if v.Sessions, err = p.sessionsOf(r.Context(), who.Principal.Subject, who.Principal.Session); err != nil {
		return v, err
	}
	v.Apps, err = p.appsOf(r.Context(), who.Principal.Subject)
	return v, err
}

// doneText is what the page says after a form, by what stands in its address:
// no text of a stranger's choice gets onto it.
func doneText(done string) string {
	switch done {
	case "session":
		return "That device is signed out."
	case "app":
		return "That app is signed out."
	case "others":
		return "All other devices and their apps are signed out."
	}
	return ""
}

// serveSessionsForm takes one button of the page: do=session (with sid), app
// (with id), others or all.
func (p *Plane) serveSessionsForm(w http.ResponseWriter, r *http.Request) error {
	who, err := p.changes(r)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return p.redirect(w, "/login?next="+sessionsPath)
	}
	if err != nil {
		return err
	}
	if err := parseForm(r); err != nil {
		return err
	}
	do := r.PostForm.Get("do")
	self, err := p.cut(r, who, do, r.PostForm.Get("id"))
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return p.redirect(w, sessionsPath) // it ended meanwhile: the page shows what is left
	}
	if err != nil {
		return err
	}
	if self {
		http.SetCookie(w, session.ClearCookie())
		return p.redirect(w, "/login")
	}
	return p.redirect(w, sessionsPath+"?done="+do)
}

// changes is whoever is signed in and sent the request on purpose.
func (p *Plane) changes(r *http.Request) (token.Subject, error) {
	if err := p.sameSite(r); err != nil {
		return token.Subject{}, p.refuse(r.Context(), audit.Event{Class: audit.ClassAuthentication, Action: "session.revoke", Peer: client(r)}, err)
	}
	return p.who(r)
}

// cut ends what a person wants ended of their own, on record, and reports
// whether the very session that asks is gone.
func (p *Plane) cut(r *http.Request, who token.Subject, do, id string) (bool, error) {
	e := audit.Event{
		Class: audit.ClassAuthentication, Action: "session.revoke", Outcome: audit.Allowed, Control: "authn.session",
		Subject: who.Principal.Subject, Peer: client(r), Detail: map[string]string{"what": do[:min(len(do), 16)]},
	}
	if id != "" {
		e.Detail["id"] = id[:min(len(id), maxName)]
	}
	self, err := p.cutOne(r, who, do, id, &e)
	if err != nil {
		return false, p.refuse(r.Context(), e, err)
	}
	return self, p.opt.Audit.Record(r.Context(), e)
}

func (p *Plane) cutOne(r *http.Request, who token.Subject, do, id string, e *audit.Event) (self bool, err error) {
	subject, mine := who.Principal.Subject, who.Principal.Session
	switch do {
	case "session":
		return id == mine, p.endOwnSession(r.Context(), subject, id)
	case "app":
		return false, p.endApp(r.Context(), subject, id)
	case "others":
		ended, err := p.endOthers(r.Context(), subject, mine)
		told(e, ended)
		return false, err
	case "all":
		ended, err := p.endAccount(r.Context(), subject)
		told(e, ended)
		return true, err
	}
	return false, rampart.Errorf(rampart.Invalid, "", "do is one of session, app, others and all")
}

// serveSessions lists the own sessions and apps as JSON.
func (p *Plane) serveSessions(w http.ResponseWriter, r *http.Request) error {
	who, err := p.who(r)
	if err != nil {
		return err
	}
	v, err := p.sessionsView(r, who)
	if err != nil {
		return err
	}
	return writeJSON(w, struct {
		Sessions []wire.Session `json:"sessions"`
		Apps     []wire.App     `json:"apps"`
	}{v.Sessions, v.Apps})
}

// serveEndSessions ends one session (?sid=), one app (?app=), all (?all=true),
// or, without a query, all sessions but the one that asks.
func (p *Plane) serveEndSessions(w http.ResponseWriter, r *http.Request) error {
	who, err := p.changes(r)
	if err != nil {
		return err
	}
	do, id, err := endWhat(r)
	if err != nil {
		return err
	}
	self, err := p.cut(r, who, do, id)
	if err != nil {
		return err
	}
	if self {
		http.SetCookie(w, session.ClearCookie())
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// endWhat reads the query strictly: one that is mistyped must not end more than
// it was meant to.
func endWhat(r *http.Request) (do, id string, err error) {
	q := r.URL.Query()
	if len(q) == 0 && r.URL.RawQuery == "" {
		return "others", "", nil
	}
	bad := rampart.Errorf(rampart.Invalid, "", "the query is one of sid=ID, app=ID and all=true, or none")
	if len(q) != 1 {
		return "", "", bad
	}
	switch {
	case q.Get("sid") != "":
		return "session", q.Get("sid"), nil
	case q.Get("app") != "":
		return "app", q.Get("app"), nil
	case q.Get("all") == "true":
		return "all", "", nil
	}
	return "", "", bad
}
