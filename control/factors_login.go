package control

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/mfa/passkey"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// Values of amr for factors (RFC 8176; "rec" is ours).
const (
	amrOTP      = "otp"
	amrPasskey  = "hwk"
	amrRecovery = "rec"
)

// anyLogin binds the ceremonies of logins that a passkey alone begins.
const anyLogin = "login"

// ways is what a person can prove themselves with.
type ways struct {
	TOTP, Passkey, Recovery bool
}

// strong reports whether there is a second factor. Recovery codes stand in for
// one and are none.
func (h ways) strong() bool { return h.TOTP || h.Passkey }

func (p *Plane) waysOf(ctx context.Context, subject string) (ways, error) {
	list, err := p.factors.Factors(ctx, subject)
	var h ways
	for _, f := range list {
		switch f.Kind {
		case mfa.KindTOTP:
			h.TOTP = true
		case mfa.KindPasskey:
			h.Passkey = p.passkeys != nil
		case mfa.KindRecovery:
			h.Recovery = true
		}
	}
	return h, unavailable(err)
}

// proofPage is a page that asks for a proof.
type proofPage struct {
	ways
	Password  bool        // ask for it: there is no second factor
	Again     bool        // there is nothing: only signing in again proves anything
	Providers []idpChoice // that can vouch for the person again
	Lost      bool        // the form for recovery codes is open
	Lead      string
	Action    string // where the forms go
	Options   string // where the question for a passkey comes from
	Next      string
	Name      string
	Cancel    string // where who does not want to goes; "": nowhere
}

// serveFactorPage asks for the second factor of a login that has begun.
func (p *Plane) serveFactorPage(w http.ResponseWriter, r *http.Request) error {
	v, err := p.pendingLogin(r)
	if err != nil {
		return p.again(w, page{Next: "/"}, err)
	}
	return p.askFactor(w, r, v, nil)
}

func (p *Plane) askFactor(w http.ResponseWriter, r *http.Request, v pending, wrong error) error {
	has, err := p.waysOf(r.Context(), v.Subject)
	if err != nil {
		return err
	}
	body := proofPage{
		ways: has, Lead: "Your password was right. Now prove that it is you.", Action: secondStep, Options: secondStep + "/options", Cancel: "/login",
		Lost: r.PostForm.Get("how") == "recovery",
	}
	return p.ask(w, view{Title: "Second step", Body: body, Script: has.Passkey}, wrong)
}

// ask shows a page that asks for a proof, with what was wrong about the last.
func (p *Plane) ask(w http.ResponseWriter, v view, wrong error) error {
	if wrong == nil {
		return p.render(w, http.StatusOK, "prove", v)
	}
	v.Problem = sentence(wrong)
	sayWhen(w, wrong)
	return p.render(w, problem.Status(wrong), "prove", v)
}

// serveFactor takes the second factor.
func (p *Plane) serveFactor(w http.ResponseWriter, r *http.Request) error {
	if err := p.formOf(r, "mfa.verify"); err != nil {
		return err
	}
	v, err := p.pendingLogin(r)
	if err != nil {
		return p.again(w, page{Next: "/"}, err)
	}
	take := func(what string) (guess.Ticket, error) { return p.takeFactor(w, r, v, what) }
	amr, err := p.prove(r, v.Subject, pendingBinding(v), take)
	switch {
	case err == nil:
	case errors.Is(err, guess.ErrOwn):
		return p.again(w, page{Next: v.Next}, err) // the login is over
	case rampart.KindOf(err) == rampart.Unauthenticated, rampart.KindOf(err) == rampart.Limited:
		return p.askFactor(w, r, v, err)
	default:
		return err
	}
	if err := p.finishLogin(w, r, v, acrTwo, append(v.AMR, amr)); err != nil {
		return p.again(w, page{Next: v.Next}, err)
	}
	http.SetCookie(w, hostCookie(loginCookie, "", -time.Second))
	return p.onward(w, v.Next)
}

// serveFactorOptions asks the browser's authenticator for a passkey of the
// person whose login has begun.
func (p *Plane) serveFactorOptions(w http.ResponseWriter, r *http.Request) error {
	if err := p.sameSite(r); err != nil {
		return p.refuse(r.Context(), factorEvent(r, "mfa.verify", "", nil), err)
	}
	v, err := p.pendingLogin(r)
	if rampart.KindOf(err) == rampart.Unauthenticated && err != nil {
		return writeJSON(w, elsewhere{"/login"})
	}
	if err != nil {
		return err
	}
	return p.options(w, r, v.Subject, pendingBinding(v))
}

// elsewhere tells the script where to go on instead.
type elsewhere struct {
	Next string `json:"next"`
}

func pendingBinding(v pending) string { return "pending:" + hex.EncodeToString(v.hash[:]) }

// options writes the question for a passkey of the subject's, or anybody's.
func (p *Plane) options(w http.ResponseWriter, r *http.Request, subject, binding string) error {
	if p.passkeys == nil {
		return noPasskeys()
	}
	b, err := p.passkeys.BeginLogin(r.Context(), subject, binding)
	if err != nil {
		return err
	}
	return p.writeOptions(w, b)
}

func (p *Plane) writeOptions(w http.ResponseWriter, b []byte) error {
	p.harden(w.Header())
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(b)
	return gone(err)
}

func noPasskeys() error {
	return rampart.Errorf(rampart.NotFound, "authn.mfa", "passkeys need a host name, and this system is reached by an address")
}

// servePasskeyOptions begins a login by a passkey alone.
func (p *Plane) servePasskeyOptions(w http.ResponseWriter, r *http.Request) error {
	if err := p.sameSite(r); err != nil {
		return p.refuse(r.Context(), factorEvent(r, "mfa.verify", "", nil), err)
	}
	return p.options(w, r, "", anyLogin)
}

// servePasskeyLogin signs in who shows a passkey: it is two factors by itself,
// and says who it is.
func (p *Plane) servePasskeyLogin(w http.ResponseWriter, r *http.Request) error {
	if err := p.formOf(r, "session.login"); err != nil {
		return err
	}
	v := pending{Next: safeNext(r.PostForm.Get("next"))}
	a, err := p.verifyPasskey(r, "", anyLogin)
	if err == nil {
		v.Subject, v.factor = a.Subject, a.Factor
		v.Changed, err = p.enabled(r, a.Subject)
	}
	if err == nil {
		err = p.finishLogin(w, r, v, acrTwo, []string{amrPasskey})
	}
	if err != nil {
		return p.again(w, page{Next: v.Next}, err)
	}
	return p.onward(w, v.Next)
}

// enabled says when the account last changed, and refuses one that is gone or
// disabled, on record.
func (p *Plane) enabled(r *http.Request, subject string) (changed time.Time, err error) {
	u, err := p.user(r.Context(), subject)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return changed, err
	}
	if err == nil && !u.Disabled {
		return u.Changed, nil
	}
	return changed, p.refuse(r.Context(), factorEvent(r, "session.login", subject, nil),
		rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this account cannot sign in; ask an administrator"))
}

// formOf reads a form that this very site sent.
func (p *Plane) formOf(r *http.Request, action string) error {
	if err := p.sameSite(r); err != nil {
		return p.refuse(r.Context(), factorEvent(r, action, "", nil), err)
	}
	return parseForm(r)
}

// prove checks the one proof in the form against the subject's factors and
// says what it was. take counts an attempt at a code before it is looked at.
// Every answer is on record. A proof that is none is Unauthenticated, and its
// message tells the person what to do.
func (p *Plane) prove(r *http.Request, subject, binding string, take func(what string) (guess.Ticket, error)) (amr string, err error) {
	switch r.PostForm.Get("how") {
	case "totp":
		return amrOTP, p.proveCode(r, subject, guess.OTP, take)
	case "recovery":
		return amrRecovery, p.proveCode(r, subject, guess.Recovery, take)
	case "passkey":
		_, err := p.verifyPasskey(r, subject, binding)
		return amrPasskey, err
	}
	return "", rampart.Errorf(rampart.Invalid, "authn.mfa", "how is one of totp, recovery and passkey")
}

// proveCode checks a code that can be guessed.
func (p *Plane) proveCode(r *http.Request, subject, what string, take func(what string) (guess.Ticket, error)) error {
	ctx := r.Context()
	e := factorEvent(r, "mfa.verify", subject, map[string]string{"factor": what})
	guessed, err := take(what)
	if err != nil {
		e.Class = audit.ClassLimit
		return p.refuse(ctx, e, err)
	}
	verify := p.verifyTOTP
	if what == guess.Recovery {
		verify = p.verifyRecovery
	}
	verdict, err := verify(r, subject, r.PostForm.Get("code"))
	if err != nil {
		return p.refuse(ctx, e, errors.Join(err, guessed.Void(ctx))) // nothing was compared
	}
	switch verdict {
	case mfa.Replayed:
		// Sent twice by a nervous finger, or read over a shoulder: good for
		// nothing either way, and nobody's guess.
		err = errors.Join(rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this code has been used; wait for the next one and type that"), guessed.Void(ctx))
	case mfa.Refused:
		err = wrongCode(what)
	case mfa.Accepted:
		err = guessed.Succeeded(ctx)
	}
	if err != nil {
		e.Code = verdict.String()
		return p.refuse(ctx, e, err)
	}
	return p.opt.Audit.Record(ctx, e)
}

func wrongCode(what string) error {
	if what == guess.Recovery {
		return rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this recovery code is wrong or used; try another one")
	}
	return rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this code is wrong; type the one that your app shows now")
}

func (p *Plane) verifyTOTP(r *http.Request, subject, code string) (mfa.Verdict, error) {
	return p.codes.VerifyTOTP(r.Context(), subject, code)
}

// verifyRecovery uses up a code. That is an event of its own, which whoever
// watches the log should look at: the device is lost, or somebody found the codes.
func (p *Plane) verifyRecovery(r *http.Request, subject, code string) (mfa.Verdict, error) {
	verdict, left, err := p.codes.VerifyRecovery(r.Context(), subject, code)
	if err != nil || verdict != mfa.Accepted {
		return verdict, err
	}
	return verdict, p.opt.Audit.Record(r.Context(), factorEvent(r, "mfa.recovery_used", subject, alert(map[string]string{"left": strconv.Itoa(left)})))
}

// verifyPasskey checks the passkey in the form. subject "" is anybody.
func (p *Plane) verifyPasskey(r *http.Request, subject, binding string) (passkey.Assertion, error) {
	ctx := r.Context()
	e := factorEvent(r, "mfa.verify", subject, map[string]string{"factor": "passkey"})
	if p.passkeys == nil {
		return passkey.Assertion{}, p.refuse(ctx, e, noPasskeys())
	}
	a, err := p.passkeys.FinishLogin(ctx, subject, binding, []byte(r.PostForm.Get("answer")))
	if err != nil {
		err = p.refuse(ctx, e, err)
		if rampart.KindOf(err) != rampart.Unauthenticated {
			return a, err
		}
		return a, rampart.Errorf(rampart.Unauthenticated, "authn.mfa", "this passkey was not accepted; try again or sign in another way")
	}
	e.Subject, e.Resource = a.Subject, "factor:"+a.Factor
	err = p.opt.Audit.Record(ctx, e)
	if a.Migrated && err == nil {
		e.Action, e.Detail = "mfa.backup_eligible", nil
		err = p.opt.Audit.Record(ctx, e)
	}
	if a.Regressed && err == nil {
		e.Action, e.Detail = "mfa.counter_regressed", alert(nil)
		err = p.opt.Audit.Record(ctx, e)
	}
	return a, err
}

// sessionBinding binds a ceremony to a session.
func sessionBinding(s session.Session) string { return "session:" + s.SID }
