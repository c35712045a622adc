package control

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/mfa/passkey"
)

// factorRow is a factor as its page shows it.
type factorRow struct {
	ID, Label string
	Created   string
	LastUsed  string // "": never
}

func rowOf(f mfa.Factor, now time.Time) factorRow {
	row := factorRow{ID: f.ID, Label: f.Label, Created: day(f.Created)}
	if !f.LastUsed.IsZero() {
		row.LastUsed = ago(now, f.LastUsed)
	}
	return row
}

// showAccount writes an account page. What was done stands in the address; a
// page with a problem is a 422, and says nothing of what was done before.
func (p *Plane) showAccount(w http.ResponseWriter, r *http.Request, m member, name string, v view) error {
	v.User, v.Next = m.name(), wanted(r)
	status := http.StatusOK
	if v.Problem == "" {
		v.Done = factorDone(r.URL.Query().Get("done"))
	} else {
		status = http.StatusUnprocessableEntity
	}
	return p.render(w, status, name, v)
}

// factorDone is what a page says after a form, by what stands in its address:
// no text of a stranger's choice gets onto it.
func factorDone(done string) string {
	switch done {
	case "totp":
		return "Your authenticator app is on. Other devices are signed out. Make recovery codes too, for the day that your phone is lost."
	case "passkey":
		return "Your passkey is added. Other devices are signed out. Make recovery codes too, for the day that it is lost."
	case "codes":
		return "Your recovery codes are made. Other devices are signed out."
	case "renamed":
		return "The name is changed."
	case "removed":
		return "It is removed. Other devices are signed out."
	case "password":
		return "Your password is changed. Other devices are signed out."
	}
	return ""
}

// way is one line of the overview.
type way struct {
	Name, Text, State string
	On                bool
	Path, Do          string
}

// serveAccount shows who one is and how one signs in.
func (p *Plane) serveAccount(w http.ResponseWriter, r *http.Request, m member) error {
	list, err := p.factors.Factors(r.Context(), m.Subject)
	if err != nil {
		return unavailable(err)
	}
	left, err := p.codes.RecoveryLeft(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	password, err := p.hasPassword(r.Context(), m)
	if err != nil {
		return err
	}
	body := struct {
		Name                 string
		Roles, Organizations []string
		SignedIn             string
		Strong               bool
		Ways                 []way
	}{m.name(), m.who.Roles, m.who.Organizations, ago(p.opt.Now(), m.AuthTime), m.ACR == acrTwo, waysShown(list, left, password)}
	return p.showAccount(w, r, m, "account", view{Title: "Your account", Nav: accountPath, Body: body})
}

func waysShown(list []mfa.Factor, left int, password bool) []way {
	count := func(kind mfa.Kind) (n int) {
		for _, f := range list {
			if f.Kind == kind {
				n++
			}
		}
		return n
	}
	keys, app := count(mfa.KindPasskey), count(mfa.KindTOTP) > 0
	out := []way{
		{"Passkeys", "Your device's fingerprint reader, face or PIN, instead of a password", plural(keys), keys > 0, passkeysPath, "Manage"},
		{"Authenticator app", "A code from your phone after the password", onOff(app), app, totpPath, "Manage"},
		{"Recovery codes", "For the day when your phone is lost", fmt.Sprintf("%d left", left), left > 0, recoveryPath, "Manage"},
	}
	if !password {
		return out
	}
	return append([]way{{"Password", "What you know", "on", true, passwordPath, "Change"}}, out...)
}

func plural(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// serveTOTPPage shows the app that is on, the one that waits for its first
// code, or how to begin.
func (p *Plane) serveTOTPPage(w http.ResponseWriter, r *http.Request, m member) error {
	return p.showTOTP(w, r, m, "")
}

type totpPage struct {
	Factor *factorRow
	Last   bool
	Secret string
	URI    template.URL
	QR     mfa.QR
}

func (p *Plane) showTOTP(w http.ResponseWriter, r *http.Request, m member, wrong string) error {
	body, err := p.totpBody(r, m)
	if err != nil {
		return err
	}
	return p.showAccount(w, r, m, "totp", view{Title: "Authenticator app", Nav: totpPath, Body: body, Problem: wrong})
}

func (p *Plane) totpBody(r *http.Request, m member) (totpPage, error) {
	list, err := p.factors.Factors(r.Context(), m.Subject)
	if err != nil {
		return totpPage{}, unavailable(err)
	}
	if i := slices.IndexFunc(list, func(f mfa.Factor) bool { return f.Kind == mfa.KindTOTP }); i >= 0 {
		row := rowOf(list[i], p.opt.Now())
		return totpPage{Factor: &row, Last: onlyOne(list)}, nil
	}
	e, err := p.codes.PendingTOTP(r.Context(), m.Subject, m.SID, m.name())
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return totpPage{}, nil
	}
	if err != nil {
		return totpPage{}, err
	}
	qr, err := mfa.NewQR(e.URI)
	return totpPage{Secret: spaced(e.Secret), URI: template.URL(e.URI), QR: qr}, err // the URI is of our own making
}

// onlyOne reports whether there is one strong factor: the last.
func onlyOne(list []mfa.Factor) bool {
	strong := 0
	for _, f := range list {
		if f.Kind != mfa.KindRecovery {
			strong++
		}
	}
	return strong == 1
}

// spaced puts a space after every fourth character, for who types it.
func spaced(secret string) string {
	var out []byte
	for i := range len(secret) {
		if i > 0 && i%4 == 0 {
			out = append(out, ' ')
		}
		out = append(out, secret[i])
	}
	return string(out)
}

// serveTOTPBegin makes a secret for the page to show. A second app is a second
// secret to lose: the first is removed before.
func (p *Plane) serveTOTPBegin(w http.ResponseWriter, r *http.Request, m member) error {
	ok, err := p.mayChange(w, r, m, "mfa.enrol")
	if !ok || err != nil {
		return err
	}
	has, err := p.waysOf(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	if has.TOTP {
		return p.redirect(w, pageOf(r))
	}
	if err := p.codes.BeginTOTP(r.Context(), m.Subject, m.SID); err != nil {
		return err
	}
	return p.redirect(w, pageOf(r))
}

func (p *Plane) serveTOTPConfirm(w http.ResponseWriter, r *http.Request, m member) error {
	ok, err := p.mayChange(w, r, m, "mfa.enrol")
	if !ok || err != nil {
		return err
	}
	f, err := p.codes.ConfirmTOTP(r.Context(), m.Subject, m.SID, r.PostForm.Get("code"))
	switch {
	case err == nil:
	case rampart.KindOf(err) == rampart.Invalid:
		return p.showTOTP(w, r, m, "This code is wrong. Type the one that your app shows now; if it stays wrong, check the clock of your phone.")
	case rampart.KindOf(err) == rampart.NotFound:
		return p.showTOTP(w, r, m, "This took longer than ten minutes. Set it up again.")
	default:
		return err
	}
	return p.enrolled(w, r, m, f, amrOTP, "totp")
}

// enrolled puts a new factor on record, ends the person's other sessions and
// raises this one: the factor has just been shown.
func (p *Plane) enrolled(w http.ResponseWriter, r *http.Request, m member, f mfa.Factor, amr, what string) error {
	err := p.changed(r, m, "mfa.enrol", f)
	if err == nil {
		_, err = p.endOthers(r.Context(), m.Subject, m.SID)
	}
	if err == nil {
		err = p.raise(w, r, m, amr)
	}
	if err != nil {
		return errors.Join(err, p.unenrol(r, m, f)) // its owner was not told, or the session was over
	}
	return p.redirect(w, did(r, what))
}

// unenrol takes a factor back whose enrolment did not come to its end.
func (p *Plane) unenrol(r *http.Request, m member, f mfa.Factor) error {
	ctx := context.WithoutCancel(r.Context()) // who hangs up leaves nothing half done
	if _, err := p.factors.DeleteFactor(ctx, f.Subject, f.ID); err != nil {
		return unavailable(err)
	}
	return p.changed(r.WithContext(ctx), m, "mfa.remove", f)
}

// changed records a change of a factor.
func (p *Plane) changed(r *http.Request, m member, action string, f mfa.Factor) error {
	e := factorEvent(r, action, m.Subject, map[string]string{"factor": string(f.Kind), "label": f.Label})
	e.Resource = "factor:" + f.ID
	return p.opt.Audit.Record(r.Context(), e)
}

// servePasskeysPage lists the passkeys and lets one be added.
func (p *Plane) servePasskeysPage(w http.ResponseWriter, r *http.Request, m member) error {
	return p.showPasskeys(w, r, m, "")
}

func (p *Plane) showPasskeys(w http.ResponseWriter, r *http.Request, m member, wrong string) error {
	list, err := p.factors.Factors(r.Context(), m.Subject)
	if err != nil {
		return unavailable(err)
	}
	body := struct {
		Passkeys []factorRow
		Last     bool
		Off      string // why there can be none
	}{}
	for _, f := range list {
		if f.Kind == mfa.KindPasskey {
			body.Passkeys = append(body.Passkeys, rowOf(f, p.opt.Now()))
		}
	}
	body.Last = len(body.Passkeys) > 0 && onlyOne(list)
	if p.passkeys == nil {
		body.Off = sentence(noPasskeys())
	}
	return p.showAccount(w, r, m, "passkeys", view{Title: "Passkeys", Nav: passkeysPath, Body: body, Problem: wrong, Script: true})
}

func personOf(m member) passkey.Person { return passkey.Person{Subject: m.Subject, Name: m.name()} }

// passkeyOptions begins a registration. Who must prove themselves first is told
// so before the browser asks for a finger.
func (p *Plane) passkeyOptions(w http.ResponseWriter, r *http.Request, m member) error {
	n, err := p.changeNeeds(r, m)
	if err != nil {
		return err
	}
	if !n.met(m.Session, p.opt.Now()) {
		if err := p.stale(r, m, "mfa.enrol"); err != nil {
			return err
		}
		return writeJSON(w, elsewhere{stepUpPath + "?" + n.query()})
	}
	if p.passkeys == nil {
		return noPasskeys()
	}
	b, err := p.passkeys.BeginRegistration(r.Context(), personOf(m), m.SID)
	if err != nil {
		return err
	}
	return p.writeOptions(w, b)
}

func (p *Plane) servePasskeyAdd(w http.ResponseWriter, r *http.Request, m member) error {
	ok, err := p.mayChange(w, r, m, "mfa.enrol")
	if !ok || err != nil {
		return err
	}
	if p.passkeys == nil {
		return noPasskeys()
	}
	f, err := p.passkeys.FinishRegistration(r.Context(), personOf(m), m.SID, r.PostForm.Get("label"), []byte(r.PostForm.Get("answer")))
	if err == nil {
		return p.enrolled(w, r, m, f, amrPasskey, "passkey")
	}
	err = p.refuse(r.Context(), factorEvent(r, "mfa.enrol", m.Subject, map[string]string{"factor": "passkey"}), err)
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return p.showPasskeys(w, r, m, "This passkey was not accepted. Try again.")
	case rampart.Conflict:
		return p.showPasskeys(w, r, m, "This passkey is registered already.")
	}
	return err
}

func (p *Plane) servePasskeyRename(w http.ResponseWriter, r *http.Request, m member) error {
	ok, err := p.mayChange(w, r, m, "mfa.rename")
	if !ok || err != nil {
		return err
	}
	if p.passkeys == nil {
		return noPasskeys()
	}
	id, label := r.PostForm.Get("id"), passkey.Label(r.PostForm.Get("label"))
	err = p.passkeys.Rename(r.Context(), m.Subject, id, label)
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return p.redirect(w, pageOf(r))
	}
	if err != nil {
		return err
	}
	if err := p.changed(r, m, "mfa.rename", mfa.Factor{ID: id, Kind: mfa.KindPasskey, Label: label}); err != nil {
		return err
	}
	return p.redirect(w, did(r, "renamed"))
}
