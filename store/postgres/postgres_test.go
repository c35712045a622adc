package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/storetest"
	"github.com/rampart-security/rampart/test/pgtest"
)

func password(context.Context) (secrets.Secret, error) {
	return secrets.New([]byte(pgtest.Password), 1), nil
}

func options(s pgtest.Server, database string) Options {
	return Options{URL: fmt.Sprintf("postgres://%s@localhost:%s/%s", pgtest.User, s.Port, database), CA: s.CA, Password: password, Conns: 8}
}

// start starts a server and waits until it takes connections.
func start(t *testing.T) pgtest.Server {
	t.Helper()
	server := pgtest.Start(t)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := Open(t.Context(), options(server, "postgres"))
		if err == nil {
			st.Close()
			return server
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, opt Options) *Store {
	t.Helper()
	st, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// TestStore runs every contract with two connection pools on one database, as
// two control planes hold it.
func TestStore(t *testing.T) {
	server := start(t)
	c, err := config(options(server, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	admin := connect(c, options(server, "postgres"), 1)
	defer admin.Close()
	if _, err := admin.Exec("CREATE DATABASE migrated"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, options(server, "migrated")).Close(); err != nil { // nobody may be in a template
		t.Fatal(err)
	}
	var n atomic.Int32
	storetest.Test(t, func(t *testing.T) (a, b store.Store) {
		name := fmt.Sprint("test_", n.Add(1))
		if _, err := admin.Exec("CREATE DATABASE " + name + " TEMPLATE migrated"); err != nil {
			t.Fatal(err)
		}
		return open(t, options(server, name)), open(t, options(server, name))
	})
}

// TestMigratedAtOnce: replicas that start together on an empty database.
func TestMigratedAtOnce(t *testing.T) {
	server := pgtest.Start(t)
	opt := options(server, "postgres")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			var st *Store
			err := errors.New("not tried")
			for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if st, err = Open(t.Context(), opt); err != nil && !starting(err) {
					t.Error(err)
					return
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			if got, err := st.PinMeta(t.Context(), "trust_domain", "pay.example"); err != nil || got != "pay.example" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
}

// starting: the server takes no connections yet.
func starting(err error) bool {
	return strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "57P03")
}

// TestConnection: who the server is, and who we are, is proven; and what must
// survive a power cut is set by us.
func TestConnection(t *testing.T) {
	server := start(t)
	t.Setenv("PGSSLMODE", "disable")
	t.Setenv("PGPASSWORD", "wrong")
	t.Setenv("PGHOST", "/nowhere")
	t.Setenv("PGOPTIONS", "-c search_path=pg_temp")
	good := options(server, "postgres")
	open(t, good)
	c, err := config(good)
	if err != nil {
		t.Fatal(err)
	}
	db := connect(c, good, 1)
	defer db.Close()
	if _, err := db.Exec(`ALTER ROLE ` + pgtest.User + ` SET synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	again := connect(c, good, 1)
	defer again.Close()
	for query, want := range map[string]string{
		`SHOW synchronous_commit`: "on",
		`SHOW search_path`:        "public",
		`SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()`: "TLSv1.3",
	} {
		var got string
		if err := again.QueryRow(query).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
	_, otherCA := pgtest.Certificate(t, "localhost")
	for name, change := range map[string]func(*Options){
		"another CA":            func(o *Options) { o.CA = otherCA },
		"another name":          func(o *Options) { o.URL = strings.Replace(o.URL, "localhost", "127.0.0.1", 1) },
		"a password in the URL": func(o *Options) { o.URL = strings.Replace(o.URL, "@", ":"+pgtest.Password+"@", 1) },
		"options in the URL":    func(o *Options) { o.URL += "?sslmode=disable" },
		"no port":               func(o *Options) { o.URL = "postgres://app@localhost/postgres" },
		"no CA":                 func(o *Options) { o.CA = nil },
		"no password":           func(o *Options) { o.Password = nil },
		"a password not to have": func(o *Options) {
			o.Password = func(context.Context) (secrets.Secret, error) { return secrets.Secret{}, errors.New("gone") }
		},
		"a wrong password": func(o *Options) {
			o.Password = func(context.Context) (secrets.Secret, error) { return secrets.New([]byte("wrong"), 1), nil }
		},
	} {
		opt := good
		change(&opt)
		st, err := Open(t.Context(), opt)
		if err == nil {
			st.Close()
			t.Errorf("%s was accepted", name)
			continue
		}
		if strings.Contains(err.Error(), pgtest.Password) {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	server := start(t)
	opt := options(server, "postgres")
	c, err := config(opt)
	if err != nil {
		t.Fatal(err)
	}
	db := connect(c, opt, 1)
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, TRUE)`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("got %v, want a refusal that asks for the newer program", err)
	}
}
