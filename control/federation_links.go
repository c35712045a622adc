package control

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/oidc"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/store"
)

// linksPath is the page where people see and change whom they sign in with.
const linksPath = "/account/links"

const (
	maxLinks = 16 // of one account
	maxTries = 3  // at a name for a new account
)

// adopt makes an account for an identity that nobody has, where the file says
// so. The account has a name of its own: one that a provider chose could be
// somebody else's here.
func (p *Plane) adopt(ctx context.Context, at *idp, id oidc.Identity) (store.User, error) {
	if at.Link == "create" && len(at.Domains) > 0 && !slices.Contains(at.Domains, id.Domain()) {
		return store.User{}, rampart.Errorf(rampart.Unauthenticated, federationControl, "%s gives no verified e-mail address that may have an account here", at.Title)
	}
	if at.Link != "create" {
		return store.User{}, rampart.Errorf(rampart.Unauthenticated, federationControl, "no account is linked to this identity at %s; sign in here first and link it on the page of your account", at.Title)
	}
	u, err := p.newAccount(ctx, at)
	if err != nil {
		return store.User{}, err
	}
	err = p.opt.Store.PutLink(ctx, store.Link{Issuer: id.Issuer, Upstream: id.Subject, Subject: u.Facts.Subject, Created: p.opt.Now()})
	if err == nil {
		return u, nil
	}
	// Of two first logins at once one made the link: its account is the one.
	if _, derr := p.opt.Store.DeleteUser(ctx, u.Name); derr != nil {
		return store.User{}, unavailable(derr)
	}
	if !errors.Is(err, store.ErrExists) {
		return store.User{}, unavailable(err)
	}
	l, err := p.opt.Store.Link(ctx, id.Issuer, id.Subject)
	if err != nil {
		return store.User{}, unavailable(err)
	}
	return p.user(ctx, l.Subject)
}

// newAccount stores an account without password and rights.
func (p *Plane) newAccount(ctx context.Context, at *idp) (store.User, error) {
	for range maxTries {
		name := at.name[:min(len(at.name), 32)] + "-" + strings.ToLower(rand.Text()[:16])
		u := store.User{Name: name, Facts: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:" + name}, Changed: p.opt.Now()}
		err := p.opt.Store.CreateUser(ctx, u)
		if !errors.Is(err, store.ErrExists) {
			return u, unavailable(err)
		}
	}
	return store.User{}, rampart.Errorf(rampart.Unavailable, federationControl, "control: no free name for an account")
}

// linkRow is one link as the page shows it.
type linkRow struct {
	Provider, Title, Upstream string
	Created, LastLogin        time.Time
}

// linksView is what the page of links shows.
type linksView struct {
	Links  []linkRow
	Others []idpChoice // that the account is not linked to
}

func (p *Plane) serveLinksPage(w http.ResponseWriter, r *http.Request, m member) error {
	if len(p.idps) == 0 {
		return rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
	}
	return p.showLinks(w, r, m, http.StatusOK, view{})
}

func (p *Plane) showLinks(w http.ResponseWriter, r *http.Request, m member, status int, v view) error {
	list, err := p.opt.Store.Links(r.Context(), m.Subject)
	if err != nil {
		return unavailable(err)
	}
	body := linksView{Others: p.providers("")}
	for _, l := range list {
		row := linkRow{Title: l.Issuer, Upstream: l.Upstream, Created: l.Created, LastLogin: l.LastLogin}
		for name, at := range p.idps {
			if at.Issuer == l.Issuer {
				row.Provider, row.Title = name, at.Title
				body.Others = slices.DeleteFunc(body.Others, func(o idpChoice) bool { return o.Name == name })
			}
		}
		body.Links = append(body.Links, row)
	}
	v.Title, v.Nav, v.User, v.Body = "Sign-in providers", linksPath, m.name(), body
	return p.render(w, status, "links", v)
}

// serveLink sends who is freshly signed in to a provider, to link what they
// are there. The login that comes back is bound to this very session.
func (p *Plane) serveLink(w http.ResponseWriter, r *http.Request, m member) error {
	at, err := p.idpOf(r)
	if err != nil {
		return err
	}
	if ok, err := p.mayChange(w, r, m, "federation.link"); !ok {
		return err
	}
	address, err := p.beginAt(w, r, at, oidc.Start{Session: m.SID, Next: linksPath})
	if err != nil {
		return p.showLinks(w, r, m, http.StatusServiceUnavailable, view{Problem: sentence(err)})
	}
	// A form's redirects are bound by form-action: leave the form first.
	return p.render(w, http.StatusOK, "leave", view{Title: "Continue at " + at.Title, Refresh: address, Body: address})
}

// link makes an identity a way into the account whose session asked for it.
func (p *Plane) link(w http.ResponseWriter, r *http.Request, at *idp, id oidc.Identity, start oidc.Start) error {
	ctx, e := r.Context(), federationEvent(r, "federation.link", at)
	m, err := p.person(r)
	if err != nil && rampart.KindOf(err) != rampart.Unauthenticated {
		return err
	}
	if err != nil || m.SID != start.Session {
		err := rampart.Errorf(rampart.Unauthenticated, federationControl, "the session that asked for this link is over; sign in and link again")
		return p.again(w, page{Next: linksPath}, p.refuse(ctx, e, err))
	}
	e.Subject = m.Subject
	if err := p.putLink(ctx, m.Subject, id); err != nil {
		if rampart.KindOf(err) != rampart.Conflict {
			return p.refuse(ctx, e, err)
		}
		return p.showLinks(w, r, m, http.StatusConflict, view{Problem: sentence(p.refuse(ctx, e, err))})
	}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	return p.redirect(w, linksPath)
}

// putLink stores a link. An identity belongs to one account and stays with it.
func (p *Plane) putLink(ctx context.Context, subject string, id oidc.Identity) error {
	mine, err := p.opt.Store.Links(ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	if len(mine) >= maxLinks {
		return rampart.Errorf(rampart.Conflict, federationControl, "an account has at most %d links", maxLinks)
	}
	err = p.opt.Store.PutLink(ctx, store.Link{Issuer: id.Issuer, Upstream: id.Subject, Subject: subject, Created: p.opt.Now()})
	if errors.Is(err, store.ErrNotFound) {
		return changedMeanwhile(federationControl)
	}
	if !errors.Is(err, store.ErrExists) {
		return unavailable(err)
	}
	l, err := p.opt.Store.Link(ctx, id.Issuer, id.Subject)
	if err != nil {
		return unavailable(err)
	}
	if l.Subject != subject {
		return rampart.Errorf(rampart.Conflict, federationControl, "this identity belongs to another account")
	}
	return nil
}

// serveUnlink takes an identity away from the account, and every session but
// this one that was opened with it: a provider that is no longer trusted must
// not stay inside.
func (p *Plane) serveUnlink(w http.ResponseWriter, r *http.Request, m member) error {
	at, err := p.idpOf(r)
	if err != nil {
		return err
	}
	if ok, err := p.mayChange(w, r, m, "federation.unlink"); !ok {
		return err
	}
	ctx, e := r.Context(), federationEvent(r, "federation.unlink", at)
	e.Subject = m.Subject
	upstream := r.PostForm.Get("upstream")
	last, err := p.onlyWay(ctx, m, at.Issuer, upstream)
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return p.redirect(w, linksPath) // it is gone already: the page shows what is left
	}
	if err != nil {
		return err
	}
	if last {
		err := rampart.Errorf(rampart.Conflict, federationControl, "this is your only way in; set a password or add a passkey first")
		return p.showLinks(w, r, m, http.StatusConflict, view{Problem: sentence(p.refuse(ctx, e, err))})
	}
	if _, err := p.opt.Store.DeleteLink(ctx, at.Issuer, upstream); err != nil {
		return unavailable(err)
	}
	if _, err := p.endUpstream(ctx, session.Upstream{Issuer: at.Issuer, Subject: upstream}, m.SID); err != nil {
		return err
	}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	return p.redirect(w, linksPath)
}

// onlyWay reports whether the person could no longer sign in without a link.
// A link that is not theirs is NotFound.
func (p *Plane) onlyWay(ctx context.Context, m member, issuer, upstream string) (bool, error) {
	list, err := p.opt.Store.Links(ctx, m.Subject)
	if err != nil {
		return false, unavailable(err)
	}
	if !slices.ContainsFunc(list, func(l store.Link) bool { return l.Issuer == issuer && l.Upstream == upstream }) {
		return false, rampart.Errorf(rampart.NotFound, federationControl, "there is no such link")
	}
	u, err := p.opt.Store.User(ctx, m.name())
	if err != nil || u.Hash != "" || len(list) > 1 {
		return false, unavailable(err)
	}
	has, err := p.waysOf(ctx, m.Subject)
	return !has.Passkey, err
}
