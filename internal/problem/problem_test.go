package problem

import (
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

func TestWrite(t *testing.T) {
	inner := errors.New("dial 10.0.0.7: SECRET")
	for name, tc := range map[string]struct {
		err    error
		status int
		body   string
		header map[string]string
	}{
		"a stranger": {
			&rampart.Error{Kind: rampart.Unauthenticated, Msg: "token expired", Control: "authn.jwt", Err: inner},
			401, `{"type":"urn:rampart:problem:unauthenticated","title":"Unauthorized","status":401,"detail":"token expired","trace":"t1"}`,
			map[string]string{"WWW-Authenticate": "Bearer"},
		},
		"a denial": {
			rampart.Errorf(rampart.Denied, "authz.gateway", "no"),
			403, `{"type":"urn:rampart:problem:denied","title":"Forbidden","status":403,"detail":"no","trace":"t1"}`, nil,
		},
		"an unclassified error says nothing": {
			inner, 500, `{"type":"urn:rampart:problem:internal","title":"Internal Server Error","status":500,"detail":"internal","trace":"t1"}`, nil,
		},
		"an internal error says nothing": {
			rampart.Errorf(rampart.Internal, "", "SECRET"),
			500, `{"type":"urn:rampart:problem:internal","title":"Internal Server Error","status":500,"detail":"internal","trace":"t1"}`, nil,
		},
		"no error is an internal one": {
			nil, 500, `{"type":"urn:rampart:problem:internal","title":"Internal Server Error","status":500,"detail":"internal","trace":"t1"}`, nil,
		},
		"pointers": {
			fmt.Errorf("gateway: %w", &Details{
				Err:    rampart.Errorf(rampart.Invalid, "validate.openapi", "request does not match"),
				Errors: []Field{{Pointer: "/body/amount", Detail: "is required"}},
			}),
			400, `{"type":"urn:rampart:problem:invalid","title":"Bad Request","status":400,"detail":"request does not match","trace":"t1","errors":[{"pointer":"/body/amount","detail":"is required"}]}`, nil,
		},
		"a login that is too weak": {
			StepUp("aal2", 5*time.Minute, "/payments/7?x=1&y=2"),
			401, `{"type":"urn:rampart:problem:unauthenticated","title":"Unauthorized","status":401,"detail":"a stronger or more recent login is required","trace":"t1","step_up":"/login/step-up?acr=aal2\u0026max_age=300\u0026next=%2Fpayments%2F7%3Fx%3D1%26y%3D2"}`,
			map[string]string{"WWW-Authenticate": `Session error="insufficient_user_authentication", error_description="a stronger or more recent login is required", acr_values="aal2", max_age="300"`},
		},
		"a login that is too old, with nobody to send anywhere": {
			StepUp("", time.Minute, ""),
			401, `{"type":"urn:rampart:problem:unauthenticated","title":"Unauthorized","status":401,"detail":"a stronger or more recent login is required","trace":"t1"}`,
			map[string]string{"WWW-Authenticate": `Bearer error="insufficient_user_authentication", error_description="a stronger or more recent login is required", max_age="60"`},
		},
		"a scope that is too narrow": {
			Scope(rampart.Errorf(rampart.Denied, "authz.gateway", "no"), "orders:read"),
			403, `{"type":"urn:rampart:problem:denied","title":"Forbidden","status":403,"detail":"no","trace":"t1"}`,
			map[string]string{"WWW-Authenticate": `Bearer error="insufficient_scope", scope="orders:read"`},
		},
		"another method": {
			&Details{Err: rampart.Errorf(rampart.Invalid, "edge.route", "method not allowed"), Status: 405, Allow: []string{"GET", "POST"}},
			405, `{"type":"urn:rampart:problem:method_not_allowed","title":"Method Not Allowed","status":405,"detail":"method not allowed","trace":"t1"}`,
			map[string]string{"Allow": "GET, POST"},
		},
		"too fast": {
			&Details{Err: rampart.Errorf(rampart.Limited, "limit.ip", "too many requests"), RetryAfter: 1200 * time.Millisecond},
			429, `{"type":"urn:rampart:problem:limited","title":"Too Many Requests","status":429,"detail":"too many requests","trace":"t1","limit":{"control":"limit.ip","name":"ip"}}`,
			map[string]string{"Retry-After": "2"},
		},
		"one of two limits of a control": {
			&Details{Err: rampart.Errorf(rampart.Limited, "limit.api_key", "used up"), Limit: "quota"},
			429, `{"type":"urn:rampart:problem:limited","title":"Too Many Requests","status":429,"detail":"used up","trace":"t1","limit":{"control":"limit.api_key","name":"quota"}}`, nil,
		},
		"a limit of no control": {
			fmt.Errorf("gateway: %w", &Details{Err: rampart.Errorf(rampart.Unavailable, "", "shop is left alone"), Limit: "breaker"}),
			503, `{"type":"urn:rampart:problem:unavailable","title":"Service Unavailable","status":503,"detail":"shop is left alone","trace":"t1","limit":{"name":"breaker"}}`, nil,
		},
		"no limit, but a refusal by its control": {
			rampart.Errorf(rampart.Denied, "limit.api_key", "no plan"),
			403, `{"type":"urn:rampart:problem:denied","title":"Forbidden","status":403,"detail":"no plan","trace":"t1"}`, nil,
		},
		"what heals says when to come back": {
			rampart.Errorf(rampart.Unavailable, "", "busy"),
			503, `{"type":"urn:rampart:problem:unavailable","title":"Service Unavailable","status":503,"detail":"busy","trace":"t1"}`,
			map[string]string{"Retry-After": "1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Write(w, tc.err, "t1")
			body, _ := io.ReadAll(w.Result().Body)
			if w.Code != tc.status {
				t.Errorf("status %d, want %d", w.Code, tc.status)
			}
			if diff := cmp.Diff(tc.body+"\n", string(body)); diff != "" {
				t.Error(diff)
			}
			for _, leak := range []string{"SECRET", "10.0.0.7", "authn.", "authz.", "validate.openapi"} {
				if strings.Contains(string(body), leak) {
					t.Errorf("%q leaves the house", leak)
				}
			}
			want := map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
			for k, v := range tc.header {
				want[k] = v
			}
			for k, v := range want {
				if got := w.Header().Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
		})
	}
}

// TestMessage: people read rules, not names of packages, and "later" is a time.
func TestMessage(t *testing.T) {
	wait := func(d time.Duration) error {
		return With(rampart.Errorf(rampart.Limited, "limit.login", "too many failed attempts; try again later"), Details{RetryAfter: d})
	}
	for want, err := range map[string]error{
		"a nonce is required":                               rampart.Errorf(rampart.Invalid, "", "token: a nonce is required"),
		"key is not known":                                  rampart.Errorf(rampart.Invalid, "", "api key: key is not known"),
		"orders: none of this name":                         rampart.Errorf(rampart.Invalid, "", "orders: none of this name"),
		"internal":                                          rampart.Errorf(rampart.Internal, "", "token: SECRET"),
		"too many failed attempts; try again later":         wait(0),
		"too many failed attempts; try again in 1 second":   wait(time.Millisecond),
		"too many failed attempts; try again in 90 seconds": wait(90 * time.Second),
		"too many failed attempts; try again in 15 minutes": wait(15*time.Minute - time.Second),
		"too many failed attempts; try again in 30 days":    wait(30 * 24 * time.Hour),
	} {
		if got := Message(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestWritePage: a person reads a page that says as much as the document, runs
// nothing and shows nothing as markup.
func TestWritePage(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		status int
		want   string
	}{
		"a limit":        {rampart.Errorf(rampart.Limited, "limit.ip", "too many requests; try again in 3 seconds"), 429, "Too many requests; try again in 3 seconds."},
		"no page":        {rampart.Errorf(rampart.NotFound, "edge.route", "no such resource"), 404, "There is no such page."},
		"down":           {rampart.Errorf(rampart.Unavailable, "", "shop does not answer"), 503, "This is not possible right now."},
		"broken":         {errors.New("SECRET at 10.0.0.7"), 500, "Something broke on our side."},
		"a hostile text": {rampart.Errorf(rampart.Denied, "", "<script>alert(1)</script>"), 403, "&lt;script&gt;alert(1)&lt;/script&gt;."},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			WritePage(w, tc.err, "4bf92f3577b34da6a3ce929d0e0e4736", "Mugs & more")
			body := w.Body.String()
			if w.Code != tc.status || !strings.Contains(body, tc.want) || !strings.Contains(body, "<code>4bf92f3577b34da6a3ce929d0e0e4736</code>") || !strings.Contains(body, `<a href="/">Back to Mugs &amp; more</a>`) {
				t.Errorf("%d %s", w.Code, body)
			}
			for _, leak := range []string{"<script", "SECRET", "limit.ip", "%!"} {
				if strings.Contains(body, leak) {
					t.Errorf("the page has %q", leak)
				}
			}
			h := w.Header()
			if h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Cache-Control") != "no-store" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self';") {
				t.Errorf("headers %v", h)
			}
			if heals := tc.status == 429 || tc.status == 503; heals != (h.Get("Retry-After") != "") {
				t.Errorf("Retry-After %q", h.Get("Retry-After"))
			}
		})
	}
}
