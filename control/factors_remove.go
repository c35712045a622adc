package control

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/password"
	"github.com/rampart-security/rampart/authn/session"
)

func (p *Plane) serveTOTPRemove(w http.ResponseWriter, r *http.Request, m member) error {
	return p.remove(w, r, m, mfa.KindTOTP)
}

func (p *Plane) servePasskeyRemove(w http.ResponseWriter, r *http.Request, m member) error {
	return p.remove(w, r, m, mfa.KindPasskey)
}

// remove deletes one of the person's factors. With the last strong one go the
// recovery codes, which stand in for it, and a password is left that must bear
// everything: that is done on a page of its own.
func (p *Plane) remove(w http.ResponseWriter, r *http.Request, m member, kind mfa.Kind) error {
	ok, err := p.mayChange(w, r, m, "mfa.remove")
	if !ok || err != nil {
		return err
	}
	f, last, err := p.toRemove(r, m, kind, r.PostForm.Get("id"))
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return p.redirect(w, pageOf(r)) // it is gone already: the page shows what is left
	}
	if err != nil {
		return err
	}
	if last && r.PostForm.Get("confirmed") != "yes" {
		return p.redirect(w, r.URL.Path+"?"+url.Values{"id": {f.ID}}.Encode())
	}
	if last {
		if err := p.mayStandAlone(r, m); err != nil {
			return p.refuseRemoval(w, r, m, f, err)
		}
	}
	if err := p.drop(r, m, f, last); err != nil {
		return err
	}
	if err := p.rekey(w, r, func(*session.Session) {}); err != nil {
		return err
	}
	return p.redirect(w, did(r, "removed"))
}

// toRemove finds a factor of the person's and reports whether it is the last
// strong one. One that is not there is NotFound.
func (p *Plane) toRemove(r *http.Request, m member, kind mfa.Kind, id string) (mfa.Factor, bool, error) {
	list, err := p.factors.Factors(r.Context(), m.Subject)
	if err != nil {
		return mfa.Factor{}, false, unavailable(err)
	}
	i := slices.IndexFunc(list, func(f mfa.Factor) bool { return f.ID == id && f.Kind == kind })
	if i < 0 {
		return mfa.Factor{}, false, rampart.Errorf(rampart.NotFound, "authn.mfa", "there is no such factor")
	}
	return list[i], onlyOne(list), nil
}

// drop deletes a factor, what hangs on it, and the person's other sessions.
func (p *Plane) drop(r *http.Request, m member, f mfa.Factor, last bool) error {
	ctx := r.Context()
	if err := p.removed(r, m, f, last); err != nil { // on record before it cannot be taken back
		return err
	}
	if _, err := p.factors.DeleteFactor(ctx, m.Subject, f.ID); err != nil {
		return unavailable(err)
	}
	if err := p.dropRecovery(ctx, m.Subject); err != nil {
		return err
	}
	_, err := p.endOthers(ctx, m.Subject, m.SID)
	return err
}

// lastPage asks whether the last second factor is to go.
type lastPage struct {
	Label    string
	ID       string
	Action   string // where the form goes
	Back     string
	Name     string
	Password bool // there is one: it is asked for
	Least    int  // characters that it must have by itself
}

func (p *Plane) serveTOTPLast(w http.ResponseWriter, r *http.Request, m member) error {
	return p.serveLast(w, r, m, mfa.KindTOTP)
}

func (p *Plane) servePasskeyLast(w http.ResponseWriter, r *http.Request, m member) error {
	return p.serveLast(w, r, m, mfa.KindPasskey)
}

// serveLast asks who has just proved themselves with two factors.
func (p *Plane) serveLast(w http.ResponseWriter, r *http.Request, m member, kind mfa.Kind) error {
	ok, err := p.mayChange(w, r, m, "mfa.remove")
	if !ok || err != nil {
		return err
	}
	f, last, err := p.toRemove(r, m, kind, r.URL.Query().Get("id"))
	if err != nil && rampart.KindOf(err) != rampart.NotFound {
		return err
	}
	if err != nil || !last {
		return p.redirect(w, strings.TrimSuffix(r.URL.Path, "/remove"))
	}
	return p.showLast(w, r, m, f, nil)
}

func (p *Plane) showLast(w http.ResponseWriter, r *http.Request, m member, f mfa.Factor, wrong error) error {
	has, err := p.hasPassword(r.Context(), m)
	if err != nil {
		return err
	}
	back := strings.TrimSuffix(r.URL.Path, "/remove")
	v := view{Title: "Remove your only second factor?", Nav: back, Body: lastPage{
		Label: f.Label, ID: f.ID, Action: r.URL.Path, Back: back, Name: m.name(), Password: has, Least: password.Policy{Alone: true}.Least(),
	}}
	if wrong != nil {
		v.Problem = sentence(wrong)
		sayWhen(w, wrong)
	}
	return p.showAccount(w, r, m, "last", v)
}

// mayStandAlone refuses to leave an account with a password that was chosen
// beside a second factor and is too weak without one. It is in the form: what
// is stored does not tell.
func (p *Plane) mayStandAlone(r *http.Request, m member) error {
	has, err := p.hasPassword(r.Context(), m)
	if err != nil || !has {
		return err
	}
	word := r.PostForm.Get("password")
	if err := p.provePassword(r, m, word); err != nil {
		return err
	}
	policy := password.Policy{Alone: true, Words: []string{p.system().Info.Name, m.name()}}
	if err := policy.Check(word); err != nil {
		err = rampart.Errorf(rampart.Invalid, "authn.password", "your password is too weak to stand alone; change it to one of at least %d characters first", policy.Least())
		return p.refuse(r.Context(), factorEvent(r, "mfa.remove", m.Subject, nil), err)
	}
	return nil
}

func (p *Plane) refuseRemoval(w http.ResponseWriter, r *http.Request, m member, f mfa.Factor, err error) error {
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated, rampart.Limited, rampart.Invalid:
		return p.showLast(w, r, m, f, err)
	}
	return err
}

func (p *Plane) removed(r *http.Request, m member, f mfa.Factor, last bool) error {
	e := factorEvent(r, "mfa.remove", m.Subject, map[string]string{"factor": string(f.Kind), "label": f.Label})
	e.Resource = "factor:" + f.ID
	if last {
		e.Detail["last"] = "true"
		e.Detail = alert(e.Detail)
	}
	return p.opt.Audit.Record(r.Context(), e)
}

// dropRecovery deletes recovery codes that stand in for nothing.
func (p *Plane) dropRecovery(ctx context.Context, subject string) error {
	list, err := p.factors.Factors(ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	if slices.ContainsFunc(list, func(f mfa.Factor) bool { return f.Kind != mfa.KindRecovery }) {
		return nil
	}
	for _, f := range list {
		if _, err := p.factors.DeleteFactor(ctx, subject, f.ID); err != nil {
			return unavailable(err)
		}
	}
	return nil
}
