package control

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/mfa/passkey"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Paths of the pages that people have of their account.
const (
	accountPath  = "/account"
	totpPath     = "/account/totp"
	passkeysPath = "/account/passkeys"
	recoveryPath = "/account/recovery"
	passwordPath = "/account/password"
)

// view is a page: what its layout shows around the part of its own.
type view struct {
	System  string
	Title   string
	Problem string // what went wrong and what to do about it; "": nothing
	Done    string // what the last form did
	Refresh string // go there at once; "": stay
	Script  bool   // may talk to the browser's authenticator
	Nav     string // path of the account page that this is; "": it is none
	User    string // who is signed in, on account pages
	Next    string // what the person was about to do before this page; "": nothing
	Linking bool   // there are providers to sign in with
	Body    any    // the page's own
}

// tab is one entry of the account's navigation.
type tab struct {
	Path, Name string
	Here       bool
}

// Tabs lists the pages of an account.
func (v view) Tabs() []tab {
	list := []tab{
		{Path: accountPath, Name: "Overview"}, {Path: passkeysPath, Name: "Passkeys"}, {Path: totpPath, Name: "Authenticator"},
		{Path: recoveryPath, Name: "Recovery codes"}, {Path: passwordPath, Name: "Password"}, {Path: sessionsPath, Name: "Devices"},
	}
	if v.Linking {
		list = append(list, tab{Path: linksPath, Name: "Providers"})
	}
	for i := range list {
		list[i].Here = list[i].Path == v.Nav
	}
	return list
}

// Way is the query by which a page or form keeps Next.
func (v view) Way() string {
	if v.Next == "" {
		return ""
	}
	return "?" + url.Values{"next": {v.Next}}.Encode()
}

// pages holds a template per page, by the name of its file.
type pages map[string]*template.Template

// parsePages reads web: each page defines "content", the layout the rest.
func parsePages() (pages, error) {
	layout, err := template.New("layout.html").Funcs(template.FuncMap{"ago": ago, "date": date, "day": day, "stamp": stamp}).ParseFS(web, "web/layout.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(web, "web/*.html")
	if err != nil {
		return nil, err
	}
	out := pages{}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "web/"), ".html")
		if name == "layout" {
			continue
		}
		page, err := layout.Clone()
		if err != nil {
			return nil, err
		}
		if out[name], err = page.ParseFS(web, file); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// openFactors builds the engines of second factors, and the pages. Without a
// host name there are no passkeys, which is on record once, at the start.
func (p *Plane) openFactors() error {
	var err error
	if p.pages, err = parsePages(); err != nil {
		return err
	}
	name, now := p.system().Info.Name, p.opt.Now
	p.codes = mfa.New(mfa.Options{Store: p.factors, Tickets: p.tickets, Sealer: p.keys.kek, Issuer: name, Now: now})
	p.passkeys, err = passkey.New(passkey.Options{
		Issuer: p.opt.Issuer, System: name, Key: p.keys.passkey, Store: p.factors, Tickets: p.tickets, Sealer: p.keys.kek, Now: now,
	})
	if errors.Is(err, passkey.ErrNoDomain) {
		p.opt.Logger.LogAttrs(context.Background(), slog.LevelWarn, "there are no passkeys: they need a host name", slog.String("issuer", p.opt.Issuer))
		return nil
	}
	return err
}

// day is a time as pages show it where the hour does not matter.
func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

// render writes a page. It can be framed by nobody and loads nothing from
// elsewhere; a script runs only where v says so, and only ours.
func (p *Plane) render(w http.ResponseWriter, status int, name string, v view) error {
	v.System, v.Linking = p.system().Info.Name, len(p.idps) > 0
	var b bytes.Buffer
	if err := p.pages[name].ExecuteTemplate(&b, "layout", v); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	p.harden(h)
	if csp := h.Get("Content-Security-Policy"); csp != "" && v.Script {
		h.Set("Content-Security-Policy", csp+"; script-src 'self'; connect-src 'self'")
	}
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return gone(err)
}

// answer tells what went wrong: a browser's person in a page, everybody else in
// a problem document. Both say the same.
func (p *Plane) answer(w http.ResponseWriter, r *http.Request, err error, trace string) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		problem.Write(w, err, trace)
		return
	}
	sayWhen(w, err)
	if rampart.KindOf(err) == rampart.Unavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "60")
	}
	body := struct{ Text, Trace string }{problem.Sentence(err), trace}
	if werr := p.render(w, problem.Status(err), "trouble", view{Title: "This did not work", Body: body}); werr != nil {
		problem.Write(w, err, trace)
	}
}

// asset serves a file of web that pages load.
func asset(name, contentType string) handlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) error {
		b, err := web.ReadFile("web/" + name)
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Content-Type", contentType+"; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "max-age=300")
		_, err = w.Write(b)
		return gone(err)
	}
}

// factorRoutes is what browsers reach of second factors and of the account.
func (p *Plane) factorRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /login/passkey.js":           asset("passkey.js", "text/javascript"),
		"POST /login/passkey":             p.servePasskeyLogin,
		"POST /login/passkey/options":     p.servePasskeyOptions,
		"GET " + secondStep:               p.serveFactorPage,
		"POST " + secondStep:              p.serveFactor,
		"POST " + secondStep + "/options": p.serveFactorOptions,
		"GET " + stepUpPath:               p.members(p.serveStepUpPage),
		"POST " + stepUpPath:              p.members(p.serveStepUp),
		"POST " + stepUpPath + "/options": p.memberScript(p.stepUpOptions),

		"GET " + accountPath:                p.members(p.serveAccount),
		"GET " + totpPath:                   p.members(p.serveTOTPPage),
		"POST " + totpPath:                  p.members(p.serveTOTPBegin),
		"POST " + totpPath + "/confirm":     p.members(p.serveTOTPConfirm),
		"GET " + totpPath + "/remove":       p.members(p.serveTOTPLast),
		"POST " + totpPath + "/remove":      p.members(p.serveTOTPRemove),
		"GET " + passkeysPath:               p.members(p.servePasskeysPage),
		"POST " + passkeysPath:              p.members(p.servePasskeyAdd),
		"POST " + passkeysPath + "/options": p.memberScript(p.passkeyOptions),
		"POST " + passkeysPath + "/rename":  p.members(p.servePasskeyRename),
		"GET " + passkeysPath + "/remove":   p.members(p.servePasskeyLast),
		"POST " + passkeysPath + "/remove":  p.members(p.servePasskeyRemove),
		"GET " + recoveryPath:               p.members(p.serveRecoveryPage),
		"POST " + recoveryPath:              p.members(p.serveRecovery),
		"GET " + passwordPath:               p.members(p.servePasswordPage),
		"POST " + passwordPath:              p.members(p.servePassword),
	}
}

// factorEvent is the event of an action on factors, not yet judged.
func factorEvent(r *http.Request, action, subject string, detail map[string]string) audit.Event {
	return audit.Event{
		Class: audit.ClassAuthentication, Action: action, Outcome: audit.Allowed, Control: "authn.mfa",
		Subject: subject, Peer: client(r), Detail: detail,
	}
}
