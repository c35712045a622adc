package vault_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
)

func decode(t *testing.T, r io.Reader, out any) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(out); err != nil {
		t.Fatal(err)
	}
}

func valueOf(t *testing.T, s secrets.Secret, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var out string
	_ = s.Use(func(b []byte) error { out = string(b); return nil })
	return out
}

// TestPutKeepsOtherFields: Vault's own put replaces all of a secret.
func TestPutKeepsOtherFields(t *testing.T) {
	s, c := start(t, 0)
	kv := c.KV("secret")
	set(t, s, "key", map[string]string{"": "old", "user": "alice"})
	if v, err := kv.Put(t.Context(), "key", []byte("new"), -1); err != nil || v != 2 {
		t.Fatalf("version %d, %v", v, err)
	}
	for field, want := range map[string]string{"": "new", "user": "alice"} {
		got, err := kv.Fetch(t.Context(), secrets.Ref{Path: "key", Field: field})
		if valueOf(t, got, err) != want {
			t.Errorf("field %q is another", field)
		}
	}
	if _, err := kv.Put(t.Context(), "bytes", []byte{0xff, 0xfe}, -1); kindOf(err) != "invalid" {
		t.Errorf("what is no text: %v", err)
	}
}

func TestFieldsOfOtherTypes(t *testing.T) {
	s, c := start(t, 0)
	s.Admin(t, "POST", "secret/data/key", map[string]any{"data": map[string]any{"port": 5432, "tls": true, "list": []int{1}, "none": nil, "empty": "", "text": "ü\"\n"}})
	for field, want := range map[string]string{"port": "5432", "tls": "true", "text": "ü\"\n"} {
		got, err := c.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "key", Field: field})
		if v := valueOf(t, got, err); v != want {
			t.Errorf("%s is %q", field, v)
		}
	}
	for _, field := range []string{"list", "none", "empty"} {
		if _, err := c.KV("secret").Fetch(t.Context(), secrets.Ref{Path: "key", Field: field}); kindOf(err) != "invalid" {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestDeletedVersions: 404 comes with the version's metadata, which Put needs.
func TestDeletedVersions(t *testing.T) {
	s, c := start(t, 0)
	kv := c.KV("secret")
	set(t, s, "key", map[string]string{"": "one"})
	s.Admin(t, "DELETE", "secret/data/key", nil)
	fetchKey(t, c, "not_found")
	if _, err := kv.Put(t.Context(), "key", []byte("two"), 0); kindOf(err) != "conflict" {
		t.Errorf("a deleted version is one: %v", err)
	}
	if v, err := kv.Put(t.Context(), "key", []byte("two"), 1); err != nil || v != 2 {
		t.Errorf("version %d, %v", v, err)
	}
	s.Admin(t, "POST", "secret/metadata/short", map[string]any{"delete_version_after": "10m"})
	set(t, s, "short", map[string]string{"": "v"})
	got, err := kv.Fetch(t.Context(), secrets.Ref{Path: "short"})
	if valueOf(t, got, err); time.Until(got.Until()).Round(time.Minute) != 10*time.Minute {
		t.Errorf("it is deleted at %v", got.Until())
	}
	s.Advance(10 * time.Minute)
	if _, err := kv.Fetch(t.Context(), secrets.Ref{Path: "short"}); kindOf(err) != "not_found" {
		t.Errorf("after its time: %v", err)
	}
}

// FuzzReplies feeds the client whatever a server may answer. Nothing panics, and
// no value is made of what is not a secret.
func FuzzReplies(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"data":{"value":"v"},"metadata":{"version":1,"created_time":"2026-01-02T03:04:05Z","deletion_time":"","destroyed":false}}}`,
		`{"data":{"data":null,"metadata":{"version":-1}}}`, `{"errors":["permission denied"]}`, `{"auth":{"client_token":"t","lease_duration":-5}}`,
		`{"lease_id":"a","lease_duration":9223372036854775807,"renewable":true,"data":{"username":"u","password":"p","ttl":1e99}}`,
		`{"data":{"ciphertext":"vault:v1:AAAA","plaintext":"!"}}`, `[]`, `null`, `{"data":{"keys":["a/","../b","c"]}}`, "\x00", `{"data":{"certificate":"x"}}`,
	} {
		f.Add(200, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			status = 200
		}
		c := scripted(t, status, body)
		defer c.Close(t.Context())
		s, err := c.KV("secret").Fetch(t.Context(), key)
		if (err == nil) == s.IsZero() {
			t.Errorf("a secret: %v, an error: %v", !s.IsZero(), err)
		}
		_, _ = c.KV("secret").List(t.Context(), "")
		if s, err = c.Database("database").Fetch(t.Context(), secrets.Ref{Path: "creds/app"}); err == nil && s.User() == "" {
			t.Error("a user without a name")
		}
		_, _ = c.Transit("transit", "k").Wrap(t.Context(), []byte("k"), nil)
		_, _ = c.Transit("transit", "k").Unwrap(t.Context(), []byte("vault:v1:AAAA"), nil)
		_, _ = c.Health(t.Context())
	})
}

// answer is a server that says one thing, once it has let us in.
type answer struct {
	status int
	body   []byte
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.URL.Path == "/v1/auth/cert/login" {
		io.WriteString(w, `{"auth":{"client_token":"t"}}`)
		return w.Result(), nil
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
	return w.Result(), nil
}

func scripted(t *testing.T, status int, body []byte) *vault.Client {
	t.Helper()
	c, err := vault.New(vault.Options{
		Address: "https://vault.example", HTTP: &http.Client{Transport: answer{status, body}}, Login: vault.Login{Method: "cert", Role: "r"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
