package pii

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/test/pgtest"
)

// rekeyRows is how many rows are sealed anew; make rekey-long has a million.
func rekeyRows(t *testing.T, kind string) int {
	t.Helper()
	if text := os.Getenv("RAMPART_REKEY_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	if testing.Short() {
		return 2_000
	}
	if kind == "postgres" {
		return 5_000 // each with a round trip
	}
	return 20_000
}

const childEnv = "RAMPART_TEST_REKEY"

// TestRekeyChild is the process that is killed.
func TestRekeyChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("runs inside TestRekey")
	}
	svc, err := sdk.Connect(t.Context())
	must(t, err)
	store, err := db.Open(t.Context(), svc, "people_db")
	must(t, err)
	defer store.Close()
	table, err := Bind[contact](New(svc), "payment", "contacts")
	must(t, err)
	p, err := Rekey(t.Context(), store, table, RekeyOptions{Progress: func(p Progress) {
		fmt.Printf("at %d %d\n", p.Pass, p.Done)
	}})
	must(t, err)
	fmt.Printf("end %+v\n", p)
}

// contact is sealed under its tenant's key: a million people would have a
// million keys.
type contact struct {
	ID   string `rampart:"row"`
	Org  string `rampart:"tenant"`
	Mail String `rampart:"pii=mail"`
	Card string `rampart:"pii=card"`
	N    int64  `rampart:"column=n"`
}

// ledger is a database of contacts that a test knows the content of.
type ledger struct {
	*office
	contacts *Table[contact]
	rows     int

	mu   sync.Mutex
	want map[string]int64 // id -> n, where it is not 0
}

func newLedger(t *testing.T, store agent.StoreInfo, rows int) *ledger {
	o := open(t, store)
	l := &ledger{office: o, rows: rows, want: map[string]int64{}}
	blob := map[string]string{"sqlite": "BLOB", "postgres": "BYTEA"}[store.Kind]
	o.exec(t, fmt.Sprintf(`CREATE TABLE contacts (id TEXT PRIMARY KEY, org TEXT NOT NULL, mail %[1]s NOT NULL, mail_idx %[1]s, card %[1]s NOT NULL, n BIGINT NOT NULL)`, blob))
	var err error
	l.contacts, err = Bind[contact](o.keys, "payment", "contacts")
	must(t, err)
	for from := 0; from < rows; from += 5_000 {
		must(t, o.db.Update(t.Context(), func(tx *sql.Tx) error {
			insert, err := tx.PrepareContext(t.Context(), `INSERT INTO contacts (`+l.contacts.List()+`) VALUES (`+l.contacts.Placeholders(1)+`)`)
			if err != nil {
				return err
			}
			defer insert.Close()
			for i := from; i < min(from+5_000, rows); i++ {
				args, err := l.contacts.Args(t.Context(), l.row(i, 0))
				if err != nil {
					return err
				}
				if _, err := insert.ExecContext(t.Context(), args...); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return l
}

func (l *ledger) row(i int, n int64) *contact {
	return &contact{ID: fmt.Sprintf("c%07d", i), Org: fmt.Sprintf("org%d", i%3), Mail: NewString(fmt.Sprintf("Alice%d.%d@example.com", i, n)), Card: fmt.Sprint("tok_canary_", i, n), N: n}
}

// write changes random rows, as the service does, until ctx ends.
func (l *ledger) write(ctx context.Context) error {
	for n := int64(1); ctx.Err() == nil; n++ {
		i := rand.IntN(l.rows)
		l.mu.Lock() // of two writers of a row the test must know the last
		err := l.change(context.WithoutCancel(ctx), l.row(i, n))
		l.mu.Unlock()
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (l *ledger) change(ctx context.Context, c *contact) error {
	err := l.db.Update(ctx, func(tx *sql.Tx) error {
		args, err := l.contacts.Args(ctx, c)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE contacts SET org = $2, mail = $3, mail_idx = $4, card = $5, n = $6 WHERE id = $1`, args...)
		return err
	})
	if err == nil {
		l.want[c.ID] = c.N
	}
	return err
}

// check demands that every row holds what was written last, under the key that
// seals now, and is found.
func (l *ledger) check(t *testing.T, version uint32) {
	t.Helper()
	count := 0
	must(t, l.db.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT `+l.contacts.List()+`, mail, mail_idx, card FROM contacts ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for ; rows.Next(); count++ {
			var got contact
			var mail, index, card []byte
			if err := l.contacts.Scan(t.Context(), rows, &got, &mail, &index, &card); err != nil {
				return err
			}
			want := l.row(count, l.want[got.ID])
			if diff := cmp.Diff(*want, got); diff != "" {
				t.Fatalf("%s: -want +got\n%s", got.ID, diff)
			}
			found, err := l.contacts.Lookup(t.Context(), got.Org, "mail", got.Mail.Reveal())
			if err != nil {
				return err
			}
			if string(found[0].([]byte)) != string(index) || binary.BigEndian.Uint32(mail[1:]) != version || binary.BigEndian.Uint32(card[1:]) != version {
				t.Fatalf("%s is sealed with %d and %d, its index with another key", got.ID, mail[4], card[4])
			}
		}
		return rows.Err()
	}))
	if count != l.rows {
		t.Errorf("%d rows, want %d", count, l.rows)
	}
}

func TestRekey(t *testing.T) {
	for name, store := range map[string]func(*testing.T) agent.StoreInfo{
		"sqlite": func(t *testing.T) agent.StoreInfo { return file(t) },
		"postgres": func(t *testing.T) agent.StoreInfo {
			s := pgtest.Start(t)
			return agent.StoreInfo{Kind: "postgres", URL: "postgres://app@localhost:" + s.Port + "/postgres", Password: "store:people_db", CA: s.CA, Pool: 8}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "postgres" && testing.Short() {
				t.Skip("starts a PostgreSQL, which the short form leaves out")
			}
			testRekey(t, store(t))
		})
	}
}

func testRekey(t *testing.T, store agent.StoreInfo) {
	began := time.Now()
	l := newLedger(t, store, rekeyRows(t, store.Kind))
	t.Logf("%d rows sealed in %v", l.rows, time.Since(began).Round(time.Millisecond))
	for i := range 3 {
		l.agent.RekeyDEKs("payment", fmt.Sprint("org", i))
	}
	for end := time.Now().Add(10 * time.Second); !l.agent.Forgotten() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { written <- l.write(ctx) }()
	began = time.Now()
	for _, part := range []int{l.rows / 4, l.rows / 2} {
		if last, ended := runChild(t, part); ended {
			t.Fatalf("it ended before it was killed: %s", last)
		}
	}
	last, ended := runChild(t, l.rows*maxPasses)
	t.Logf("sealed anew in %v: %s", time.Since(began).Round(time.Millisecond), last)
	stop()
	must(t, <-written)
	if !ended || !strings.Contains(last, "Tampered:0") {
		t.Fatalf("it did not end well: %s", last)
	}
	t.Logf("%d rows were written meanwhile", len(l.want))
	l.check(t, 2)
	again, err := Rekey(t.Context(), l.db, l.contacts, RekeyOptions{})
	if err != nil || again.Changed != 0 || again.Pass != 1 || again.Done != int64(l.rows) {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if store.Kind == "postgres" {
		l.dump(t, store)
		l.pgx(t, store)
		return
	}
	must(t, l.db.Close())
	b, err := os.ReadFile(l.file)
	must(t, err)
	for _, c := range []string{"alice", "Alice", "example.com", "tok_canary"} {
		if strings.Contains(string(b), c) {
			t.Errorf("the file holds %q", c)
		}
	}
}

// runChild runs the job in a process that is killed when a pass has come so far; ended says that it came to its end before.
func runChild(t *testing.T, until int) (last string, ended bool) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRekeyChild$")
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var pass, done int
		line := lines.Text()
		if strings.HasPrefix(line, "end ") {
			last, ended = line, true
		}
		if n, _ := fmt.Sscanf(line, "at %d %d", &pass, &done); n == 2 && done >= until {
			must(t, child.Process.Kill())
		}
	}
	if err := child.Wait(); err != nil && ended {
		t.Errorf("the job: %v", err)
	}
	return last, ended
}

// pgx reads and writes the same rows through pgx itself.
func (l *ledger) pgx(t *testing.T, store agent.StoreInfo) {
	t.Helper()
	cfg, err := pgx.ParseConfig(store.URL + "?sslmode=verify-full&sslrootcert=" + l.root(t, store))
	must(t, err)
	cfg.Password = pgtest.Password
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	defer conn.Close(t.Context())
	fresh := l.row(l.rows, 7)
	args, err := l.contacts.Args(t.Context(), fresh)
	must(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO contacts (`+l.contacts.List()+`) VALUES (`+l.contacts.Placeholders(1)+`)`, args...)
	must(t, err)
	rows, err := conn.Query(t.Context(), `SELECT `+l.contacts.List()+` FROM contacts WHERE n = $1 AND id = $2`, 7, fresh.ID)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var got contact
		must(t, l.contacts.Scan(t.Context(), rows, &got))
		if diff := cmp.Diff(*fresh, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
	must(t, rows.Err())
}

func (l *ledger) root(t *testing.T, store agent.StoreInfo) string {
	t.Helper()
	path := t.TempDir() + "/ca.pem"
	must(t, os.WriteFile(path, store.CA, 0o600))
	return path
}

// dump is what a backup of the whole database holds.
func (l *ledger) dump(t *testing.T, store agent.StoreInfo) {
	t.Helper()
	tool, err := exec.LookPath("pg_dump")
	if err != nil {
		t.Log("pg_dump is not installed; the dump is not looked at")
		return
	}
	dump := exec.CommandContext(t.Context(), tool, store.URL+"?sslmode=verify-full&sslrootcert="+l.root(t, store))
	dump.Env = append(os.Environ(), "PGPASSWORD="+pgtest.Password)
	out, err := dump.Output()
	must(t, err)
	if !strings.Contains(string(out), "c0000001") {
		t.Fatal("the dump holds no rows")
	}
	hexed := fmt.Sprintf("%x", "example.com")
	for _, c := range []string{"alice", "Alice", "example.com", "tok_canary", hexed} {
		if strings.Contains(string(out), c) {
			t.Errorf("the dump holds %q", c)
		}
	}
}

// TestRekeySkipsWhatIsWrong: rows that do not open are counted, named and left.
func TestRekeySkipsWhatIsWrong(t *testing.T) {
	l := newLedger(t, file(t), 20)
	l.exec(t, `UPDATE contacts SET mail = (SELECT mail FROM contacts WHERE id = 'c0000001') WHERE id = 'c0000004'`)
	l.exec(t, `UPDATE contacts SET card = x'00' WHERE id = 'c0000007'`)
	l.agent.RekeyDEKs("payment", "org1")
	for !l.agent.Forgotten() {
		time.Sleep(time.Millisecond)
	}
	var told []Progress
	p, err := Rekey(t.Context(), l.db, l.contacts, RekeyOptions{Batch: 3, PerSec: 10_000, Progress: func(p Progress) { told = append(told, p) }})
	if err != nil || p.Tampered != 2 || !slices.Equal(slices.Compact(slices.Sorted(slices.Values(p.Which))), []string{"c0000004", "c0000007"}) || p.Changed == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if len(told) < 7 || told[0].Total != 20 || told[0].Done != 3 {
		t.Errorf("told %+v", told[:min(2, len(told))])
	}
	versions := map[uint32]int{}
	must(t, l.db.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT mail FROM contacts WHERE org = 'org1'`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var mail []byte
			if err := rows.Scan(&mail); err != nil {
				return err
			}
			versions[binary.BigEndian.Uint32(mail[1:])]++
		}
		return rows.Err()
	}))
	if diff := cmp.Diff(map[uint32]int{1: 1, 2: 6}, versions); diff != "" {
		t.Errorf("%v: %s", slices.Collect(maps.Keys(versions)), diff)
	}
}
