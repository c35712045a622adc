package secrets

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func TestGet(t *testing.T) {
	sdktest.Start(t, &sdktest.Agent{
		Info:    agent.ServiceInfo{Name: "payments"},
		Secrets: map[string][]byte{"store:payments_db": []byte("canary")},
	})
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Get(t.Context(), svc, "store:payments_db")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Use(func(b []byte) error {
		if string(b) != "canary" {
			t.Errorf("value %q", b)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", s, s, struct{ s Secret }{s}); strings.Contains(text, "canary") {
		t.Errorf("printed as %s", text)
	}
	if _, err := Get(t.Context(), svc, "processor_key"); rampart.KindOf(err) != rampart.Denied {
		t.Errorf("another service's secret: %v, want denied", err)
	}
}
