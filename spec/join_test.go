package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestJoin: who may prove itself by what, and what a mistake is told.
func TestJoin(t *testing.T) {
	const unix = "unix: { web: { uid: 1000, exe: /usr/bin/rampart } }"
	const cluster = "kubernetes: { issuer: https://k8s.example, jwks: cluster.json, accounts: { shop/web: web } }"
	for name, row := range map[string]struct{ join, want string }{
		"a process":                {unix, ""},
		"a cluster":                {cluster, ""},
		"both, at a socket":        {"socket: /run/rampart/join, " + cluster + ", " + unix, ""},
		"root, with its hash":      {"unix: { web: { uid: 0, exe: /x, sha256: " + strings.Repeat("0a", 32) + " } }", ""},
		"no user":                  {"unix: { web: { exe: /usr/bin/rampart } }", "uid"},
		"a negative user":          {"unix: { web: { uid: -1, exe: /usr/bin/rampart } }", "no user id"},
		"no program":               {"unix: { web: { uid: 1000 } }", "exe"},
		"a relative program":       {"unix: { web: { uid: 1000, exe: rampart } }", "no absolute path"},
		"a hash in capitals":       {"unix: { web: { uid: 1, exe: /x, sha256: " + strings.Repeat("0A", 32) + " } }", "sha256sum"},
		"a stranger":               {"unix: { ghost: { uid: 1000, exe: /usr/bin/rampart } }", "no service and no queue"},
		"two users":                {"unix: { web: { uid: 1000, exe: /usr/bin/rampart }, api: { uid: 1001, exe: /usr/bin/rampart } }", ""},
		"one user for two":         {"unix: { web: { uid: 1000, exe: /usr/bin/rampart }, api: { uid: 1000, exe: /usr/bin/other } }", "trust.join.unix.api.uid: user 1000 is that of web already"},
		"a relative socket":        {"socket: join, " + unix, "no absolute path"},
		"an issuer without TLS":    {strings.Replace(cluster, "https", "http", 1), "not https"},
		"no keys":                  {strings.Replace(cluster, "jwks: cluster.json, ", "", 1), "jwks"},
		"keys outside":             {strings.Replace(cluster, "cluster.json", "../cluster.json", 1), "not a plain path"},
		"no accounts":              {"kubernetes: { issuer: https://k8s.example, jwks: cluster.json }", "accounts"},
		"an account of no space":   {strings.Replace(cluster, "shop/web", "web", 1), "NAMESPACE/NAME"},
		"an account of a stranger": {strings.Replace(cluster, "shop/web: web", "shop/web: ghost", 1), "no service and no queue"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"keys":[]}`), 0o600); err != nil {
				t.Fatal(err)
			}
			text := "rampart: v1\nsystem: { name: shop }\nservices: { web: { zone: inside }, api: { zone: inside } }\nzones: { inside: { trust: 50 } }\ntrust: { join: { " + row.join + " } }\n"
			file := filepath.Join(dir, "rampart.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			switch {
			case row.want == "" && err != nil && strings.Contains(err.Error(), "trust.join"):
				t.Errorf("refused: %v", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "trust.join")):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
