package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func get(t *testing.T, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	p := rampart.Principal{Subject: "user:alice", Team: "red", Organizations: []string{"acme"}}
	w := httptest.NewRecorder()
	routes(slog.New(slog.DiscardHandler)).ServeHTTP(w, r.WithContext(rampart.WithPrincipal(r.Context(), p)))
	return w
}

func TestFiles(t *testing.T) {
	for path, media := range map[string]string{
		"/": "text/html; charset=utf-8", "/receipt?id=pay_1": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8",
		"/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml",
	} {
		w := get(t, "GET", path)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != media {
			t.Errorf("%s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
	for path, status := range map[string]int{"/index.html": 404, "/static/app.js": 404, "/..%2fmain.go": 404} {
		if got := get(t, "GET", path).Code; got != status {
			t.Errorf("%s: %d, want %d", path, got, status)
		}
	}
	if got := get(t, "POST", "/").Code; got != http.StatusMethodNotAllowed {
		t.Errorf("POST /: %d", got)
	}
}

// What the policy would block is not in the page: nothing inline, nothing from
// elsewhere. And no text becomes HTML.
func TestThePageKeepsItsPolicy(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<script(?:>|[^>]*>[^<])|<style|\sstyle=|\son[a-z]+=|javascript:|(?:src|href)="(?:https?:)?//`)
	for _, path := range []string{"/", "/receipt"} {
		if found := inline.FindString(get(t, "GET", path).Body.String()); found != "" {
			t.Errorf("%s holds %q", path, found)
		}
	}
	sink := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\.style\b|localStorage|sessionStorage`)
	if found := sink.FindString(get(t, "GET", "/app.js").Body.String()); found != "" {
		t.Errorf("the script uses %q", found)
	}
}

// The browser test finds these elements.
func TestTheScriptFindsItsElements(t *testing.T) {
	pages := get(t, "GET", "/").Body.String() + get(t, "GET", "/receipt").Body.String()
	script := get(t, "GET", "/app.js").Body.String()
	for _, m := range regexp.MustCompile(`\$\("([a-z-]+)"\)`).FindAllStringSubmatch(script, -1) {
		if !strings.Contains(pages, `id="`+m[1]+`"`) {
			t.Errorf("no page has #%s", m[1])
		}
	}
	for _, id := range []string{"orders", "receipt", "logout", "who", "new-order", "pay-dialog"} {
		if !strings.Contains(pages, `id="`+id+`"`) {
			t.Errorf("no page has #%s", id)
		}
	}
}

func TestMe(t *testing.T) {
	var got struct {
		Subject       string
		Organizations []string
	}
	if err := json.Unmarshal(get(t, "GET", "/me").Body.Bytes(), &got); err != nil || got.Subject != "user:alice" || len(got.Organizations) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
