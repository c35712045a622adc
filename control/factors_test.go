package control_test

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	virtual "github.com/descope/virtualwebauthn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// post sends a form and returns the status and where the browser is sent.
func (b *browser) post(path string, form url.Values) (int, string) {
	b.h.t.Helper()
	res := b.do(http.MethodPost, path, form)
	return res.StatusCode, res.Header.Get("Location")
}

// wantPost demands that a form leads to a place.
func (b *browser) wantPost(path string, form url.Values, to string) {
	b.h.t.Helper()
	res := b.do(http.MethodPost, path, form)
	if got := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || got != to {
		b.h.t.Fatalf("POST %s: %d to %q, want %q\n%s", path, res.StatusCode, got, to, body(b.h.t, res))
	}
}

// who is what the browser's session stands for.
func (b *browser) who() rampart.Principal {
	b.h.t.Helper()
	r, err := b.h.resolve(wire.TypeSession, b.cookie)
	must(b.h.t, err)
	return r.Principal
}

// app is an authenticator app.
type app struct {
	h   *house
	key []byte
}

// code tells RFC 6238 once more.
func (a app) code() string {
	mac := hmac.New(sha1.New, a.key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(a.h.now().Unix()/30)))
	sum := mac.Sum(nil)
	at := sum[19] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}

// next waits for a code that has not been shown.
func (a app) next() string {
	a.h.pass(30 * time.Second)
	return a.code()
}

// enrolTOTP turns an app on for who is signed in by the page alone.
func (b *browser) enrolTOTP() app {
	b.h.t.Helper()
	b.wantPost("/account/totp", url.Values{}, "/account/totp")
	page := body(b.h.t, b.do(http.MethodGet, "/account/totp", nil))
	found := regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`).FindStringSubmatch(page)
	if found == nil {
		b.h.t.Fatalf("the page shows no secret\n%s", page)
	}
	key, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(found[1], " ", ""))
	must(b.h.t, err)
	a := app{b.h, key}
	b.wantPost("/account/totp/confirm", url.Values{"code": {a.code()}}, "/account/totp?done=totp")
	return a
}

// signIn opens a house where ann is signed in, once by her browser.
func signIn(t *testing.T) (*house, *browser) {
	t.Helper()
	h := open(t, "")
	h.addUser("ann", "customer")
	h.freeze()
	b := h.browser()
	if got := b.login("ann", password); got != http.StatusSeeOther {
		t.Fatalf("login: %d", got)
	}
	return h, b
}

func TestTOTP(t *testing.T) {
	h, b := signIn(t)
	other := h.browser()
	other.login("ann", password)
	if got := b.who(); got.ACR != "aal1" || !slices.Equal(got.AMR, []string{"pwd"}) {
		t.Errorf("by password: %s %v", got.ACR, got.AMR)
	}
	old := b.cookie
	a := b.enrolTOTP()
	h.wantEvent("mfa.enrol", audit.Allowed, "authn.mfa", "user:ann")
	h.wantEvent("session.step_up", audit.Allowed, "authn.step_up", "user:ann")
	if got := b.who(); got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"pwd", "otp"}) {
		t.Errorf("after enrolment: %s %v", got.ACR, got.AMR)
	}
	for name, cookie := range map[string]string{"the id before": old, "the other device": other.cookie} {
		if _, err := h.resolve(wire.TypeSession, cookie); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("%s lives on: %v", name, err)
		}
	}

	b.wantPost("/logout", url.Values{}, "/login")
	b.wantPost("/login", url.Values{"username": {"ann"}, "password": {password}, "next": {"/orders"}}, "/login/factor")
	page := b.do(http.MethodGet, "/login/factor", nil)
	if text := body(t, page); page.StatusCode != http.StatusOK || !strings.Contains(text, "one-time-code") || strings.Contains(text, "data-passkey") {
		t.Errorf("the second step: %d\n%s", page.StatusCode, text)
	}
	for code, says := range map[string]string{a.code(): "has been used", "000000": "is wrong", "": "is wrong"} {
		res := b.do(http.MethodPost, "/login/factor", url.Values{"how": {"totp"}, "code": {code}})
		if text := body(t, res); res.StatusCode != http.StatusUnauthorized || !strings.Contains(text, says) {
			t.Errorf("code %q: %d\n%s", code, res.StatusCode, text)
		}
		h.wantEvent("mfa.verify", audit.Refused, "authn.mfa", "user:ann")
	}
	code := a.next()
	b.wantPost("/login/factor", url.Values{"how": {"totp"}, "code": {code[:3] + " " + code[3:]}}, "/orders")
	h.wantEvent("mfa.verify", audit.Allowed, "authn.mfa", "user:ann")
	if got := b.who(); got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"pwd", "otp"}) || b.others["__Host-rampart_login"] != "" {
		t.Errorf("after the second step: %s %v, cookies %v", got.ACR, got.AMR, b.others)
	}
}

// TestSecondStepIsNoWayAround: without its first step, or with a code for
// somebody else's, the second opens nothing.
func TestSecondStepIsNoWayAround(t *testing.T) {
	h, b := signIn(t)
	a := b.enrolTOTP()
	stranger := h.browser()
	if got, _ := stranger.post("/login/factor", url.Values{"how": {"totp"}, "code": {a.next()}}); got != http.StatusUnauthorized || stranger.cookie != "" {
		t.Errorf("without a password: %d", got)
	}
	h.addUser("bob", "customer")
	bob := h.browser()
	bob.login("bob", password)
	bob.enrolTOTP()
	bob.login("bob", password)
	if got, _ := bob.post("/login/factor", url.Values{"how": {"totp"}, "code": {a.next()}}); got != http.StatusUnauthorized {
		t.Errorf("bob with ann's code: %d", got)
	}
	if got, _ := bob.post("/login/factor", url.Values{"how": {"nothing"}}); got != http.StatusBadRequest {
		t.Errorf("no proof at all: %d", got)
	}
}

// TestCodesCannotBeGuessed: the limit ends the login, so that the next guess
// costs the password again.
func TestCodesCannotBeGuessed(t *testing.T) {
	h, b := signIn(t)
	b.enrolTOTP()
	thief := h.at("198.51.100.9")
	thief.login("ann", password)
	status := 0
	for n := 0; status != http.StatusTooManyRequests && n < 100; n++ {
		status, _ = thief.post("/login/factor", url.Values{"how": {"totp"}, "code": {fmt.Sprintf("%06d", n)}})
	}
	if status != http.StatusTooManyRequests {
		t.Fatalf("a hundred guesses: %d", status)
	}
	h.wantEvent("mfa.verify", audit.Refused, "limit.login", "user:ann")
	h.pass(time.Minute)
	if status, _ := thief.post("/login/factor", url.Values{"how": {"totp"}, "code": {"000000"}}); status != http.StatusUnauthorized {
		t.Errorf("after the limit the login goes on: %d", status)
	}
}

// TestNeighboursEndNoLogin: what others behind one's address fail at makes a
// login wait, and does not end it.
func TestNeighboursEndNoLogin(t *testing.T) {
	h, b := signIn(t)
	phone := b.enrolTOTP()
	ann := h.at("198.51.100.9")
	ann.wantPost("/login", url.Values{"username": {"ann"}, "password": {password}}, "/login/factor")
	guessed := url.Values{"how": {"recovery"}, "code": {"0000-0000-0000-0000"}}
	for n := 0; n < 30; n += 4 {
		name := fmt.Sprint("u", n)
		h.addUser(name, "customer")
		must(t, h.db.PutFactor(t.Context(), mfa.Factor{ID: name, Subject: "user:" + name, Kind: mfa.KindTOTP, Created: h.now()}))
		neighbour := h.at(ann.ip)
		neighbour.login(name, password)
		for range 4 {
			neighbour.post("/login/factor", guessed)
		}
	}
	res := ann.do(http.MethodPost, "/login/factor", guessed)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("behind a crowded address: %d, retry after %q; want 429", res.StatusCode, res.Header.Get("Retry-After"))
	}
	ann.wantPost("/login/factor", url.Values{"how": {"totp"}, "code": {phone.next()}}, "/")
}

// TestCodesGoWithTheLastFactor: recovery codes stand in for a factor; when an
// administrator takes the last one away, they are good for nothing later.
func TestCodesGoWithTheLastFactor(t *testing.T) {
	h, b := signIn(t)
	b.enrolTOTP()
	b.register(newDevice(), "phone")
	body(t, b.do(http.MethodPost, "/account/recovery", url.Values{}))
	left := func() (kinds []string) {
		var u wire.User
		must(t, h.admin(http.MethodGet, wire.AdminUsers+"/ann", nil, &u))
		for _, f := range u.Factors {
			kinds = append(kinds, f.Kind)
		}
		slices.Sort(kinds)
		return kinds
	}
	remove := func(kind mfa.Kind) {
		list, err := h.db.Factors(t.Context(), "user:ann")
		must(t, err)
		i := slices.IndexFunc(list, func(f mfa.Factor) bool { return f.Kind == kind })
		must(t, h.admin(http.MethodDelete, wire.AdminUsers+"/ann"+wire.SubFactors+"/"+list[i].ID, nil, nil))
	}
	remove(mfa.KindTOTP)
	if got := left(); !slices.Equal(got, []string{"passkey", "recovery"}) {
		t.Errorf("without the app there are %v", got)
	}
	remove(mfa.KindPasskey)
	if got := left(); len(got) > 0 {
		t.Errorf("without a strong factor there are %v, want none", got)
	}
}

func TestRecoveryCodes(t *testing.T) {
	h, b := signIn(t)
	b.wantPost("/account/recovery", url.Values{}, "/account/recovery") // nothing to stand in for
	b.enrolTOTP()
	const made = "/account/recovery?done=codes"
	b.wantPost("/account/recovery", url.Values{}, made)
	page := body(t, b.do(http.MethodGet, made, nil))
	codes := regexp.MustCompile(`<code>([0-9a-z-]+)</code>`).FindAllStringSubmatch(page, -1)
	if len(codes) != 10 {
		t.Fatalf("%d codes\n%s", len(codes), page)
	}
	for _, path := range []string{"/account/recovery", made} {
		if again := body(t, b.do(http.MethodGet, path, nil)); strings.Contains(again, codes[0][1]) {
			t.Errorf("%s shows the codes twice", path)
		}
	}
	const ask = "/account/recovery?replace=yes"
	b.wantPost("/account/recovery", url.Values{}, ask) // a reload replaces nothing
	if text := body(t, b.do(http.MethodGet, ask, nil)); !strings.Contains(text, `name="replace" value="yes"`) {
		t.Errorf("nothing asks before the codes go\n%s", text)
	}
	b.login("ann", password)
	b.wantPost("/login/factor", url.Values{"how": {"recovery"}, "code": {codes[4][1]}}, "/")
	h.wantEvent("mfa.recovery_used", audit.Allowed, "authn.mfa", "user:ann")
	if e := h.events("mfa.recovery_used")[0]; e.Detail["alert"] != "true" || e.Detail["left"] != "9" {
		t.Errorf("event is %+v", e)
	}
	if got := b.who(); got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"pwd", "rec"}) {
		t.Errorf("stands for %s %v", got.ACR, got.AMR)
	}
	b.login("ann", password)
	if got, _ := b.post("/login/factor", url.Values{"how": {"recovery"}, "code": {codes[4][1]}}); got != http.StatusUnauthorized {
		t.Errorf("a used code: %d", got)
	}
}

// device is a person's authenticator.
type device struct {
	auth virtual.Authenticator
	cred virtual.Credential
}

func newDevice() *device {
	for { // the virtual device drops leading zeros of coordinates, which no real one does
		d := &device{virtual.NewAuthenticator(), virtual.NewCredential(virtual.KeyTypeEC2)}
		key, err := x509.ParsePKCS8PrivateKey(d.cred.Key.Data)
		if ec, ok := key.(*ecdsa.PrivateKey); err == nil && ok && ec.X.BitLen() > 248 && ec.Y.BitLen() > 248 {
			return d
		}
	}
}

func rp() virtual.RelyingParty {
	return virtual.RelyingParty{ID: "localhost", Name: "pay", Origin: "https://localhost:8443"}
}

// register adds the device as a passkey of who is signed in.
func (b *browser) register(d *device, label string) {
	b.h.t.Helper()
	options := body(b.h.t, b.do(http.MethodPost, "/account/passkeys/options", url.Values{}))
	q, err := virtual.ParseAttestationOptions(options)
	must(b.h.t, err)
	d.auth.Options.UserHandle = []byte(q.UserID)
	answer := virtual.CreateAttestationResponse(rp(), d.auth, d.cred, *q)
	b.wantPost("/account/passkeys", url.Values{"label": {label}, "answer": {answer}}, "/account/passkeys?done=passkey")
}

// show answers the question that an address asks.
func (b *browser) show(d *device, options string) string {
	b.h.t.Helper()
	q, err := virtual.ParseAssertionOptions(body(b.h.t, b.do(http.MethodPost, options, url.Values{})))
	must(b.h.t, err)
	d.cred.Counter++
	return virtual.CreateAssertionResponse(rp(), d.auth, d.cred, *q)
}

func TestPasskeys(t *testing.T) {
	h, b := signIn(t)
	d := newDevice()
	b.register(d, `<script>alert(1)</script>`)
	h.wantEvent("mfa.enrol", audit.Allowed, "authn.mfa", "user:ann")
	page := body(t, b.do(http.MethodGet, "/account/passkeys", nil))
	if strings.Contains(page, "<script>") || !strings.Contains(page, "&lt;script&gt;") {
		t.Errorf("a name is taken for markup\n%s", page)
	}

	alone := h.browser()
	answer := alone.show(d, "/login/passkey/options")
	alone.wantPost("/login/passkey", url.Values{"answer": {answer}, "next": {"/orders"}}, "/orders")
	if got := alone.who(); got.Subject != "user:ann" || got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"hwk"}) {
		t.Errorf("a passkey alone stands for %+v", got)
	}
	h.wantEvent("session.login", audit.Allowed, "authn.mfa", "user:ann")
	if got, _ := h.browser().post("/login/passkey", url.Values{"answer": {answer}}); got != http.StatusUnauthorized {
		t.Errorf("the answer again: %d", got)
	}
	h.wantEvent("mfa.verify", audit.Refused, "authn.mfa", "")

	second := h.browser()
	second.login("ann", password)
	second.wantPost("/login/factor", url.Values{"how": {"passkey"}, "answer": {second.show(d, "/login/factor/options")}}, "/")
	if got := second.who(); got.ACR != "aal2" || !slices.Equal(got.AMR, []string{"pwd", "hwk"}) {
		t.Errorf("password and passkey stand for %s %v", got.ACR, got.AMR)
	}

	d.cred.Counter = 0
	third := h.browser()
	third.wantPost("/login/passkey", url.Values{"answer": {third.show(d, "/login/passkey/options")}}, "/")
	h.wantEvent("mfa.counter_regressed", audit.Allowed, "authn.mfa", "user:ann")
	d.auth.Options.BackupEligible, d.cred.Counter = true, 10
	third.wantPost("/login/passkey", url.Values{"answer": {third.show(d, "/login/passkey/options")}}, "/")
	h.wantEvent("mfa.backup_eligible", audit.Allowed, "authn.mfa", "user:ann")
}

// TestRename: a name may be changed by its owner alone.
func TestRename(t *testing.T) {
	h, b := signIn(t)
	b.register(newDevice(), "phone")
	list, err := h.db.Factors(t.Context(), "user:ann")
	must(t, err)
	h.addUser("eve", "customer")
	eve := h.browser()
	eve.login("eve", password)
	eve.wantPost("/account/passkeys/rename", url.Values{"id": {list[0].ID}, "label": {"mine"}}, "/account/passkeys")
	eve.wantPost("/account/passkeys/remove", url.Values{"id": {list[0].ID}}, "/account/passkeys")
	b.wantPost("/account/passkeys/rename", url.Values{"id": {list[0].ID}, "label": {"old phone"}}, "/account/passkeys?done=renamed")
	got, err := h.db.Factor(t.Context(), list[0].ID)
	must(t, err)
	if got.Label != "old phone" || got.Subject != "user:ann" {
		t.Errorf("it is %+v", got)
	}
}

// TestStepUp: a change needs a fresh proof, which raises the session that asks
// and no other.
func TestStepUp(t *testing.T) {
	h, b := signIn(t)
	a := b.enrolTOTP()
	list, err := h.db.Factors(t.Context(), "user:ann")
	must(t, err)
	remove := url.Values{"id": {list[0].ID}}
	other := h.browser()
	other.login("ann", password)
	other.wantPost("/login/factor", url.Values{"how": {"totp"}, "code": {a.next()}}, "/")

	h.pass(6 * time.Minute)
	const stepUp = "/login/step-up?acr=aal2&max_age=300&next=%2Faccount%2Ftotp"
	b.wantPost("/account/totp/remove", remove, stepUp)
	h.wantEvent("mfa.remove", audit.Refused, "authn.step_up", "user:ann")
	var said struct{ Next string }
	must(t, json.NewDecoder(b.do(http.MethodPost, "/account/passkeys/options", url.Values{}).Body).Decode(&said))
	if !strings.HasPrefix(said.Next, "/login/step-up?acr=aal2&max_age=300") {
		t.Errorf("a passkey is added without a fresh proof: sent to %q", said.Next)
	}
	page := b.do(http.MethodGet, stepUp, nil)
	if text := html.UnescapeString(body(t, page)); page.StatusCode != http.StatusOK || !strings.Contains(text, "/login/step-up?acr=aal2&max_age=300&next=") || strings.Contains(text, `value="password"`) {
		t.Errorf("step-up page: %d\n%s", page.StatusCode, text)
	}
	if got, _ := b.post(stepUp, url.Values{"how": {"password"}, "password": {password}}); got != http.StatusBadRequest {
		t.Errorf("a password raises to aal2: %d", got)
	}
	old, stale := b.cookie, other.who().AuthTime
	b.wantPost(stepUp, url.Values{"how": {"totp"}, "code": {a.next()}}, "/account/totp")
	if _, err := h.resolve(wire.TypeSession, old); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the id before the step-up lives on: %v", err)
	}
	if got := other.who().AuthTime; !got.Equal(stale) {
		t.Errorf("the other session was raised too: from %v to %v", stale, got)
	}
	if res := b.do(http.MethodGet, stepUp, nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a step-up that is not needed: %d", res.StatusCode)
	}
	if res := b.do(http.MethodGet, "/login/step-up?acr=aal2&max_age=300&next=https://evil.example/", nil); res.Header.Get("Location") != "/" {
		t.Errorf("a step-up leads to %q", res.Header.Get("Location"))
	}
	ask := "/account/totp/remove?id=" + url.QueryEscape(list[0].ID)
	b.wantPost("/account/totp/remove", remove, ask)
	if text := body(t, b.do(http.MethodGet, ask, nil)); !strings.Contains(text, `name="confirmed" value="yes"`) || !strings.Contains(text, "at least 15") {
		t.Errorf("nothing asks before the last factor goes\n%s", text)
	}
	for word, says := range map[string]string{"": "is wrong", wrong: "is wrong"} {
		res := b.do(http.MethodPost, "/account/totp/remove", url.Values{"id": {list[0].ID}, "confirmed": {"yes"}, "password": {word}})
		if text := body(t, res); res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(text, says) {
			t.Errorf("removal with password %q: %d\n%s", word, res.StatusCode, text)
		}
	}
	b.wantPost("/account/totp/remove", url.Values{"id": {list[0].ID}, "confirmed": {"yes"}, "password": {password}}, "/account/totp?done=removed")
	h.wantEvent("mfa.remove", audit.Allowed, "authn.mfa", "user:ann")
	if e := h.events("mfa.remove"); e[len(e)-1].Detail["last"] != "true" || e[len(e)-1].Detail["alert"] != "true" {
		t.Errorf("the last factor's removal is %+v", e[len(e)-1])
	}
}

// TestStepUpWithoutAFactor: a password proves one factor anew and never two.
func TestStepUpWithoutAFactor(t *testing.T) {
	h, b := signIn(t)
	h.pass(6 * time.Minute)
	b.wantPost("/account/totp", url.Values{}, "/login/step-up?acr=aal1&max_age=300&next=%2Faccount%2Ftotp")
	if res := b.do(http.MethodGet, "/login/step-up?acr=aal2&next=/", nil); res.StatusCode != http.StatusForbidden || !strings.Contains(body(t, res), "/account/passkeys") {
		t.Errorf("aal2 without a factor: %d", res.StatusCode)
	}
	const again = "/login/step-up?acr=aal1&max_age=300&next=%2Faccount%2Ftotp"
	if got, _ := b.post(again, url.Values{"how": {"password"}, "password": {wrong}}); got != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", got)
	}
	h.wantEvent("session.step_up", audit.Refused, "authn.password", "user:ann")
	b.wantPost(again, url.Values{"how": {"password"}, "password": {password}}, "/account/totp")
	if got := b.who(); got.ACR != "aal1" {
		t.Errorf("it stands for %s", got.ACR)
	}
	b.enrolTOTP()
	if got := html.UnescapeString(body(t, b.do(http.MethodGet, "/account", nil))); !strings.Contains(got, "two factors") || !strings.Contains(got, "ann") {
		t.Errorf("the account says\n%s", got)
	}
}

// TestShortPasswordKeepsItsFactor: a password that was chosen beside a second
// factor does not stay alone.
func TestShortPasswordKeepsItsFactor(t *testing.T) {
	h, b := signIn(t)
	b.enrolTOTP()
	const short = "tall ships"
	b.wantPost("/account/password", url.Values{"new": {short}, "repeat": {short}}, "/account?done=password")
	list, err := h.db.Factors(t.Context(), "user:ann")
	must(t, err)
	form := url.Values{"id": {list[0].ID}, "confirmed": {"yes"}, "password": {short}}
	res := b.do(http.MethodPost, "/account/totp/remove", form)
	if text := body(t, res); res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(text, "too weak to stand alone; change it to one of at least 15") {
		t.Errorf("%d\n%s", res.StatusCode, text)
	}
	h.wantEvent("mfa.remove", audit.Refused, "authn.password", "user:ann")
	const long = "tall ships on a grey sea"
	b.wantPost("/account/password", url.Values{"new": {long}, "repeat": {long}}, "/account?done=password")
	form.Set("password", long)
	b.wantPost("/account/totp/remove", form, "/account/totp?done=removed")
}

// TestWayBack: who is sent to enrol a second factor first is led on to what
// they wanted, and to no other site.
func TestWayBack(t *testing.T) {
	_, b := signIn(t)
	const next, way = "/receipt?id=1", "?next=%2Freceipt%3Fid%3D1"
	text := body(t, b.do(http.MethodGet, "/login/step-up?acr=aal2&next="+url.QueryEscape(next), nil))
	if !strings.Contains(text, `href="/account/totp`+way) || strings.Contains(text, "aria-current") {
		t.Fatalf("the detour\n%s", text)
	}
	b.wantPost("/account/totp"+way, url.Values{}, "/account/totp"+way)
	page := body(t, b.do(http.MethodGet, "/account/totp"+way, nil))
	secret := regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`).FindStringSubmatch(page)
	if secret == nil || !strings.Contains(page, "/account/totp/confirm"+way) {
		t.Fatalf("the page of the app\n%s", page)
	}
	key, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(secret[1], " ", ""))
	must(t, err)
	const done = "/account/totp?done=totp&next=%2Freceipt%3Fid%3D1"
	b.wantPost("/account/totp/confirm"+way, url.Values{"code": {app{b.h, key}.code()}}, done)
	if text := body(t, b.do(http.MethodGet, done, nil)); !strings.Contains(text, `href="`+next+`">Go on`) || !strings.Contains(text, "Back to pay") {
		t.Errorf("after it\n%s", text)
	}
	b.wantPost("/account/recovery"+way, url.Values{}, "/account/recovery?done=codes&next=%2Freceipt%3Fid%3D1")
	if text := body(t, b.do(http.MethodGet, "/account/totp?done=totp&next=https://evil.example/", nil)); strings.Contains(text, "evil.example") {
		t.Errorf("it leads to another site\n%s", text)
	}
	if res := b.do(http.MethodGet, "/login/step-up?acr=aal9&next=/", nil); res.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown acr: %d", res.StatusCode)
	}
}

func TestChangePassword(t *testing.T) {
	h, b := signIn(t)
	other := h.browser()
	other.login("ann", password)
	const fresh = "a new and long password"
	for name, tc := range map[string]struct{ current, fresh, repeat string }{
		"wrong password":    {wrong, fresh, fresh},
		"typed differently": {password, fresh, fresh + "!"},
		"too short":         {password, "short enough", "short enough"},
		"the same":          {password, password, password},
	} {
		got, _ := b.post("/account/password", url.Values{"current": {tc.current}, "new": {tc.fresh}, "repeat": {tc.repeat}})
		if got != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", name, got)
		}
	}
	old := b.cookie
	b.wantPost("/account/password", url.Values{"current": {password}, "new": {fresh}, "repeat": {fresh}}, "/account?done=password")
	h.wantEvent("password.change", audit.Allowed, "authn.password", "user:ann")
	for name, cookie := range map[string]string{"the id before": old, "the other device": other.cookie} {
		if _, err := h.resolve(wire.TypeSession, cookie); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("%s lives on: %v", name, err)
		}
	}
	if got := b.who().Subject; got != "user:ann" {
		t.Errorf("the browser is %q", got)
	}
	h.pass(time.Minute)
	if got := h.browser().login("ann", password); got != http.StatusUnauthorized {
		t.Errorf("the old password: %d", got)
	}
	if got := h.browser().login("ann", fresh); got != http.StatusSeeOther {
		t.Errorf("the new password: %d", got)
	}
}

// TestNoRecordNoChange: what cannot be put on record does not happen.
func TestNoRecordNoChange(t *testing.T) {
	h, b := signIn(t)
	a := b.enrolTOTP()
	list, err := h.db.Factors(t.Context(), "user:ann")
	must(t, err)
	h.addUser("bob", "customer")
	bob := h.browser()
	bob.login("bob", password)
	bob.wantPost("/account/totp", url.Values{}, "/account/totp")
	ann := h.browser()
	ann.login("ann", password)

	h.setDeaf(true)
	for path, form := range map[string]url.Values{
		"/account/totp/remove": {"id": {list[0].ID}, "confirmed": {"yes"}, "password": {password}}, "/account/recovery": {},
		"/account/password": {"new": {"a new and long password"}, "repeat": {"a new and long password"}},
	} {
		if got, _ := b.post(path, form); got != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, got)
		}
	}
	if got, _ := ann.post("/login/factor", url.Values{"how": {"totp"}, "code": {a.next()}}); got != http.StatusServiceUnavailable || ann.cookie != "" {
		t.Errorf("the second step: %d, session %q", got, ann.cookie)
	}
	d := newDevice()
	q, err := virtual.ParseAttestationOptions(body(t, bob.do(http.MethodPost, "/account/passkeys/options", url.Values{})))
	must(t, err)
	answer := virtual.CreateAttestationResponse(rp(), d.auth, d.cred, *q)
	if got, _ := bob.post("/account/passkeys", url.Values{"answer": {answer}}); got != http.StatusServiceUnavailable {
		t.Errorf("a new passkey: %d", got)
	}
	h.setDeaf(false)

	for subject, want := range map[string]int{"user:ann": 1, "user:bob": 0} {
		if list, err := h.db.Factors(t.Context(), subject); err != nil || len(list) != want {
			t.Errorf("%s has %d factors, want %d, %v", subject, len(list), want, err)
		}
	}
	h.pass(time.Minute)
	if _, to := h.browser().post("/login", url.Values{"username": {"ann"}, "password": {password}}); to != "/login/factor" {
		t.Errorf("with the password of before ann is sent to %q", to)
	}
}

// TestFormsOfOtherSites: no form of another site changes anything.
func TestFormsOfOtherSites(t *testing.T) {
	_, b := signIn(t)
	for _, path := range []string{
		"/login/passkey", "/login/passkey/options", "/login/factor", "/login/factor/options", "/login/step-up", "/login/step-up/options",
		"/account/totp", "/account/totp/confirm", "/account/totp/remove", "/account/passkeys", "/account/passkeys/options",
		"/account/passkeys/rename", "/account/passkeys/remove", "/account/recovery", "/account/password",
	} {
		if res := b.do(http.MethodPost, path, url.Values{}, "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

// TestPagesOfOthers: who is not signed in sees no page of an account, and every
// page is closed to frames and foreign scripts.
func TestPagesOfOthers(t *testing.T) {
	h, b := signIn(t)
	for _, path := range []string{"/account", "/account/totp", "/account/passkeys", "/account/recovery", "/account/password", "/account/sessions"} {
		res := h.browser().do(http.MethodGet, path, nil)
		if to := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/login?next=") {
			t.Errorf("%s for a stranger: %d to %q", path, res.StatusCode, to)
		}
		res = b.do(http.MethodGet, path, nil)
		csp, text := res.Header.Get("Content-Security-Policy"), body(t, res)
		if res.StatusCode != http.StatusOK || !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(text, "<script>") || strings.Contains(text, " style=") {
			t.Errorf("%s: %d %q\n%s", path, res.StatusCode, csp, text)
		}
	}
	if res := b.do(http.MethodGet, "/login/passkey.js", nil); !strings.HasPrefix(res.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("the script is %s", res.Header.Get("Content-Type"))
	}
	for accept, says := range map[string]string{"text/html,*/*": "There is no such page.", "application/json": `"status":404`} {
		res := b.do(http.MethodGet, "/account/nothing", nil, "Accept", accept)
		if text := body(t, res); res.StatusCode != http.StatusNotFound || !strings.Contains(text, says) {
			t.Errorf("a page that is none, asked for as %s: %d\n%s", accept, res.StatusCode, text)
		}
	}
	if raw := strings.TrimSpace(body(t, b.do(http.MethodGet, "/account?done="+base64.URLEncoding.EncodeToString([]byte("<b>")), nil))); strings.Contains(raw, `role="status"`) {
		t.Error("the page says what its address says")
	}
}
