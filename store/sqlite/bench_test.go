package sqlite

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/session"
)

// resident is how many sessions lie in the database while one is looked up:
// three each of a third of a million people.
const resident = 1_000_000

// BenchmarkSessionResolveAmongAMillion reports the room of one session on disk,
// indexes included, too.
func BenchmarkSessionResolveAmongAMillion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "control.db")
	st, at := open(b, path), time.Now()
	empty := sizeOf(b, st, path)
	_, err := st.w.Exec(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
		INSERT INTO sessions (key, sid, subject, created, last_seen, expires, data)
		SELECT randomblob(32), lower(hex(randomblob(11))), printf('user:person-%06d', i / 3), $2, $2, $3,
			json_object('IP', printf('198.51.%d.%d', i / 256 % 256, i % 256), 'ACR', 'aal1', 'AMR', json_array('pwd'), 'AuthTime', '2026-05-04T03:02:01.123456789Z',
				'Agent', printf('Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36', 100 + i % 40))
		FROM n`, resident, at.UnixNano(), at.Add(12*time.Hour).UnixNano())
	if err != nil {
		b.Fatal(err)
	}
	perSession := float64(sizeOf(b, st, path)-empty) / resident
	m := session.New(session.Options{Store: st, Key: make([]byte, 32), Now: func() time.Time { return at }})
	id, _, err := m.Create(b.Context(), session.Login{Subject: "user:ann", ACR: "aal1", AMR: []string{"pwd"}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Resolve(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(perSession, "B/session")
}

func sizeOf(b *testing.B, st *Store, path string) int64 {
	b.Helper()
	if _, err := st.w.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}
