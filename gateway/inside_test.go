package gateway

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/spec"
)

// looker is a guide that keeps what it saw.
type looker struct{ saw http.Header }

func (l *looker) Clean(r *waf.Request) bool { l.saw = maps.Clone(r.Header); return true }

// TestInside: the rules see the fields that the service gets, and what else it gets of
// the caller's text; none of that stays among the fields.
func TestInside(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/orders", nil)
	r.Header = http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {"7"}, "User-Agent": {""}, "X-Region": {"eu"}, "X-Other": {"no"},
		"Authorization": {"Bearer secret"}, "Cookie": {sessionCookie + "=secret"}, "Idempotency-Key": {"k1"}, "Connection": {"X-Region2"}, "Accept": {"*/*"},
	}
	kept := http.Header{"Content-Type": {"application/json"}, "X-Region": {"eu"}, "Accept": {"*/*"}}
	for name, tc := range map[string]struct {
		body string
		idem *spec.Idempotency
		saw  http.Header
	}{
		"a body":                  {`{"a":1}`, nil, http.Header{"Content-Length": {"7"}}},
		"a body of other spaces":  {`{"a":12}`, nil, http.Header{"Content-Length": {"8"}}},
		"none":                    {"", nil, http.Header{"Content-Length": {"0"}}},
		"with an idempotency key": {`{"a":1}`, &spec.Idempotency{Header: "Idempotency-Key"}, http.Header{"Content-Length": {"7"}, agent.HeaderIdem: {"k1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &call{r: r, path: "/orders", body: []byte(tc.body), hasBody: tc.body != "", target: &target{
				name: "shop", mount: "/", svc: spec.Service{Headers: []string{"X-Region", "Authorization"}}, flow: spec.Flow{Idempotency: tc.idem},
			}}
			var by looker
			var guide waf.Guide = &by
			i := &inspector{engine: &waf.Engine{}, guide: &guided{}}
			i.guide.guide.Store(&guide)
			if v, err := i.inspect(c); err != nil || v.Mode != waf.ModeSkip {
				t.Fatalf("%v, %v", v, err)
			}
			maps.Copy(tc.saw, kept)
			if diff := cmp.Diff(tc.saw, by.saw); diff != "" {
				t.Errorf("the rules saw (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(kept, c.inside()); diff != "" {
				t.Errorf("the service gets (-want +got):\n%s", diff)
			}
		})
	}
}
