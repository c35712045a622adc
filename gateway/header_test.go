package gateway

import (
	"net/http"
	"testing"
)

// TestHeadersInside: what a service may read is named, in its document, in the
// file, or by us. What a framework may take for identity, for an address or for
// another method stops at the edge, whatever its name is.
func TestHeadersInside(t *testing.T) {
	h := open(t)
	ann := h.token("ann", "app")
	forged := []string{
		"Authorization", ann,
		"Remote-User", "root", "X-Remote-User", "root", "X-Webauth-User", "root", "X-Authenticated-User", "root", "X-User-Id", "1", "X-Amzn-Oidc-Identity", "root",
		"Ssl-Client-Verify", "SUCCESS", "X-Client-Cert", "x", "X-Real-Ip", "127.0.0.1", "True-Client-Ip", "127.0.0.1", "X-Forwarded-User", "root", "X-Forwarded-For", "127.0.0.1",
		"X-Original-Url", "/admin", "X-Rewrite-Url", "/admin", "X-Http-Method-Override", "DELETE", "Proxy", "http://evil.example", "Origin", "https://localhost", "Date", "x",
	}
	for _, tc := range []struct {
		path   string
		passes []string
	}{
		{"/orders/o1", []string{"Accept", "application/json", "If-None-Match", `"1"`, "User-Agent", "test", "X-Request-Source", "web"}},
		{"/stock/mugs", []string{"Accept", "application/json", "Range", "bytes=0-1", "X-Kept", "1"}},
	} {
		if res := h.do("GET", tc.path, "", append(forged, tc.passes...)...); res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", tc.path, res.StatusCode, res.body)
		}
		h.mu.Lock()
		got := h.last.Header
		h.mu.Unlock()
		for i := 2; i < len(forged); i += 2 {
			if v := got.Get(forged[i]); v != "" {
				t.Errorf("%s: the service got %s: %s", tc.path, forged[i], v)
			}
		}
		for i := 0; i < len(tc.passes); i += 2 {
			if v := got.Get(tc.passes[i]); v != tc.passes[i+1] {
				t.Errorf("%s: the service got %s: %q, want %q", tc.path, tc.passes[i], v, tc.passes[i+1])
			}
		}
	}
}
