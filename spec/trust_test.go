package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrust reads what is wrong in trust, secrets and rotate; the problem must
// name it.
func TestTrust(t *testing.T) {
	const rotate = "stores: { db: { kind: postgres, holds: [order], ca: ca.pem, url: \"postgres://app@db.example:5432/shop\", rotate: { roles: [app_a, app_b], owner: app, admin: \"postgres://admin@db.example:5432/shop\", password: \"secret://embedded/admin\" } } }"
	vault := func(address string) string {
		return "secrets: { v: { kind: vault, address: \"" + address + "\", login: { method: cert, role: x } } }"
	}
	for name, row := range map[string]struct{ text, want string }{
		"a pair of roles":          {rotate, ""},
		"the owner takes turns":    {strings.Replace(rotate, "owner: app,", "owner: app_b,", 1), "rotate.owner: \"app_b\" is one of the roles"},
		"a port too high":          {strings.Replace(rotate, "app@db.example:5432", "app@db.example:99999", 1), "stores.db.url: want the address"},
		"of the administrator":     {strings.Replace(rotate, "admin@db.example:5432", "admin@db.example:0", 1), "stores.db.rotate.admin: want the address"},
		"a vault":                  {vault("https://vault.example:8200"), ""},
		"at no port":               {vault("https://vault.example:70000"), "from 1 to 65535"},
		"a partner":                {"trust: { federate: { p.example: { endpoint: \"https://p.example/b\" } } }", ""},
		"a partner by address":     {"trust: { federate: { p.example: { endpoint: \"https://93.184.216.34/b\" } } }", "no public host by name"},
		"a partner here":           {"trust: { federate: { p.example: { endpoint: \"https://localhost/b\" } } }", "no public host by name"},
		"a partner of the house":   {"trust: { federate: { p.example: { endpoint: \"https://10.0.0.7/b\", ca: ca.pem } } }", ""},
		"a bundle":                 {partner("good.json"), ""},
		"a bundle that is no JSON": {partner("ca.json"), "trust.federate.p.example.bundle: file \"ca.json\" is no SPIFFE bundle"},
		"a bundle without keys":    {partner("none.json"), "is no SPIFFE bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"ca.pem": "PEM", "ca.json": "PEM", "good.json": `{"keys":[{"kty":"EC","use":"x509-svid"}]}`, "none.json": `{"keys":[]}`,
				"rampart.yaml": "rampart: v1\nsystem: { name: shop }\ndata: { order: { class: internal } }\nprincipals: { users: { kind: human } }\nservices: { gateway: { role: gateway }, web: { upstream: \"http://127.0.0.1:9000\" } }\nflows: [{ from: users, to: gateway, authn: session }, { from: gateway, to: web, allow: any }]\n" + row.text + "\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(filepath.Join(dir, "rampart.yaml"))
			said := ""
			if err != nil {
				said = err.Error()
			}
			switch key, _, _ := strings.Cut(row.text, ":"); {
			case row.want == "" && strings.Contains(said, ": "+key+"."):
				t.Errorf("refused: %v", err)
			case !strings.Contains(said, row.want):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func partner(bundle string) string {
	return "trust: { federate: { p.example: { endpoint: \"https://p.example/b\", profile: https_spiffe, identity: \"spiffe://p.example/b\", bundle: " + bundle + " } } }"
}
