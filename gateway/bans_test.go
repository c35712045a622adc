package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rampart-security/rampart"
)

// TestNoPageHasItsVisitorBanned: what a page of another site can have a browser do
// counts against nobody; what takes a credential, or an attack, does.
func TestNoPageHasItsVisitorBanned(t *testing.T) {
	for name, tc := range map[string]struct {
		kind    rampart.Kind
		control string
		header  []string
		counts  bool
	}{
		"a question whether a page may ask":        {rampart.Denied, controlCORS, []string{"Sec-Fetch-Site", "cross-site"}, false},
		"a form of another site":                   {rampart.Denied, "authn.csrf", []string{"Sec-Fetch-Site", "cross-site"}, false},
		"pictures of another site, by the hundred": {rampart.Limited, "limit.ip", []string{"Sec-Fetch-Site", "cross-site"}, false},
		"the same with a forged token":             {rampart.Limited, "limit.ip", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer x"}, true},
		"a flood that is no browser's":             {rampart.Limited, "limit.ip", nil, true},
		"nothing shown":                            {rampart.Unauthenticated, "authn.session", nil, false},
		"a forged session":                         {rampart.Unauthenticated, "authn.session", []string{"Cookie", sessionCookie + "=x"}, true},
		"an attack":                                {rampart.Denied, controlWAF, nil, true},
		"one who is banned":                        {rampart.Limited, controlBan, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			for i := 0; i+1 < len(tc.header); i += 2 {
				r.Header.Set(tc.header[i], tc.header[i+1])
			}
			if got := suspicious(&call{r: r}, rampart.Errorf(tc.kind, tc.control, "no")); got != tc.counts {
				t.Errorf("counts %v, want %v", got, tc.counts)
			}
		})
	}
}
