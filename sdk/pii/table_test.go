package pii

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/data/envelope"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

// person is a row with all that a row may have.
type person struct {
	ID     string  `rampart:"row"`
	Org    string  `rampart:"tenant,column=org"`
	Who    string  `rampart:"subject"`
	Email  String  `rampart:"pii=email"`
	Phone  *string `rampart:"pii=phone,column=mobile"`
	Photo  Bytes   `rampart:"pii=photo"`
	CardNo string  `rampart:"pii=card,item=payment"`
	City   string  `rampart:"column=city"`
	Cached int
}

const peopleTable = `CREATE TABLE people (
	id TEXT PRIMARY KEY, org TEXT NOT NULL, who TEXT NOT NULL, email {blob} NOT NULL {email}, email_idx {blob}, mobile {blob} {mobile}, mobile_idx {blob},
	photo {blob} {photo}, card {blob} NOT NULL {card}, city TEXT NOT NULL);
	CREATE INDEX people_email ON people (org, email_idx)`

// office is a service with one database of people.
type office struct {
	agent *sdktest.Agent
	keys  *Keys
	db    *db.DB
	table *Table[person]
	file  string
}

func info(store agent.StoreInfo, off ...string) agent.ServiceInfo {
	return agent.ServiceInfo{
		Name: "office", Off: off, Stores: map[string]agent.StoreInfo{"people_db": store},
		Encrypt: map[string][]string{"contact": {"email", "phone", "photo"}, "payment": {"card", "mail"}},
		Shred:   map[string]string{"contact": "subject", "payment": "tenant"},
		Search:  map[string]map[string]string{"contact": {"email": "email", "phone": "phone"}, "payment": {"mail": "email"}},
	}
}

func open(t testing.TB, store agent.StoreInfo) *office {
	t.Helper()
	o := &office{file: store.Path, agent: &sdktest.Agent{Info: info(store), Secrets: map[string][]byte{"store:people_db": []byte("canary-password")}}}
	sdktest.Start(t, o.agent)
	svc, err := sdk.Connect(t.Context())
	must(t, err)
	o.keys = New(svc)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // a server may be on its way up
		if o.db, err = db.Open(t.Context(), svc, "people_db"); err == nil || time.Now().After(end) {
			break
		}
	}
	must(t, err)
	t.Cleanup(func() { o.db.Close() })
	o.table, err = Bind[person](o.keys, "contact", "people")
	must(t, err)
	schema := func(kind, blob string) string {
		text := strings.ReplaceAll(peopleTable, "{blob}", blob)
		for _, column := range []string{"email", "mobile", "photo", "card"} {
			check, err := Check(kind, column)
			must(t, err)
			text = strings.ReplaceAll(text, "{"+column+"}", check)
		}
		return text
	}
	must(t, o.db.Migrate(t.Context(), []db.Step{{SQLite: schema("sqlite", "BLOB"), Postgres: schema("postgres", "BYTEA")}}))
	return o
}

func file(t testing.TB) agent.StoreInfo {
	return agent.StoreInfo{Kind: "sqlite", Path: filepath.Join(t.TempDir(), "people.db"), Pool: 8}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (o *office) put(t testing.TB, p person) {
	t.Helper()
	must(t, o.db.Update(t.Context(), func(tx *sql.Tx) error {
		args, err := o.table.Args(t.Context(), &p)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(t.Context(), `INSERT INTO people (`+o.table.List()+`) VALUES (`+o.table.Placeholders(1)+`)`, args...)
		return err
	}))
}

func (o *office) get(t testing.TB, id string) (p person, err error) {
	t.Helper()
	err = o.db.View(t.Context(), func(tx *sql.Tx) error {
		return o.table.Scan(t.Context(), tx.QueryRowContext(t.Context(), `SELECT `+o.table.List()+` FROM people WHERE id = $1`, id), &p)
	})
	return p, err
}

func (o *office) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	must(t, o.db.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	}))
}

// byEmail finds people by equality.
func (o *office) byEmail(t testing.TB, org, email string) (ids []string) {
	t.Helper()
	args, err := o.table.Lookup(t.Context(), org, "email", email)
	must(t, err)
	marks := make([]string, len(args))
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", i+2)
	}
	must(t, o.db.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT id FROM people WHERE org = $1 AND email_idx IN (`+strings.Join(marks, ",")+`) ORDER BY id`, append([]any{org}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return rows.Err()
	}))
	return ids
}

func someone(id, org, who, email string) person {
	phone := "+49 171 555 0123"
	return person{ID: id, Org: org, Who: who, Email: NewString(email), Phone: &phone, Photo: NewBytes([]byte("a face of " + who)), CardNo: "tok_canary_4242", City: "Berlin"}
}

func TestTable(t *testing.T) {
	o := open(t, file(t))
	alice := someone("p1", "acme", "user:alice", "Alice@Example.com")
	bob := someone("p2", "acme", "user:bob", "bob@example.com")
	bob.Phone, bob.Photo = nil, Bytes{}
	for _, p := range []person{alice, bob, someone("p3", "globex", "user:alice", "alice@example.com")} {
		o.put(t, p)
	}
	for _, want := range []person{alice, bob} {
		got, err := o.get(t, want.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", want.ID, err, diff)
		}
	}
	if got := o.byEmail(t, "acme", " alice@EXAMPLE.com"); !slices.Equal(got, []string{"p1"}) {
		t.Errorf("found by e-mail: %v", got)
	}
	if got := o.byEmail(t, "acme", "nobody@example.com"); len(got) != 0 {
		t.Errorf("found: %v", got)
	}
	for what, tc := range map[string]struct{ move, id string }{
		"between people":  {`UPDATE people SET email = (SELECT email FROM people WHERE id = 'p1') WHERE id = 'p2'`, "p2"},
		"between tenants": {`UPDATE people SET email = (SELECT email FROM people WHERE id = 'p1') WHERE id = 'p3'`, "p3"},
		"between columns": {`UPDATE people SET photo = email`, "p1"},
		"between items":   {`UPDATE people SET email = card`, "p1"},
		"to somebody":     {`UPDATE people SET who = 'user:mallory'`, "p1"},
	} {
		var opened error
		undo := errors.New("back to what it was")
		err := o.db.Update(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), tc.move); err != nil {
				return err
			}
			opened = o.table.Scan(t.Context(), tx.QueryRowContext(t.Context(), `SELECT `+o.table.List()+` FROM people WHERE id = $1`, tc.id), new(person))
			return undo
		})
		if !errors.Is(err, undo) || !errors.Is(opened, envelope.ErrTampered) && !errors.Is(opened, ErrNoKey) {
			t.Errorf("moved %s: %v, %v", what, opened, err)
		}
	}
	plain := o.db.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE people SET email = $1`, []byte("alice@example.com, who lives next door"))
		return err
	})
	if plain == nil {
		t.Error("a plaintext slipped in")
	}
	must(t, o.db.Close())
	holdsNone(t, o.file)
}

// canaries are what no copy of a database may hold.
var canaries = []string{"alice", "Alice@", "example.com", "a face", "tok_canary", "555 0123", "5550123"}

func holdsNone(t *testing.T, file string) {
	t.Helper()
	names, err := filepath.Glob(file + "*")
	must(t, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		must(t, err)
		b = bytes.ReplaceAll(b, []byte("user:alice"), nil) // the column who is no secret
		if !bytes.Contains(b, []byte("Berlin")) && len(names) == 1 {
			t.Error("the test looks in the wrong place")
		}
		for _, c := range canaries {
			if bytes.Contains(b, []byte(c)) {
				t.Errorf("%s holds %q", filepath.Base(name), c)
			}
		}
	}
}

// TestShreddedPerson: a person's data is unreadable at once, also in a copy of the
// database of before, and everybody else's is not.
func TestShreddedPerson(t *testing.T) {
	o := open(t, file(t))
	o.put(t, someone("p1", "acme", "user:alice", "alice@example.com"))
	o.put(t, someone("p2", "acme", "user:bob", "bob@example.com"))
	_, err := o.get(t, "p1")
	must(t, err)
	copied := filepath.Join(t.TempDir(), "backup.db")
	o.exec(t, `SELECT 1`)
	o.backup(t, copied)

	o.agent.ShredDEKs("contact", "acme", "user:alice")
	for end := time.Now().Add(10 * time.Second); !o.agent.Forgotten() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	p1, err := o.get(t, "p1")
	gone, ok := errors.AsType[*GoneError](err)
	if !ok || !errors.Is(err, ErrNoKey) || !slices.Equal(gone.Fields, []string{"email", "phone", "photo"}) {
		t.Errorf("a shredded person: %v", err)
	}
	if p1.Email.Reveal() != "" || p1.Phone != nil || p1.CardNo != someone("p1", "acme", "user:alice", "").CardNo {
		t.Errorf("of a shredded person %+v is left, want the card, which is the tenant's", p1)
	}
	if _, err := o.table.Args(t.Context(), new(someone("p9", "acme", "user:alice", "x@example.com"))); !errors.Is(err, ErrNoKey) {
		t.Errorf("sealed for a shredded person: %v", err)
	}
	if _, err := o.get(t, "p2"); err != nil {
		t.Errorf("another person: %v", err)
	}
	restored := &office{keys: o.keys, table: o.table}
	restored.db = o.openCopy(t, copied)
	if _, err := restored.get(t, "p1"); !errors.Is(err, ErrNoKey) {
		t.Errorf("in a backup: %v", err)
	}
	if p, err := restored.get(t, "p2"); err != nil || p.Email.Reveal() != "bob@example.com" {
		t.Errorf("another person in a backup: %v", err)
	}

	p, err := Rekey(t.Context(), o.db, o.table, RekeyOptions{})
	if err != nil || p.Shredded != 1 || !p.Finished {
		t.Errorf("%+v, %v", p, err)
	}
	if got := o.byEmail(t, "acme", "alice@example.com"); len(got) != 0 {
		t.Errorf("the index still says who it was: %v", got)
	}
	o.agent.ShredDEKs("contact", "acme", "")
	for end := time.Now().Add(10 * time.Second); !o.agent.Forgotten() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := o.get(t, "p2"); !errors.Is(err, ErrNoKey) {
		t.Errorf("of a shredded tenant: %v", err)
	}
	if _, err := restored.get(t, "p2"); !errors.Is(err, ErrNoKey) {
		t.Errorf("of a shredded tenant in a backup: %v", err)
	}
}

// backup copies the database as its operator would.
func (o *office) backup(t *testing.T, to string) {
	t.Helper()
	must(t, o.db.Close())
	b, err := os.ReadFile(o.file)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
	o.db = o.openCopy(t, o.file)
}

func (o *office) openCopy(t *testing.T, path string) *db.DB {
	t.Helper()
	svc := *o.keys.svc.Info()
	svc.Stores = map[string]agent.StoreInfo{"people_db": {Kind: "sqlite", Path: path, Pool: 8}}
	other := &sdktest.Agent{Info: svc}
	sdktest.Start(t, other)
	conn, err := sdk.Connect(t.Context())
	must(t, err)
	d, err := db.Open(t.Context(), conn, "people_db")
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// TestTypesDoNotPrint: however a value is shown, it is not.
func TestTypesDoNotPrint(t *testing.T) {
	p := someone("p1", "acme", "user:x", "alice@example.com")
	p.Phone, p.CardNo, p.Photo = nil, "", NewBytes([]byte("alice's face"))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "person", p, "email", p.Email, "photo", p.Photo)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "person", p, "email", p.Email, "photo", p.Photo)
	text, err := json.Marshal(p)
	must(t, err)
	log.Write(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, verb+verb+verb+verb, p, &p, p.Email, p.Photo)
		fmt.Fprintf(&log, verb, struct{ inner, other any }{p.Email, &p.Photo})
		fmt.Fprintf(&log, verb, struct{ inner String }{p.Email})
	}
	for _, c := range []string{"alice", "616c696365", "97 108"} {
		if strings.Contains(log.String(), c) {
			t.Errorf("%q was shown: %s", c, log.String())
		}
	}
	var back struct {
		Email String
		Photo Bytes
	}
	must(t, json.Unmarshal([]byte(`{"Email":"alice@example.com","Photo":"YQ=="}`), &back))
	if back.Email.Reveal() != "alice@example.com" || string(back.Photo.Reveal()) != "a" {
		t.Error("what comes in is not what is revealed")
	}
	if _, err := p.Email.Value(); err == nil {
		t.Error("a plaintext goes into a database")
	}
}

func TestBind(t *testing.T) {
	keys := keysOf(t, info(agent.StoreInfo{}))
	type ok struct {
		ID  string `rampart:"row"`
		Org string `rampart:"tenant"`
		Who string `rampart:"subject"`
	}
	for name, bind := range map[string]func() error{
		"no tags": func() error {
			_, err := Bind[struct{ A string }](keys, "contact", "people")
			return err
		},
		"not encrypted by the file": func() error {
			_, err := Bind[struct {
				ok
				A string `rampart:"pii=address"`
			}](keys, "contact", "people")
			return err
		},
		"nobody to shred": func() error {
			_, err := Bind[struct {
				ID  string `rampart:"row"`
				Org string `rampart:"tenant"`
				A   string `rampart:"pii=email"`
			}](keys, "contact", "people")
			return err
		},
		"a number": func() error {
			_, err := Bind[struct {
				ok
				A int `rampart:"pii=email"`
			}](keys, "contact", "people")
			return err
		},
		"twice": func() error {
			_, err := Bind[struct {
				ok
				A string `rampart:"pii=email"`
				B string `rampart:"pii=email"`
			}](keys, "contact", "people")
			return err
		},
		"a table that is a statement": func() error {
			_, err := Bind[struct {
				ok
				A string `rampart:"pii=email"`
			}](keys, "contact", "people; DROP TABLE people")
			return err
		},
		"no struct": func() error { _, err := Bind[int](keys, "contact", "people"); return err },
	} {
		if err := bind(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := keys.Seal(t.Context(), Cell{Item: "contact", Tenant: "acme"}, nil); err == nil {
		t.Error("sealed for nobody")
	}
}

func keysOf(t testing.TB, info agent.ServiceInfo) *Keys {
	t.Helper()
	sdktest.Start(t, &sdktest.Agent{Info: info})
	svc, err := sdk.Connect(t.Context())
	must(t, err)
	return New(svc)
}

func BenchmarkTableArgs(b *testing.B) {
	o := &office{keys: keysOf(b, info(agent.StoreInfo{}))}
	table, err := Bind[person](o.keys, "contact", "people")
	must(b, err)
	p := someone("p1", "acme", "user:alice", "alice@example.com")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := table.Args(b.Context(), &p); err != nil {
			b.Fatal(err)
		}
	}
}
