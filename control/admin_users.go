package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/password"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func (p *Plane) adminUserRoutes() map[string]adminCall {
	const one = wire.AdminUsers + "/{name}"
	return map[string]adminCall{
		"GET " + wire.AdminUsers:                      p.adminListUsers,
		"POST " + wire.AdminUsers:                     p.adminPutUser,
		"GET " + one:                                  p.adminShowUser,
		"DELETE " + one:                               p.adminDeleteUser,
		"POST " + one + wire.SubDisable:               p.adminDisableUser,
		"POST " + one + wire.SubEnable:                p.adminEnableUser,
		"POST " + one + wire.SubPassword:              p.adminSetPassword,
		"DELETE " + one + wire.SubFactors:             p.adminResetFactors,
		"DELETE " + one + wire.SubFactors + "/{id}":   p.adminDeleteFactor,
		"DELETE " + one + wire.SubLinks:               p.adminUnlink,
		"GET " + one + wire.SubSessions:               p.adminListSessions,
		"DELETE " + one + wire.SubSessions:            p.adminEndSessions,
		"DELETE " + one + wire.SubSessions + "/{sid}": p.adminEndSession,
		"GET " + one + wire.SubApps:                   p.adminListApps,
		"DELETE " + one + wire.SubApps + "/{id}":      p.adminEndApp,
	}
}

func (p *Plane) adminListUsers(r *http.Request, _ *audit.Event) (any, error) {
	users, err := p.opt.Store.Users(r.Context())
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.User, len(users))
	for i, u := range users {
		out[i] = userOf(u)
	}
	return out, nil
}

func userOf(u store.User) wire.User {
	f := u.Facts
	return wire.User{
		Name: u.Name, Tag: u.Tag, Disabled: u.Disabled, Changed: u.Changed,
		Facts: spec.DemoUser{Roles: f.Roles, Organizations: f.Organizations, Team: f.Team, ManagedTeams: f.ManagedTeams},
	}
}

// adminShowUser adds what a list would be too slow with.
func (p *Plane) adminShowUser(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	out := userOf(u)
	factors, err := p.opt.Store.Factors(r.Context(), u.Facts.Subject)
	if err != nil {
		return nil, unavailable(err)
	}
	for _, f := range factors {
		out.Factors = append(out.Factors, wire.Factor{ID: f.ID, Kind: string(f.Kind), Label: f.Label, Created: f.Created, LastUsed: f.LastUsed})
	}
	links, err := p.opt.Store.Links(r.Context(), u.Facts.Subject)
	if err != nil {
		return nil, unavailable(err)
	}
	for _, l := range links {
		out.Links = append(out.Links, wire.Link{Issuer: l.Issuer, Upstream: l.Upstream, Created: l.Created, LastLogin: l.LastLogin})
	}
	return out, nil
}

// account is the account that the path names. Of an unknown one the nearest is
// told: whoever is here may list them all.
func (p *Plane) account(r *http.Request, e *audit.Event) (store.User, error) {
	name := r.PathValue("name")
	e.Resource = "user:" + name[:min(len(name), maxName)]
	u, err := p.opt.Store.User(r.Context(), name)
	if !errors.Is(err, store.ErrNotFound) {
		return u, unavailable(err)
	}
	all, err := p.opt.Store.Users(r.Context())
	if err != nil {
		return u, unavailable(err)
	}
	names := make([]string, len(all))
	for i, other := range all {
		names[i] = other.Name
	}
	return u, unknown("user", name, names)
}

// unknown words that there is no such thing, and which is most likely meant.
func unknown(what, name string, all []string) error {
	return rampart.Errorf(rampart.NotFound, "", "control: there is no %s %.64q%s", what, name, meant(name, all))
}

// meant asks for the candidate that is nearest to a name, if one is near.
func meant(name string, all []string) string {
	if near, ok := spec.Nearest(name, all); ok {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// adminPutUser creates or changes an account. A change of rights or password
// ends the sessions and tokens that were issued before it.
func (p *Plane) adminPutUser(r *http.Request, e *audit.Event) (any, error) {
	var q wire.User
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if !nameForm.MatchString(q.Name) {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: a user name is up to 64 of a-z, 0-9 and . _ -, starting with a letter or digit")
	}
	e.Resource = "user:" + q.Name
	if err := errors.Join(p.checkRoles(q.Facts.Roles, q.Facts.Organizations), checkOrganizations(q.Facts.Organizations)); err != nil {
		return nil, err
	}
	_, err := p.user(r.Context(), e.Resource)
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, err
	}
	hash := ""
	if q.Password != "" || q.Hash != "" || fresh {
		if hash, err = p.hashOf(r.Context(), q.Name, wire.SetPassword{Password: q.Password, Hash: q.Hash}); err != nil {
			return nil, err
		}
	}
	if fresh {
		return nil, p.createUser(r.Context(), q, hash)
	}
	return nil, p.replaceUser(r.Context(), q, hash)
}

func (p *Plane) createUser(ctx context.Context, q wire.User, hash string) error {
	err := p.opt.Store.CreateUser(ctx, store.User{Name: q.Name, Tag: q.Tag, Facts: factsOf(q), Hash: hash, Changed: p.opt.Now()})
	if errors.Is(err, store.ErrExists) {
		return rampart.Errorf(rampart.Conflict, "", "control: user %s has just been created", q.Name)
	}
	return unavailable(err)
}

// replaceUser gives an account the facts of q, and a password unless hash is "".
func (p *Plane) replaceUser(ctx context.Context, q wire.User, hash string) error {
	ends := false
	u, err := p.changeUser(ctx, "user:"+q.Name, func(u *store.User) error {
		facts := factsOf(q)
		ends = hash != "" || !reflect.DeepEqual(u.Facts, facts)
		u.Tag, u.Facts, u.Hash = q.Tag, facts, cmp.Or(hash, u.Hash)
		return nil
	})
	if err != nil || !ends {
		return err
	}
	if err := p.revoke(ctx, "sub", u.Facts.Subject); err != nil || hash == "" {
		return err
	}
	return p.guard.Forgive(ctx, u.Facts.Subject, guess.Password)
}

func factsOf(u wire.User) rampart.Principal {
	f := rampart.Principal{
		Kind: rampart.KindHuman, Subject: "user:" + u.Name, Organizations: u.Facts.Organizations,
		Roles: u.Facts.Roles, Team: u.Facts.Team, ManagedTeams: u.Facts.ManagedTeams,
	}
	if len(f.Organizations) > 0 {
		f.Tenant = f.Organizations[0]
	}
	return f
}

// maxOrganization bounds the name of an organization, in bytes.
const maxOrganization = 128

// checkOrganizations refuses names that people would take for two, or not see.
func checkOrganizations(list []string) error {
	for _, name := range list {
		if name == "" || len(name) > maxOrganization || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
			return invalid("%.128q is no name of an organization; it is one word of up to %d bytes, without spaces", name, maxOrganization)
		}
	}
	return nil
}

// adminDeleteUser removes an account with everything that hangs on it. It is
// disabled first, so that nobody comes in while the rest goes, and whatever
// began in spite of that is ended after the account is gone: somebody else may
// get the name one day.
func (p *Plane) adminDeleteUser(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := p.putDisabled(ctx, u.Facts.Subject, true); err != nil {
		return nil, err
	}
	ended, err := p.endAccount(ctx, u.Facts.Subject)
	if err != nil {
		return nil, err
	}
	if ended.Factors, err = p.dropFactors(ctx, u.Facts.Subject); err != nil {
		return nil, err
	}
	if ended.Links, err = p.dropLinks(ctx, u.Facts.Subject, "", ""); err != nil {
		return nil, err
	}
	if _, err := p.opt.Store.DeleteUser(ctx, u.Name); err != nil {
		return nil, unavailable(err)
	}
	late, err := p.endAccount(ctx, u.Facts.Subject)
	ended.Sessions, ended.Apps = ended.Sessions+late.Sessions, ended.Apps+late.Apps
	return told(e, ended), err
}

func (p *Plane) adminDisableUser(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	if err := p.putDisabled(r.Context(), u.Facts.Subject, true); err != nil {
		return nil, err
	}
	ended, err := p.endAccount(r.Context(), u.Facts.Subject)
	return told(e, ended), err
}

func (p *Plane) adminEnableUser(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	return nil, p.putDisabled(r.Context(), u.Facts.Subject, false)
}

func (p *Plane) putDisabled(ctx context.Context, subject string, disabled bool) error {
	_, err := p.changeUser(ctx, subject, func(u *store.User) error {
		u.Disabled = disabled
		return nil
	})
	return err
}

func (p *Plane) adminSetPassword(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	var q wire.SetPassword
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	hash, err := p.hashOf(r.Context(), u.Name, q)
	if err != nil {
		return nil, err
	}
	_, err = p.changeUser(r.Context(), u.Facts.Subject, func(u *store.User) error {
		u.Hash = hash
		return nil
	})
	if err != nil {
		return nil, err
	}
	ended, err := p.endAccount(r.Context(), u.Facts.Subject)
	// What was guessed at is gone, and its owner may have been shut out.
	return told(e, ended), errors.Join(err, p.guard.Forgive(r.Context(), u.Facts.Subject, guess.Password))
}

// adminResetFactors is for whoever lost phone and recovery codes: what was
// signed in with the old factors ends.
func (p *Plane) adminResetFactors(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	n, err := p.dropFactors(r.Context(), u.Facts.Subject)
	if err != nil {
		return nil, err
	}
	ended, err := p.endAccount(r.Context(), u.Facts.Subject)
	ended.Factors = n
	return told(e, ended), errors.Join(err, p.guard.Forgive(r.Context(), u.Facts.Subject, guess.OTP, guess.Recovery))
}

func (p *Plane) adminDeleteFactor(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	e.Detail["factor"] = id[:min(len(id), maxName)]
	ok, err := p.opt.Store.DeleteFactor(r.Context(), u.Facts.Subject, id)
	if err != nil {
		return nil, unavailable(err)
	}
	if !ok {
		return nil, rampart.Errorf(rampart.NotFound, "", "control: user %s has no factor %.64q", u.Name, id)
	}
	if err := p.dropRecovery(r.Context(), u.Facts.Subject); err != nil {
		return nil, err
	}
	ended, err := p.endAccount(r.Context(), u.Facts.Subject)
	ended.Factors = 1
	return told(e, ended), err
}

// adminUnlink takes an account's ties to identity providers away, with the
// sessions that they opened.
func (p *Plane) adminUnlink(r *http.Request, e *audit.Event) (any, error) {
	u, err := p.account(r, e)
	if err != nil {
		return nil, err
	}
	issuer, upstream := r.URL.Query().Get("issuer"), r.URL.Query().Get("upstream")
	n, err := p.dropLinks(r.Context(), u.Facts.Subject, issuer, upstream)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, rampart.Errorf(rampart.NotFound, "", "control: user %s has no such link", u.Name)
	}
	ended, err := p.endAccount(r.Context(), u.Facts.Subject)
	ended.Links = n
	return told(e, ended), err
}

// endAccount ends the sessions and refresh families of an account and voids
// what was issued to it, in every plane.
func (p *Plane) endAccount(ctx context.Context, subject string) (wire.Ended, error) {
	sessions, err := p.sessions.List(ctx, subject)
	if err != nil {
		return wire.Ended{}, err
	}
	apps, err := p.opt.Store.Families(ctx, subject)
	if err != nil {
		return wire.Ended{}, unavailable(err)
	}
	return wire.Ended{Sessions: len(sessions), Apps: len(apps)}, p.revoke(ctx, "sub", subject)
}

func (p *Plane) dropFactors(ctx context.Context, subject string) (int, error) {
	list, err := p.opt.Store.Factors(ctx, subject)
	if err != nil || len(list) == 0 {
		return 0, unavailable(err)
	}
	return len(list), unavailable(p.opt.Store.DeleteFactors(ctx, subject))
}

// dropLinks removes the links that match; "" matches all.
func (p *Plane) dropLinks(ctx context.Context, subject, issuer, upstream string) (int, error) {
	links, err := p.opt.Store.Links(ctx, subject)
	if err != nil {
		return 0, unavailable(err)
	}
	n := 0
	for _, l := range links {
		if issuer != "" && l.Issuer != issuer || upstream != "" && l.Upstream != upstream {
			continue
		}
		if _, err := p.opt.Store.DeleteLink(ctx, l.Issuer, l.Upstream); err != nil {
			return n, unavailable(err)
		}
		n++
	}
	return n, nil
}

// told notes in the event what was ended.
func told(e *audit.Event, v wire.Ended) wire.Ended {
	for name, n := range map[string]int{"sessions": v.Sessions, "apps": v.Apps, "keys": v.Keys, "factors": v.Factors, "links": v.Links} {
		if n > 0 {
			e.Detail[name] = strconv.Itoa(n)
		}
	}
	return v
}

// hashOf is what is stored of a password, or the hash that another system kept
// of it, which the next login replaces.
func (p *Plane) hashOf(ctx context.Context, name string, q wire.SetPassword) (string, error) {
	if q.Hash != "" && q.Password != "" {
		return "", invalid("give a password or a hash, not both")
	}
	if q.Hash != "" {
		return q.Hash, password.Import(q.Hash)
	}
	return p.newPassword(ctx, name, q.Password)
}
