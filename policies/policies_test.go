package policies

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestControls(t *testing.T) {
	list, err := Controls()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 58 {
		t.Errorf("%d controls, want 58", len(list))
	}
	for _, c := range list {
		info, err := os.Stat(filepath.Join("..", c.Folder))
		if err != nil || !info.IsDir() {
			t.Errorf("%s: the tree has no folder %s", c.ID, c.Folder)
		}
	}
}

// Every row of the payment table, every layer of limits and of authorization
// has a control. What no control of the house can show is not listed here.
func TestSeedRowsHaveControls(t *testing.T) {
	list, err := Controls()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, c := range list {
		rows = append(rows, c.Seed...)
	}
	for _, want := range []string{
		"payment: 1 stolen API key", "payment: 1 tampered amount", "payment: 2 replayed request", "payment: 3 exposed processor key",
		"payment: 4 tampered record", "payment: 5 queue poisoning", "payment: 6 wrong recipient",
		"limits: IP address", "limits: API key", "limits: user", "limits: connection pool",
		"authz: layer 1", "authz: layer 2", "authz: layer 3",
		"validation: gateway", "validation: service", "validation: database",
		"stride: spoofing", "stride: tampering", "stride: repudiation", "stride: information disclosure", "stride: denial of service", "stride: elevation of privilege",
		"owasp: A01", "owasp: A02", "owasp: A03", "owasp: A04", "owasp: A05", "owasp: A07", "owasp: A08", "owasp: A09", "owasp: A10",
	} {
		if !slices.Contains(rows, want) {
			t.Errorf("no control for the row %q", want)
		}
	}
}

func TestBrokenControls(t *testing.T) {
	good := "- { id: a.b, title: t, seed: [s], folder: f, probes: [P-001] }\n"
	if _, err := parseControls([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", strings.Replace(good, "title", "titel", 1), "field titel not found"},
		{"id without area", strings.Replace(good, "a.b", "ab", 1), "not of the form"},
		{"nobody asked", strings.Replace(good, "[s]", "[]", 1), "needs title, seed, folder and probes"},
		{"nobody attacks", strings.Replace(good, "[P-001]", "[]", 1), "needs title, seed, folder and probes"},
		{"probe of another form", strings.Replace(good, "P-001", "P-1", 1), "not of the form P-000"},
		{"twice", good + good, "listed twice"},
	} {
		if _, err := parseControls([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A rule is found by its id.
func TestRuleFilesBearTheirIDs(t *testing.T) {
	files, err := Stride()
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(files, "*.yaml")
	if err != nil || len(names) < 40 {
		t.Fatalf("%d rule files, %v", len(names), err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		id := "id: RT-" + strings.ToUpper(strings.TrimSuffix(name, ".yaml")) + "\n"
		if !strings.HasPrefix(string(text), id) {
			t.Errorf("%s does not begin with %q", name, id)
		}
	}
}
