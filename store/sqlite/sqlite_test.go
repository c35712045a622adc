package sqlite

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Test(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "control.db")) })
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	st, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// TestDurability: what the bar of kill -9 rests on is asked of SQLite itself.
func TestDurability(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "with space & ? # %.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := st.w.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
	if n := st.w.Stats().MaxOpenConnections; n != 1 {
		t.Errorf("%d connections write, want 1", n)
	}
	if _, err := st.r.Exec("DELETE FROM users"); err == nil {
		t.Error("a reading connection wrote")
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	st := open(t, path)
	if _, err := st.PinMeta(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s%s has mode %#o, want 0600", filepath.Base(path), suffix, mode)
		}
	}
}

// TestTwoProcesses: `rampart audit verify` reads while the system runs.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	a := open(t, path)
	h := store.Head{Plane: "control", Seq: 1, Hash: [32]byte{1}, Seen: time.Unix(1, 0).UTC()}
	if _, err := a.PutHead(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	b := open(t, path)
	heads, err := b.Heads(t.Context())
	if err != nil || len(heads) != 1 || heads[0] != h {
		t.Errorf("the second process reads %v, %v", heads, err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	st := open(t, path)
	if _, err := st.w.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("got %v, want a refusal that asks for the newer program", err)
	}
}

// TestChecks: the last layer of validation is the database's own.
func TestChecks(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "control.db"))
	for rule, stmt := range map[string]string{
		"a time in text":           `INSERT INTO meta VALUES ('k', 'v'); INSERT INTO join_tokens (hash, identity, expires) VALUES (zeroblob(32), 'x', 'soon')`,
		"a short hash":             `INSERT INTO join_tokens (hash, identity, expires) VALUES (zeroblob(31), 'x', 1)`,
		"a key of no client":       `INSERT INTO api_keys (id, hash, client, created) VALUES ('a', zeroblob(32), 'nobody', 1)`,
		"an unknown revocation":    `INSERT INTO revocations (kind, id, not_before, expires) VALUES ('x', 'y', 1, 2)`,
		"plain text where sealed":  `INSERT INTO sealed (name, value) VALUES ('ca', 'PEM')`,
		"facts that are no object": `INSERT INTO users VALUES ('ann', '$argon2id$', '[]', '', 1)`,
	} {
		if _, err := st.w.Exec(stmt); err == nil {
			t.Errorf("the database took %s", rule)
		}
	}
}

func TestTransactionRollsBack(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "control.db"))
	err := st.inTx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`INSERT INTO meta VALUES ('k', 'v')`); err != nil {
			return err
		}
		return context.Canceled
	})
	if err != context.Canceled {
		t.Fatalf("got %v", err)
	}
	if got, _ := st.PinMeta(t.Context(), "k", "other"); got != "other" {
		t.Errorf("half a transaction stayed: %q", got)
	}
}
