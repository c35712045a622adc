package vault_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rampart-security/rampart/secrets/secretstest"
	"github.com/rampart-security/rampart/secrets/vault"
	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// narrowed is a token that may do everything below our mounts, and nothing else,
// and a way to take a path from it.
func narrowed(t *testing.T, o operator, p place) (token string, deny func(t *testing.T, path string)) {
	t.Helper()
	name, all := "sys/policies/acl/"+p.auth, `"capabilities":["create","read","update","delete","list"]`
	o.do(http.MethodPut, name, map[string]any{"policy": fmt.Sprintf(`{"path":{"%s/*":{%s}}}`, p.auth, all)})
	t.Cleanup(func() { o.do(http.MethodDelete, name, nil) })
	deny = func(_ *testing.T, path string) {
		o.do(http.MethodPut, name, map[string]any{"policy": fmt.Sprintf(`{"path":{"%s/*":{%s},"%s/data/%s":{"capabilities":["deny"]}}}`, p.auth, all, p.kv, path)})
	}
	return o.do(http.MethodPost, "auth/token/create", map[string]any{"policies": []string{p.auth}, "ttl": "10m"})["token"].(string), deny
}

// TestConforms runs the suite of backends, each part on mounts of its own.
func TestConforms(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		p := where(t)
		o := setUp(t, p)
		token, deny := narrowed(t, o, p)
		place := secretstest.Place{
			Backend: open(t, p, vault.Login{Method: "token", SecretFile: write(t, token)}).KV(p.kv), Name: "vault", Fields: true, Deny: deny,
			Set: func(_ *testing.T, path string, fields map[string]string) {
				data := map[string]any{}
				for k, v := range fields {
					data[map[bool]string{true: "value", false: k}[k == ""]] = v
				}
				o.do(http.MethodPut, p.kv+"/data/"+path, map[string]any{"data": data})
			},
		}
		if p.fake != nil {
			place.Down = func(down bool) { p.fake.Fault(vaulttest.Faults{Down: down}) }
			place.Hang = func(hang bool) { p.fake.Fault(vaulttest.Faults{Hang: hang}) }
		}
		return place
	})
}

// TestKeyConforms runs the suite of key encryption keys.
func TestKeyConforms(t *testing.T) {
	secretstest.KEK(t, func(t *testing.T) secretstest.Key {
		p := where(t)
		o := setUp(t, p)
		token, _ := narrowed(t, o, p)
		for _, key := range []string{"one", "other"} {
			o.do(http.MethodPut, p.transit+"/keys/"+key, map[string]any{"derived": true})
		}
		c := open(t, p, vault.Login{Method: "token", SecretFile: write(t, token)})
		return secretstest.Key{
			KEK: c.Transit(p.transit, "one"), Other: c.Transit(p.transit, "other"),
			Rotate: func(*testing.T) { o.do(http.MethodPut, p.transit+"/keys/one/rotate", nil) },
		}
	})
}
