package vaulttest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

var update = flag.Bool("update", false, "rewrite the transcript")

// counting is randomness that repeats from run to run.
type counting struct{ n byte }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		c.n++
		b[i] = c.n
	}
	return len(b), nil
}

// recorder writes down what goes over the wire.
type recorder struct {
	s   *vaulttest.Server
	out bytes.Buffer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	fmt.Fprintf(&r.out, "> %s %s\n", req.Method, req.URL.RequestURI())
	for name, values := range req.Header {
		if strings.HasPrefix(name, "X-Vault-") && name != "X-Vault-Request" {
			fmt.Fprintf(&r.out, "> %s: %s\n", name, values[0])
		}
	}
	r.line(">", body)
	req.Body = io.NopCloser(bytes.NewReader(body))
	w := httptest.NewRecorder()
	r.s.ServeHTTP(w, req)
	fmt.Fprintf(&r.out, "< %d", w.Code)
	if after := w.Header().Get("Retry-After"); after != "" {
		fmt.Fprintf(&r.out, ", Retry-After: %s", after)
	}
	r.out.WriteByte('\n')
	r.line("<", w.Body.Bytes())
	r.out.WriteByte('\n')
	return w.Result(), nil
}

// line writes a body, without what says nothing in a reply.
func (r *recorder) line(side string, body []byte) {
	var m map[string]any
	if len(body) == 0 || json.Unmarshal(body, &m) != nil {
		return
	}
	delete(m, "request_id")
	for name, v := range m {
		if side == "<" && (v == nil || v == "" || v == false || v == 0.0) {
			delete(m, name)
		}
	}
	text, _ := json.Marshal(m)
	fmt.Fprintf(&r.out, "%s %s\n", side, text)
}

// TestTranscript plays what our client and the server say to each other. Whoever
// changes one of them reviews the difference against the API documentation.
func TestTranscript(t *testing.T) {
	s, now := vaulttest.New(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.Now, s.Rand = func() time.Time { return now }, &counting{}
	r := &recorder{s: s}
	role, secretID := prepare(t, s)
	proof := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(proof, []byte(secretID), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := vault.New(vault.Options{
		Address: "https://vault.example", HTTP: &http.Client{Transport: r}, Now: s.Now, Login: vault.Login{Method: "approle", Role: role, SecretFile: proof},
	})
	if err != nil {
		t.Fatal(err)
	}
	play(t, s, c, r)
	const golden = "testdata/transcript.txt"
	if *update {
		if err := os.WriteFile(golden, r.out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(r.out.String(), "\n")); diff != "" {
		t.Errorf("the conversation changed (go test ./secrets/vault/vaulttest -update rewrites it; review it then) (-want +got):\n%s", diff)
	}
}

func prepare(t *testing.T, s *vaulttest.Server) (role, secretID string) {
	s.Admin(t, "PUT", "sys/policies/acl/p", map[string]any{"policy": `{"path":{"*":{"capabilities":["create","read","update","delete","list"]},"secret/data/forbidden":{"capabilities":["deny"]}}}`})
	s.Admin(t, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
	s.Admin(t, "POST", "auth/approle/role/r", map[string]any{"token_policies": []string{"p"}, "token_ttl": "1h", "token_max_ttl": "2h"})
	for _, kind := range []string{"transit", "database"} {
		s.Admin(t, "POST", "sys/mounts/"+kind, map[string]any{"type": kind})
	}
	s.Admin(t, "POST", "transit/keys/k", map[string]any{"derived": true})
	s.Admin(t, "POST", "database/roles/app", map[string]any{"default_ttl": "1h", "max_ttl": "90m"})
	s.Admin(t, "POST", "database/static-roles/old", map[string]any{"username": "app_old", "rotation_period": "24h"})
	role = s.Admin(t, "GET", "auth/approle/role/r/role-id", nil)["role_id"].(string)
	return role, s.Admin(t, "POST", "auth/approle/role/r/secret-id", nil)["secret_id"].(string)
}

// play goes through every call that the client makes, but the random probe of a
// transit key and certificates, which are never twice the same.
func play(t *testing.T, s *vaulttest.Server, c *vault.Client, r *recorder) {
	ctx, kv, db := t.Context(), c.KV("secret"), c.Database("database")
	ref := secrets.Ref{Path: "shop/key"}
	did := func(what string, err error) { fmt.Fprintf(&r.out, "# %s: %v\n\n", what, err) }
	_, err := kv.Fetch(ctx, ref)
	did("nothing is there", err)
	_, err = kv.Put(ctx, "shop/key", []byte("one"), 0)
	did("put", err)
	_, err = kv.Put(ctx, "shop/key", []byte("two"), 1)
	did("put after 1", err)
	_, err = kv.FetchVersion(ctx, ref, 1)
	did("fetch version 1", err)
	did("destroy version 1", kv.Destroy(ctx, "shop/key", 1))
	_, err = kv.FetchVersion(ctx, ref, 1)
	did("fetch what was destroyed", err)
	_, err = kv.List(ctx, "shop")
	did("list", err)
	_, err = kv.Fetch(ctx, secrets.Ref{Path: "forbidden"})
	did("fetch what is forbidden", err)
	did("destroy all", kv.Destroy(ctx, "shop/key", 0))
	lease, err := db.Fetch(ctx, secrets.Ref{Path: "creds/app"})
	did("database user", err)
	_, err = db.Renew(ctx, lease, 2*time.Hour)
	did("renew beyond the most", err)
	did("revoke", db.Revoke(ctx, lease))
	_, err = db.Renew(ctx, lease, 0)
	did("renew what ended", err)
	_, err = db.Fetch(ctx, secrets.Ref{Path: "static-creds/old"})
	did("static database user", err)
	wrapped := s.Admin(t, "POST", "transit/encrypt/k", map[string]any{"plaintext": "YSBrZXk=", "context": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="})["ciphertext"].(string)
	_, err = c.Transit("transit", "k").Unwrap(ctx, []byte(wrapped), nil)
	did("unwrap", err)
	_, err = c.Transit("transit", "k").Unwrap(ctx, []byte(wrapped), []byte("other"))
	did("unwrap for something else", err)
	s.Fault(vaulttest.Faults{Sealed: true})
	_, err = kv.Fetch(ctx, ref)
	did("sealed", err)
	_, err = c.Health(ctx)
	did("health of a sealed one", err)
	s.Fault(vaulttest.Faults{})
	s.EndTokens()
	_, err = kv.Fetch(ctx, ref)
	did("the token ended", err)
	did("close", c.Close(ctx))
}
