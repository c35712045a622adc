package authz

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func obliged(effect rampart.Effect, list ...rampart.Obligation) rampart.Decision {
	return rampart.Decision{Effect: effect, Obligations: list}
}

func stepUpTo(properties ...string) rampart.Obligation {
	o := rampart.Obligation{ID: "p", Type: "step-up", Properties: map[string]string{}}
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		o.Properties[name] = value
	}
	return o
}

// TestObligations: a permit counts when all that it obliges to was carried out.
func TestObligations(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	strong := rampart.Principal{Subject: "user:alice", ACR: "aal2", AuthTime: now.Add(-time.Minute)}
	weak := rampart.Principal{Subject: "user:alice", ACR: "aal1", AuthTime: now.Add(-time.Minute)}
	mail := rampart.Obligation{ID: "p", Type: "notification"}
	for name, tc := range map[string]struct {
		by       rampart.Principal
		decision rampart.Decision
		mail     error // of the handler
		want     rampart.Kind
		allowed  bool
		stepUp   string // challenge
		mails    int
	}{
		"nothing asked":                    {by: weak, decision: obliged(rampart.Allow), allowed: true},
		"strong enough":                    {by: strong, decision: obliged(rampart.Allow, stepUpTo("acr=aal2")), allowed: true},
		"not strong enough":                {by: weak, decision: obliged(rampart.Allow, stepUpTo("acr=aal2")), want: rampart.Unauthenticated, stepUp: `acr_values="aal2"`},
		"nobody logged in":                 {decision: obliged(rampart.Allow, stepUpTo("acr=aal1")), want: rampart.Unauthenticated, stepUp: `acr_values="aal1"`},
		"recent enough":                    {by: weak, decision: obliged(rampart.Allow, stepUpTo("max_age=2m")), allowed: true},
		"recent enough, in seconds":        {by: weak, decision: obliged(rampart.Allow, stepUpTo("max_age=120")), allowed: true},
		"too long ago":                     {by: strong, decision: obliged(rampart.Allow, stepUpTo("acr=aal2", "max_age=30")), want: rampart.Unauthenticated, stepUp: `max_age="30"`},
		"a level that nobody knows":        {by: strong, decision: obliged(rampart.Allow, stepUpTo("acr=aal9")), want: rampart.Denied},
		"an age that nobody knows":         {by: strong, decision: obliged(rampart.Allow, stepUpTo("max_age=soon")), want: rampart.Denied},
		"a denial that a login would turn": {by: weak, decision: obliged(rampart.Deny, stepUpTo("acr=aal2")), want: rampart.Unauthenticated, stepUp: `acr_values="aal2"`},
		"a denial that it would not":       {by: strong, decision: obliged(rampart.Deny, stepUpTo("acr=aal2")), want: rampart.Denied},
		"of the service's own":             {by: weak, decision: obliged(rampart.Allow, mail), allowed: true, mails: 1},
		"of its own, and failed":           {by: weak, decision: obliged(rampart.Allow, mail), mail: errors.New("no mail"), want: rampart.Denied, mails: 1},
		"of a denial":                      {by: weak, decision: obliged(rampart.Deny, mail), want: rampart.Denied, mails: 1},
		"unknown":                          {by: weak, decision: obliged(rampart.Allow, rampart.Obligation{Type: "custom"}, mail), want: rampart.Denied, mails: 1},
		"none, of a denial with a word":    {by: weak, decision: rampart.Decision{ReasonUser: "not on Sundays"}, want: rampart.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			mails := 0
			q := asked([]Option{Handling("notification", func(context.Context, rampart.Obligation) error { mails++; return tc.mail })})
			q.now = func() time.Time { return now }
			err := q.enforce(rampart.WithPrincipal(t.Context(), tc.by), tc.decision)
			if (err == nil) != tc.allowed || err != nil && rampart.KindOf(err) != tc.want || mails != tc.mails {
				t.Fatalf("got %v with %d mails, want allowed %v with %d", err, mails, tc.allowed, tc.mails)
			}
			if w := httptest.NewRecorder(); err != nil {
				problem.Write(w, err, "")
				if got := w.Header().Get("WWW-Authenticate"); !strings.Contains(got, tc.stepUp) || (got == "") != (tc.want == rampart.Denied) {
					t.Errorf("challenge %q, want %q", got, tc.stepUp)
				}
				if word := tc.decision.ReasonUser; !strings.Contains(w.Body.String(), word) {
					t.Errorf("the user is told %s, want %q", w.Body, word)
				}
			}
		})
	}
}

func connected(t *testing.T, a *sdktest.Agent) (*sdk.Service, context.Context) {
	t.Helper()
	a.Info.Name = "orders"
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return svc, as(t, a, svc, "user:alice")
}

func TestWhatIsAsked(t *testing.T) {
	var got agent.CheckRequest
	svc, ctx := connected(t, &sdktest.Agent{Check: func(r agent.CheckRequest) rampart.Decision {
		got = r
		return rampart.Decision{Effect: rampart.Allow, Fields: &rampart.Fields{Mask: []string{"total"}}, Revision: rampart.Revision{Relations: 7}}
	}})
	d, err := Decide(ctx, svc, "orders:read", order, AtLeast(7), AtLeast(3), With(map[string]any{"purpose": "audit"}), With(map[string]any{"ticket": int64(4)}),
		Handling("notification", func(context.Context, rampart.Obligation) error { return nil }))
	if err != nil || d.Fields == nil || d.Revision.Relations != 7 {
		t.Fatalf("%+v, %v", d, err)
	}
	if got.AtLeast != 7 || len(got.Context) != 2 || !slices.Equal(got.Supported, []string{"notification", "step-up"}) {
		t.Errorf("asked %+v", got)
	}
}

func TestCheckMany(t *testing.T) {
	calls := 0
	a := &sdktest.Agent{Check: func(r agent.CheckRequest) (d rampart.Decision) {
		calls++
		if r.Resource.ID == "mine" && r.Identity != "" {
			d.Effect = rampart.Allow
		}
		return d
	}}
	svc, ctx := connected(t, a)
	resources := make([]rampart.Resource, agent.MaxMany+10)
	for i := range resources {
		resources[i] = rampart.Resource{Type: "order", ID: "other"}
	}
	resources[3].ID, resources[agent.MaxMany+1].ID = "mine", "mine"
	for i, err := range CheckMany(ctx, svc, "orders:read", resources) {
		if (err == nil) != (resources[i].ID == "mine") {
			t.Errorf("%d: %v", i, err)
		}
	}
	if calls != len(resources) {
		t.Errorf("%d decisions", calls)
	}
	for _, err := range CheckMany(t.Context(), svc, "orders:read", resources) {
		if rampart.KindOf(err) != rampart.Denied {
			t.Fatalf("nobody asks: %v", err)
		}
	}
}
