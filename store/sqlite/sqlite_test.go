package sqlite

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Test(t, func(t *testing.T) (a, b store.Store) {
		path := filepath.Join(t.TempDir(), "control.db")
		return open(t, path), open(t, path)
	})
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
		"a key of no client":       `INSERT INTO api_keys (id, hash, client, disabled, created, last_used, data) VALUES ('a', zeroblob(32), 'nobody', 0, 1, 0, '{}')`,
		"an unknown revocation":    `INSERT INTO revocations (kind, id, not_before, expires, data) VALUES ('x', 'y', 1, 2, '{}')`,
		"plain text where sealed":  `INSERT INTO sealed (name, value) VALUES ('ca', 'PEM')`,
		"facts that are no object": `INSERT INTO users VALUES ('ann', '$argon2id$', '[]', 1, '{}', 1)`,
		"a password in the clear":  `INSERT INTO users VALUES ('ann', 'secret', '{}', 1, '{}', 1)`,
		"an account of no version": `INSERT INTO users VALUES ('ann', '', '{}', 1, '{}', 0)`,
		"a passkey of no key":      `INSERT INTO factors VALUES ('f', 'user:ann', 'passkey', NULL, x'00', 0, 1, 0, '{}')`,
	} {
		if _, err := st.w.Exec(stmt); err == nil {
			t.Errorf("the database took %s", rule)
		}
	}
}

// TestSweeps: tables that grow with every login shrink again.
func TestSweeps(t *testing.T) {
	st, ctx, at := open(t, filepath.Join(t.TempDir(), "control.db")), t.Context(), time.Unix(1_700_000_000, 0)
	for i := range byte(2) { // one lives on
		end := at.Add(time.Duration(i) * time.Second)
		if err := st.PutTicket(ctx, "login", ticket.Hash{i}, nil, at.Add(-1), end); err != nil {
			t.Fatal(err)
		}
		if _, err := st.SwapTries(ctx, []guess.Change{{Key: guess.Key{i}, To: guess.State{Count: 1, Updated: end}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(st.SweepTickets(ctx, at), st.SweepTries(ctx, at.Add(1))); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"tickets", "tries"} {
		var n int
		if err := st.r.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil || n != 1 {
			t.Errorf("%s has %d rows, %v; want 1", table, n, err)
		}
	}
}

// TestShredLeavesNoBytes: whoever copies the files after a shred finds no copy of
// the wrapped key, neither in a page that was given back nor in the log.
func TestShredLeavesNoBytes(t *testing.T) {
	dir := t.TempDir()
	st, err := Open(t.Context(), filepath.Join(dir, "control.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	wrapped := []byte("the bytes of a wrapped key that must be nowhere, and some more")
	d := store.DEK{Item: "payment", Tenant: "acme", Version: 1, KEK: "k", Wrapped: wrapped, Created: time.Now()}
	if err := st.PutDEK(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if !filesHold(t, dir, wrapped) {
		t.Fatal("the test looks in the wrong place")
	}
	if _, err := st.Shred(t.Context(), "payment", "acme", "", time.Now()); err != nil {
		t.Fatal(err)
	}
	if filesHold(t, dir, wrapped) {
		t.Error("the wrapped key is still in the files")
	}
}

func filesHold(t *testing.T, dir string, text []byte) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, text) {
			return true
		}
	}
	return false
}
