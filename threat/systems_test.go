package threat

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// small are the systems under testdata, with the files they name.
var small = map[string]map[string][]byte{
	"tenlines": {"catalog.openapi.yaml": []byte("openapi: 3.1.0\n")},
	"batch":    {},
	"partners": {"db.pem": []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")},
}

func load(t testing.TB, name string) *spec.System {
	t.Helper()
	if name == "payments" {
		sys, err := spec.Load("../examples/payments/rampart.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return sys
	}
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text), small[name])
}

func parse(t testing.TB, text string, files map[string][]byte) *spec.System {
	t.Helper()
	sys, err := spec.FromBundle(spec.NewBundle([]byte(text), files))
	if err != nil {
		t.Fatal(err)
	}
	return sys
}

// embedded compiles the shipped rules once for all tests.
var embedded = sync.OnceValues(embeddedRules)

func analyze(t testing.TB, sys *spec.System, ev Evidence) Model {
	t.Helper()
	set, err := embedded()
	if err != nil {
		t.Fatal(err)
	}
	m, err := set.analyze(sys, ev)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// golden compares text with a file of testdata, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update rewrites it:\n%s", name, diff)
	}
}

// TestSystems holds every row of small systems: a threat that is missed and
// one about what the system lacks both show.
func TestSystems(t *testing.T) {
	for name := range small {
		m := analyze(t, load(t, name), Evidence{})
		var b strings.Builder
		for _, r := range m.Rows {
			if r.State != NotApplicable {
				b.WriteString(strings.Join([]string{r.ID, string(r.Severity), string(r.State), r.mitigation()}, "\t") + "\n")
			}
		}
		golden(t, name+".golden", b.String())
	}
}
