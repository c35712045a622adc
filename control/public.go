package control

import (
	"embed"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

//go:embed web
var web embed.FS

const maxNext = 2048 // bytes of an address to go to after login

// page is what the login page shows.
type page struct {
	Username  string
	Problem   string
	Next      string
	Continue  string // signed in: go here, without a form in between
	Passkeys  bool   // may sign in with one
	Providers []idpChoice
}

// handlerFunc serves one call of the public surface; its error becomes a problem.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// publicRoutes is what people and clients reach through the gateway.
func (p *Plane) publicRoutes() http.Handler {
	mux := http.NewServeMux()
	for _, routes := range []map[string]handlerFunc{
		p.pageRoutes(),
		p.oauthRoutes(),
		p.factorRoutes(),
		p.deviceRoutes(),
		p.federationRoutes(),
		p.bundleRoutes(),
	} {
		for pattern, call := range routes {
			mux.HandleFunc(pattern, p.handle(call))
		}
	}
	mux.HandleFunc("/", p.handle(func(http.ResponseWriter, *http.Request) error {
		return rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
	}))
	return mux
}

// pageRoutes is what browsers reach of logging in and out.
func (p *Plane) pageRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /login":      p.serveLoginPage,
		"POST /login":     p.serveLogin,
		"GET /login.css":  asset("login.css", "text/css"),
		"POST /logout":    p.serveLogout,
		"GET /session":    p.serveSession,
		"DELETE /session": p.serveEndSession,
	}
}

// servePublic lets the gateway alone in, and only with what a person or client
// sent: the address it names is what logins are counted by.
func (p *Plane) servePublic(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := p.fromGateway(r, id); err != nil {
		return err
	}
	p.public.ServeHTTP(w, r)
	return nil
}

func (p *Plane) fromGateway(r *http.Request, id identity) error {
	if id.kind != "gateway" {
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassNetwork, Action: "public", Subject: id.id, Peer: r.RemoteAddr},
			rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: the public surface is the gateway's alone"))
	}
	if client(r) == "" {
		return rampart.Errorf(rampart.Invalid, "", "control: %s must name the client's address", wire.HeaderClientIP)
	}
	return nil
}

// serveLoginPage shows the form, or sends on who is signed in.
func (p *Plane) serveLoginPage(w http.ResponseWriter, r *http.Request) error {
	next := safeNext(r.URL.Query().Get("next"))
	_, err := p.who(r)
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return p.show(w, http.StatusOK, page{Next: next})
	case rampart.Unavailable:
		return err
	}
	return p.redirect(w, next)
}

// show writes the login page. All but passkeys works without its script.
func (p *Plane) show(w http.ResponseWriter, status int, v page) error {
	v.Passkeys, v.Providers = p.passkeys != nil && v.Continue == "", p.providers(url.Values{"next": {v.Next}}.Encode())
	return p.render(w, status, "login", view{Title: "Sign in", Problem: v.Problem, Refresh: v.Continue, Script: v.Passkeys, Body: v})
}

func (p *Plane) harden(h http.Header) {
	h.Set("Cache-Control", "no-store")
	if p.system().Off("headers.security") {
		return
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

// safeNext returns a path on this very host, or "/". Anything a browser might
// take for another host would make the login page an open redirect.
func safeNext(next string) string {
	u, err := url.Parse(next)
	if err != nil || len(next) > maxNext || u.Scheme != "" || u.Host != "" || u.User != nil {
		return "/"
	}
	bad := func(r rune) bool { return r < 0x21 || r == '\\' || r == 0x7f }
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsFunc(next, bad) {
		return "/"
	}
	return next
}

// sameSite refuses a form that another site sent, as the gateway has done
// before: a login that the browser's owner did not mean is an attack too.
func (p *Plane) sameSite(r *http.Request) error {
	if p.system().Off("authn.csrf") {
		return nil
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return nil
	}
	return rampart.Errorf(rampart.Denied, "authn.csrf", "this request comes from another site")
}

// redirect sends the browser on with GET (RFC 9110 section 15.4.4; never 307,
// which would repeat the password).
func (p *Plane) redirect(w http.ResponseWriter, to string) error {
	p.harden(w.Header())
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// who returns the signed-in person of a request. A session that is none is on
// record, wherever it was tried: every page that tells signed in from not is a
// place to guess at. A browser without the cookie guesses nothing.
func (p *Plane) who(r *http.Request) (token.Subject, error) {
	s, err := directory{p}.Session(r.Context(), session.FromRequest(r))
	if err == nil || len(r.CookiesNamed(session.CookieName)) == 0 {
		return s, err
	}
	return s, p.refuse(r.Context(), audit.Event{
		Class: audit.ClassAuthentication, Action: "session.resolve", Control: "authn.session", Resource: r.Method + " " + r.URL.Path, Peer: client(r),
	}, err)
}

func (p *Plane) serveLogout(w http.ResponseWriter, r *http.Request) error {
	if err := p.logout(w, r); err != nil {
		return err
	}
	return p.redirect(w, "/login")
}

func (p *Plane) serveEndSession(w http.ResponseWriter, r *http.Request) error {
	if err := p.logout(w, r); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// logout ends the session and everything that hangs on it. Without a session
// there is nothing to do.
func (p *Plane) logout(w http.ResponseWriter, r *http.Request) error {
	if err := p.sameSite(r); err != nil {
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassAuthentication, Action: "session.logout", Peer: client(r)}, err)
	}
	who, err := p.who(r)
	if rampart.KindOf(err) == rampart.Unauthenticated && err != nil {
		http.SetCookie(w, session.ClearCookie())
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.endSession(r, who.Principal); err != nil {
		return err
	}
	http.SetCookie(w, session.ClearCookie())
	return nil
}

func (p *Plane) serveSession(w http.ResponseWriter, r *http.Request) error {
	who, err := p.who(r)
	if err != nil {
		return err
	}
	return writeJSON(w, struct {
		Subject string    `json:"subject"`
		Roles   []string  `json:"roles"`
		Expires time.Time `json:"expires"`
	}{who.Principal.Subject, append([]string{}, who.Principal.Roles...), who.Expires})
}
