package control_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	virtual "github.com/descope/virtualwebauthn"

	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/oidc/idptest"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// crowded is a real store in which something else happens just before a write.
type crowded struct {
	store.Store

	mu   sync.Mutex
	then map[string]func() // by what is written; each once
}

// before makes do happen before the next write of that kind.
func (c *crowded) before(write string, do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.then = map[string]func(){write: do}
}

func (c *crowded) meanwhile(write string) {
	c.mu.Lock()
	do := c.then[write]
	delete(c.then, write)
	c.mu.Unlock()
	if do != nil {
		do()
	}
}

func (c *crowded) PutSession(ctx context.Context, s session.Session) error {
	c.meanwhile("session")
	return c.Store.PutSession(ctx, s)
}

func (c *crowded) PutTicket(ctx context.Context, kind string, hash ticket.Hash, value []byte, now, expires time.Time) error {
	c.meanwhile("ticket")
	return c.Store.PutTicket(ctx, kind, hash, value, now, expires)
}

func (c *crowded) SwapUser(ctx context.Context, u store.User) (bool, error) {
	c.meanwhile("user")
	return c.Store.SwapUser(ctx, u)
}

func (c *crowded) PutFactor(ctx context.Context, f mfa.Factor) error {
	c.meanwhile("factor")
	defer c.meanwhile("after factor")
	return c.Store.PutFactor(ctx, f)
}

// crowd opens a house on such a store, whose clock stands still: what happens
// at one time is told apart all the same.
func crowd(t *testing.T, extra string, beside ...string) (*house, *crowded) {
	t.Helper()
	h, db := found(t, extra, beside...), &crowded{}
	h.openDB = func(ctx context.Context) (st store.Store, err error) {
		db.Store, err = sqlite.Open(ctx, h.state.Path("control.db"))
		return db, err
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	h.freeze()
	return h, db
}

const (
	fresh = "a new and long password"
	ofAnn = wire.AdminUsers + "/ann"
)

// changes is what an administrator does to ann's account.
func (h *house) changes() map[string]func() {
	do := func(method, path string, in any) {
		if err := h.admin(method, path, in, nil); err != nil {
			h.t.Error(err)
		}
	}
	return map[string]func(){
		"another password": func() { do(http.MethodPost, ofAnn+wire.SubPassword, wire.SetPassword{Password: fresh}) },
		"a role removed":   func() { do(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann"}) },
		"disabled":         func() { do(http.MethodPost, ofAnn+wire.SubDisable, nil) },
		"disabled for a moment": func() {
			do(http.MethodPost, ofAnn+wire.SubDisable, nil)
			do(http.MethodPost, ofAnn+wire.SubEnable, nil)
		},
		"deleted": func() { do(http.MethodDelete, ofAnn, nil) },
		"somebody else's": func() {
			do(http.MethodDelete, ofAnn, nil)
			do(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Password: fresh})
		},
		"factors reset": func() { do(http.MethodDelete, ofAnn+wire.SubFactors, nil) },
		"a factor enrolled": func() {
			f := mfa.Factor{ID: mfa.NewID(), Subject: "user:ann", Kind: mfa.KindTOTP, Created: h.now()}
			if err := h.db.PutFactor(context.Background(), f); err != nil {
				h.t.Error(err)
			}
			do(http.MethodDelete, ofAnn+wire.SubSessions, nil)
		},
	}
}

// TestLoginMeetsAChange: a login that began before the account changed is
// refused, whatever it proved and however late the change comes.
func TestLoginMeetsAChange(t *testing.T) {
	for _, way := range []struct {
		name   string
		writes []string // what is written on the way
		but    []string // changes that this way does not rest on
		ready  func(h *house, b *browser) func(*browser) (int, string)
	}{
		{"password", []string{"session"}, []string{"factors reset"}, func(*house, *browser) func(*browser) (int, string) {
			return func(b *browser) (int, string) {
				return b.post("/login", url.Values{"username": {"ann"}, "password": {password}})
			}
		}},
		{"password and app", []string{"ticket", "session"}, []string{"a factor enrolled"}, func(h *house, b *browser) func(*browser) (int, string) {
			a := b.enrolTOTP()
			return func(b *browser) (int, string) {
				status, to := b.post("/login", url.Values{"username": {"ann"}, "password": {password}})
				if to != "/login/factor" {
					return status, to
				}
				return b.post("/login/factor", url.Values{"how": {"totp"}, "code": {a.next()}})
			}
		}},
		{"passkey", []string{"session"}, []string{"a factor enrolled"}, func(h *house, b *browser) func(*browser) (int, string) {
			d := newDevice()
			b.register(d, "phone")
			return func(b *browser) (int, string) {
				return b.post("/login/passkey", url.Values{"answer": {b.show(d, "/login/passkey/options")}})
			}
		}},
	} {
		for _, write := range way.writes {
			h, db := crowd(t, "")
			for what, change := range h.changes() {
				if slices.Contains(way.but, what) {
					continue
				}
				h.addUser("ann", "customer")
				owner := h.browser()
				owner.login("ann", password)
				login := way.ready(h, owner)
				h.pass(time.Hour) // past all pauses

				late := h.at("203.0.113.9")
				db.before(write, change)
				status, _ := login(late)
				if status != http.StatusUnauthorized || late.cookie != "" {
					t.Errorf("%s, %s before the %s: %d with session %q, want 401", way.name, what, write, status, late.cookie)
				}
				if list, err := h.db.Sessions(t.Context(), "user:ann"); err != nil || len(list) > 0 {
					t.Errorf("%s, %s before the %s: %d sessions are left, %v", way.name, what, write, len(list), err)
				}
				if write == "session" && h.events("session.login")[len(h.events("session.login"))-1].Outcome != audit.Refused {
					t.Errorf("%s, %s: the refusal is not on record", way.name, what)
				}
				h.admin(http.MethodDelete, ofAnn, nil, nil) // if it is there
			}
		}
	}
}

// TestProviderLoginMeetsAChange: so is one that a provider vouches for, also
// when its link is taken away, or its roles were.
func TestProviderLoginMeetsAChange(t *testing.T) {
	var h *house
	idp := idptest.New(t, "https://example.com", func() time.Time { return h.now() })
	idp.Redirect = issuer + "oidc/corp/callback"
	idp.Say(map[string]any{"groups": []string{"staff"}})
	h, db := crowd(t, fmt.Sprintf(`identity: { providers: { corp: { issuer: %q, client_id: rampart, client_secret: key, title: Corp, ca: corp.pem, stand_in: %q, link: linked_only, roles: { claim: groups, map: { staff: customer } } } } }
`, idp.Issuer, idp.Server.Listener.Addr().String()), "corp.pem", string(idp.CA()))
	h.mustAdmin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/key", Value: []byte(idptest.Secret)}, nil)
	changes := h.changes()
	changes["unlinked"] = func() {
		if err := h.admin(http.MethodDelete, ofAnn+wire.SubLinks, nil, nil); err != nil {
			t.Error(err)
		}
	}
	delete(changes, "factors reset") // on which such a login does not rest
	delete(changes, "a factor enrolled")
	enter := func() *browser {
		b := h.at("203.0.113.9")
		to := location(t, b.do(http.MethodGet, "/login/oidc/corp", nil))
		b.do(http.MethodGet, "/oidc/corp/callback?"+idp.Visit(to.String()), nil)
		return b
	}
	for what, change := range changes {
		for _, write := range []string{"session", "user"} {
			if write == "user" && what == "unlinked" {
				continue // before the session it has been
			}
			roles := []string{"customer"}
			if write == "user" {
				roles = nil // the login brings them
			}
			h.addUser("ann", roles...)
			must(t, h.db.PutLink(t.Context(), store.Link{Issuer: idp.Issuer, Upstream: "u1", Subject: "user:ann", Created: h.now()}))
			if enter().cookie == "" {
				t.Fatalf("%s: no login when nothing happens", what)
			}
			h.addUser("ann", roles...)
			db.before(write, change)
			b := enter()
			if list, err := h.db.Sessions(t.Context(), "user:ann"); b.cookie != "" || err != nil || len(list) > 0 {
				t.Errorf("%s before the %s: session %q, %d are left, %v", what, write, b.cookie, len(list), err)
			}
			h.admin(http.MethodDelete, ofAnn, nil, nil)
		}
	}
}

// TestChangesUndoNothing: of two changes of an account at once both stand, or
// the one that was made in ignorance of the other is refused.
func TestChangesUndoNothing(t *testing.T) {
	const bcrypt = "$2b$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS" // of password
	roles := spec.DemoUser{Roles: []string{"customer"}}
	for name, act := range map[string]func(h *house, b *browser){
		"the owner changes the password": func(h *house, b *browser) {
			b.post("/account/password", url.Values{"current": {password}, "new": {fresh}, "repeat": {fresh}})
		},
		"an old hash is replaced by a login": func(h *house, _ *browser) { h.browser().login("ann", password) },
		"another administrator gives roles": func(h *house, _ *browser) {
			h.admin(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Facts: roles}, nil)
		},
		"another administrator sets a password": func(h *house, _ *browser) {
			h.admin(http.MethodPost, ofAnn+wire.SubPassword, wire.SetPassword{Password: fresh}, nil)
		},
	} {
		h, db := crowd(t, "")
		for _, what := range []string{"disabled", "deleted", "another password"} {
			h.addUser("ann", "customer")
			b := h.browser()
			b.login("ann", password)
			if name == "an old hash is replaced by a login" {
				h.mustAdmin(wire.AdminUsers, wire.User{Name: "ann", Hash: bcrypt, Facts: roles}, nil)
			}
			db.before("user", h.changes()[what])
			act(h, b)
			u, err := h.db.User(t.Context(), "ann")
			if gone := err != nil; gone != (what == "deleted") {
				t.Errorf("%s, %s meanwhile: %v", name, what, err)
			}
			if what == "disabled" && !u.Disabled {
				t.Errorf("%s: an account that was disabled meanwhile is not", name)
			}
			h.pass(time.Hour)
			if got := h.at("203.0.113.9").login("ann", fresh); (got == http.StatusSeeOther) != (what == "another password") {
				t.Errorf("%s, %s meanwhile: a login with the new password is answered %d", name, what, got)
			}
			h.admin(http.MethodDelete, ofAnn, nil, nil)
		}
	}
}

// TestOldPasswordHasNoLastWord: who knows the password of before does not
// overtake the one that an administrator sets.
func TestOldPasswordHasNoLastWord(t *testing.T) {
	h, db := crowd(t, "")
	h.addUser("ann", "customer")
	thief := h.browser()
	thief.login("ann", password)
	db.before("user", h.changes()["another password"])
	const theirs = "a password of the thief's"
	if got, _ := thief.post("/account/password", url.Values{"current": {password}, "new": {theirs}, "repeat": {theirs}}); got != http.StatusUnprocessableEntity {
		t.Errorf("answered %d, want 422", got)
	}
	h.wantEvent("password.change", audit.Refused, "authn.password", "user:ann")
	h.pass(time.Hour)
	if got := h.browser().login("ann", theirs); got != http.StatusUnauthorized {
		t.Errorf("the thief's password: %d, want 401", got)
	}
	if got := h.browser().login("ann", fresh); got != http.StatusSeeOther {
		t.Errorf("the administrator's password: %d, want 303", got)
	}
}

// TestNextOfTheName: a passkey that was on its way while its account was
// deleted is nobody's, and not the next ann's.
func TestNextOfTheName(t *testing.T) {
	h, db := crowd(t, "")
	for _, when := range []string{"factor", "after factor"} {
		h.addUser("ann", "customer")
		b := h.browser()
		b.login("ann", password)
		db.before(when, h.changes()["deleted"])
		status := b.offer(newDevice())
		if status == http.StatusSeeOther {
			t.Errorf("deleted before %q: the passkey was taken", when)
		}
		h.addUser("ann", "customer")
		if list, err := h.db.Factors(t.Context(), "user:ann"); err != nil || len(list) > 0 {
			t.Errorf("deleted before %q: the next ann has %d factors, %v", when, len(list), err)
		}
	}
}

// TestEnrolmentIsWhole: a passkey whose enrolment did not come to its end is
// not there.
func TestEnrolmentIsWhole(t *testing.T) {
	h, db := crowd(t, "")
	h.addUser("ann", "customer")
	b := h.browser()
	b.login("ann", password)
	db.before("after factor", func() {
		if err := h.admin(http.MethodDelete, ofAnn+wire.SubSessions, nil, nil); err != nil {
			t.Error(err)
		}
	})
	if status := b.offer(newDevice()); status == http.StatusSeeOther {
		t.Errorf("a session that was ended enrolled a passkey: %d", status)
	}
	if list, err := h.db.Factors(t.Context(), "user:ann"); err != nil || len(list) > 0 {
		t.Errorf("ann has %d factors, %v; want none", len(list), err)
	}
	h.wantEvent("mfa.remove", audit.Allowed, "authn.mfa", "user:ann")
}

// offer sends the form that adds the device as a passkey.
func (b *browser) offer(d *device) int {
	b.h.t.Helper()
	q, err := virtual.ParseAttestationOptions(body(b.h.t, b.do(http.MethodPost, "/account/passkeys/options", url.Values{})))
	must(b.h.t, err)
	status, _ := b.post("/account/passkeys", url.Values{"answer": {virtual.CreateAttestationResponse(rp(), d.auth, d.cred, *q)}})
	return status
}

// TestUserIsCreatedOnce: two administrators who create one name make one
// account, and the other is told.
func TestUserIsCreatedOnce(t *testing.T) {
	h, _ := crowd(t, "")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			errs[i] = h.admin(http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Password: password}, nil)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if got := statusOf(err); got != http.StatusOK && got != http.StatusConflict {
			t.Errorf("answered %v", err)
		}
	}
	if got := h.browser().login("ann", password); got != http.StatusSeeOther {
		t.Errorf("login: %d", got)
	}
}
