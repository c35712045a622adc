package control_test

import (
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/mfa"
	hashing "github.com/rampart-security/rampart/authn/password"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

func (h *house) at(ip string) *browser { return &browser{h: h, ip: ip} }

// TestGuessing: many at once are no better than one after another, and the
// owner's own device is not locked out by them.
func TestGuessing(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.freeze()
	laptop := h.at("192.0.2.1")
	if got := laptop.login("ann", password); got != http.StatusSeeOther {
		t.Fatalf("first login: %d", got)
	}
	var mu sync.Mutex
	counts := map[int]int{}
	var wg sync.WaitGroup
	for n := range 25 {
		wg.Go(func() {
			got := h.at(fmt.Sprint("192.0.2.", 1+n%3)).login("ann", wrong)
			mu.Lock()
			defer mu.Unlock()
			counts[got]++
		})
	}
	wg.Wait()
	if counts[http.StatusUnauthorized] != 5 || counts[http.StatusTooManyRequests] != 20 {
		t.Errorf("answers %v, want 5 compares and 20 refusals", counts)
	}
	res := h.at("192.0.2.1").do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}})
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "1" {
		t.Errorf("the right password within the pause: %d, retry after %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	h.wantEvent("session.login", audit.Refused, "limit.login", "user:ann")
	if got := laptop.login("ann", password); got != http.StatusSeeOther {
		t.Errorf("the owner's device, from the attacker's address: %d, want 303", got)
	}
	h.pass(time.Second)
	if got := h.at("192.0.2.1").login("ann", password); got != http.StatusSeeOther {
		t.Errorf("after the pause: %d, want 303", got)
	}
}

// TestAttackFromEverywhere: a botnet that waits out every pause gets fewer
// than a hundred compares; the owner's device is let in all the while, and
// after a restart.
func TestAttackFromEverywhere(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.addUser("bob", "customer")
	h.freeze()
	laptop := h.at("198.51.100.7")
	if got := laptop.login("ann", password); got != http.StatusSeeOther {
		t.Fatalf("first login: %d", got)
	}
	compared, passed := 0, time.Duration(0)
	for n := 0; ; n++ {
		bot := h.at(fmt.Sprintf("10.0.%d.1", n%250))
		res := bot.do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {wrong}})
		if res.StatusCode == http.StatusUnauthorized {
			compared++
			continue
		}
		pause, err := time.ParseDuration(res.Header.Get("Retry-After") + "s")
		must(t, err)
		if pause > time.Hour {
			break
		}
		h.pass(pause)
		passed += pause
		if n%20 != 0 {
			continue
		}
		if got := laptop.login("ann", password); got != http.StatusSeeOther {
			t.Fatalf("the owner after %d guesses: %d, want 303", compared, got)
		}
	}
	if compared != 99 {
		t.Errorf("%d guesses were compared, want 99", compared)
	}
	h.stop()
	h.pass(-passed) // certificates go by the real clock
	h.start()
	if got := laptop.login("ann", password); got != http.StatusSeeOther {
		t.Errorf("the owner after a restart: %d, want 303", got)
	}
	if got := h.at("203.0.113.1").login("ann", password); got != http.StatusTooManyRequests {
		t.Errorf("from a strange device after a restart: %d, want 429", got)
	}
	h.mustAdmin(wire.AdminUsers+"/ann"+wire.SubPassword, wire.SetPassword{Password: "another horse battery"}, nil)
	if got := h.at("203.0.113.1").login("ann", "another horse battery"); got != http.StatusSeeOther {
		t.Errorf("from a strange device with a new password: %d, want 303", got)
	}
	if got := h.at("203.0.113.1").login("bob", password); got != http.StatusSeeOther {
		t.Errorf("another account: %d, want 303", got)
	}
}

// TestNewPasswordFreesTheOwnersDevice: whoever mistyped too often at home and
// asks for a new password gets in with it, at once.
func TestNewPasswordFreesTheOwnersDevice(t *testing.T) {
	h := open(t, "")
	h.freeze()
	for name, renew := range map[string]func(word string){
		"set alone":        func(word string) { h.mustAdmin(ofAnn+wire.SubPassword, wire.SetPassword{Password: word}, nil) },
		"with the account": func(word string) { h.mustAdmin(wire.AdminUsers, wire.User{Name: "ann", Password: word}, nil) },
	} {
		h.addUser("ann", "customer")
		laptop := h.browser()
		laptop.login("ann", password)
		h.pass(time.Second)
		for range 5 {
			laptop.login("ann", wrong)
		}
		if got := laptop.login("ann", password); got != http.StatusTooManyRequests {
			t.Fatalf("%s: after five failures %d, want 429", name, got)
		}
		h.pass(time.Millisecond)
		renew(fresh)
		if got := laptop.login("ann", fresh); got != http.StatusSeeOther {
			t.Errorf("%s: the new password is answered %d, want 303", name, got)
		}
		must(t, h.admin(http.MethodDelete, ofAnn, nil, nil))
	}
}

// TestKnownDevice: what the cookie is good for, and for whom.
func TestKnownDevice(t *testing.T) {
	h := open(t, "")
	for _, name := range []string{"ann", "bob", "cas", "dan", "eve"} {
		h.addUser(name, "customer")
	}
	const cookie = "__Host-rampart_device"
	laptop := h.at("192.0.2.1")
	res := laptop.do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}})
	if set := strings.Join(res.Header.Values("Set-Cookie"), "\n"); !strings.Contains(set, "; Path=/; Max-Age=15552000; HttpOnly; Secure; SameSite=Lax") {
		t.Errorf("cookies are %s", set)
	}
	of := map[string]string{"ann": laptop.others[cookie]}
	for _, name := range []string{"bob", "cas", "dan"} {
		if got := laptop.login(name, password); got != http.StatusSeeOther {
			t.Fatalf("%s: %d", name, got)
		}
	}
	shared := laptop.others[cookie]
	laptop.login("eve", password)
	crowded := laptop.others[cookie]

	for n := range 5 { // from now on strangers have to wait, for a minute at least
		for _, name := range []string{"ann", "dan", "eve"} {
			h.at(fmt.Sprintf("10.0.%d.1", n)).login(name, wrong)
		}
	}
	h.freeze()
	flip := []byte(of["ann"])
	flip[5] ^= 1
	for what, tc := range map[string]struct {
		name, cookie string
		known        bool
	}{
		"no cookie":                      {"ann", "", false},
		"her own":                        {"ann", of["ann"], true},
		"somebody else's":                {"eve", of["ann"], false},
		"the first of four on a browser": {"ann", shared, true},
		"the last of four":               {"dan", shared, true},
		"pushed out by the fifth":        {"ann", crowded, false},
		"the fifth":                      {"eve", crowded, true},
		"a changed id":                   {"ann", string(flip), false},
		"half of it":                     {"ann", of["ann"][:40], false},
		"nonsense":                       {"ann", strings.Repeat("a.", 2000), false},
		"behind much nonsense":           {"ann", "a.b.c.d.e." + of["ann"], false},
	} {
		b := h.at("203.0.113.1")
		if tc.cookie != "" {
			b.others = map[string]string{cookie: tc.cookie}
		}
		if got := b.login(tc.name, password); (got == http.StatusSeeOther) != tc.known || !tc.known && got != http.StatusTooManyRequests {
			t.Errorf("%s: %d, want known %v", what, got, tc.known)
		}
	}
}

func TestKnownDeviceExpires(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.freeze()
	late := h.at("192.0.2.1")
	late.login("ann", password)
	kept := h.at("192.0.2.1")
	kept.login("ann", password)
	h.pass(179 * 24 * time.Hour)
	kept.login("ann", password) // counts anew from here
	h.pass(24 * time.Hour)
	for n := range 6 {
		h.at(fmt.Sprintf("10.0.%d.1", n)).login("ann", wrong)
	}
	if got := late.login("ann", password); got != http.StatusTooManyRequests {
		t.Errorf("after 180 days: %d, want 429", got)
	}
	if got := kept.login("ann", password); got != http.StatusSeeOther {
		t.Errorf("a day after the last login: %d, want 303", got)
	}
}

// TestNobodyIsTold who has an account: answers and limits are those of a wrong
// password, whatever is behind the name.
func TestNobodyIsTold(t *testing.T) {
	h := open(t, "")
	for _, name := range []string{"ann", "off", "fed"} {
		h.addUser(name, "customer")
	}
	h.freeze()
	for name, change := range map[string]func(hash *string, disabled *bool){
		"off": func(_ *string, disabled *bool) { *disabled = true },
		"fed": func(hash *string, _ *bool) { *hash = "" },
	} {
		u, err := h.db.User(t.Context(), name)
		must(t, err)
		change(&u.Hash, &u.Disabled)
		if ok, err := h.db.SwapUser(t.Context(), u); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	try := func(name, word string) string {
		res := h.at("192.0.2.1").do(http.MethodPost, "/login", url.Values{"username": {name}, "password": {word}})
		text := strings.ReplaceAll(body(t, res), name, "NAME")
		return fmt.Sprintln(res.StatusCode, len(res.Cookies()), res.Header.Get("Retry-After"), text)
	}
	words := []string{wrong, "", wrong, strings.Repeat("x", 2000), wrong, wrong}
	var want []string
	for _, word := range words {
		want = append(want, try("ann", word))
	}
	for _, name := range []string{"eve", "off", "fed", "Ann", strings.Repeat("n", 64)} {
		for i, word := range words {
			if word == wrong {
				word = password // even the right one
			}
			if got := try(name, word); got != want[i] {
				t.Errorf("%s, try %d:\n%s\nwant\n%s", name, i+1, got, want[i])
			}
		}
	}
	h.pass(time.Hour)
	for _, name := range []string{"off", "fed"} {
		if got := h.at("192.0.2.1").login(name, password); got != http.StatusUnauthorized {
			t.Errorf("%s with the right password: %d, want 401", name, got)
		}
	}
}

// TestSecondFactorIsAskedFor: a password alone opens nothing when there is
// more to prove.
func TestSecondFactorIsAskedFor(t *testing.T) {
	h := open(t, "")
	for name, tc := range map[string]struct {
		kind mfa.Kind
		two  bool
	}{"ann": {mfa.KindTOTP, true}, "bob": {mfa.KindPasskey, true}, "cas": {mfa.KindRecovery, false}} {
		h.addUser(name, "customer")
		f := mfa.Factor{ID: name, Subject: "user:" + name, Kind: tc.kind, Created: h.now()}
		if tc.kind == mfa.KindPasskey {
			f.Credential = [32]byte{1}
		}
		must(t, h.db.PutFactor(t.Context(), f))
		b := h.browser()
		res := b.do(http.MethodPost, "/login", url.Values{"username": {name}, "password": {password}, "next": {"/orders"}})
		if !tc.two {
			if res.Header.Get("Location") != "/orders" || b.cookie == "" {
				t.Errorf("%s: sent to %q with session %q", name, res.Header.Get("Location"), b.cookie)
			}
			continue
		}
		ticket := b.others["__Host-rampart_login"]
		if res.Header.Get("Location") != "/login/factor" || b.cookie != "" || ticket == "" || b.others["__Host-rampart_device"] != "" {
			t.Errorf("%s: sent to %q with session %q and %v", name, res.Header.Get("Location"), b.cookie, b.others)
		}
		h.wantEvent("login.pending", audit.Allowed, "authn.password", "user:"+name)
		if _, err := h.resolve(wire.TypeSession, ticket); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("%s: a pending login is taken for a session: %v", name, err)
		}
	}
}

// TestPendingLogin: between the steps a login stays with its device, for ten
// minutes, and does not outlive what it has proved.
func TestPendingLogin(t *testing.T) {
	h, laptop := signIn(t)
	phone := laptop.enrolTOTP()
	setPassword := func() {
		h.mustAdmin(wire.AdminUsers+"/ann"+wire.SubPassword, wire.SetPassword{Password: password}, nil)
	}
	for _, tc := range []struct {
		name   string
		before func(b *browser)
		status int
	}{
		{"at once", func(*browser) {}, http.StatusSeeOther},
		{"after nine minutes", func(*browser) { h.pass(9 * time.Minute) }, http.StatusSeeOther},
		{"after ten minutes", func(*browser) { h.pass(10 * time.Minute) }, http.StatusUnauthorized},
		{"away from its device", func(b *browser) { delete(b.others, "__Host-rampart_device") }, http.StatusUnauthorized},
		{"after the password was set anew", func(*browser) { h.pass(time.Second); setPassword() }, http.StatusUnauthorized},
	} {
		h.pass(30 * time.Second)
		b := h.at("192.0.2.1")
		b.others = map[string]string{"__Host-rampart_device": laptop.others["__Host-rampart_device"]}
		b.wantPost("/login", url.Values{"username": {"ann"}, "password": {password}}, "/login/factor")
		tc.before(b)
		ticket := b.others["__Host-rampart_login"]
		if got, _ := b.post("/login/factor", url.Values{"how": {"totp"}, "code": {phone.code()}}); got != tc.status || (b.cookie != "") != (tc.status == http.StatusSeeOther) {
			t.Errorf("%s: %d with session %q, want %d", tc.name, got, b.cookie, tc.status)
		}
		h.pass(30 * time.Second)
		b.others["__Host-rampart_login"] = ticket
		if got, _ := b.post("/login/factor", url.Values{"how": {"totp"}, "code": {phone.code()}}); got != http.StatusUnauthorized && tc.status == http.StatusSeeOther {
			t.Errorf("%s, twice: %d, want 401", tc.name, got)
		}
	}
}

// TestImportedHash: it lets its owner in once, and is ours from then on.
func TestImportedHash(t *testing.T) {
	h := open(t, "")
	const bcrypt = "$2b$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS" // of password, by libxcrypt
	h.mustAdmin(wire.AdminUsers, wire.User{Name: "ann", Hash: bcrypt, Facts: spec.DemoUser{Roles: []string{"customer"}}}, nil)
	for range 2 {
		if got := h.browser().login("ann", password); got != http.StatusSeeOther {
			t.Fatalf("login: %d, want 303", got)
		}
		u, err := h.db.User(t.Context(), "ann")
		must(t, err)
		if !strings.HasPrefix(u.Hash, "$argon2id$") {
			t.Errorf("stored as %.10s", u.Hash)
		}
	}
	for what, u := range map[string]wire.User{
		"a hash that is none":         {Name: "bob", Hash: "plain"},
		"a hash out of bounds":        {Name: "bob", Hash: strings.Replace(bcrypt, "$04$", "$31$", 1)},
		"a hash and a password":       {Name: "bob", Hash: bcrypt, Password: password},
		"neither":                     {Name: "bob"},
		"fourteen characters, alone":  {Name: "bob", Password: "correct horsey"},
		"one that everybody knows":    {Name: "bob", Password: "passwordpassword"},
		"little more than one's name": {Name: "bobby-tables", Password: "Bobby-Tables-2024!"},
	} {
		if err := h.admin(http.MethodPost, wire.AdminUsers, u, nil); statusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v, want 400", what, err)
		}
	}
}

func TestStuffingIsOnRecord(t *testing.T) {
	h := open(t, "")
	for n := range 21 {
		h.at(fmt.Sprintf("192.0.2.%d", n)).login(fmt.Sprint("user", n), wrong)
	}
	list := h.events("guess.stuffing")
	if len(list) != 1 {
		t.Fatalf("%d events, want one", len(list))
	}
	if e := list[0]; e.Control != "limit.login" || e.Detail["alert"] != "true" || e.Detail["network"] != "192.0.2.0/24" || e.Detail["accounts"] != "20" || e.Detail["failures"] != "20" {
		t.Errorf("event %+v", e)
	}
}

type person struct {
	*browser
	name string
}

// BenchmarkLogin compares the throughput of whole logins on known devices, from
// the gateway's requests to their answers, with that of the hash alone.
func BenchmarkLogin(b *testing.B) {
	b.Run("hash", func(b *testing.B) {
		hasher := hashing.NewHasher(0)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				must(b, hasher.VerifyNone(b.Context(), password))
			}
		})
	})
	b.Run("login", func(b *testing.B) {
		h := open(b, "")
		h.as("gateway/edge")
		people := make(chan person, 4*runtime.GOMAXPROCS(0))
		for n := range cap(people) {
			name := fmt.Sprint("user", n)
			h.mustAdmin(wire.AdminUsers, wire.User{Name: name, Password: password, Facts: spec.DemoUser{Roles: []string{"customer"}}}, nil)
			someone := person{h.browser(), name}
			someone.login(name, password)
			people <- someone
		}
		b.ReportAllocs()
		b.ResetTimer()
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			someone := <-people
			for pb.Next() {
				someone.cookie = "" // the browser was closed since
				if got := someone.login(someone.name, password); got != http.StatusSeeOther {
					b.Error(got)
				}
			}
		})
	})
}
