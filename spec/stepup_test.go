package spec

import (
	"strings"
	"testing"
	"time"
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
