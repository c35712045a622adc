package control_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// sessionsOf lists a person's sessions as an administrator sees them.
func (h *house) sessionsOf(name string) []wire.Session {
	h.t.Helper()
	var list []wire.Session
	must(h.t, h.admin(http.MethodGet, wire.AdminUsers+"/"+name+wire.SubSessions, nil, &list))
	return list
}

// TestEndsOfAnAccount: whatever is done to an account, what it held before is
// over, and the call says so and is on record.
func TestEndsOfAnAccount(t *testing.T) {
	h := open(t, "")
	one := wire.AdminUsers + "/ann"
	for _, tc := range []struct {
		name, method, path string
		in                 any
		ended              int // sessions that the answer counts; -1: it counts none
		lives              bool
	}{
		{"another label of nothing", http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Facts: spec.DemoUser{Roles: []string{"customer"}, Organizations: []string{"acme", "globex"}, Team: "red"}}, -1, true},
		{"a role removed", http.MethodPost, wire.AdminUsers, wire.User{Name: "ann", Facts: spec.DemoUser{Organizations: []string{"acme"}}}, -1, false},
		{"another password", http.MethodPost, one + wire.SubPassword, wire.SetPassword{Password: password}, 2, false},
		{"factors reset", http.MethodDelete, one + wire.SubFactors, nil, 2, false},
		{"all sessions ended", http.MethodDelete, one + wire.SubSessions, nil, 2, false},
		{"disabled", http.MethodPost, one + wire.SubDisable, nil, 2, false},
		{"deleted", http.MethodDelete, one, nil, 2, false},
	} {
		h.addUser("ann", "customer")
		b, other := h.browser(), h.browser()
		if b.login("ann", password) != http.StatusSeeOther || other.login("ann", password) != http.StatusSeeOther {
			t.Fatalf("%s: no login", tc.name)
		}
		var ended wire.Ended
		out := any(&ended)
		if tc.ended < 0 {
			out = nil
		}
		if err := h.admin(tc.method, tc.path, tc.in, out); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if tc.ended >= 0 && ended.Sessions != tc.ended {
			t.Errorf("%s: %d sessions ended, want %d", tc.name, ended.Sessions, tc.ended)
		}
		for _, b := range []*browser{b, other} {
			if _, err := h.resolve(wire.TypeSession, b.cookie); (err == nil) != tc.lives {
				t.Errorf("%s: a session from before: %v, want alive %v", tc.name, err, tc.lives)
			}
		}
		if tc.name == "disabled" {
			if got := h.browser().login("ann", password); got != http.StatusUnauthorized {
				t.Errorf("a disabled account signs in: %d", got)
			}
			must(t, h.admin(http.MethodPost, one+wire.SubEnable, nil, nil))
		}
		if err := h.admin(http.MethodDelete, one, nil, nil); err != nil && statusOf(err) != http.StatusNotFound {
			t.Fatal(err)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant"}, nil)
	for path, hint := range map[string]string{
		wire.AdminUsers + "/anm":                          `did you mean \"ann\"`,
		wire.AdminUsers + "/" + strings.Repeat("x", 300):  "there is no user",
		wire.AdminUsers + "/..%2f..%2fetc":                "there is no user",
		wire.AdminClients + "/shpo":                       `did you mean \"shop\"`,
		wire.AdminUsers + "/ann" + wire.SubApps + "/none": "",
	} {
		method := http.MethodGet
		if hint == "" {
			method = http.MethodDelete
		}
		err := h.admin(method, path, nil, nil)
		if statusOf(err) != http.StatusNotFound || !strings.Contains(err.Error(), hint) {
			t.Errorf("%.60s: %v, want 404 with %q", path, err, hint)
		}
	}
}

// TestKeysOfAClient: limits hold where a key is shown, and a client takes its
// keys with it.
func TestKeysOfAClient(t *testing.T) {
	h := open(t, "")
	h.mustAdmin(wire.AdminClients, wire.Client{ID: "shop", Principal: "merchant"}, nil)
	var near, far, next wire.APIKey
	h.mustAdmin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop", Label: "near", Scopes: []string{"orders:read"}, IPs: []string{"192.0.2.0/24"}}, &near)
	h.mustAdmin(wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop", IPs: []string{"198.51.100.7"}}, &far)
	res, err := h.resolve(wire.TypeAPIKey, near.Key)
	must(t, err)
	if !slices.Equal(res.Principal.Scope, []string{"orders:read"}) || res.Plan != "standard" {
		t.Errorf("resolved as %+v", res)
	}
	if _, err := h.resolve(wire.TypeAPIKey, far.Key); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("from another address: %v, want 401", err)
	}
	if err := h.admin(http.MethodPost, wire.AdminAPIKeys, wire.APIKeyRequest{Client: "shop"}, nil); statusOf(err) != http.StatusConflict {
		t.Errorf("a third key: %v, want 409", err)
	}
	must(t, h.admin(http.MethodPost, wire.AdminAPIKeys+"/"+far.ID+wire.SubDisable, nil, nil))
	h.mustAdmin(wire.AdminClients+"/shop"+wire.SubRotate, wire.RotateKey{Overlap: 3600}, &next)
	var list []wire.APIKeyInfo
	must(t, h.admin(http.MethodGet, wire.AdminAPIKeys+"?client=shop", nil, &list))
	states := map[string]string{}
	for _, k := range list {
		states[k.ID] = k.State
		if k.ID == near.ID && (k.LastUsed.IsZero() || k.Expires.IsZero()) {
			t.Errorf("the old key is %+v, want used and about to end", k)
		}
	}
	if states[near.ID] != "live" || states[next.ID] != "live" || states[far.ID] != "disabled" {
		t.Errorf("states are %v", states)
	}
	var ended wire.Ended
	must(t, h.admin(http.MethodDelete, wire.AdminClients+"/shop", nil, &ended))
	if ended.Keys != 2 {
		t.Errorf("%d keys ended, want 2", ended.Keys)
	}
	for _, k := range []wire.APIKey{near, next} {
		if _, err := h.resolve(wire.TypeAPIKey, k.Key); statusOf(err) != http.StatusUnauthorized {
			t.Errorf("a key of a client that is gone: %v, want 401", err)
		}
	}
}

// TestOwnDevices: people see their own sessions and end them, and nobody
// else's.
func TestOwnDevices(t *testing.T) {
	h := open(t, "")
	h.addUser("ann", "customer")
	h.addUser("bob", "customer")
	here, there, bob := h.browser(), h.browser(), h.browser()
	here.login("ann", password)
	there.do(http.MethodPost, "/login", url.Values{"username": {"ann"}, "password": {password}},
		"User-Agent", `Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 <script>`)
	bob.login("bob", password)
	var mine struct{ Sessions []wire.Session }
	must(t, json.NewDecoder(here.do(http.MethodGet, "/sessions", nil).Body).Decode(&mine))
	if len(mine.Sessions) != 2 || mine.Sessions[0].Device != "Firefox on Linux" || mine.Sessions[0].This || !mine.Sessions[1].This || mine.Sessions[1].IP != "192.0.2.1" {
		t.Fatalf("sessions are %+v", mine.Sessions)
	}
	page := body(t, here.do(http.MethodGet, "/account/sessions", nil))
	if !strings.Contains(page, "Firefox on Linux") || strings.Contains(page, "<script>") || !strings.Contains(strings.ToLower(page), "this device") {
		t.Errorf("page is\n%s", page)
	}
	if res := h.browser().do(http.MethodGet, "/account/sessions", nil); res.Header.Get("Location") != "/login?next=/account/sessions" {
		t.Errorf("a stranger is sent to %q", res.Header.Get("Location"))
	}
	theirs, other := h.sessionsOf("bob")[0].SID, mine.Sessions[0].SID
	for name, tc := range map[string]struct {
		method, path string
		form         url.Values
		header       []string
		status       int
	}{
		"somebody else's session":  {http.MethodDelete, "/sessions?sid=" + theirs, nil, nil, 404},
		"somebody else's, by form": {http.MethodPost, "/account/sessions", url.Values{"do": {"session"}, "id": {theirs}}, nil, 303},
		"a mistyped query":         {http.MethodDelete, "/sessions?sids=" + other, nil, nil, 400},
		"two queries":              {http.MethodDelete, "/sessions?all=true&sid=" + other, nil, nil, 400},
		"another site":             {http.MethodPost, "/account/sessions", url.Values{"do": {"all"}}, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another site, by script":  {http.MethodDelete, "/sessions", nil, []string{"Sec-Fetch-Site", "same-site"}, 403},
		"an unknown button":        {http.MethodPost, "/account/sessions", url.Values{"do": {"some"}}, nil, 400},
	} {
		if got := here.do(tc.method, tc.path, tc.form, tc.header...).StatusCode; got != tc.status {
			t.Errorf("%s: %d, want %d", name, got, tc.status)
		}
	}
	alive := func() []bool {
		var out []bool
		for _, b := range []*browser{here, there, bob} {
			_, err := h.resolve(wire.TypeSession, b.cookie)
			out = append(out, err == nil)
		}
		return out
	}
	if got := alive(); !slices.Equal(got, []bool{true, true, true}) {
		t.Fatalf("after what was refused these live: %v", got)
	}
	if got := here.do(http.MethodDelete, "/sessions", nil).StatusCode; got != http.StatusNoContent {
		t.Errorf("end all others: %d", got)
	}
	h.wantEvent("session.revoke", audit.Allowed, "authn.session", "user:ann")
	if got := alive(); !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("after the others were ended these live: %v", got)
	}
	old := here.cookie
	res := here.do(http.MethodPost, "/account/sessions", url.Values{"do": {"all"}})
	if res.Header.Get("Location") != "/login" || here.cookie != "" {
		t.Errorf("sign out everywhere: to %q, cookie %q", res.Header.Get("Location"), here.cookie)
	}
	if _, err := h.resolve(wire.TypeSession, old); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the session that ended itself: %v", err)
	}
}

// TestServiceDisabled: a disabled service gets nothing, and once it is enabled
// it takes another certificate to act.
func TestServiceDisabled(t *testing.T) {
	h := open(t, "")
	secret := func(as string) int { return statusOf(h.call(as, http.MethodGet, wire.PathSecret+"key", nil, nil)) }
	if got := secret("service/payments"); got != http.StatusOK {
		t.Fatalf("before: %d", got)
	}
	one := wire.AdminServices + "/payments"
	must(t, h.admin(http.MethodPost, one+wire.SubDisable, nil, nil))
	if got := secret("service/payments"); got != http.StatusForbidden {
		t.Errorf("a disabled service asks for a secret: %d, want 403", got)
	}
	h.wantEvent("plane.call", audit.Refused, "mtls.peer_declared", h.sys.ServiceID("payments"))
	if err := h.admin(http.MethodPost, wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "service/payments"}, nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("a join token for it: %v, want 403", err)
	}
	var list []wire.ServiceState
	must(t, h.admin(http.MethodGet, wire.AdminServices, nil, &list))
	if len(list) != 3 || list[0].Name != "mail" || list[0].Disabled || !list[2].Disabled {
		t.Errorf("services are %+v", list)
	}
	h.stop()
	h.start() // it stays disabled
	if got := secret("service/orders"); got != http.StatusForbidden {
		t.Errorf("another service, of whom no flow carries the secret: %d, want 403", got)
	}
	if err := h.admin(http.MethodPost, wire.AdminJoinToken, wire.JoinTokenRequest{Identity: "service/payments"}, nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("after a restart a join token: %v, want 403", err)
	}
	must(t, h.admin(http.MethodPost, one+wire.SubEnable, nil, nil))
	if got := secret("service/payments"); got != http.StatusOK {
		t.Errorf("enabled, with another certificate: %d, want 200", got)
	}
	for path, want := range map[string]int{wire.AdminServices + "/edge": 404, wire.AdminServices + "/paymens": 404} {
		if err := h.admin(http.MethodPost, path+wire.SubDisable, nil, nil); statusOf(err) != want {
			t.Errorf("disable %s: %v, want %d", path, err, want)
		}
	}
}

// TestVoidCertificate: the certificate from before does not come back with the
// service.
func TestVoidCertificate(t *testing.T) {
	h := open(t, "")
	c := h.as("service/payments")
	one := wire.AdminServices + "/payments"
	must(t, h.admin(http.MethodPost, one+wire.SubDisable, nil, nil))
	must(t, h.admin(http.MethodPost, one+wire.SubEnable, nil, nil))
	if err := call(t, c, http.MethodGet, h.url(wire.PathSecret+"key"), nil, nil); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("the certificate from before: %v, want 401", err)
	}
	if err := call(t, c, http.MethodPost, h.url(wire.PathRenew), wire.RenewRequest{}, nil); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("it renews itself: %v, want 401", err)
	}
}

func TestSigningKeys(t *testing.T) {
	h := open(t, "")
	list := func() map[string][]wire.SigningKey {
		var all []wire.SigningKey
		must(t, h.admin(http.MethodGet, wire.AdminSigning, nil, &all))
		out := map[string][]wire.SigningKey{}
		for _, k := range all {
			out[k.Ring] = append(out[k.Ring], k)
		}
		return out
	}
	before := list()
	must(t, h.admin(http.MethodPost, wire.AdminSigning+wire.SubRotate, nil, nil))
	after := list()
	for _, ring := range []string{"internal", "edge", "id"} {
		if len(before[ring]) != 1 || before[ring][0].State != "active" || len(after[ring]) != 2 || after[ring][1].State != "pending" {
			t.Errorf("%s: %+v, then %+v", ring, before[ring], after[ring])
		}
	}
	kid := before["edge"][0].KID
	must(t, h.admin(http.MethodPost, wire.AdminSigning+"/"+kid+wire.SubRevoke, nil, nil))
	if left := list()["edge"]; slices.ContainsFunc(left, func(k wire.SigningKey) bool { return k.KID == kid }) {
		t.Errorf("the revoked key is still there: %+v", left)
	}
	if err := h.admin(http.MethodPost, wire.AdminSigning+"/none"+wire.SubRevoke, nil, nil); statusOf(err) != http.StatusNotFound {
		t.Errorf("an unknown kid: %v, want 404", err)
	}
}
