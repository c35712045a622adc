package sdk

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func connect(t *testing.T, info agent.ServiceInfo) (*sdktest.Agent, *Service) {
	t.Helper()
	a := &sdktest.Agent{Info: info}
	sdktest.Start(t, a)
	svc, err := Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a, svc
}

func TestConnectSaysWhatIsMissing(t *testing.T) {
	t.Run("not started by rampart", func(t *testing.T) {
		t.Setenv(agent.EnvSocket, "")
		_, err := Connect(t.Context())
		if err == nil || !strings.Contains(err.Error(), "RAMPART_SOCKET is not set: start the service with `rampart up`") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no sidecar yet", func(t *testing.T) {
		t.Setenv(agent.EnvSocket, t.TempDir()+"/none")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := Connect(ctx); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another service's sidecar", func(t *testing.T) {
		sdktest.Start(t, &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders"}})
		t.Setenv(agent.EnvService, "payments")
		if _, err := Connect(t.Context()); err == nil || !strings.Contains(err.Error(), `serves "orders"`) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCompares(t *testing.T) {
	rules := map[string]agent.ServerOwned{
		"2": {Fields: []string{"amount"}, Mode: "compare"},
		"3": {Fields: []string{"amount"}, Mode: "strip"},
	}
	for name, tc := range map[string]struct {
		flow, field string
		off         []string
		want        bool
	}{
		"the flow's field":       {"2", "amount", nil, true},
		"another field":          {"2", "email", nil, false},
		"stripped before":        {"3", "amount", nil, false},
		"another flow":           {"7", "amount", nil, false},
		"in a throw-away system": {"2", "amount", []string{"field.server_owned"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, svc := connect(t, agent.ServiceInfo{Name: "payments", ServerOwned: rules, Off: tc.off})
			ctx := inbound.With(t.Context(), inbound.Inbound{Flow: tc.flow})
			if got := svc.Compares(ctx, tc.field); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAudit(t *testing.T) {
	a, svc := connect(t, agent.ServiceInfo{Name: "payments"})
	e := Event{Class: "money", Action: "payment.created", Outcome: "allowed"}
	alice := rampart.Principal{Subject: "user:alice"}
	ctx := inbound.With(t.Context(), inbound.Inbound{Identity: a.Identity(alice, "2")})
	for name, tc := range map[string]struct {
		ctx  context.Context
		want string
	}{
		"for a caller":                       {ctx, "user:alice"},
		"by itself":                          {t.Context(), "spiffe://test.internal/service/payments"},
		"for whom the service only names":    {rampart.WithPrincipal(t.Context(), rampart.Principal{Subject: "user:bob"}), "spiffe://test.internal/service/payments"},
		"for another than the caller's name": {rampart.WithPrincipal(ctx, rampart.Principal{Subject: "user:bob"}), "user:alice"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := svc.Audit(tc.ctx, e); err != nil {
				t.Fatal(err)
			}
			all := a.Events()
			if got := all[len(all)-1]; got.Subject != tc.want || got.Action != e.Action {
				t.Errorf("recorded %+v, want the subject %s", got, tc.want)
			}
		})
	}
}

func TestServeFinishesWhatItBegan(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	began := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-ctx.Done()
		io.WriteString(w, "finished")
	})
	served := make(chan error, 1)
	go func() { served <- serve(ctx, ln, h) }()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-began
	stop()
	if got := <-answer; got != "finished" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-served; err != nil {
		t.Errorf("stop: %v", err)
	}
}
