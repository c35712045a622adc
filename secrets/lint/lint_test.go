package lint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/literal"
)

// secret is put together here, so that no credential stands in this file.
const secret = "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc"

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestScan(t *testing.T) {
	root := tree(t, map[string]string{
		"app.yaml":             "a: 1\nkey: " + secret + "\n",
		"allowed.yaml":         "key: " + secret + " # rampart:allow a key of the documentation\n",
		"above.yaml":           "# rampart:allow a key of the documentation\nkey: " + secret + "\nkey: " + secret + "\n",
		"no-reason.yaml":       "key: " + secret + " # rampart:allow\n",
		"deep/er/x_test.go":    "var k = `" + secret + "`\n",
		"deep/er/x.go":         "var k = `" + secret + "`\n",
		"binary":               "\x00" + secret,
		"large":                strings.Repeat("x\n", maxFile),
		".git/config":          secret,
		"node_modules/a/b.js":  secret,
		"deep/node_modules/x":  secret,
		".rampart/kek":         secret,
		AllowFile:              "# tests make credentials up\n**/*_test.go made-up credentials\n",
		"clean.go":             "package clean\n",
		"deep/er/and/deeper.x": "nothing\n",
	})
	if err := os.Symlink(filepath.Join(root, "app.yaml"), filepath.Join(root, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	r, err := Scan(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	show := func(list []Finding) (out []string) {
		for _, f := range list {
			below, _ := filepath.Rel(root, f.File)
			out = append(out, below+" "+f.Rule+" "+f.Reason)
		}
		return out
	}
	if diff := cmp.Diff([]string{"above.yaml stripe-key ", "app.yaml stripe-key ", "deep/er/x.go stripe-key ", "no-reason.yaml stripe-key "}, show(r.Findings)); diff != "" {
		t.Errorf("findings, -want +got\n%s", diff)
	}
	want := []string{"above.yaml stripe-key a key of the documentation", "allowed.yaml stripe-key a key of the documentation", "deep/er/x_test.go stripe-key made-up credentials"}
	if diff := cmp.Diff(want, show(r.Allowed)); diff != "" {
		t.Errorf("allowed, -want +got\n%s", diff)
	}
	if r.Findings[1].Line != 2 || r.Findings[1].Column != 6 || len(r.Skipped) != 1 {
		t.Errorf("%+v, skipped %v", r.Findings[1], r.Skipped)
	}
	for name, form := range map[string]any{"JSON": r, "SARIF": r.SARIF("1")} {
		text, err := json.Marshal(form)
		if err != nil || strings.Contains(string(text), secret) {
			t.Errorf("%s shows the secret, or %v", name, err)
		}
	}
}

func TestAllowFileIsStrict(t *testing.T) {
	for _, text := range []string{"*.go\n", "*.go why\n", "**/a/**/b/**/c a reason\n", "[ a reason\n"} {
		if _, err := Scan(t.Context(), tree(t, map[string]string{AllowFile: text})); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func FuzzText(f *testing.F) {
	forms := literal.New()
	f.Add([]byte("key: " + secret + " # rampart:allow it is made up\n"))
	f.Add([]byte("rampart:allow"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, found := range Text(forms, data) {
			if found.Line < 1 || found.Column < 1 {
				t.Errorf("%+v", found)
			}
		}
	})
}

func FuzzAllow(f *testing.F) {
	f.Add("**/*_test.go made up\n", "a/b_test.go")
	f.Add("**/**/**/**/x reason\n", "a/a/a/a/a/a/a/a")
	f.Fuzz(func(t *testing.T, text, file string) {
		if len(text) > 200 || len(file) > 60 {
			return
		}
		allow, err := parseAllow("x", text)
		if err == nil {
			(&scan{allow: allow}).allowed(file)
		}
	})
}
