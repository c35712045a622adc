package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// TestPublic says which paths are the control plane's, and which of those take
// a request of another site: only what proves itself by what it sends.
func TestPublic(t *testing.T) {
	for request, want := range map[string]struct{ public, crossSite bool }{
		"POST /login":                            {true, false},
		"POST /login/step-up":                    {true, false},
		"GET /login.css":                         {true, false},
		"POST /logout":                           {true, false},
		"DELETE /session":                        {true, false},
		"DELETE /sessions":                       {true, false},
		"DELETE /sessions/s1":                    {true, false},
		"POST /account":                          {true, false},
		"POST /account/totp":                     {true, false},
		"GET /oidc/acme/start":                   {true, false},
		"POST /oidc/acme/backchannel-logout":     {true, true},
		"DELETE /oidc/acme/backchannel-logout":   {true, false},
		"POST /oidc/backchannel-logout":          {true, false},
		"POST /oidc//backchannel-logout":         {true, false},
		"POST /oidc/a/b/backchannel-logout":      {true, false},
		"POST /account/x/backchannel-logout":     {true, false},
		"POST /oidc/acme/backchannel-logout/x":   {true, false},
		"POST /oauth2/token":                     {true, true},
		"POST /oauth2/introspect":                {true, true},
		"POST /oauth2/revoke":                    {true, true},
		"POST /oauth2/authorize":                 {true, false},
		"POST /oauth2/logout":                    {true, false},
		"POST /oauth2/token/x":                   {true, false},
		"GET /.well-known/openid-configuration":  {true, false},
		"GET /loginx":                            {false, false},
		"GET /accounts":                          {false, false},
		"GET /oidc":                              {false, false},
		"GET /Account":                           {false, false},
		"POST /orders/oidc/a/backchannel-logout": {false, false},
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := isPublic(path); got != want.public {
			t.Errorf("%s is public: %v", request, got)
		}
		if got := provesItself(method, path); got != want.crossSite {
			t.Errorf("%s proves itself: %v", request, got)
		}
	}
}

// TestCrossSite: what proves itself passes the CSRF stage, without the cookies
// of the browser that may have sent it.
func TestCrossSite(t *testing.T) {
	h := open(t)
	ann := h.login("ann")
	form := []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site", "Cookie", ann}
	for path, want := range map[string]int{"/oauth2/token": 401, "/login": 403, "/logout": 403, "/account": 403} {
		if res := h.do(http.MethodPost, path, "grant_type=x", form...); res.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", path, res.StatusCode, res.body, want)
		}
	}
	c := &call{path: "/oauth2/token"}
	c.r, _ = http.NewRequest(http.MethodPost, "https://edge/oauth2/token", nil)
	c.r.Header.Set("Cookie", ann)
	if got := controlRequest(c, "control").Header.Get("Cookie"); got != "" {
		t.Errorf("a call that proves itself brings the cookie %q", got)
	}
}

// TestRekeyed: an answer that gives the browser another session makes the
// gateway forget what the old cookie stood for.
func TestRekeyed(t *testing.T) {
	h := open(t)
	ann := h.login("ann")
	served := func() bool { return h.do("GET", "/orders/o1", "", "Cookie", ann).StatusCode == 200 }
	if !served() {
		t.Fatal("a session is not served")
	}
	c := &call{}
	c.r, _ = http.NewRequest(http.MethodPost, "https://edge/login/step-up", nil)
	c.r.Header.Set("Cookie", ann)
	answer := func(cookies ...string) { toControl{h.gw}.rekeyed(c, http.Header{"Set-Cookie": cookies}) }
	h.Stop()
	answer("__Host-rampart_login=x; Path=/", "x="+sessionCookie+"=y")
	if !served() {
		t.Error("another cookie made it forget")
	}
	answer("a=b", sessionCookie+"=new; Path=/; Secure")
	if served() {
		t.Error("the old session is still served, though nobody can be asked")
	}
}
