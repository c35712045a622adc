package rest

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func TestRead(t *testing.T) {
	type order struct {
		Org string `json:"org"`
	}
	for name, tc := range map[string]struct {
		media, body string
		status      int
	}{
		"a body as agreed":        {"application/json; charset=utf-8", `{"org":"acme"}`, 200},
		"a form":                  {"application/x-www-form-urlencoded", `org=acme`, 415},
		"no media type":           {"", `{"org":"acme"}`, 415},
		"an unknown field":        {"application/json", `{"org":"acme","admin":true}`, 400},
		"two values for one name": {"application/json", `{"org":"acme","org":"globex"}`, 400},
		"trailing data":           {"application/json", `{"org":"acme"} {}`, 400},
		"another type":            {"application/json", `{"org":1}`, 400},
		"too large":               {"application/json", `{"org":"` + strings.Repeat("a", MaxBody) + `"}`, 413},
	} {
		t.Run(name, func(t *testing.T) {
			h := Handler(slog.New(slog.DiscardHandler), func(w http.ResponseWriter, r *http.Request) error {
				var v order
				if err := Read(r, &v); err != nil {
					return err
				}
				return Write(w, http.StatusOK, v)
			})
			r := httptest.NewRequest("POST", "/orders", strings.NewReader(tc.body))
			r.Header.Set("Content-Type", tc.media)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.status {
				t.Errorf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
		})
	}
}

func TestErrorsStayInside(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		status int
		logged bool
	}{
		"a bug is internal and logged":       {errors.New("password=SECRET"), 500, true},
		"a refusal is told and not logged":   {rampart.Errorf(rampart.Denied, "authz.domain", "not allowed"), 403, false},
		"a status of one's own keeps detail": {WithStatus(422, &rampart.Error{Kind: rampart.Invalid, Msg: "m", Err: errors.New("SECRET")}), 422, false},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			h := Handler(slog.New(slog.NewTextHandler(&log, nil)), func(http.ResponseWriter, *http.Request) error { return tc.err })
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if w.Code != tc.status || strings.Contains(w.Body.String(), "SECRET") {
				t.Errorf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
			if logged := log.Len() > 0; logged != tc.logged {
				t.Errorf("logged %v, want %v", logged, tc.logged)
			}
		})
	}
}
