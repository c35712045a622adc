package control

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

type passwordPage struct {
	Name    string
	Current bool // ask for the password of now
	None    bool // there is none to change
	Least   int
}

// servePasswordPage shows the form. A second factor of the last five minutes
// stands in for the password of now.
func (p *Plane) servePasswordPage(w http.ResponseWriter, r *http.Request, m member) error {
	return p.showPassword(w, r, m, nil)
}

func (p *Plane) showPassword(w http.ResponseWriter, r *http.Request, m member, wrong error) error {
	has, err := p.hasPassword(r.Context(), m)
	if err != nil {
		return err
	}
	policy, err := p.passwordPolicy(r.Context(), m.name())
	if err != nil {
		return err
	}
	v := view{Title: "Password", Nav: passwordPath, Body: passwordPage{Name: m.name(), Current: !p.provedTwo(m), None: !has, Least: policy.Least()}}
	if wrong != nil {
		v.Problem = sentence(wrong)
	}
	return p.showAccount(w, r, m, "password", v)
}

// provedTwo reports whether the person has proved themselves with two factors
// in the last five minutes.
func (p *Plane) provedTwo(m member) bool {
	return need{acr: acrTwo, maxAge: freshFor}.met(m.Session, p.opt.Now())
}

// servePassword changes the password, ends the person's other sessions and
// gives this one a new id.
func (p *Plane) servePassword(w http.ResponseWriter, r *http.Request, m member) error {
	err := p.changePassword(r, m)
	if k := rampart.KindOf(err); err != nil && (k == rampart.Unauthenticated || k == rampart.Limited || k == rampart.Invalid) {
		return p.showPassword(w, r, m, err)
	}
	if err != nil {
		return err
	}
	if _, err := p.endOthers(r.Context(), m.Subject, m.SID); err != nil {
		return err
	}
	if err := p.rekey(w, r, func(*session.Session) {}); err != nil {
		return err
	}
	return p.redirect(w, accountPath+"?done=password")
}

func (p *Plane) changePassword(r *http.Request, m member) error {
	ctx := r.Context()
	e := audit.Event{
		Class: audit.ClassAuthentication, Action: "password.change", Outcome: audit.Allowed, Control: "authn.password", Subject: m.Subject, Peer: client(r),
	}
	was, err := p.withPassword(ctx, m)
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	if !p.provedTwo(m) {
		if err := p.provePassword(r, m, r.PostForm.Get("current")); err != nil {
			return err
		}
	}
	hash, err := p.newHash(ctx, was, r.PostForm.Get("new"), r.PostForm.Get("repeat"))
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	_, err = p.changeUser(ctx, m.Subject, func(u *store.User) error {
		u.Hash = hash
		return sameUser(was, *u, "authn.password") // else who knew an old one would have the last word
	})
	if errors.Is(err, store.ErrNotFound) {
		err = changedMeanwhile("authn.password")
	}
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	return nil
}

// withPassword returns the person's account, if it has a password to change.
func (p *Plane) withPassword(ctx context.Context, m member) (store.User, error) {
	u, err := p.user(ctx, m.Subject)
	if errors.Is(err, store.ErrNotFound) || err == nil && (u.Disabled || u.Hash == "") {
		return u, rampart.Errorf(rampart.Denied, "authn.password", "this account has no password to change")
	}
	return u, err
}

// newHash hashes a new password that its owner typed twice. The one that they
// have is none.
func (p *Plane) newHash(ctx context.Context, u store.User, fresh, repeat string) (string, error) {
	if subtle.ConstantTimeCompare([]byte(fresh), []byte(repeat)) != 1 {
		return "", rampart.Errorf(rampart.Invalid, "authn.password", "the two new passwords differ; type the same one twice")
	}
	hash, err := p.newPassword(ctx, u.Name, fresh)
	if err != nil {
		return "", err
	}
	same, _, err := p.hasher.Verify(ctx, u.Hash, fresh)
	if err != nil {
		return "", err
	}
	if same {
		return "", rampart.Errorf(rampart.Invalid, "authn.password", "this is the password that you have; choose another one")
	}
	return hash, nil
}
