package planelink_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
)

// cluster signs service-account tokens.
type cluster struct{ key *rsa.PrivateKey }

func newCluster(t *testing.T) cluster {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{key}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (c cluster) jwks() string {
	e := big.NewInt(int64(c.key.E)).Bytes()
	return fmt.Sprintf(`{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"k","n":%q,"e":%q}]}`, b64(c.key.N.Bytes()), b64(e))
}

func (c cluster) token(account string) string {
	namespace, name, _ := strings.Cut(account, "/")
	now := time.Now().Unix()
	text := b64([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + b64(fmt.Appendf(nil,
		`{"aud":["rampart"],"exp":%d,"iat":%d,"iss":"https://k8s.example","kubernetes.io":{"namespace":%q,"serviceaccount":{"name":%q}},"sub":"system:serviceaccount:%s:%s"}`,
		now+3600, now, namespace, name, namespace, name))
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, c.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + b64(sig)
}

// attesting is a house whose file takes a cluster's word, and this process for
// the sidecar of stock.
func attesting(t *testing.T, c cluster) *controltest.House {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := controltest.File(t, "principals:", fmt.Sprintf(
		"trust: { join: { kubernetes: { issuer: https://k8s.example, jwks: cluster.json, accounts: { apps/shop: shop } }, unix: { stock: { uid: %d, exe: %q } } } }\nprincipals:", os.Getuid(), exe))
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "cluster.json"), []byte(c.jwks()), 0o600); err != nil {
		t.Fatal(err)
	}
	return controltest.Start(t, file)
}

// TestAttest: planes join by proofs that last, as who the file says they are, and
// nobody joins by another's.
func TestAttest(t *testing.T) {
	c := newCluster(t)
	h := attesting(t, c)
	socket, err := h.State.Socket("join")
	if err != nil {
		t.Fatal(err)
	}
	kubernetes := func(c cluster, account string) *planelink.Proof {
		return &planelink.Proof{Kind: wire.ProofKubernetes, Evidence: func() (string, error) { return c.token(account), nil }}
	}
	unix := func(identity, socket string) *planelink.Proof {
		return &planelink.Proof{Kind: wire.ProofUnix, Identity: identity, Socket: socket}
	}
	for name, row := range map[string]struct {
		proof *planelink.Proof
		plane string
		id    string // "": it is refused
	}{
		"a service account":            {kubernetes(c, "apps/shop"), "sidecar/shop", h.System.ServiceID("shop")},
		"another account":              {kubernetes(c, "apps/stock"), "sidecar/stock", ""},
		"an account of another space":  {kubernetes(c, "evil/shop"), "sidecar/shop", ""},
		"another cluster":              {kubernetes(newCluster(t), "apps/shop"), "sidecar/shop", ""},
		"no token":                     {&planelink.Proof{Kind: wire.ProofKubernetes, Evidence: func() (string, error) { return "", errors.New("no file") }}, "sidecar/shop", ""},
		"this process":                 {unix("service/stock", socket), "sidecar/stock", h.System.ServiceID("stock")},
		"this process as another":      {unix("service/shop", socket), "sidecar/shop", ""},
		"this process as the gateway":  {unix("gateway/edge", socket), "gateway/edge", ""},
		"this process as nobody":       {unix("service/ghost", socket), "sidecar/ghost", ""},
		"a socket where nobody is":     {unix("service/stock", socket+"x"), "sidecar/stock", ""},
		"a kind that is none":          {&planelink.Proof{Kind: "word"}, "sidecar/shop", ""},
		"neither a proof nor a token":  {nil, "sidecar/shop", ""},
		"a process over the network's": {&planelink.Proof{Kind: "unix ", Identity: "service/stock"}, "sidecar/stock", ""},
	} {
		t.Run(name, func(t *testing.T) {
			opt := h.Options("service/shop", row.plane)
			opt.Join, opt.Proof = "", row.proof
			l, err := planelink.Dial(t.Context(), opt)
			if (err == nil) != (row.id != "") {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			if cur, err := l.Source().Current(); err != nil || cur.ID != row.id {
				t.Errorf("joined as %q, %v", cur.ID, err)
			}
		})
	}
	kinds := map[string]bool{}
	for _, e := range h.Events("control") {
		if e.Outcome == "allowed" {
			kinds[e.Action+" "+e.Detail["account"]+e.Detail["exe"]] = true
		}
	}
	exe, _ := os.Executable()
	if !kinds["svid.kubernetes apps/shop"] || !kinds["svid.unix "+exe] {
		t.Errorf("on record are %v", kinds)
	}
}

// TestUnixNeedsTheSocket: over TLS nobody vouches for a process.
func TestUnixNeedsTheSocket(t *testing.T) {
	h := attesting(t, newCluster(t))
	l := h.Link(h.Options("service/shop", "sidecar/shop"))
	var id wire.Identity
	err := l.Call(t.Context(), "POST", wire.PathAttest, wire.AttestRequest{Kind: wire.ProofUnix, Identity: "service/stock"}, &id)
	if rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("%v", err)
	}
}

// TestSleptPastExpiry: a plane with a proof that lasts comes back by itself when
// its certificate has ended; its clock then goes back, and nothing happens.
func TestSleptPastExpiry(t *testing.T) {
	c := newCluster(t)
	h := attesting(t, c)
	var ahead atomic.Int64
	opt := h.Options("service/shop", "sidecar/shop")
	opt.Join, opt.Now = "", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	var attested atomic.Int32
	opt.Proof = &planelink.Proof{Kind: wire.ProofKubernetes, Evidence: func() (string, error) { attested.Add(1); return c.token("apps/shop"), nil }}
	l := h.Link(opt)
	first := l.Now()
	ahead.Store(int64(2 * time.Hour))
	for end := time.Now().Add(20 * time.Second); l.Now() == first; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come back")
		}
	}
	ahead.Store(0)
	if n := attested.Load(); n < 2 {
		t.Errorf("it proved itself %d times", n)
	}
	var id wire.Identity
	if err := l.Call(t.Context(), "POST", wire.PathRenew, wire.RenewRequest{}, &id); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("the new certificate is not taken: %v", err)
	}
}

// TestJoinRace: of a hundred planes that show one token at once, one gets in.
func TestJoinRace(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	opt := h.Options("service/shop", "sidecar/shop")
	var in atomic.Int64
	done := make(chan struct{})
	for range 100 {
		go func() {
			defer func() { done <- struct{}{} }()
			if _, err := planelink.Dial(t.Context(), opt); err == nil {
				in.Add(1)
			}
		}()
	}
	for range 100 {
		<-done
	}
	if in.Load() != 1 {
		t.Errorf("%d got in", in.Load())
	}
}
