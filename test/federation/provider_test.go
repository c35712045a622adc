package federation

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/freeport"
)

// certified starts oidc-provider, a certified OpenID provider, as the host
// idp.example, for a system that runs already.
func certified(t *testing.T, h *house, ca authority, port string) *output {
	t.Helper()
	cert, key := ca.issue("idp.example")
	settings, err := json.Marshal(map[string]any{
		"issuer": "https://idp.example", "port": port, "cert": cert, "key": key, "client": "rampart", "secret": "of both, for this test",
		"redirect": edge + "/oidc/corp/callback", "logout": "https://" + localhost(h.gw.Addr()) + "/oidc/corp/backchannel-logout",
	})
	must(t, err)
	cmd := exec.Command("node", "server.mjs")
	cmd.Dir = "provider"
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+h.State.Path("ca.pem"), "NODE_ENV=production")
	cmd.Stdin = bytes.NewReader(settings)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "ready"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the provider does not start:\n%s", out)
		}
	}
	return out
}

func localhost(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "localhost:" + port
}

// needProvider skips the test where oidc-provider is not installed.
func needProvider(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join("provider", "node_modules", "oidc-provider"))
	}
	if err == nil {
		return
	}
	if os.Getenv("RAMPART_PEERS") == "required" {
		t.Fatalf("oidc-provider is required: %v", err)
	}
	t.Skipf("oidc-provider is not here, test/install.sh gets it: %v", err)
}

var xsrf = regexp.MustCompile(`name="xsrf" value="([^"]+)"`)

// TestCertifiedProvider: the whole way at a provider that we did not write and
// that insists on the standard: PKCE, nonce, issuer in the answer, claims from
// userinfo, and a logout that it tells us of by itself.
func TestCertifiedProvider(t *testing.T) {
	t.Parallel()
	needProvider(t)
	ca, port := newAuthority(t), freeport.Take(t)
	h := open(t, "https://idp.example", "127.0.0.1:"+port, ca.pem(),
		`link: create, domains: [corp.example], scopes: [openid, email, groups], roles: { claim: groups, map: { admins: customer } }`)
	h.secret("of both, for this test")
	out := certified(t, h, ca, port)

	b := h.browser()
	b.get(enter)
	who := b.who()
	if !strings.HasPrefix(who.Subject, "user:corp-") || !slices.Equal(who.Roles, []string{"customer"}) {
		t.Fatalf("signed in as %+v\n%s", who, out)
	}
	if !strings.Contains(out.String(), "grant.success S256") {
		t.Errorf("the provider saw no S256:\n%s", out)
	}
	at := slices.IndexFunc(b.trail, func(a string) bool { return strings.HasPrefix(a, edge+"/oidc/corp/callback?") })
	answer, err := url.Parse(b.trail[at])
	must(t, err)
	if iss := answer.Query().Get("iss"); iss != "https://idp.example" {
		t.Errorf("the provider answers as %q", iss)
	}
	t.Logf("signed in at oidc-provider as %s: code, PKCE S256, nonce, iss, userinfo", who.Subject)

	stranger := h.browser()
	if p := stranger.get(answer.String()); p.StatusCode != http.StatusUnauthorized || stranger.who().Subject != "" {
		t.Errorf("the answer in another browser: %s", p.Status)
	}
	// A step-up asks the provider for a fresh proof, and gets one.
	time.Sleep(2100 * time.Millisecond) // the provider counts whole seconds
	before := len(b.trail)
	b.get("/login/oidc/corp?max_age=1&next=%2Fsession")
	if !slices.ContainsFunc(b.trail[before:], func(a string) bool { return strings.Contains(a, "/interaction/") }) || b.who().Subject != who.Subject {
		t.Errorf("asked for a fresh proof, the provider took an old one: %q", b.trail[before:])
	}

	p := b.get("https://idp.example/session/end")
	m := xsrf.FindStringSubmatch(p.text)
	if m == nil {
		t.Fatalf("no logout form: %s %s", p.Status, p.text)
	}
	b.post("https://idp.example/session/end/confirm", url.Values{"xsrf": {m[1]}, "logout": {"yes"}})
	h.Until("the provider has told us", func() bool { return strings.Contains(out.String(), "backchannel.") })
	if !strings.Contains(out.String(), "backchannel.success") {
		t.Fatalf("the provider's logout token is not taken:\n%s", out)
	}
	if b.who().Subject != "" {
		t.Error("signed out there, signed in here")
	}
	if e := h.last("federation.logout"); e.Detail["sessions"] != "1" {
		t.Errorf("on record: %+v", e)
	}
	t.Log("signed out at oidc-provider: its logout token ended the session here")
}
