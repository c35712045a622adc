package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/test/valkeytest"
)

// flagsOf parses a command line as `rampart control` does.
func flagsOf(t *testing.T, args []string) storeFlags {
	t.Helper()
	var f storeFlags
	cmd := &cobra.Command{}
	f.add(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return f
}

// write makes a file of the test, with a mode, and returns its path.
func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStoreFlagsRefused: every mistake is told with its way out.
func TestStoreFlagsRefused(t *testing.T) {
	dir, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	_, ca := pgtest.Certificate(t, "localhost")
	roots, password := write(t, string(ca), 0o644), write(t, "secret\n", 0o600)
	database := []string{"--database", "postgres://app@localhost:1/db"}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"one of several on a file":      {[]string{"--replica", "a"}, "needs --database"},
		"a name that is a path":         {append(database, "--replica", "../a"), "a-z, 0-9 and -"},
		"no password":                   {append(database, "--database-ca", roots), "needs --database-password-file and --database-ca"},
		"no roots":                      {append(database, "--database-password-file", password), "needs --database-password-file and --database-ca"},
		"a password for nothing":        {[]string{"--shared-password-file", password}, "need --shared"},
		"a password that others read":   {append(database, "--database-ca", roots, "--database-password-file", write(t, "secret", 0o644)), "chmod 600"},
		"an empty password":             {append(database, "--database-ca", roots, "--database-password-file", write(t, "\n", 0o600)), "one line"},
		"a file with more than that":    {append(database, "--database-ca", roots, "--database-password-file", write(t, "a\nb\n", 0o600)), "one line"},
		"a file that is not there":      {append(database, "--database-ca", roots, "--database-password-file", "/nowhere/password"), "/nowhere/password"},
		"roots that are none":           {append(database, "--database-ca", password, "--database-password-file", password), "postgres: "},
		"a password in the address":     {[]string{"--database", "postgres://app:secret@localhost:1/db", "--database-ca", roots, "--database-password-file", password}, "neither a password"},
		"nobody there":                  {append(database, "--database-ca", roots, "--database-password-file", password), "localhost:1"},
		"a shared store in plain text":  {[]string{"--shared", "redis://localhost:1", "--shared-ca", roots, "--shared-password-file", password}, "rediss://HOST:PORT"},
		"a shared store that is absent": {[]string{"--shared", "rediss://localhost:1", "--shared-ca", roots, "--shared-password-file", password}, "localhost:1"},
	} {
		f := flagsOf(t, tc.args)
		st, err := f.open(t.Context(), dir, slog.New(slog.DiscardHandler))
		if err == nil {
			st.Close()
			t.Errorf("%s was accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %q, and never the password", name, err, tc.want)
		}
	}
}

// TestStoreFlags opens both servers as `rampart control` does.
func TestStoreFlags(t *testing.T) {
	db, cache := pgtest.Start(t), valkeytest.Start(t, "appendonly no")
	f := flagsOf(t, []string{
		"--database", "postgres://" + pgtest.User + "@localhost:" + db.Port + "/postgres", "--database-ca", write(t, string(db.CA), 0o644),
		"--database-password-file", write(t, pgtest.Password+"\n", 0o600),
		"--shared", cache.URL, "--shared-ca", write(t, string(cache.CA), 0o644), "--shared-password-file", write(t, valkeytest.Password, 0o600),
		"--replica", "a",
	})
	dir, err := statedir.Open(filepath.Join(t.TempDir(), "state"), statedir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := f.open(t.Context(), dir, slog.New(slog.NewTextHandler(&log, nil)))
		if err == nil {
			st.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if !strings.Contains(log.String(), "appendonly yes") {
		t.Errorf("a shared store that a crash empties is not told of: %s", log.String())
	}
	if _, err := os.Stat(dir.Path("control.db")); err == nil {
		t.Error("there is a database in the state folder as well")
	}
}
