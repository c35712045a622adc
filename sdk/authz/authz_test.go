package authz

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/httpguard"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

var order = rampart.Resource{Type: "order", ID: "1", Tenant: "acme", Attrs: map[string]any{"owner": "user:alice"}}

// as returns the context of a request that the guard let in.
func as(t *testing.T, a *sdktest.Agent, svc *sdk.Service, subject string) context.Context {
	t.Helper()
	var ctx context.Context
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(agent.HeaderIdentity, a.Identity(rampart.Principal{Subject: subject, Organizations: []string{"acme"}}, "10"))
	httpguard.New(svc).Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx = context.WithoutCancel(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
	return ctx
}

func TestCheck(t *testing.T) {
	allow := func(agent.CheckRequest) rampart.Decision { return rampart.Decision{Effect: rampart.Allow} }
	for name, tc := range map[string]struct {
		check     func(agent.CheckRequest) rampart.Decision
		off       []string
		anonymous bool
		want      rampart.Kind
		allowed   bool
	}{
		"permitted":                           {check: allow, allowed: true},
		"no policy permits":                   {check: nil, want: rampart.Denied},
		"nobody asks":                         {check: allow, anonymous: true, want: rampart.Denied},
		"off in a throw-away system":          {off: []string{"authz.domain"}, allowed: true},
		"another control off changes nothing": {off: []string{"authz.gateway"}, want: rampart.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders", Off: tc.off}, Check: tc.check}
			sdktest.Start(t, a)
			svc, err := sdk.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if !tc.anonymous {
				ctx = as(t, a, svc, "user:alice")
			}
			err = Check(ctx, svc, "orders:read", order)
			if (err == nil) != tc.allowed || err != nil && rampart.KindOf(err) != tc.want {
				t.Errorf("got %v, want allowed %v", err, tc.allowed)
			}
		})
	}
}

// The subject of a decision is the sidecar's own signature, not a claim.
func TestCheckSendsTheSignedIdentity(t *testing.T) {
	var got agent.CheckRequest
	a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders"}, Check: func(r agent.CheckRequest) rampart.Decision {
		got = r
		return rampart.Decision{}
	}}
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := as(t, a, svc, "user:bob")
	if err := Check(rampart.WithPrincipal(ctx, rampart.Principal{Subject: "user:alice"}), svc, "orders:read", order); err == nil {
		t.Error("the zero decision allowed")
	}
	if got.Identity == "" || got.Action != "orders:read" || got.Resource.ID != "1" {
		t.Errorf("asked %+v", got)
	}
}

func TestCheckRefusesWithoutSidecar(t *testing.T) {
	a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders"}, Check: func(agent.CheckRequest) rampart.Decision { panic(http.ErrAbortHandler) }}
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(as(t, a, svc, "user:alice"), svc, "orders:read", order); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}

// TestUndecidedIsAskedOnceMore: what could not be decided is asked a second time
// and never a third; a decision is not asked again.
func TestUndecidedIsAskedOnceMore(t *testing.T) {
	undecided := rampart.Decision{Code: rampart.CodeTimeout}
	for name, tc := range map[string]struct {
		answers []rampart.Decision
		asked   int
		refused rampart.Kind
		allowed bool
	}{
		"decided the second time":   {answers: []rampart.Decision{undecided, {Effect: rampart.Allow}}, asked: 2, allowed: true},
		"denied the second time":    {answers: []rampart.Decision{undecided, {Code: rampart.CodeNoPermit}}, asked: 2, refused: rampart.Denied},
		"undecided again":           {answers: []rampart.Decision{undecided, undecided, {Effect: rampart.Allow}}, asked: 2, refused: rampart.Unavailable},
		"a denial is a denial":      {answers: []rampart.Decision{{Code: rampart.CodeForbidden}, {Effect: rampart.Allow}}, asked: 1, refused: rampart.Denied},
		"an engine's error as well": {answers: []rampart.Decision{{Code: rampart.CodeError}, {Effect: rampart.Allow}}, asked: 1, refused: rampart.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders"}, Check: func(agent.CheckRequest) rampart.Decision {
				asked++
				return tc.answers[asked-1]
			}}
			sdktest.Start(t, a)
			svc, err := sdk.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = Check(as(t, a, svc, "user:alice"), svc, "orders:read", order)
			if asked != tc.asked || (err == nil) != tc.allowed || err != nil && rampart.KindOf(err) != tc.refused {
				t.Errorf("asked %d times, got %v; want %d times, allowed %v", asked, err, tc.asked, tc.allowed)
			}
		})
	}
}
