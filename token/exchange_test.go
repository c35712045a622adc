package token_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

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
	cutoff := h.clock
	h.clock = h.clock.Add(30 * time.Second)
	if _, err := h.exchange("b", wire.TypeJWT, forB, "c"); err == nil {
		t.Error("what went through the service before lives on")
	}
	h.restart()
	if _, err := h.exchange("a", wire.TypeSVIDOnly, "", "b"); token.CodeOf(err) != "invalid_client" {
		t.Errorf("a restart brought the service back: %v", err)
	}
	h.joined = cutoff.Add(time.Millisecond)
	h.clock = h.joined
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
