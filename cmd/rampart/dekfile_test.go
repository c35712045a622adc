package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/internal/wire"
)

func page(n int, last bool) wire.DEKPage {
	return wire.DEKPage{DEKPageHead: wire.DEKPageHead{ID: "b", N: n, Last: last}, Rows: json.RawMessage(`{}`)}
}

func TestBackupFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "deks.backup")
	if _, err := writePages(name, func(wire.DEKPageHead) (wire.DEKPage, error) { return wire.DEKPage{}, errors.New("gone") }); err == nil {
		t.Error("half a backup was written")
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	_, err := writePages(name, func(after wire.DEKPageHead) (wire.DEKPage, error) { return page(after.N+1, after.N == 2), nil })
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	if err := readPages(bytes.NewReader(text), func(wire.DEKPage) error { count++; return nil }); err != nil || count != 3 {
		t.Errorf("%d pages, %v", count, err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for what, text := range map[string]string{
		"nothing":       "",
		"cut":           lines[0] + lines[1],
		"a page less":   lines[0] + lines[2],
		"twice":         lines[0] + lines[0],
		"after its end": lines[0] + lines[1] + lines[2] + lines[2],
		"no JSON":       lines[0] + "x\n",
		"of another":    lines[0] + strings.Replace(lines[1], `"b"`, `"c"`, 1) + lines[2],
		"a long line":   strings.Repeat("x", maxPageLine+1),
	} {
		called := false
		if err := readPages(strings.NewReader(text), func(wire.DEKPage) error { called = true; return nil }); err == nil || called {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzBackupFile(f *testing.F) {
	one, _ := json.Marshal(page(1, true))
	two, _ := json.Marshal(page(2, true))
	f.Add(append(one, '\n'))
	f.Add(append(append(one, '\n'), two...))
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		err := readPages(bytes.NewReader(text), func(p wire.DEKPage) error {
			if n++; p.N != n {
				t.Errorf("page %d came as number %d", p.N, n)
			}
			return nil
		})
		if err == nil && n == 0 {
			t.Error("nothing was taken for a backup")
		}
	})
}
