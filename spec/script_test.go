package spec

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// unpack writes the files of a script under test/e2e into a folder and returns
// it with the script's lines.
func unpack(t *testing.T, script string) (folder string, lines []string) {
	t.Helper()
	ar, err := txtar.ParseFile(filepath.Join("..", "test", "e2e", script))
	if err != nil {
		t.Fatal(err)
	}
	folder = t.TempDir()
	for _, f := range ar.Files {
		if err := os.WriteFile(filepath.Join(folder, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder, strings.Split(string(ar.Comment), "\n")
}

// TestBrokenScript holds the messages of Load against the ones that the script
// expects of `rampart check`: one file, one problem, one line.
func TestBrokenScript(t *testing.T) {
	folder, lines := unpack(t, "check_broken.txtar")
	t.Chdir(folder)
	files := 0
	for i, line := range lines {
		name, ok := strings.CutPrefix(line, "! rampart check -f ")
		if !ok {
			continue
		}
		files++
		want := strings.TrimSuffix(strings.TrimPrefix(lines[i+1], "stderr '"), "'")
		_, err := Load(name)
		if err == nil {
			t.Errorf("%s: loads", name)
			continue
		}
		if !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("%s:\n got %s\nwant %s", name, err, want)
		}
	}
	if files != 25 {
		t.Errorf("%d files in the script, want 25", files)
	}
}

// TestEffectiveScript holds Effective against the file of the script.
func TestEffectiveScript(t *testing.T) {
	folder, _ := unpack(t, "check_ok.txtar")
	want, err := os.ReadFile(filepath.Join(folder, "effective.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rampart.yaml", "effective.yaml"} {
		s, err := Load(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Effective()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: effective view:\n%s\nwant:\n%s", name, got, want)
		}
	}
}
