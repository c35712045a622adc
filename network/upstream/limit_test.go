package upstream

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
)

type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("connection refused")
}

// TestLimitNamed: who meets an open breaker is told that it is one.
func TestLimitNamed(t *testing.T) {
	s := New(Options{Name: "shop", Timeout: time.Second, Failures: 50, Least: 3, Open: time.Minute})
	var body string
	for range 8 {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		w := httptest.NewRecorder()
		_, err := s.Over(refusing{}, "", false).RoundTrip(r)
		problem.Write(w, err, "")
		text, _ := io.ReadAll(w.Body)
		body = string(text)
	}
	if want := `"limit":{"name":"breaker"}`; !strings.Contains(body, want) {
		t.Errorf("%s, want %s", body, want)
	}
}
