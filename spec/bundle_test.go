package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBundle changes a sound bundle in every way that changes its meaning.
func TestBundle(t *testing.T) {
	sound := func() Bundle {
		return NewBundle([]byte(tenLines), map[string][]byte{"catalog.openapi.yaml": []byte("openapi: 3.1.0")})
	}
	if _, err := FromBundle(sound()); err != nil {
		t.Fatalf("a sound bundle: %v", err)
	}
	for _, tc := range []struct {
		name   string
		change func(b *Bundle)
		want   string
	}{
		{"no digest", func(b *Bundle) { b.Digest = "" }, "digest"},
		{"other file", func(b *Bundle) { b.File = append(b.File, '\n') }, "digest"},
		{"other resource", func(b *Bundle) { b.Resources["catalog.openapi.yaml"] = []byte("openapi: 3.0.0") }, "digest"},
		{"other name", func(b *Bundle) { b.Resources = map[string][]byte{"catalog.openapi.yam": []byte("lopenapi: 3.1.0")} }, "digest"},
		{"missing resource", func(b *Bundle) { *b = NewBundle(b.File, nil) }, `services.catalog.openapi: file "catalog.openapi.yaml" is not in the bundle`},
		{"spare resource", func(b *Bundle) { b.Resources["spare"] = nil; *b = NewBundle(b.File, b.Resources) }, `file "spare" is in the bundle, but no key names it`},
		{"large file", func(b *Bundle) { *b = NewBundle(make([]byte, MaxFile+1), b.Resources) }, "larger than 1MiB"},
		{"large resource", func(b *Bundle) {
			*b = NewBundle(b.File, map[string][]byte{"catalog.openapi.yaml": make([]byte, MaxResource+1)})
		}, "larger than 4MiB"},
	} {
		b := sound()
		tc.change(&b)
		if _, err := FromBundle(b); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestResources demands that a file name leads nowhere but below the folder.
func TestResources(t *testing.T) {
	outer := t.TempDir()
	folder := filepath.Join(outer, "system")
	for _, dir := range []string{folder, filepath.Join(folder, "dir.yaml")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put := func(path string, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(outer, "outside.yaml"), []byte("x"))
	put(filepath.Join(folder, "inside.yaml"), []byte("x"))
	put(filepath.Join(folder, "large.yaml"), make([]byte, MaxResource+1))
	for link, target := range map[string]string{"escape.yaml": "../outside.yaml", "near.yaml": "inside.yaml"} {
		if err := os.Symlink(target, filepath.Join(folder, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ name, want string }{
		{"inside.yaml", ""},
		{"near.yaml", ""},
		{"escape.yaml", "cannot be opened, or lies outside the folder"},
		{"gone.yaml", "does not exist"},
		{"dir.yaml", "is not a regular file"},
		{"large.yaml", "larger than 4MiB"},
		{"../outside.yaml", "is not a plain path"},
		{"./inside.yaml", "is not a plain path"},
		{"/etc/hosts.yaml", "is not a plain path"},
		{"a\\b.yaml", "is not a plain path"},
		{"inside.txt", "has an ending that is not read here"},
	} {
		path := filepath.Join(folder, "rampart.yaml")
		put(path, []byte(strings.ReplaceAll(strings.Replace(tenLines, "catalog.openapi.yaml", `"`+strings.ReplaceAll(tc.name, `\`, `\\`)+`"`, 1), "\r", "")))
		s, err := Load(path)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want == "":
			if _, ok := s.Resource(tc.name); !ok {
				t.Errorf("%s: not in the bundle", tc.name)
			}
		case err == nil || !strings.Contains(err.Error(), tc.want):
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestSecrets demands that a credential is refused wherever it stands, and is
// not repeated. The values are put together here so that no scanner of this
// repository takes them for real.
func TestSecrets(t *testing.T) {
	tail := strings.Repeat("a1B2", 6)
	for name, secret := range map[string]string{
		"payment key":  "sk_" + "live_" + tail,
		"test key":     "sk_" + "test_" + tail,
		"cloud key":    "AKIA" + strings.ToUpper(tail)[:16],
		"forge token":  "ghp" + "_" + tail,
		"chat token":   "xoxb" + "-" + tail,
		"JWT":          "eyJ" + tail + ".eyJ" + tail + "." + tail,
		"private key":  "-----BEGIN EC " + "PRIVATE KEY-----",
		"URL password": "https://ann:" + tail + "@example.com",
	} {
		for place, text := range map[string]string{
			"value":    strings.Replace(tenLines, "name: shop", `name: shop, owner: "`+secret+`"`, 1),
			"argument": strings.Replace(tenLines, "server.js", secret, 1),
			"comment":  tenLines + "# " + secret + "\n",
			"body":     tenLines + `verify: { scenario: { call: "GET /", body: { x: ["` + secret + `"] } } }` + "\n",
		} {
			_, err := parse("rampart.yaml", []byte(text))
			if err == nil || !strings.Contains(err.Error(), "a literal secret") {
				t.Errorf("%s as %s: got %v", name, place, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s as %s: the error repeats it", name, place)
			}
		}
	}
	for _, fine := range []string{
		"data: { k: { kind: credential, source: \"secret://embedded/k\", generate: sk_test_ } }\n",
		"verify: { scenario: { call: \"POST /pay\", body: { token: tok_visa, password: \"${password}\" } } }\n",
	} {
		mustParse(t, tenLines+fine)
	}
	for _, named := range []string{"password: hunter2", "api_key: 0123456789abcdef0123", "Client-Secret: x", "token: [x]"} {
		_, err := parse("rampart.yaml", []byte(strings.Replace(tenLines, "run: ", named+", run: ", 1)))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", named, err)
		}
	}
	_, err := parse("rampart.yaml", []byte(strings.Replace(tenLines, "server.js", "--db-password=hunter2", 1)))
	if err == nil || !strings.Contains(err.Error(), "on a command line") {
		t.Errorf("argument: got %v", err)
	}
}

func TestScalars(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "5m": 5 * time.Minute, "24h": 24 * time.Hour, "30d": 720 * time.Hour, "3650d": maxDuration} {
		d, err := ParseDuration(text)
		if err != nil || time.Duration(d) != want || d.String() != text {
			t.Errorf("duration %s: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "0s", "-5m", "5", "1.5h", "5ms", "5 m", "3651d", "999999999d", "٣m"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("duration %q reads as %v", text, d)
		}
	}
	for _, text := range []string{"10/s", "60/m", "10000/d", "1000000000/h"} {
		if r, err := ParseRate(text); err != nil || r.String() != text {
			t.Errorf("rate %s: %v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "0/m", "60", "60/w", "/m", "1000000001/h", "9999999999/s"} {
		if r, err := ParseRate(text); err == nil {
			t.Errorf("rate %q reads as %v", text, r)
		}
	}
	for text, want := range map[string]Size{"512": 512, "64KiB": 64 << 10, "1MiB": 1 << 20, "1024MiB": 1 << 30} {
		if s, err := ParseSize(text); err != nil || s != want || s.String() != text {
			t.Errorf("size %s: %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "0", "64KB", "1GiB", "1025MiB", "-1", "9999999999MiB"} {
		if s, err := ParseSize(text); err == nil {
			t.Errorf("size %q reads as %v", text, s)
		}
	}
}

// TestBounds demands that a file of any size and shape is refused or read in
// bounded work.
func TestBounds(t *testing.T) {
	deep := tenLines + "verify: { scenario: { call: \"GET /\", body: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + " } }\n"
	wide := tenLines + "verify: { scenario: { call: \"GET /\", body: [" + strings.Repeat("1,", maxNodes) + "1] } }\n"
	for name, tc := range map[string]struct{ text, want string }{
		"depth":  {deep, "nested deeper than 32 levels"},
		"nodes":  {wide, "more than 200000 values in one file"},
		"scalar": {strings.Replace(tenLines, "server.js", strings.Repeat("x", maxScalar+1), 1), "longer than 4096 bytes"},
		"flows":  {large(2, maxFlows+1), "flows: more than 5000 entries"},
	} {
		if _, err := parse("rampart.yaml", []byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
}

// FuzzFromBundle feeds arbitrary text. It must not panic, and what it accepts
// must mean the same when every default is written out.
func FuzzFromBundle(f *testing.F) {
	example, err := os.ReadFile("../examples/payments/rampart.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{tenLines, whole, string(example), "", "a: &a [*a]", "rampart: v1\n---\n", "{}", "? [a]\n: b", "\tx: 1", "x: \"\\x00\"", "- - - -", "flows: [{}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b := NewBundle(text, map[string][]byte{"catalog.openapi.yaml": nil})
		if s, err := FromBundle(b); err == nil && s.Gateway() == "" {
			t.Error("a system without gateway")
		}
		s, err := parse("rampart.yaml", text)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a word")
			}
			return
		}
		effective, err := s.Effective()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse("effective.yaml", effective)
		if err != nil {
			t.Fatalf("the effective view is refused: %v\n%s", err, effective)
		}
		if second, err := again.Effective(); err != nil || string(second) != string(effective) {
			t.Fatalf("the effective view changes: %v\n%s\n%s", err, effective, second)
		}
		s.Controls()
	})
}
