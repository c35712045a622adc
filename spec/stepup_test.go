package spec

import (
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
)

func TestStepUpCovers(t *testing.T) {
	for _, row := range []struct {
		routes, request string
		want            bool
	}{
		{"", "GET /", true},
		{"POST /payments/*/refund", "POST /payments/7/refund", true},
		{"POST /payments/*/refund", "POST /payments/7/refund/", true},
		{"POST /payments/*/refund", "POST /Payments/7/REFUND", true},
		{"POST /payments/*/refund", "GET /payments/7/refund", false},
		{"POST /payments/*/refund", "POST /payments/7/8/refund", false},
		{"POST /payments/*/refund", "POST /payments/7/refund/now", false},
		{"POST /payments/*/refund", "POST /payments/refund", false},
		{"GET /keys", "HEAD /keys", true},
		{"HEAD /keys", "GET /keys", false},
		{"* /admin/*", "DELETE /admin/users/7", true},
		{"* /admin/*", "GET /admin", false},
		{"* /*", "GET /", false},
		{"* /", "GET /", true},
		{"* /*, * /", "PUT /x", true},
	} {
		var s StepUp
		if row.routes != "" {
			s.Routes = strings.Split(row.routes, ", ")
		}
		method, path, _ := strings.Cut(row.request, " ")
		if got := s.Covers(method, path); got != row.want {
			t.Errorf("%q covers %q: %v", row.routes, row.request, got)
		}
	}
}

func TestAssuranceMeets(t *testing.T) {
	for _, row := range []struct {
		has, wants string
		want       bool
	}{
		{"aal2", "aal2", true},
		{"aal2", "aal1", true},
		{"aal1", "aal1", true},
		{"aal1", "aal2", false},
		{"", "aal1", false},
		{"", "", true},
		{"aal9", "aal1", false},
		{"aal9", "aal9", false},
	} {
		if got := AssuranceMeets(row.has, row.wants); got != row.want {
			t.Errorf("%q meets %q: %v", row.has, row.wants, got)
		}
	}
}

// TestDemand: every step-up that covers a request counts, and who proved nothing
// meets none.
func TestDemand(t *testing.T) {
	now := time.Unix(100_000, 0)
	f := Flow{StepUp: []StepUp{
		{Routes: []string{"* /admin/*"}, MaxAge: Duration(10 * time.Minute)},
		{Routes: []string{"DELETE /admin/*"}, ACR: "aal2"},
		{Routes: []string{"* /admin/keys"}, ACR: "aal1", MaxAge: Duration(time.Minute)},
	}}
	for _, row := range []struct {
		request, acr string
		ago          time.Duration // of the newest proof; negative: none
		want         bool
	}{
		{"GET /orders", "", -1, true},
		{"GET /admin/users", "aal1", 10 * time.Minute, true},
		{"GET /admin/users", "aal1", 10*time.Minute + 5*time.Second, true}, // clocks differ
		{"GET /admin/users", "aal2", 10*time.Minute + 6*time.Second, false},
		{"GET /admin/users", "aal2", -1, false},
		{"DELETE /admin/users", "aal2", time.Minute, true},
		{"DELETE /admin/users", "aal1", time.Minute, false},
		{"DELETE /admin/users", "", time.Minute, false},
		{"DELETE /admin/keys", "aal2", time.Minute, true},
		{"DELETE /admin/keys", "aal1", time.Second, false},
		{"DELETE /admin/keys", "aal2", 2 * time.Minute, false},
		{"GET /admin/keys", "aal1", time.Second, true},
	} {
		p := rampart.Principal{Subject: "user:ann", ACR: row.acr}
		if row.ago >= 0 {
			p.AuthTime = now.Add(-row.ago)
		}
		method, path, _ := strings.Cut(row.request, " ")
		if got := f.Demand(method, path).MetBy(p, now); got != row.want {
			t.Errorf("%s with %q proved %v ago: %v", row.request, row.acr, row.ago, got)
		}
	}
}

// TestStaleAfter: what a flow carries says when it closes.
func TestStaleAfter(t *testing.T) {
	s := mustParse(t, strings.Replace(whole, "stores:\n", "revocation: { sensitive: 3s, other: 90s }\nstores:\n", 1))
	for _, row := range []struct {
		data Data
		want time.Duration
	}{
		{Data{Class: "public", Integrity: "high"}, 90 * time.Second},
		{Data{Class: "internal", Integrity: "normal"}, 90 * time.Second},
		{Data{Class: "public", Integrity: "critical"}, 3 * time.Second},
		{Data{Class: "confidential"}, 3 * time.Second},
		{Data{Class: "secret"}, 3 * time.Second},
	} {
		s.Data["x"] = row.data
		if got := s.StaleAfter(Flow{Carries: []string{"order", "x"}}); got != row.want {
			t.Errorf("%+v: %v", row.data, got)
		}
	}
	if got := s.StaleAfter(Flow{}); got != 90*time.Second {
		t.Errorf("a flow that says nothing: %v", got)
	}
}
