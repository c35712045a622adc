package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/oidc"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

const federationControl = "authn.federation"

// idp is an identity provider of rampart.yaml.
type idp struct {
	spec.IdentityProvider
	name string
	rp   *oidc.RelyingParty
}

// newIDPs makes a relying party for each provider, by name.
func (p *Plane) newIDPs() (map[string]*idp, error) {
	out := map[string]*idp{}
	for name, declared := range p.system().Identity.Providers {
		exit, err := newProviderExit(p.system(), declared)
		if err != nil {
			return nil, fmt.Errorf("identity.providers.%s: %w", name, err)
		}
		opt := oidc.Options{
			Issuer: declared.Issuer, ClientID: declared.ClientID, Redirect: p.opt.Issuer + "oidc/" + name + "/callback", Scopes: declared.Scopes,
			RoleClaim: declared.Roles.Claim, Roles: declared.Roles.Map, ACR: declared.ACR, NeedEmail: len(declared.Domains) > 0,
			Transport: exit, Tickets: p.opt.Store, Log: p.opt.Logger, Now: p.opt.Now,
		}
		for _, alg := range declared.Algorithms {
			opt.Algorithms = append(opt.Algorithms, jwt.Algorithm(alg))
		}
		if declared.ClientSecret != "" {
			opt.Secret = p.clientSecret(declared.ClientSecret)
		}
		out[name] = &idp{declared, name, oidc.New(opt)}
	}
	return out, nil
}

// clientSecret reads our secret at a provider when it is needed, so that a new
// one counts at once and none stays in memory.
func (p *Plane) clientSecret(item string) func(context.Context) (string, error) {
	return func(ctx context.Context) (text string, err error) {
		ref, err := secrets.ParseRef(p.system().Data[item].Source)
		if err != nil {
			return "", err
		}
		e := audit.Event{Class: audit.ClassSecret, Action: "secret.read", Control: federationControl, Subject: p.system().ControlID(), Resource: "secret:" + item}
		s, err := p.read(ctx, e, ref)
		if err != nil {
			return "", err
		}
		err = s.Use(func(b []byte) error { text = string(b); return nil })
		return text, err
	}
}

// federationRoutes is what browsers and providers reach of federation.
func (p *Plane) federationRoutes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /login/oidc/{provider}":               p.serveProvider,
		"GET /oidc/{provider}/callback":            p.serveCallback,
		"POST /oidc/{provider}/backchannel-logout": p.serveUpstreamLogout,
		"GET " + linksPath:                         p.members(p.serveLinksPage),
		"POST " + linksPath + "/{provider}":        p.members(p.serveLink),
		"POST " + linksPath + "/{provider}/unlink": p.members(p.serveUnlink),
	}
}

// idpOf is the provider that the path names.
func (p *Plane) idpOf(r *http.Request) (*idp, error) {
	if found := p.idps[r.PathValue("provider")]; found != nil {
		return found, nil
	}
	return nil, rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
}

// idpChoice is a provider as a page offers it.
type idpChoice struct {
	Name, Title string
	Address     string // where a login there begins
}

// providers lists whom a person may sign in with, by name. query is what such
// a login is for.
func (p *Plane) providers(query string) []idpChoice {
	var out []idpChoice
	for name, at := range p.idps {
		out = append(out, idpChoice{name, at.Title, "/login/oidc/" + name + "?" + query})
	}
	slices.SortFunc(out, func(a, b idpChoice) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// serveProvider sends the browser to a provider. acr and max_age ask for an
// assurance and for a proof that is not older, as a step-up does.
func (p *Plane) serveProvider(w http.ResponseWriter, r *http.Request) error {
	at, err := p.idpOf(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	n := needOf(q)
	start := oidc.Start{Next: n.next}
	if q.Has("max_age") {
		start.MaxAge = max(n.maxAge, time.Second)
	}
	if q.Has("acr") {
		start.ACR = n.acr
	}
	address, err := p.beginAt(w, r, at, start)
	if err != nil {
		return p.again(w, page{Next: start.Next}, err)
	}
	return p.redirect(w, address)
}

// beginAt starts a login at a provider and gives the browser its half.
func (p *Plane) beginAt(w http.ResponseWriter, r *http.Request, at *idp, start oidc.Start) (address string, err error) {
	address, cookie, err := at.rp.Begin(r.Context(), start)
	if err != nil {
		return "", p.refuse(r.Context(), federationEvent(r, "federation.begin", at), said(at, err))
	}
	http.SetCookie(w, cookie)
	return address, nil
}

// federationEvent is the event of something at a provider, not yet judged.
func federationEvent(r *http.Request, action string, at *idp) audit.Event {
	return audit.Event{
		Class: audit.ClassAuthentication, Action: action, Outcome: audit.Allowed, Control: federationControl, Resource: "idp:" + at.name, Peer: client(r),
		Detail: map[string]string{},
	}
}

// said words an error of a provider for the person in front of the page. Which
// rule refused is for the log.
func said(at *idp, err error) error {
	msg := "signing in with " + at.Title + " did not work; start again"
	if rampart.KindOf(err) == rampart.Unavailable {
		msg = at.Title + " does not answer right now; try again later"
	}
	return &rampart.Error{Kind: rampart.KindOf(err), Control: federationControl, Msg: msg, Err: err}
}

// serveCallback takes the browser back from a provider.
func (p *Plane) serveCallback(w http.ResponseWriter, r *http.Request) error {
	at, err := p.idpOf(r)
	if err != nil {
		return err
	}
	id, start, err := at.rp.Finish(r.Context(), r.URL.RawQuery, oidc.FromRequest(r))
	http.SetCookie(w, oidc.ClearCookie())
	if err == nil && start.Session != "" {
		return p.link(w, r, at, id, start)
	}
	if err == nil {
		err = p.enter(w, r, at, id)
	} else {
		e := federationEvent(r, "federation.login", at)
		e.Detail["rule"] = oidc.Rule(err)
		err = p.refuse(r.Context(), e, said(at, err))
	}
	if err != nil {
		return p.again(w, page{Next: safeNext(start.Next)}, err)
	}
	return p.redirect(w, safeNext(start.Next))
}

// enter signs in whom a provider vouches for. It says who may: the link alone,
// never an e-mail address.
func (p *Plane) enter(w http.ResponseWriter, r *http.Request, at *idp, id oidc.Identity) error {
	ctx, e := r.Context(), federationEvent(r, "federation.login", at)
	u, err := p.linked(ctx, at, id)
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	subject := u.Facts.Subject
	e.Subject = subject
	if u, err = p.takeRoles(ctx, at, u, id.Roles); err != nil {
		return p.refuse(ctx, e, err)
	}
	if err := p.opt.Store.TouchLink(ctx, id.Issuer, id.Subject, p.opt.Now()); err != nil {
		return unavailable(err)
	}
	m, err := p.person(r)
	if err == nil && m.Subject == subject && m.Upstream == id.Upstream {
		return p.proveAgain(w, r, m, id)
	}
	return p.finishLogin(w, r, pending{Subject: subject, Changed: u.Changed, Upstream: id.Upstream, Proved: id.AuthTime}, id.ACR, []string{amrFed})
}

// proveAgain raises the session that this very login at the provider opened,
// so that what hangs on it lives on.
func (p *Plane) proveAgain(w http.ResponseWriter, r *http.Request, m member, id oidc.Identity) error {
	err := p.rekey(w, r, func(s *session.Session) { s.AuthTime, s.ACR, s.AMR = id.AuthTime, id.ACR, []string{amrFed} })
	if err != nil {
		return err
	}
	e := factorEvent(r, "session.step_up", m.Subject, map[string]string{"amr": amrFed, "acr": id.ACR})
	e.Control = "authn.step_up"
	return p.opt.Audit.Record(r.Context(), e)
}

// provers lists the providers that can prove a person again as needed: those
// that the account is linked to, and for aal2 those whose word for it the file
// knows.
func (p *Plane) provers(ctx context.Context, m member, n need) ([]idpChoice, error) {
	links, err := p.opt.Store.Links(ctx, m.Subject)
	if err != nil {
		return nil, unavailable(err)
	}
	return slices.DeleteFunc(p.providers(n.query()), func(c idpChoice) bool {
		at := p.idps[c.Name]
		knows := n.acr == acrOne || slices.Contains(slices.Collect(maps.Values(at.ACR)), n.acr)
		return !knows || !slices.ContainsFunc(links, func(l store.Link) bool { return l.Issuer == at.Issuer })
	}), nil
}

// linked returns the account that an identity belongs to, after making one for
// it where the file says so.
func (p *Plane) linked(ctx context.Context, at *idp, id oidc.Identity) (store.User, error) {
	l, err := p.opt.Store.Link(ctx, id.Issuer, id.Subject)
	if errors.Is(err, store.ErrNotFound) {
		return p.adopt(ctx, at, id)
	}
	if err != nil {
		return store.User{}, unavailable(err)
	}
	u, err := p.user(ctx, l.Subject)
	if errors.Is(err, store.ErrNotFound) || err == nil && u.Disabled {
		return store.User{}, rampart.Errorf(rampart.Unauthenticated, federationControl, "this account is not in use")
	}
	return u, err
}

// takeRoles gives an account the roles that the provider says and takes those
// that it no longer says, among the roles that the file maps. Rights that are
// gone end what was issued under them. It returns the account as it became.
func (p *Plane) takeRoles(ctx context.Context, at *idp, u store.User, said []string) (store.User, error) {
	if at.Roles.Claim == "" {
		return u, nil
	}
	took := false
	now, err := p.changeUser(ctx, u.Facts.Subject, func(now *store.User) error {
		roles := mergeRoles(now.Facts.Roles, at.Roles.Map, said)
		if took = !slices.Equal(roles, now.Facts.Roles); !took {
			return nil
		}
		if err := p.conflict(roles); err != nil {
			return &rampart.Error{Kind: rampart.Conflict, Control: federationControl, Msg: at.Title + " gives this account roles that nobody may hold together; an administrator must take one away", Err: err}
		}
		now.Facts.Roles = roles
		return sameUser(u, *now, federationControl)
	})
	if errors.Is(err, store.ErrNotFound) {
		return now, changedMeanwhile(federationControl)
	}
	if err != nil || !took {
		return now, err
	}
	return now, p.revoke(ctx, "sub", u.Facts.Subject)
}

// mergeRoles keeps the roles that the provider does not speak of, in their
// order, and adds those it says.
func mergeRoles(have []string, mapped map[string]string, said []string) []string {
	var out []string
	theirs := slices.Collect(maps.Values(mapped))
	for _, role := range have {
		if !slices.Contains(theirs, role) || slices.Contains(said, role) {
			out = append(out, role)
		}
	}
	for _, role := range said {
		if !slices.Contains(out, role) {
			out = append(out, role)
		}
	}
	return out
}

// serveUpstreamLogout takes a provider's word that somebody left (OpenID
// Connect Back-Channel Logout section 2.8).
func (p *Plane) serveUpstreamLogout(w http.ResponseWriter, r *http.Request) error {
	at, err := p.idpOf(r)
	if err != nil {
		return err
	}
	if err := parseForm(r); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	ctx, e := r.Context(), federationEvent(r, "federation.logout", at)
	ended := 0
	err = at.rp.Logout(ctx, r.PostForm.Get("logout_token"), func(ctx context.Context, u session.Upstream) (err error) {
		ended, err = p.endUpstream(ctx, u, "")
		return err
	})
	e.Detail["sessions"] = strconv.Itoa(ended)
	if err != nil && rampart.KindOf(err) == rampart.Unauthenticated {
		e.Detail["rule"] = oidc.Rule(err)
		return p.refuse(ctx, e, &rampart.Error{Kind: rampart.Invalid, Control: federationControl, Msg: "logout token is not acceptable", Err: err})
	}
	if err != nil {
		return p.refuse(ctx, e, err)
	}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// endUpstream ends the sessions that a login at a provider opened, and what
// hangs on them, but for the one to keep. It returns how many there were.
func (p *Plane) endUpstream(ctx context.Context, u session.Upstream, keep string) (int, error) {
	list, err := p.opt.Store.UpstreamSessions(ctx, u.Issuer, u.Subject, u.SID)
	if err != nil {
		return 0, unavailable(err)
	}
	ended := 0
	for _, s := range list {
		if s.SID == keep || u.Subject != "" && s.Upstream.Subject != u.Subject {
			continue
		}
		if err := p.revoke(ctx, "sid", s.SID); err != nil {
			return ended, err
		}
		ended++
	}
	return ended, nil
}
