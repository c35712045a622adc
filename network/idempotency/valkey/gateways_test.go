package valkey

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/test/valkeytest"
)

// What the test binary is told when it is to be the gateway that gets killed.
const (
	victimEnv    = "IDEMPOTENCY_VICTIM" // folder with ca.pem, cert.pem and key.pem
	victimURL    = "IDEMPOTENCY_VICTIM_URL"
	victimAnswer = "IDEMPOTENCY_VICTIM_ANSWERS" // "yes": it has answered when it is killed
)

// brief is a lease whose end a test can see.
const brief = time.Second

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// payment is what clients send.
func payment(lease time.Duration) idempotency.Call {
	return idempotency.Call{Owner: "user:ann", Scope: "user:ann POST /payments", Key: "k-1", Required: true, Body: []byte(`{"amount":100}`), Lease: lease}
}

// victim is a gateway that is told to pay: it says what it has done, and waits for its
// end.
func victim(dir string) error {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	s, err := New(config(os.Getenv(victimURL), ca, own))
	if err != nil {
		return err
	}
	err = idempotency.NewGuard(s, nil).Do(context.Background(), httptest.NewRecorder(), payment(brief), func(w http.ResponseWriter) error {
		if os.Getenv(victimAnswer) != "yes" {
			fmt.Println("paid")
			select {}
		}
		w.WriteHeader(http.StatusCreated)
		_, err := io.WriteString(w, "payment 1")
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("answered")
	select {}
}

// killed runs a victim until it has said what, then kills it.
func killed(t *testing.T, server *valkeytest.Server, answers, what string) {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(server.Certificate.PrivateKey)
	must(t, err)
	for name, b := range map[string][]byte{
		"ca.pem":   server.CA,
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate.Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	exe, err := os.Executable()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), victimEnv+"="+dir, victimURL+"="+server.URL, victimAnswer+"="+answers)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	said, err := bufio.NewReader(out).ReadString('\n')
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	if strings.TrimSpace(said) != what {
		t.Fatalf("the gateway said %q, %v, want %q", said, err, what)
	}
}

// gateway is one that reaches a service which, as ADR 22 has it, knows keys too: asked
// twice under one key it pays once.
func gateway(s *Store, lease time.Duration, asked *atomic.Int64) func() *httptest.ResponseRecorder {
	g := idempotency.NewGuard(s, nil)
	return func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		err := g.Do(context.Background(), w, payment(lease), func(w http.ResponseWriter) error {
			asked.Add(1)
			time.Sleep(50 * time.Millisecond)
			w.WriteHeader(http.StatusCreated)
			_, err := io.WriteString(w, "payment 1")
			return err
		})
		if err != nil {
			problem.Write(w, err, "")
		}
		return w
	}
}

// TestGatewaysRunOnce: of a thousand identical payments over two gateways, one runs;
// whoever asks afterwards gets its answer, from either.
func TestGatewaysRunOnce(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	var asked atomic.Int64
	gateways := []func() *httptest.ResponseRecorder{gateway(open(t, server), idempotency.Lease, &asked), gateway(open(t, server), idempotency.Lease, &asked)}
	var answers [600]atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() { answers[gateways[i%2]().Code].Add(1) })
	}
	wg.Wait()
	t.Logf("201: %d, 409: %d, 503: %d", answers[201].Load(), answers[409].Load(), answers[503].Load())
	if n := answers[201].Load() + answers[409].Load() + answers[503].Load(); n != 1000 {
		t.Errorf("%d of 1000 were answered by 201, 409 or 503", n)
	}
	patiently(t, gateways[0])
	for i, ask := range gateways {
		if w := patiently(t, ask); w.Body.String() != "payment 1" || w.Header().Get(idempotency.HeaderReplayed) != "true" {
			t.Errorf("gateway %d: %q %v, want the first answer", i, w.Body, w.Header())
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the service was asked %d times, want once", asked.Load())
	}
}

// patiently asks until there is an answer, as clients of payments must.
func patiently(t *testing.T, ask func() *httptest.ResponseRecorder) *httptest.ResponseRecorder {
	t.Helper()
	for end := time.Now().Add(2 * idempotency.Lease); ; time.Sleep(20 * time.Millisecond) {
		w := ask()
		if w.Code != 409 && w.Code != 503 {
			if w.Code != 201 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			return w
		}
		if time.Now().After(end) {
			t.Errorf("still %d %s", w.Code, w.Body)
			return w
		}
	}
}

// TestGatewayKilled kills one gateway with kill -9. If it had answered, the other
// repeats that at once. If it was at work, the other refuses until the lease ends, then
// asks the service once, which knows the key.
func TestGatewayKilled(t *testing.T) {
	for name, tc := range map[string]struct {
		answers, said string
		asked         int64 // by the other gateway
	}{
		"after it answered":    {"yes", "answered", 0},
		"while it was at work": {"no", "paid", 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
			var asked atomic.Int64
			ask := gateway(open(t, server), brief, &asked)
			killed(t, server, tc.answers, tc.said)
			if w := ask(); tc.asked == 1 && (w.Code != 409 || asked.Load() != 0) {
				t.Errorf("while the lease runs: %d after %d calls, want 409 after none", w.Code, asked.Load())
			}
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { patiently(t, ask) })
			}
			wg.Wait()
			if asked.Load() != tc.asked {
				t.Errorf("the service was asked %d times by the other gateway, want %d", asked.Load(), tc.asked)
			}
			if w := ask(); w.Header().Get(idempotency.HeaderReplayed) != "true" {
				t.Errorf("%d %v, want a replay", w.Code, w.Header())
			}
		})
	}
}
