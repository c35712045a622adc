package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// What a start tells its user to open is a page that there is.
func TestLanding(t *testing.T) {
	const root, deeper = "/: { get: { responses: { \"200\": { description: all } } } }", "/items: { get: { responses: { \"200\": { description: all } } } }"
	for name, tc := range map[string]struct{ service, doc, want string }{
		"a document with a first page":      {"openapi: shop.yaml", root, ""},
		"one without":                       {"openapi: shop.yaml", deeper, "account"},
		"one whose first page is elsewhere": {"openapi: shop.yaml, mount: /v1/", root, "account"},
		"one that only takes":               {"openapi: shop.yaml", "/: { post: { responses: { \"200\": { description: taken } } } }", "account"},
		"no document, everything":           {"mount: /", root, ""},
		"no document, below its name":       {"methods: [GET]", root, "account"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := "rampart: v1\nsystem: { name: shop }\nservices:\n  gateway: { role: gateway }\n  shop: { upstream: \"http://127.0.0.1:9000\", " + tc.service + " }\n" +
				"flows:\n  - { from: users, to: gateway, authn: session }\n  - { from: gateway, to: shop, allow: any }\n"
			for name, text := range map[string]string{"rampart.yaml": file, "shop.yaml": "openapi: 3.1.0\ninfo: { title: shop, version: \"1\" }\npaths:\n  " + tc.doc + "\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			sys, err := spec.Load(filepath.Join(dir, "rampart.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			u := up{sys: sys, running: wire.Running{Edge: "127.0.0.1:8443"}}
			if got, want := u.landing(), "https://localhost:8443/"+tc.want; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}
