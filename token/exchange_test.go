package token_test

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

func TestExchangeCarriesWhoAndThroughWhom(t *testing.T) {
	h := newHouse(t, "")
	first := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	second := h.mustExchange("a", wire.TypeJWT, first, "b")
	got, err := h.read(second, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	want := h.people["user:ann"]
	want.Session, want.AuthTime = "sid-ann", h.started.UTC().Truncate(time.Second)
	want.Actors = []string{h.sys.ServiceID("a"), h.sys.ServiceID("edge")}
	if diff := cmp.Diff(want, got.Principal()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if life := got.Expires - h.clock.Unix(); life != 120 {
		t.Errorf("the token lives %d s, want 120", life)
	}
	if _, err := h.read(second, "edge", "b"); jwt.Rule(err) != "cnf" {
		t.Errorf("another peer presents it: %v, want the binding to refuse", err)
	}
	e := h.last()
	if e.Action != "token.exchange" || e.Outcome != audit.Allowed || e.Control != "token.exchange" || e.Flow != "ab" || e.Subject != "user:ann" || e.Actor != h.sys.ServiceID("a") || e.Detail["jti"] != got.ID {
		t.Errorf("recorded as %+v", e)
	}
}

func TestExchangeOfEachKind(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	for _, tc := range []struct {
		from, kind, value, to string
		subject               string
		life                  int64
	}{
		{"edge", wire.TypeSession, "ann", "a", "user:ann", 120},
		{"edge", wire.TypeAPIKey, "rk_shop", "a", "client:shop", 30}, // never past the subject's own end
		{"edge", wire.TypeJWT, access, "a", "user:ann", 120},
		{"edge", wire.TypeAccess, access, "a", "user:ann", 120},
		{"own", wire.TypeJWT, access, "b", "user:ann", 120},    // the file says per_service
		{"own", wire.TypeSession, "ann", "b", "user:ann", 120}, // likewise
		{"a", wire.TypeSVIDOnly, "", "b", h.sys.ServiceID("a"), 120},
	} {
		text, err := h.exchange(tc.from, tc.kind, tc.value, tc.to)
		if err != nil {
			t.Errorf("%s shows %s: %v", tc.from, tc.kind, err)
			continue
		}
		got, err := h.read(text, tc.from, tc.to)
		if err != nil || got.Subject != tc.subject || got.Expires-h.clock.Unix() != tc.life {
			t.Errorf("%s shows %s: %s for %d s, %v; want %s for %d s", tc.from, tc.kind, got.Subject, got.Expires-h.clock.Unix(), err, tc.subject, tc.life)
		}
	}
}

func TestExchangeRefuses(t *testing.T) {
	h := newHouse(t, "")
	access := h.login("shop").AccessToken
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	forB := h.mustExchange("a", wire.TypeJWT, forA, "b")
	forC := h.mustExchange("b", wire.TypeJWT, forB, "c")
	forD := h.mustExchange("c", wire.TypeJWT, forC, "d")
	for _, tc := range []struct {
		name, from, kind, value, to, code string
	}{
		{"an undeclared flow", "a", wire.TypeJWT, forA, "c", "invalid_target"},
		{"a flow backwards", "b", wire.TypeJWT, forB, "a", "invalid_target"},
		{"oneself", "a", wire.TypeJWT, forA, "a", "invalid_target"},
		{"a token for another service", "b", wire.TypeJWT, forA, "c", "invalid_grant"},
		{"a session shown by a service", "a", wire.TypeSession, "ann", "b", "unauthorized_client"},
		{"an API key shown by a service", "a", wire.TypeAPIKey, "rk_shop", "b", "unauthorized_client"},
		{"a client's token shown by a service", "a", wire.TypeJWT, access, "b", "invalid_grant"},
		{"an internal token shown by the gateway", "edge", wire.TypeJWT, forA, "a", "invalid_grant"},
		{"an unknown session", "edge", wire.TypeSession, "eve", "a", "invalid_grant"},
		{"a fifth actor", "d", wire.TypeJWT, forD, "e", "invalid_grant"},
		{"a subject token with the service as itself", "a", wire.TypeSVIDOnly, forA, "b", "invalid_request"},
		{"no subject token", "edge", wire.TypeSession, "", "a", "invalid_request"},
		{"an unknown type", "edge", "urn:x", "ann", "a", "invalid_request"},
		{"nonsense", "a", wire.TypeJWT, "a.b.c", "b", "invalid_grant"},
	} {
		_, err := h.exchange(tc.from, tc.kind, tc.value, tc.to)
		if err == nil || token.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
			continue
		}
		if e := h.last(); e.Outcome != audit.Refused || e.Control == "" || e.Code != tc.code {
			t.Errorf("%s: recorded as %+v", tc.name, e)
		}
	}
	for name, add := range map[string]url.Values{
		"two audiences":        {"audience": {h.sys.ServiceID("b"), h.sys.ServiceID("c")}},
		"an actor token":       {"actor_token": {forA}},
		"an actor's own token": {"actor_token": {forA}, "actor_token_type": {wire.TypeJWT}},
		"another resource":     {"resource": {"https://api.example/"}},
		"a refresh token back": {"requested_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}},
	} {
		form := url.Values{"audience": {h.sys.ServiceID("b")}, "subject_token_type": {wire.TypeJWT}, "subject_token": {forA}}
		maps.Copy(form, add)
		if _, err := h.Exchange(t.Context(), h.caller("a"), form); token.CodeOf(err) != "invalid_request" {
			t.Errorf("%s: %v, want invalid_request", name, err)
		}
	}
}

// TestExchangeOff: where a throw-away file drops the control, the two rules
// are gone. That is what makes their probes able to fail.
func TestExchangeOff(t *testing.T) {
	h := newHouse(t, "unsafe: { disable: [token.exchange] }\n")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	h.mustExchange("b", wire.TypeJWT, forA, "d")
}

func BenchmarkExchange(b *testing.B) {
	h := newHouse(b, "")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	b.ReportAllocs()
	for b.Loop() {
		h.events = h.events[:0]
		h.mustExchange("a", wire.TypeJWT, forA, "b")
	}
}

// limit makes ann's credentials good for these permissions only.
func (h *house) limit(scope ...string) {
	ann := h.people["user:ann"]
	ann.Scope = scope
	h.people["user:ann"] = ann
}

func TestExchangeNarrowsScope(t *testing.T) {
	for _, tc := range []struct {
		name      string
		subject   []string // nil: not limited
		from, to  string
		requested string
		want      string // "": not limited
		code      string // of a refusal
	}{
		{"nothing is limited", nil, "own", "b", "", "", ""},
		{"asking narrows", nil, "own", "b", "orders:read", "orders:read", ""},
		{"the flow narrows", nil, "own", "c", "", "orders:* payments:read", ""},
		{"the subject's limit goes on", []string{"mail:send"}, "own", "b", "", "mail:send", ""},
		{"what both cover", []string{"orders:read", "payments:*", "mail:send"}, "own", "c", "", "orders:read payments:read", ""},
		{"asking for less of it", []string{"orders:read", "payments:*"}, "own", "c", "payments:read", "payments:read", ""},
		{"two flows let either through", nil, "c", "own", "", "orders:read payments:read", ""},
		{"more than the subject has", []string{"orders:read"}, "own", "b", "orders:write", "", "invalid_scope"},
		{"a family for one of it", []string{"orders:read"}, "own", "b", "orders:*", "", "invalid_scope"},
		{"more than the flow lets through", nil, "own", "c", "payments:write", "", "invalid_scope"},
		{"part of it is too much", nil, "own", "c", "orders:read payments:write", "", "invalid_scope"},
		{"nothing in common", []string{"mail:send"}, "own", "c", "", "", "invalid_scope"},
		{"nothing to begin with", []string{}, "own", "b", "", "", "invalid_scope"},
		{"no permission", nil, "own", "b", "admin", "", "invalid_scope"},
		{"a protocol scope", nil, "own", "b", "openid", "", "invalid_scope"},
		{"two spaces", nil, "own", "b", "orders:read  orders:write", "", "invalid_scope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			h.limit(tc.subject...)
			kind, value := wire.TypeSession, "ann"
			if tc.from != "own" {
				kind, value = wire.TypeSVIDOnly, ""
			}
			form := h.asked(kind, value, tc.to)
			if tc.requested != "" {
				form.Set("scope", tc.requested)
			}
			x, err := h.Exchange(t.Context(), h.caller(tc.from), form)
			if tc.code != "" {
				if token.CodeOf(err) != tc.code || h.last().Code != tc.code {
					t.Fatalf("%v, recorded as %q; want %s", err, h.last().Code, tc.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := h.read(x.AccessToken, tc.from, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(got.Scope, " "); text != tc.want || x.Scope != tc.want {
				t.Errorf("token has scope %q, answer says %q; want %q", text, x.Scope, tc.want)
			}
			if limited := got.Principal().Scope != nil; limited != (tc.want != "") {
				t.Errorf("the principal is limited: %t", limited)
			}
		})
	}
}

// TestExchangeCarriesAssurance: who has logged in how, and when, is the same at
// the end of the chain; so is the id of its first token.
func TestExchangeCarriesAssurance(t *testing.T) {
	h := newHouse(t, "")
	ann := h.people["user:ann"]
	ann.ACR, ann.AMR = "aal2", []string{"pwd", "otp"}
	h.people["user:ann"] = ann
	text := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	first, err := h.read(text, "edge", "a")
	if err != nil {
		t.Fatal(err)
	}
	from := "a"
	for _, to := range []string{"b", "c", "d"} {
		text = h.mustExchange(from, wire.TypeJWT, text, to)
		got, err := h.read(text, from, to)
		if err != nil {
			t.Fatal(err)
		}
		if got.ACR != "aal2" || !slices.Equal(got.AMR, ann.AMR) || got.AuthTime != h.started.Unix() || got.Session != "sid-ann" || got.Transaction != first.ID || got.Expires > first.Expires {
			t.Errorf("%s to %s: %+v", from, to, got)
		}
		if e := h.last(); e.Detail["txn"] != first.ID || e.Detail["jti"] != got.ID {
			t.Errorf("%s to %s: recorded as %v", from, to, e.Detail)
		}
		from = to
	}
}

// TestExchangeRefusesActors: one rule of the chain per row.
func TestExchangeRefusesActors(t *testing.T) {
	for _, tc := range []struct {
		name, from, to, code, says string
		spoil                      func(*house, *jwt.InternalClaims)
	}{
		{"as it is", "b", "c", "", "", func(*house, *jwt.InternalClaims) {}},
		{"four links already", "b", "c", "invalid_grant", "4 long", func(h *house, c *jwt.InternalClaims) {
			c.Act = jwt.ActorChain([]string{h.sys.ServiceID("a"), h.sys.ServiceID("d"), h.sys.ServiceID("a"), h.sys.ServiceID("edge")})
		}},
		{"the caller is the current actor", "b", "c", "invalid_grant", "current actor", func(h *house, c *jwt.InternalClaims) {
			c.Act = jwt.ActorChain([]string{h.sys.ServiceID("b"), h.sys.ServiceID("edge")})
		}},
		{"a service that left the file", "b", "c", "invalid_grant", "disabled actor", func(h *house, c *jwt.InternalClaims) {
			c.Act = jwt.ActorChain([]string{"spiffe://shop.internal/service/gone", h.sys.ServiceID("edge")})
		}},
		{"the current actor was revoked", "b", "c", "invalid_grant", "disabled actor", func(h *house, _ *jwt.InternalClaims) { h.disable("a") }},
		{"an earlier actor was revoked", "b", "c", "invalid_grant", "disabled actor", func(h *house, _ *jwt.InternalClaims) { h.disable("edge") }},
		{"the caller was revoked", "b", "c", "invalid_client", "disabled", func(h *house, _ *jwt.InternalClaims) { h.disable("b") }},
		{"one outside the chain was revoked", "b", "c", "", "", func(h *house, _ *jwt.InternalClaims) { h.disable("d") }},
		{"may_act names another", "b", "c", "invalid_grant", "another actor", func(h *house, c *jwt.InternalClaims) {
			c.MayAct = &jwt.Actor{Subject: h.sys.ServiceID("d")}
		}},
		{"may_act names the caller", "b", "c", "", "", func(h *house, c *jwt.InternalClaims) {
			c.MayAct = &jwt.Actor{Subject: h.sys.ServiceID("b")}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, "")
			claims, err := h.read(h.mustExchange("a", wire.TypeJWT, h.mustExchange("edge", wire.TypeSession, "ann", "a"), "b"), "a", "b")
			if err != nil {
				t.Fatal(err)
			}
			tc.spoil(h, &claims)
			text, err := h.rings.Internal.Signer(h.clock).SignInternal(claims)
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.exchange(tc.from, wire.TypeJWT, text, tc.to)
			if tc.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if token.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("%v; want %s: ...%s", err, tc.code, tc.says)
			}
			if e := h.last(); e.Outcome != audit.Refused || e.Control != "token.exchange" || e.Action != "token.exchange" {
				t.Errorf("recorded as %+v", e)
			}
		})
	}
}

// disable revokes a service.
func (h *house) disable(name string) {
	h.t.Helper()
	if _, err := h.Revoke(h.t.Context(), "svid", h.sys.ServiceID(name)); err != nil {
		h.t.Fatal(err)
	}
}

// TestServiceComesBack: a service that joined anew after it was revoked goes
// on, with tokens that no plane takes for older ones; what went through it
// before stays dead, and no restart brings it back.
func TestServiceComesBack(t *testing.T) {
	h := newHouse(t, "")
	forA := h.mustExchange("edge", wire.TypeSession, "ann", "a")
	forB := h.mustExchange("a", wire.TypeJWT, forA, "b")
	h.disable("a")
	revoked, cutoff := h.clock, h.Cutoff(h.sys.ServiceID("a"))
	h.clock = h.clock.Add(30 * time.Second)
	if _, err := h.exchange("b", wire.TypeJWT, forB, "c"); err == nil {
		t.Error("what went through the service before lives on")
	}
	h.restart()
	if _, err := h.exchange("a", wire.TypeSVIDOnly, "", "b"); token.CodeOf(err) != "invalid_client" {
		t.Errorf("a restart brought the service back: %v", err)
	}
	h.clock = revoked.Add(time.Millisecond) // it is back before its cut-off
	h.joined = cutoff.Truncate(time.Second).Add(time.Second)
	got, err := h.read(h.mustExchange("a", wire.TypeSVIDOnly, "", "b"), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if issued := time.Unix(got.IssuedAt, 0); !issued.After(cutoff) {
		t.Errorf("issued at %v, not after the cut-off %v", issued, cutoff)
	}
	if _, err := h.Revoke(t.Context(), "svid", "spiffe://shop.internal/service/none"); err == nil {
		t.Error("a service that is none was revoked")
	}
}
