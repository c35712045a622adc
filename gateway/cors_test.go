package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/monitor/audit"
)

// TestCORS: pages of the origins that a flow names read its answers, refusals
// included; pages of no other do, whatever they and the service say.
func TestCORS(t *testing.T) {
	const app, partner, evil = "https://app.example", "https://partner.example", "https://evil.example"
	h := open(t, shopFlow("    cors: { origins: ["+app+", \""+partner+":8443\"], headers: [X-Request-Source], expose: [Location], credentials: true }\n")...)
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Vary", "Accept")
		io.WriteString(w, "mine")
	})
	ann, session := h.token("ann", "app"), h.login("ann")
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	preflight := func(method string, more ...string) []string {
		return append([]string{"Access-Control-Request-Method", method}, more...)
	}
	for name, tc := range map[string]struct {
		method, path, origin string
		header               []string
		status               int
		readable             bool
	}{
		"a named origin asks before it orders": {"OPTIONS", "/orders", app, preflight("POST", "Access-Control-Request-Headers", "content-type, idempotency-key"), 204, true},
		"with a port":                          {"OPTIONS", "/orders", partner + ":8443", preflight("POST"), 204, true},
		"another port is another origin":       {"OPTIONS", "/orders", partner, preflight("POST"), 403, false},
		"another scheme too":                   {"OPTIONS", "/orders", "http://app.example", preflight("POST"), 403, false},
		"a longer name too":                    {"OPTIONS", "/orders", app + ".evil.example", preflight("POST"), 403, false},
		"no origin at all":                     {"OPTIONS", "/orders", "null", preflight("POST"), 403, false},
		"another origin asks":                  {"OPTIONS", "/orders", evil, preflight("POST"), 403, false},
		"for a method that is not declared":    {"OPTIONS", "/orders", app, preflight("DELETE"), 405, false},
		"of a service that shares nothing":     {"OPTIONS", "/stock/mugs", app, preflight("GET"), 405, false},
		"OPTIONS that asks nothing":            {"OPTIONS", "/orders", app, nil, 405, false},

		"a named origin reads":               {"GET", "/orders/o1", app, []string{"Authorization", ann}, 200, true},
		"with the session":                   {"GET", "/orders/o1", app, []string{"Cookie", session, "Sec-Fetch-Site", "cross-site"}, 200, true},
		"what is refused, too":               {"GET", "/orders/o1", app, nil, 401, true},
		"what has the wrong shape, too":      {"GET", "/orders/O-1", app, []string{"Authorization", ann}, 400, true},
		"another origin does not":            {"GET", "/orders/o1", evil, []string{"Authorization", ann}, 200, false},
		"nor of a service that shares none":  {"GET", "/stock/mugs", app, []string{"Authorization", ann}, 200, false},
		"a named origin acts for the user":   {"POST", "/orders", app, []string{"Cookie", session, "Sec-Fetch-Site", "cross-site", "Rampart-Nonce", "fresh"}, 200, true},
		"another does not":                   {"POST", "/orders", evil, []string{"Cookie", session, "Sec-Fetch-Site", "cross-site", "Rampart-Nonce", "fresh"}, 403, false},
		"nor does one that hides its origin": {"POST", "/orders", "", []string{"Cookie", session, "Sec-Fetch-Site", "cross-site", "Rampart-Nonce", "fresh"}, 403, false},
	} {
		t.Run(name, func(t *testing.T) {
			header := append([]string{}, tc.header...)
			for i, v := range header {
				if v == "fresh" {
					header[i] = freshNonce()
				}
			}
			if tc.origin != "" {
				header = append(header, "Origin", tc.origin)
			}
			body := ""
			if tc.method == "POST" {
				body = good
			}
			res := h.do(tc.method, tc.path, body, header...)
			want, allowed := "", ""
			if tc.readable {
				want, allowed = tc.origin, "true"
			}
			if res.StatusCode != tc.status || res.Header.Get("Access-Control-Allow-Origin") != want || res.Header.Get("Access-Control-Allow-Credentials") != allowed {
				t.Fatalf("%d %v %s; want %d, readable: %v", res.StatusCode, res.Header, res.body, tc.status, tc.readable)
			}
			if vary := strings.Join(res.Header["Vary"], ", "); strings.Contains(vary, "Origin") != strings.HasPrefix(tc.path, "/orders") && tc.status != 405 {
				t.Errorf("Vary: %q", vary)
			}
			if res.StatusCode == 204 && (!strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "Idempotency-Key") || !strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "X-Request-Source") ||
				res.Header.Get("Access-Control-Allow-Methods") != "POST" || res.Header.Get("Access-Control-Max-Age") != "600" || res.Header.Get("Strict-Transport-Security") == "") {
				t.Errorf("preflight: %v", res.Header)
			}
			if tc.method == "OPTIONS" && tc.status == 403 && (h.newest().Control != controlCORS || h.newest().Outcome != audit.Refused) {
				t.Errorf("on record by %q", h.newest().Control)
			}
		})
	}
	if got := h.served(); got == 0 {
		t.Error("nothing reached the service")
	}
}

// TestCORSWithoutCredentials: a page that may read may not therefore act for who
// looks at it.
func TestCORSWithoutCredentials(t *testing.T) {
	const app = "https://app.example"
	h := open(t, shopFlow("    cors: { origins: ["+app+"] }\n")...)
	session := h.login("ann")
	res := h.do("POST", "/orders", good, "Cookie", session, "Origin", app, "Sec-Fetch-Site", "cross-site", "Rampart-Nonce", freshNonce())
	if res.StatusCode != 403 || h.newest().Control != "authn.csrf" || res.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("%d by %q, %v", res.StatusCode, h.newest().Control, res.Header)
	}
}
