package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rampart-security/rampart/validate/openapi"
)

// group is one schema of the suite with its tests.
type group struct {
	Description string
	Schema      json.RawMessage
	Tests       []struct {
		Description string
		Data        json.RawMessage
		Valid       bool
	}
}

// strict are the tests of optional formats that we answer otherwise, and why.
var strict = map[string]string{
	"email.json: validation of e-mail addresses: a quoted string with a space in the local part is valid":      "no quoted local parts",
	"email.json: validation of e-mail addresses: a quoted string with a double dot in the local part is valid": "no quoted local parts",
	"email.json: validation of e-mail addresses: a quoted string with a @ in the local part is valid":          "no quoted local parts",
	"email.json: validation of e-mail addresses: an IPv4-address-literal after the @ is valid":                 "no address literals",
	"email.json: validation of e-mail addresses: an IPv6-address-literal after the @ is valid":                 "no address literals",
}

// unchecked are the formats that we do not know: at a trust boundary they are
// refused when the document is loaded.
var unchecked = []string{"ecmascript-regex.json", "idn-email.json", "idn-hostname.json"}

// suite returns the folder of the suite in the module cache.
func suite(t *testing.T) fs.FS {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/kaptinlin/jsonschema").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return os.DirFS(path.Join(strings.TrimSpace(string(out)), "testdata/JSON-Schema-Test-Suite"))
}

// remotes serves the documents that schemas of the suite refer to, at the
// address that they call localhost:1234.
func remotes(t *testing.T, from fs.FS, draft string) func(url string) (any, error) {
	t.Helper()
	sub, err := fs.Sub(from, "remotes")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.FileServerFS(sub))
	t.Cleanup(srv.Close)
	return func(url string) (any, error) {
		rest, ok := strings.CutPrefix(url, "http://localhost:1234")
		if !ok {
			return nil, fmt.Errorf("nothing is fetched from %s", url)
		}
		res, err := http.Get(srv.URL + rest)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", url, res.Status)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		return named(value(t, text), draft), nil
	}
}

// run asks every test of a file and returns how many there are and those that
// come out otherwise than the suite says.
func run(t *testing.T, from fs.FS, opt openapi.Plain, draft, file string) (n int, wrong []string) {
	t.Helper()
	for _, g := range read(t, from, file) {
		s, err := openapi.CompilePlain(named(value(t, g.Schema), draft), opt)
		for _, tc := range g.Tests {
			n++
			if err != nil || (s.Validate(value(t, tc.Data)) == nil) != tc.Valid {
				wrong = append(wrong, path.Base(file)+": "+g.Description+": "+tc.Description)
			}
		}
	}
	return n, wrong
}

func read(t *testing.T, from fs.FS, file string) (groups []group) {
	t.Helper()
	text, err := fs.ReadFile(from, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &groups); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return groups
}

// named gives a schema of an older draft, which does not name its own, its
// dialect.
func named(v any, draft string) any {
	if m, ok := v.(map[string]any); ok && m["$schema"] == nil && dialects[draft] != "" {
		m["$schema"] = dialects[draft]
	}
	return v
}

var dialects = map[string]string{
	"draft2019-09": "https://json-schema.org/draft/2019-09/schema",
	"draft7":       "http://json-schema.org/draft-07/schema#",
	"draft4":       "http://json-schema.org/draft-04/schema#",
}

func value(t *testing.T, raw []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func files(t *testing.T, from fs.FS, pattern string) []string {
	t.Helper()
	list, err := fs.Glob(from, pattern)
	if err != nil || len(list) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(list), err)
	}
	return list
}

// TestRequired: every mandatory test of the dialect that OpenAPI 3.1 speaks, and
// of the older ones that the library reads for 3.0 and for stand-alone schemas.
func TestRequired(t *testing.T) {
	from := suite(t)
	for draft, least := range map[string]int{"draft2020-12": 1200, "draft2019-09": 1100, "draft7": 850, "draft4": 550} {
		t.Run(draft, func(t *testing.T) {
			total, opt := 0, openapi.Plain{Load: remotes(t, from, draft)} // what format asserts is hardening
			for _, file := range files(t, from, "tests/"+draft+"/*.json") {
				n, wrong := run(t, from, opt, draft, file)
				total += n
				for _, w := range wrong {
					t.Error(w)
				}
			}
			t.Logf("%d mandatory tests", total)
			if total < least {
				t.Errorf("%d tests, want at least %d: the suite is not whole", total, least)
			}
		})
	}
}

// TestFormats: the optional tests of formats, but for what is named above.
func TestFormats(t *testing.T) {
	from := suite(t)
	opt := openapi.Plain{Load: remotes(t, from, "draft2020-12"), Formats: true}
	total, seen := 0, map[string]bool{}
	for _, file := range files(t, from, "tests/draft2020-12/optional/format/*.json") {
		if slices.Contains(unchecked, path.Base(file)) {
			continue
		}
		n, wrong := run(t, from, opt, "draft2020-12", file)
		total += n
		for _, w := range wrong {
			if seen[w] = true; strict[w] == "" {
				t.Error(w)
			}
		}
	}
	for w, why := range strict {
		if !seen[w] {
			t.Errorf("named as answered otherwise (%s), and is not: %s", why, w)
		}
	}
	t.Logf("%d tests of formats, %d of them answered otherwise on purpose; not checked: %s", total, len(strict), strings.Join(unchecked, ", "))
}

// TestRecognized: what package openapi takes for valid before it asks the library
// the library takes, too. Each schema of the suite meets each value of the suite,
// whatever it was written for.
func TestRecognized(t *testing.T) {
	from, draft := suite(t), "draft2020-12"
	load := remotes(t, from, draft)
	var schemas, values []json.RawMessage
	for _, file := range files(t, from, "tests/"+draft+"/*.json") {
		for _, g := range read(t, from, file) {
			schemas = append(schemas, g.Schema)
			for _, tc := range g.Tests {
				values = append(values, tc.Data)
			}
		}
	}
	slices.SortFunc(values, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	values = slices.CompactFunc(values, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
	docs := make([]any, len(values))
	for i, raw := range values {
		docs[i] = value(t, raw)
	}
	pairs, valid := 0, 0
	for _, raw := range schemas {
		ours, err := openapi.CompilePlain(value(t, raw), openapi.Plain{Load: load})
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		alone := library(t, value(t, raw), load)
		for i, doc := range docs {
			pairs++
			accepted, want := ours.Validate(doc) == nil, alone.Validate(doc) == nil
			if accepted != want {
				t.Errorf("%s by %s: valid = %t, the library says %t", values[i], raw, accepted, want)
			}
			if want {
				valid++
			}
		}
	}
	t.Logf("%d schemas, %d values: %d pairs, %d of them valid", len(schemas), len(docs), pairs, valid)
	if pairs < 100_000 {
		t.Errorf("%d pairs: the suite is not whole", pairs)
	}
}

// library compiles a schema with the library alone.
func library(t *testing.T, schema any, load func(string) (any, error)) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(loader(load))
	if err := c.AddResource("schema:///alone", schema); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema:///alone")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type loader func(string) (any, error)

func (l loader) Load(url string) (any, error) { return l(url) }
