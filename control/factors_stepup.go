package control

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/monitor/audit"
)

const stepUpPath = "/login/step-up"

// freshFor is how long a proof is good for changing how one signs in
// (OWASP ASVS 5.0, 7.5.1).
const freshFor = 5 * time.Minute

// maxMaxAge bounds what a step-up can be asked for, in seconds.
const maxMaxAge = 30 * 24 * 60 * 60

// member is the person at a page and the session that they are in.
type member struct {
	session.Session
	who rampart.Principal
}

// name is the person's user name.
func (m member) name() string { return strings.TrimPrefix(m.Subject, "user:") }

// person returns who is signed in.
func (p *Plane) person(r *http.Request) (member, error) {
	who, err := p.who(r)
	if err != nil {
		return member{}, err
	}
	s, err := p.sessions.Resolve(r.Context(), session.FromRequest(r))
	return member{Session: s, who: who.Principal}, err
}

// members serves who is signed in; everybody else signs in first. A form must
// come from this very site.
func (p *Plane) members(call func(w http.ResponseWriter, r *http.Request, m member) error) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodPost {
			if err := p.formOf(r, "account.form"); err != nil {
				return err
			}
		}
		m, err := p.person(r)
		if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
			return p.redirect(w, "/login?"+url.Values{"next": {pageOf(r)}}.Encode())
		}
		if err != nil {
			return err
		}
		return call(w, r, m)
	}
}

// pageOf is the page that a request belongs to: itself, or the one with the
// form, which still leads on to what the person wanted.
func pageOf(r *http.Request) string {
	if r.Method == http.MethodGet {
		return r.URL.RequestURI()
	}
	return onPage(r, "", "")
}

// did is the page of a form, saying what it did.
func did(r *http.Request, what string) string { return onPage(r, "done", what) }

// onPage is the page of a form with one more parameter; name "" is none.
func onPage(r *http.Request, name, value string) string {
	page, q := accountPath, url.Values{}
	if rest, ok := strings.CutPrefix(r.URL.Path, accountPath+"/"); ok {
		first, _, _ := strings.Cut(rest, "/")
		page += "/" + first
	}
	if next := wanted(r); next != "" {
		q.Set("next", next)
	}
	if name != "" {
		q.Set(name, value)
	}
	if len(q) == 0 {
		return page
	}
	return page + "?" + q.Encode()
}

// wanted is what the person was about to do when a page of the account came in
// between, "" if nothing.
func wanted(r *http.Request) string {
	next := safeNext(r.URL.Query().Get("next"))
	if next == "/" {
		return ""
	}
	return next
}

// memberScript serves the script of who is signed in, with JSON.
func (p *Plane) memberScript(call func(w http.ResponseWriter, r *http.Request, m member) error) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := p.sameSite(r); err != nil {
			return p.refuse(r.Context(), factorEvent(r, "account.form", "", nil), err)
		}
		m, err := p.person(r)
		if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
			return writeJSON(w, elsewhere{"/login?" + url.Values{"next": {pageOf(r)}}.Encode()})
		}
		if err != nil {
			return err
		}
		return call(w, r, m)
	}
}

// need is the assurance that somebody asks a step-up for.
type need struct {
	acr    string // "aal1" or "aal2"
	maxAge time.Duration
	next   string
}

// needOf reads a step-up's query or form. What it does not say is the lesser;
// what does not parse is the most that can be asked.
func needOf(v url.Values) need {
	n := need{acr: acrOne, maxAge: maxMaxAge * time.Second, next: safeNext(v.Get("next"))}
	if acr := v.Get("acr"); acr != "" && acr != acrOne {
		n.acr = acrTwo
	}
	if text := v.Get("max_age"); text != "" {
		age, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			age = 0
		}
		n.maxAge = time.Duration(min(age, maxMaxAge)) * time.Second
	}
	return n
}

// knownACR refuses an address that asks for an assurance which is none here.
func knownACR(r *http.Request) error {
	switch r.URL.Query().Get("acr") {
	case "", acrOne, acrTwo:
		return nil
	}
	return rampart.Errorf(rampart.Invalid, "authn.step_up", "acr is one of %s and %s", acrOne, acrTwo)
}

func (n need) query() string {
	return url.Values{"acr": {n.acr}, "max_age": {strconv.Itoa(int(n.maxAge / time.Second))}, "next": {n.next}}.Encode()
}

// met reports whether a session is what is needed. A proof of this very moment
// is always fresh: a need of zero seconds asks for one proof, not for endlessly
// many.
func (n need) met(s session.Session, now time.Time) bool {
	strong := n.acr == acrOne || s.ACR == acrTwo
	return strong && now.Sub(s.AuthTime) <= max(n.maxAge, 10*time.Second)
}

// serveStepUpPage asks for the proof that a route or a change needs, and for no
// more than that.
func (p *Plane) serveStepUpPage(w http.ResponseWriter, r *http.Request, m member) error {
	if err := knownACR(r); err != nil {
		return err
	}
	n := needOf(r.URL.Query())
	if n.met(m.Session, p.opt.Now()) {
		return p.redirect(w, n.next)
	}
	return p.askStepUp(w, r, m, n, nil)
}

func (p *Plane) askStepUp(w http.ResponseWriter, r *http.Request, m member, n need, wrong error) error {
	has, err := p.waysOf(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	providers, err := p.provers(r.Context(), m, n)
	if err != nil {
		return err
	}
	if !has.strong() && len(providers) == 0 && n.acr == acrTwo {
		return p.render(w, http.StatusForbidden, "nofactor", view{Title: "A second factor is needed", Next: n.next})
	}
	password, err := p.hasPassword(r.Context(), m)
	if err != nil {
		return err
	}
	body := proofPage{
		ways: has, Password: password && !has.strong() && n.acr == acrOne, Again: !password && !has.strong() && len(providers) == 0, Providers: providers, Lead: "What you are about to do needs a fresh proof that it is you.", Name: m.name(),
		Action: stepUpPath + "?" + n.query(), Options: stepUpPath + "/options", Next: n.next, Cancel: "/", Lost: r.PostForm.Get("how") == "recovery",
	}
	if strings.HasPrefix(n.next, accountPath) {
		body.Cancel = accountPath
	}
	return p.ask(w, view{Title: "Is it you?", Body: body, Script: has.Passkey}, wrong)
}

// hasPassword reports whether the person has one here, and not only a provider
// who vouches for them.
func (p *Plane) hasPassword(ctx context.Context, m member) (bool, error) {
	u, err := p.opt.Store.User(ctx, m.name())
	return u.Hash != "", unavailable(err)
}

// serveStepUp raises the session that the browser is in, and no other.
func (p *Plane) serveStepUp(w http.ResponseWriter, r *http.Request, m member) error {
	if err := knownACR(r); err != nil {
		return err
	}
	n := needOf(r.URL.Query())
	has, err := p.waysOf(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	var amr string
	if r.PostForm.Get("how") == "password" && !has.strong() {
		amr, err = amrPassword, p.provePassword(r, m, r.PostForm.Get("password"))
	} else {
		take := func(what string) (guess.Ticket, error) { return p.takeGuess(r, what, m.Subject) }
		amr, err = p.prove(r, m.Subject, sessionBinding(m.Session), take)
	}
	if k := rampart.KindOf(err); err != nil && (k == rampart.Unauthenticated || k == rampart.Limited) {
		return p.askStepUp(w, r, m, n, err)
	}
	if err != nil {
		return err
	}
	if err := p.raise(w, r, m, amr); err != nil {
		return err
	}
	return p.onward(w, n.next)
}

func (p *Plane) stepUpOptions(w http.ResponseWriter, r *http.Request, m member) error {
	return p.options(w, r, m.Subject, sessionBinding(m.Session))
}

// provePassword checks the person's own password once more.
func (p *Plane) provePassword(r *http.Request, m member, password string) error {
	ctx := r.Context()
	e := factorEvent(r, "session.step_up", m.Subject, map[string]string{"factor": "password"})
	guessed, err := p.takeGuess(r, guess.Password, m.Subject)
	if err != nil {
		e.Class = audit.ClassLimit
		return p.refuse(ctx, e, err)
	}
	known := p.knownDevice(r, m.Subject) != ""
	_, err = p.checkPassword(ctx, attempt{name: m.name(), password: password}, known)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return p.refuse(ctx, e, rampart.Errorf(rampart.Unauthenticated, "authn.password", "your current password is wrong; try again"))
	}
	if err != nil {
		return p.refuse(ctx, e, errors.Join(err, guessed.Void(ctx))) // nothing was compared
	}
	return guessed.Succeeded(ctx)
}

// raise records the proof in the session: a new id, the time of now, and the
// assurance that the proof gives. A password alone proves less than a second
// factor did before.
func (p *Plane) raise(w http.ResponseWriter, r *http.Request, m member, amr string) error {
	err := p.rekey(w, r, func(s *session.Session) {
		s.AuthTime = p.opt.Now()
		if amr == amrPassword {
			s.ACR, s.AMR = acrOne, []string{amrPassword}
			return
		}
		s.ACR = acrTwo
		if !slices.Contains(s.AMR, amr) {
			s.AMR = append(slices.Clone(s.AMR), amr)
		}
	})
	if err != nil {
		return err
	}
	e := factorEvent(r, "session.step_up", m.Subject, map[string]string{"amr": amr})
	e.Control = "authn.step_up"
	return p.opt.Audit.Record(r.Context(), e)
}

// rekey gives the browser's session a new id: who knew the old one knows
// nothing now.
func (p *Plane) rekey(w http.ResponseWriter, r *http.Request, change func(*session.Session)) error {
	id, _, err := p.sessions.Rekey(r.Context(), session.FromRequest(r), change)
	if err != nil {
		return err
	}
	http.SetCookie(w, session.Cookie(id))
	return nil
}

// mayChange reports whether the person may change how they sign in: by a proof
// of the last five minutes, and with a second factor if there is one. Else it
// is on record and the browser is sent to prove it.
func (p *Plane) mayChange(w http.ResponseWriter, r *http.Request, m member, action string) (bool, error) {
	n, err := p.changeNeeds(r, m)
	if err != nil {
		return false, err
	}
	if n.met(m.Session, p.opt.Now()) {
		return true, nil
	}
	if err := p.stale(r, m, action); err != nil {
		return false, err
	}
	return false, p.redirect(w, stepUpPath+"?"+n.query())
}

// stale puts on record that a change was asked for without a fresh proof. Its
// error is the log's.
func (p *Plane) stale(r *http.Request, m member, action string) error {
	e := factorEvent(r, action, m.Subject, nil)
	e.Outcome, e.Control = audit.Refused, "authn.step_up"
	e.Detail = map[string]string{"error": "a fresh proof is needed first"}
	return p.opt.Audit.Record(r.Context(), e)
}

func (p *Plane) changeNeeds(r *http.Request, m member) (need, error) {
	has, err := p.waysOf(r.Context(), m.Subject)
	n := need{acr: acrOne, maxAge: freshFor, next: pageOf(r)}
	if has.strong() {
		n.acr = acrTwo
	}
	return n, err
}

// alert marks an event that somebody should look at.
func alert(detail map[string]string) map[string]string {
	out := map[string]string{"alert": "true"}
	maps.Copy(out, detail)
	return out
}
