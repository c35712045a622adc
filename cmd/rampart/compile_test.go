package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/control/controltest"
)

// TestCompiledAsPlanesDo: what a plane refuses is refused before it is applied. The
// planes would keep the file of before, and the control plane enforce the new one.
func TestCompiledAsPlanesDo(t *testing.T) {
	for name, tc := range map[string]struct {
		change []string
		beside map[string]string
		says   string
	}{
		"a file that planes take": {},
		"two services with one operation": {
			change: []string{"headers: [X-Kept] }", "headers: [X-Kept], openapi: shop.openapi.yaml }"}, says: "both declare",
		},
		"a schema of messages that is none": {beside: map[string]string{"sold.json": `{"type": 7}`}, says: "sold.json"},
		"a CA of the limits' store that is none": {
			change: []string{"\nflows:", "\nlimits: { store: \"rediss://localhost:6380\", ca: ca.pem }\nflows:"},
			beside: map[string]string{"ca.pem": "none"}, says: "limits.ca",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := controltest.File(t, tc.change...)
			for name, text := range tc.beside {
				if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := loadCompiled(file)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v, want what says %q", err, tc.says)
			}
		})
	}
}
