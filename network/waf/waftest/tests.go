// Package waftest runs the regression tests that come with the Core Rule Set
// against what inspects requests: raw bytes to a real listener, and the ids of
// the rules that matched compared with those of the test.
package waftest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza-coreruleset/v4/tests"
	"go.yaml.in/yaml/v3"
)

// Test is one test of the rule set.
type Test struct {
	ID     string // RULE-NUMBER, such as 942100-3
	File   string // RESPONSE-950-DATA-LEAKAGES and the like
	Stages []Stage
}

// Stage is one request and what must come of it.
type Stage struct {
	Input  Input  `yaml:"input"`
	Output Output `yaml:"output"`
}

// Input describes a request; Raw gives its bytes.
type Input struct {
	Method  string            `yaml:"method"`
	URI     string            `yaml:"uri"`
	Version *string           `yaml:"version"` // empty: a request line without
	Headers map[string]string `yaml:"headers"`
	Data    string            `yaml:"data"`
	Encoded string            `yaml:"encoded_request"` // base64; instead of all others
	Auto    *bool             `yaml:"autocomplete_headers"`
}

// Output is what must come of a request.
type Output struct {
	Status int  `yaml:"status"`
	Error  bool `yaml:"expect_error"` // no answer is fine
	Log    struct {
		Expect  []int  `yaml:"expect_ids"`
		Forbid  []int  `yaml:"no_expect_ids"`
		Match   string `yaml:"match_regex"`
		NoMatch string `yaml:"no_match_regex"`
	} `yaml:"log"`
}

// Tests reads all tests, in the order of their names.
func Tests() ([]Test, error) {
	files, err := fs.Glob(tests.FS, "*/*.yaml")
	if err != nil {
		return nil, err
	}
	var out []Test
	for _, name := range files {
		list, err := parse(name)
		if err != nil {
			return nil, fmt.Errorf("waftest: %s: %w", name, err)
		}
		out = append(out, list...)
	}
	return out, nil
}

func parse(name string) ([]Test, error) {
	text, err := fs.ReadFile(tests.FS, name)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Rule  int `yaml:"rule_id"`
		Tests []struct {
			ID     int     `yaml:"test_id"`
			Stages []Stage `yaml:"stages"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	var out []Test
	for _, t := range doc.Tests {
		out = append(out, Test{ID: fmt.Sprintf("%d-%d", doc.Rule, t.ID), File: path.Dir(name), Stages: t.Stages})
	}
	return out, nil
}

// Raw is the request on the wire. Unless the test says otherwise, the headers
// that every client sends are added, and a form that is not encoded is.
func (in Input) Raw() ([]byte, error) {
	if in.Encoded != "" {
		return base64.StdEncoding.DecodeString(in.Encoded)
	}
	headers, data := maps.Clone(in.Headers), repeat.ReplaceAllStringFunc(in.Data, expand)
	if headers == nil {
		headers = map[string]string{}
	}
	if in.Auto == nil || *in.Auto {
		data = complete(headers, data)
	}
	var b bytes.Buffer
	version := " HTTP/1.1"
	if in.Version != nil {
		version = strings.TrimRight(" "+*in.Version, " ")
	}
	fmt.Fprintf(&b, "%s %s%s\r\n", or(in.Method, "GET"), or(in.URI, "/"), version)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fmt.Fprintf(&b, "%s: %s\r\n", name, headers[name])
	}
	fmt.Fprintf(&b, "\r\n%s", data)
	return b.Bytes(), nil
}

var repeat = regexp.MustCompile(`\{\{ *"(.)" *\| *repeat +(\d{1,6}) *\}\}`)

// expand writes out the one template that the tests use for long bodies.
func expand(s string) string {
	m := repeat.FindStringSubmatch(s)
	n, _ := strconv.Atoi(m[2])
	return strings.Repeat(m[1], n)
}

func complete(headers map[string]string, data string) string {
	def(headers, "Connection", "close")
	if data == "" {
		return data
	}
	def(headers, "Content-Type", "application/x-www-form-urlencoded")
	kind := value(headers, "Content-Type")
	switch {
	case kind == "application/x-www-form-urlencoded":
		data = encoded(data)
	case strings.HasPrefix(strings.ToLower(kind), "multipart/"):
		data = strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\n", "\r\n") // the files are written with bare LF
	}
	def(headers, "Content-Length", strconv.Itoa(len(data)))
	return data
}

// encoded is a form as a browser sends it.
func encoded(data string) string {
	if plain, err := url.QueryUnescape(data); err != nil || plain != data {
		return data
	}
	var out []string
	for pair := range strings.SplitSeq(data, "&") {
		name, val, has := strings.Cut(pair, "=")
		s := url.QueryEscape(name)
		if has {
			s += "=" + url.QueryEscape(val)
		}
		out = append(out, s)
	}
	return strings.Join(out, "&")
}

func def(headers map[string]string, name, v string) {
	for have := range headers {
		if strings.EqualFold(have, name) {
			return
		}
	}
	headers[name] = v
}

func value(headers map[string]string, name string) string {
	for have, v := range headers {
		if strings.EqualFold(have, name) {
			return v
		}
	}
	return ""
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
