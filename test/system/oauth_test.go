//go:build system

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/test/freeport"
)

// grants are what certified clients that we did not write must complete, in the
// order of the script.
var grants = []string{
	"discovery", "protected resource metadata",
	"authorization code with PKCE", "userinfo", "protected resource", "refresh", "refresh, narrower", "a hundred refreshes at once",
	"prompt=none with a session", "prompt=none without one", "max_age", "a code is good once",
	"authorization code with PKCE and DPoP", "userinfo with DPoP", "protected resource with DPoP",
	"a bound token is no bearer token", "refresh with DPoP", "refresh with another key is refused",
	"client credentials with private_key_jwt", "token exchange with an SVID", "client credentials with a certificate", "introspection", "revocation of an access token",
	"authorization code with private_key_jwt", "revocation of a refresh token", "end of the session",
}

// TestForeignClients has openid-client and oauth4webapi go through every grant
// against a running edge; the script says what it demands.
func TestForeignClients(t *testing.T) {
	t.Parallel()
	need(t, "node", "python3")
	const script = "../oauth/clients.mjs"
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "node_modules", "openid-client")); err != nil {
		missing(t, "openid-client is not installed; run make tools")
	}
	dir := t.TempDir()
	r := start(t, bearerSystem(t, dir))
	private, public := clientKey(t)
	jwks := filepath.Join(dir, "till.jwks")
	if err := os.WriteFile(jwks, public, 0o600); err != nil {
		t.Fatal(err)
	}
	const redirect = "https://app.example/cb"
	must(t, "", binary, "client", "add", "app", "--state", r.dir, "--principal", "users", "--redirect", redirect)
	must(t, "", binary, "client", "add", "till", "--state", r.dir, "--principal", "users", "--redirect", redirect, "--auth", "private_key_jwt", "--jwks", jwks, "--id-alg", "ES256",
		"--grant", "authorization_code", "--grant", "refresh_token", "--grant", "client_credentials", "--scope", "catalog:read", "--scope", "openid")
	must(t, "", binary, "client", "add", "batch", "--state", r.dir, "--principal", "users", "--auth", "tls_client_auth", "--identity", "spiffe://shop.internal/service/catalog",
		"--grant", "client_credentials", "--role", "member", "--org", "home")
	in, err := json.Marshal(map[string]any{
		"inside": map[string]any{
			"address": "https://" + r.Control, "control": "spiffe://shop.internal/control", "ca": r.file("ca.pem"), "audience": "spiffe://shop.internal/service/catalog",
			"gateway": r.svid("gateway/gateway"), "service": r.svid("service/catalog"),
		},
		"base": r.base(), "user": "alice", "password": r.password("alice"), "redirect": redirect, "resource": r.base() + "/catalog/",
		"scope": "openid catalog:read", "confidential": "till", "jwk": private,
	})
	if err != nil {
		t.Fatal(err)
	}
	// Node reads its roots from the environment alone; the file is public.
	out, code := command(t, string(in), "env", "NODE_EXTRA_CA_CERTS="+filepath.Join(r.dir, "ca.pem"), "node", script)
	t.Log(out)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, grant := range grants {
		if !strings.Contains("\n"+out, "\nok "+grant+"\n") {
			t.Errorf("%s -> not ok", grant)
		}
	}
	r.auditHolds()
}

// svid joins as a plane and returns its certificate and key, for the client
// "batch" if it is a service.
func (r *running) svid(path string) map[string]string {
	r.t.Helper()
	cert, key := r.join(path)
	out := map[string]string{"id": "spiffe://shop.internal/" + path, "client": "batch"}
	for name, file := range map[string]string{"cert": cert, "key": key} {
		b, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		out[name] = string(b)
	}
	return out
}

// bearerSystem writes a system with one API that takes access tokens.
func bearerSystem(t *testing.T, dir string) string {
	t.Helper()
	port := freeport.Take(t)
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("<!doctype html><title>Catalog</title>"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "rampart.yaml")
	text := fmt.Sprintf(`rampart: v1
system: { name: shop }
authz: { roles: { member: ["catalog:read"] } }
services:
  gateway: { role: gateway, listen: ":8443" }
  catalog: { upstream: "http://127.0.0.1:%[1]s", run: [python3, -m, http.server, "%[1]s", --bind, 127.0.0.1] }
flows:
  - { from: users, to: gateway, authn: session }
  - { id: bearer, from: users, to: gateway, authn: jwt }
  - { from: gateway, to: catalog, allow: "permission:catalog:read" }
demo: { users: { alice: { roles: [member], organizations: [home] } } }
`, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// clientKey makes a client's key: the private JWK, and the set to register.
func clientKey(t *testing.T) (private map[string]string, public []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	jwk := map[string]string{"kty": "EC", "crv": "P-256", "x": enc(point[1:33]), "y": enc(point[33:]), "kid": "till-1"}
	public, err = json.Marshal(map[string]any{"keys": []any{jwk}})
	if err != nil {
		t.Fatal(err)
	}
	private = map[string]string{"d": enc(secret)}
	for name, value := range jwk {
		private[name] = value
	}
	return private, public
}
