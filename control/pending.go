package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// loginCookie carries the id of a login that is not finished.
const loginCookie = "__Host-rampart_login"

const (
	pendingFor  = 10 * time.Minute
	ticketLogin = "login"         // kind of its ticket
	secondStep  = "/login/factor" // where it goes on
)

// Values of acr and amr (RFC 8176).
const (
	acrOne      = "aal1"
	acrTwo      = "aal2"
	amrPassword = "pwd"
	amrFed      = "fed"
)

// pending is a login that has proved something. It is no session: it opens the
// second step and nothing else.
type pending struct {
	Subject  string           `json:"sub"`             // "user:NAME"
	Changed  time.Time        `json:"changed"`         // of the account, read before anything was proved
	Two      bool             `json:"two,omitzero"`    // of a password: there was a second factor to ask for
	Device   string           `json:"device,omitzero"` // id of the known device that it began on; "": a strange one
	ACR      string           `json:"acr,omitzero"`    // proved so far
	AMR      []string         `json:"amr,omitzero"`
	Next     string           `json:"next"`              // where the browser wants to go
	Upstream session.Upstream `json:"upstream,omitzero"` // zero: a local login
	Proved   time.Time        `json:"proved,omitzero"`   // when the provider saw the proof; zero: just now

	hash   ticket.Hash // of its cookie; zero: nothing is kept of it
	factor string      // id of the passkey that began it
}

// beginLogin goes on from what v has proved: straight to a session, or to the
// second step if its subject has a second factor. It returns where to send the
// browser.
func (p *Plane) beginLogin(w http.ResponseWriter, r *http.Request, v pending) (to string, err error) {
	if v.Two, err = p.secondFactor(r.Context(), v.Subject); err != nil {
		return "", err
	}
	if !v.Two || p.system().Off("authn.mfa") {
		return v.Next, p.finishLogin(w, r, v, v.ACR, v.AMR)
	}
	raw := make([]byte, sha256.Size)
	rand.Read(raw)
	id := base64.RawURLEncoding.EncodeToString(raw)
	v.Device = p.knownDevice(r, v.Subject)
	value, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	now := p.opt.Now()
	if err := p.tickets.PutTicket(r.Context(), ticketLogin, sha256.Sum256([]byte(id)), value, now, now.Add(pendingFor)); err != nil {
		return "", unavailable(err)
	}
	e := audit.Event{Class: audit.ClassAuthentication, Action: "login.pending", Outcome: audit.Allowed, Control: controlOfAMR(v.AMR), Subject: v.Subject, Peer: client(r)}
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return "", err
	}
	http.SetCookie(w, hostCookie(loginCookie, id, pendingFor))
	return secondStep, nil
}

// secondFactor reports whether the subject has enrolled one. Recovery codes
// alone are none.
func (p *Plane) secondFactor(ctx context.Context, subject string) (bool, error) {
	list, err := p.factors.Factors(ctx, subject)
	return slices.ContainsFunc(list, func(f mfa.Factor) bool {
		return f.Kind == mfa.KindTOTP || f.Kind == mfa.KindPasskey
	}), unavailable(err)
}

// pendingLogin returns the login that the browser has begun and not finished.
// None, one that is over, one that has left its device, and one of an account
// that was changed since are all Unauthenticated.
func (p *Plane) pendingLogin(r *http.Request) (pending, error) {
	none := rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this sign-in is over; sign in again")
	found := r.CookiesNamed(loginCookie)
	if len(found) != 1 {
		return pending{}, none
	}
	v := pending{hash: sha256.Sum256([]byte(found[0].Value))}
	value, err := p.tickets.Ticket(r.Context(), ticketLogin, v.hash, p.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return pending{}, none
	}
	if err != nil {
		return pending{}, unavailable(err)
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return pending{}, err
	}
	now := p.knownDevice(r, v.Subject)
	if v.Device != "" && v.Device != now {
		return pending{}, none
	}
	v.Device = now
	same, err := p.unchanged(r.Context(), v)
	if err != nil {
		return pending{}, err
	}
	if !same {
		return pending{}, none
	}
	return v, nil
}

// unchanged reports whether the account, and what the login came in by, are
// still those that v has proved something about.
func (p *Plane) unchanged(ctx context.Context, v pending) (bool, error) {
	u, err := p.user(ctx, v.Subject)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil || u.Disabled || !u.Changed.Equal(v.Changed) {
		return false, err
	}
	if v.Upstream.Issuer != "" {
		list, err := p.opt.Store.Links(ctx, v.Subject)
		return slices.ContainsFunc(list, func(l store.Link) bool {
			return l.Issuer == v.Upstream.Issuer && l.Upstream == v.Upstream.Subject
		}), unavailable(err)
	}
	if v.factor != "" {
		list, err := p.factors.Factors(ctx, v.Subject)
		return slices.ContainsFunc(list, func(f mfa.Factor) bool { return f.ID == v.factor }), unavailable(err)
	}
	two, err := p.secondFactor(ctx, v.Subject)
	return two == v.Two, err
}

// finishLogin ends a login with a session of v's subject, proved to acr by
// amr, and makes the browser known. A pending login is good for one session.
// The session that the browser had before ends. A login that began before the
// account changed is refused: the look comes after the session is stored, so
// that whoever changes the account either is seen here, or finds the session
// and ends it.
func (p *Plane) finishLogin(w http.ResponseWriter, r *http.Request, v pending, acr string, amr []string) error {
	ctx := r.Context()
	if err := p.spendPending(ctx, v); err != nil {
		return err
	}
	if err := p.endOld(ctx, session.FromRequest(r)); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(client(r))
	if err != nil {
		return err
	}
	id, s, err := p.sessions.Create(ctx, session.Login{Subject: v.Subject, IP: host, Agent: r.UserAgent(), ACR: acr, AMR: amr, Upstream: v.Upstream, Proved: v.Proved})
	if err != nil {
		return err
	}
	e := audit.Event{
		Class: audit.ClassAuthentication, Action: "session.login", Outcome: audit.Allowed, Control: controlOfAMR(amr), Subject: v.Subject, Peer: client(r),
		Detail: map[string]string{"acr": acr, "amr": strings.Join(amr, " ")},
	}
	if err := p.admit(ctx, e, v); err != nil {
		_, endErr := p.sessions.End(context.WithoutCancel(ctx), s.SID) // nobody holds it, nobody ever shall
		return errors.Join(err, endErr)
	}
	http.SetCookie(w, session.Cookie(id))
	if v.hash != (ticket.Hash{}) {
		http.SetCookie(w, hostCookie(loginCookie, "", -time.Second))
	}
	p.knowDevice(w, r, v.Subject)
	return nil
}

// admit puts a login on record, as one that is let in if nothing that it rests
// on has changed.
func (p *Plane) admit(ctx context.Context, e audit.Event, v pending) error {
	same, err := p.unchanged(ctx, v)
	if err == nil && !same {
		err = changedMeanwhile(e.Control)
	}
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	return p.opt.Audit.Record(ctx, e)
}

// controlOfAMR names the control that the newest proof passed.
func controlOfAMR(amr []string) string {
	switch {
	case len(amr) == 0 || amr[len(amr)-1] == amrPassword:
		return "authn.password"
	case amr[len(amr)-1] == amrFed:
		return "authn.federation"
	}
	return "authn.mfa"
}

// spendPending takes the ticket of v, so that of two who finish it one does.
func (p *Plane) spendPending(ctx context.Context, v pending) error {
	if v.hash == (ticket.Hash{}) {
		return nil
	}
	_, err := p.tickets.TakeTicket(ctx, ticketLogin, v.hash, p.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this sign-in is over; sign in again")
	}
	return unavailable(err)
}

// takeFactor counts an attempt at a second factor of a pending login. Reaching
// the account's limit ends the login: it must not go on where it stopped once
// the pause is over. What neighbours fail at only makes it wait.
func (p *Plane) takeFactor(w http.ResponseWriter, r *http.Request, v pending, what string) (guess.Ticket, error) {
	t, err := p.takeGuess(r, what, v.Subject)
	if errors.Is(err, guess.ErrOwn) {
		err = errors.Join(err, p.dropLogin(w, r, v))
	}
	return t, err
}

// dropLogin ends a pending login without a session.
func (p *Plane) dropLogin(w http.ResponseWriter, r *http.Request, v pending) error {
	http.SetCookie(w, hostCookie(loginCookie, "", -time.Second))
	err := p.spendPending(r.Context(), v)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return nil // somebody else did
	}
	return err
}
