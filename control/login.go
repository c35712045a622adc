package control

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/password"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

const maxName = 64 // bytes of a user name

// attempt is one try to log in.
type attempt struct {
	name     string
	password string
	next     string // where the browser wants to go
}

// serveLogin takes the form.
func (p *Plane) serveLogin(w http.ResponseWriter, r *http.Request) error {
	if err := p.sameSite(r); err != nil {
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassAuthentication, Action: "session.login", Peer: client(r)}, err)
	}
	if err := parseForm(r); err != nil {
		return err
	}
	name := r.PostForm.Get("username")
	a := attempt{
		name:     name[:min(len(name), maxName+1)], // no account's either, and small enough to be counted by
		password: r.PostForm.Get("password"),
		next:     safeNext(r.PostForm.Get("next")),
	}
	to, err := p.login(w, r, a)
	if err != nil {
		return p.again(w, page{Username: name[:min(len(name), maxName)], Next: a.next}, err)
	}
	return p.onward(w, to)
}

// again shows the form with what was wrong.
func (p *Plane) again(w http.ResponseWriter, v page, err error) error {
	status := problem.Status(err)
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated, rampart.Limited, rampart.Unavailable:
		v.Problem = sentence(err)
	default:
		return err
	}
	sayWhen(w, err)
	return p.show(w, status, v)
}

// sayWhen tells how long to wait, if err knows.
func sayWhen(w http.ResponseWriter, err error) {
	if d, ok := errors.AsType[*problem.Details](err); ok && d.RetryAfter > 0 {
		w.Header().Set("Retry-After", retrySeconds(d.RetryAfter))
	}
}

// sentence is the part of an error that may leave the house, for a page.
func sentence(err error) string {
	text := problem.Message(err)
	if text == "" || rampart.KindOf(err) == rampart.Internal {
		return "This is not possible right now."
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// onward sends a browser on that has come through a form.
func (p *Plane) onward(w http.ResponseWriter, to string) error {
	if strings.HasPrefix(to, "/oauth2/authorize?") {
		// A form's redirects are bound by form-action, which the client's own
		// address is not in: leave the form before going there.
		return p.show(w, http.StatusOK, page{Continue: to})
	}
	return p.redirect(w, to)
}

// login checks a password and goes on to a session or to the second step. It
// returns where to send the browser. The attempt is counted before the
// compare, and recorded before anybody holds the result.
func (p *Plane) login(w http.ResponseWriter, r *http.Request, a attempt) (to string, err error) {
	ctx, account := r.Context(), "user:"+a.name
	e := audit.Event{Class: audit.ClassAuthentication, Action: "session.login", Control: "authn.password", Peer: client(r)}
	guessed, err := p.takeGuess(r, guess.Password, account)
	if err != nil {
		e.Class = audit.ClassLimit
		// Looked up for every name, so that the answer's time tells none apart.
		if u, uerr := p.opt.Store.User(ctx, a.name); uerr == nil {
			e.Subject = u.Facts.Subject
		}
		return "", p.refuse(ctx, e, err)
	}
	u, err := p.checkPassword(ctx, a, p.knownDevice(r, account) != "")
	e.Subject = u.Facts.Subject // known accounts only: an unknown name may be a password in the wrong field
	if rampart.KindOf(err) == rampart.Unavailable && err != nil {
		return "", p.refuse(ctx, e, errors.Join(err, guessed.Void(ctx))) // nothing was compared
	}
	if err != nil {
		return "", p.refuse(ctx, e, err)
	}
	if err := guessed.Succeeded(ctx); err != nil {
		return "", p.refuse(ctx, e, err)
	}
	return p.beginLogin(w, r, pending{Subject: u.Facts.Subject, Changed: u.Changed, ACR: acrOne, AMR: []string{amrPassword}, Next: a.next})
}

// takeGuess counts an attempt of the browser at an account's secret before
// anybody looks at it. What looks like stuffing goes on record.
func (p *Plane) takeGuess(r *http.Request, what, account string) (guess.Ticket, error) {
	if p.system().Off("limit.login") {
		return guess.Ticket{}, nil
	}
	from, err := netip.ParseAddrPort(client(r))
	if err != nil {
		return guess.Ticket{}, err
	}
	t, err := p.guard.Take(r.Context(), guess.Attempt{What: what, Account: account, Address: from.Addr(), Device: p.knownDevice(r, account)})
	if err != nil {
		return guess.Ticket{}, err
	}
	s, found := t.Stuffing()
	if !found {
		return t, nil
	}
	return t, p.opt.Audit.Record(r.Context(), audit.Event{
		Class: audit.ClassLimit, Action: "guess.stuffing", Outcome: audit.Refused, Control: "limit.login", Resource: what, Peer: client(r),
		Detail: alert(map[string]string{
			"network": s.Network.String(), "window": s.Window.String(), "accounts": strconv.Itoa(s.Accounts),
			"attempts": strconv.Itoa(s.Attempts), "failures": strconv.Itoa(s.Failures),
		}),
	})
}

// checkPassword returns the account, as it was before the compare, if the
// password is its own. An unknown
// name, an account without a password and one that is disabled cost the same
// work and get the same answer.
func (p *Plane) checkPassword(ctx context.Context, a attempt, known bool) (store.User, error) {
	u, err := p.opt.Store.User(ctx, a.name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.User{}, unavailable(err)
	}
	ok, rehash, err := verify(ctx, p.hasher, u.Hash, a.password)
	if known && rampart.KindOf(err) == rampart.Unavailable {
		ok, rehash, err = verify(ctx, p.reserve, u.Hash, a.password)
	}
	if err != nil {
		return u, err
	}
	if !ok || u.Disabled {
		return u, rampart.Errorf(rampart.Unauthenticated, "authn.password", "user name or password is wrong")
	}
	if rehash {
		return u, p.rehash(ctx, u, a.password)
	}
	return u, nil
}

// verify checks a password against a stored hash; none takes as long.
func verify(ctx context.Context, h *password.Hasher, hash, word string) (ok, rehash bool, err error) {
	if hash == "" {
		return false, false, h.VerifyNone(ctx, word)
	}
	return h.Verify(ctx, hash, word)
}

// passwordPolicy is what a new password of the account must meet: alone it has
// to bear everything.
func (p *Plane) passwordPolicy(ctx context.Context, name string) (password.Policy, error) {
	two, err := p.secondFactor(ctx, "user:"+name)
	return password.Policy{Alone: !two, Words: []string{p.system().Info.Name, name}}, err
}

// newPassword returns what to store of a password that the account is to have.
func (p *Plane) newPassword(ctx context.Context, name, fresh string) (string, error) {
	policy, err := p.passwordPolicy(ctx, name)
	if err != nil {
		return "", err
	}
	if err := policy.Check(fresh); err != nil {
		return "", err
	}
	return p.hasher.Hash(ctx, fresh)
}

// rehash stores a password under today's parameters, unless the account has
// changed since it was read: then the next login does.
func (p *Plane) rehash(ctx context.Context, u store.User, word string) error {
	hash, err := p.hasher.Rehash(ctx, word)
	if err != nil {
		return err
	}
	u.Hash = hash
	_, err = p.opt.Store.SwapUser(ctx, u)
	return unavailable(err)
}

// endOld ends the session that the browser had: a login never continues one
// that somebody else may have planted.
func (p *Plane) endOld(ctx context.Context, cookie string) error {
	old, err := p.sessions.Resolve(ctx, cookie)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		return nil
	}
	if err != nil {
		return err
	}
	return p.revoke(ctx, "sid", old.SID)
}

// retrySeconds rounds up, to one at least.
func retrySeconds(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}
