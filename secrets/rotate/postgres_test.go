package rotate_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/secrets/rotate"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/tls/profile"
)

const (
	adminPassword = "canary-admin"
	childEnv      = "RAMPART_ROTATE_CHILD" // of a child process: its orders
)

// prepare makes the owner, and an admin with the rights that the docs ask for.
const prepare = `CREATE ROLE app_owner NOLOGIN;
CREATE ROLE rotator LOGIN CREATEROLE PASSWORD '` + adminPassword + `';
GRANT app_owner TO rotator WITH ADMIN OPTION;
GRANT pg_signal_backend TO rotator;
CREATE TABLE t (v int); ALTER TABLE t OWNER TO app_owner;`

// orders say where a child works, and where it dies.
type orders struct {
	Dir, URL, Point string
	CA              []byte
}

func (o orders) hooks() *rotate.Postgres {
	return rotate.NewPostgres(rotate.PostgresOptions{
		Admin: o.URL, Owner: "app_owner",
		Password: func(context.Context) (secrets.Secret, error) { return secrets.New([]byte(adminPassword), 1), nil },
		TLS:      func(host string) (*tls.Config, error) { return profile.Database(o.CA, host) },
	})
}

// mortal are hooks around which the process is killed.
type mortal struct {
	rotate.Hooks
	die func(point string)
}

func (m mortal) Create(ctx context.Context, c rotate.Credential) error {
	m.die("before create")
	err := m.Hooks.Create(ctx, c)
	m.die("after create")
	return err
}

func (m mortal) Test(ctx context.Context, c rotate.Credential) error {
	err := m.Hooks.Test(ctx, c)
	m.die("after test")
	return err
}

func (m mortal) Publish(ctx context.Context, c rotate.Credential) error {
	m.die("before publish")
	return m.Hooks.Publish(ctx, c)
}

func (m mortal) Revoke(ctx context.Context, user string) error {
	m.die("before revoke")
	err := m.Hooks.Revoke(ctx, user)
	m.die("after revoke")
	return err
}

// TestChild is no test: it is a control plane that another test starts, to be
// killed at some point.
func TestChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		t.Skip("it runs as the child of TestPostgres")
	}
	var o orders
	must(t, json.Unmarshal([]byte(text), &o))
	die := func(point string) {
		if point == o.Point {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	e, target, _ := o.engine(t, die)
	target.Hooks = mortal{o.hooks(), die}
	if o.Point != "" {
		_, err := e.Start(t.Context(), target)
		must(t, err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		moved, err := e.Turn(t.Context(), target)
		must(t, err)
		if !moved {
			return
		}
	}
}

func (o orders) engine(t *testing.T, die func(string)) (*rotate.Engine, rotate.Target, *embedded.Store) {
	t.Helper()
	rows, err := sqlite.Open(t.Context(), filepath.Join(o.Dir, "db"))
	must(t, err)
	t.Cleanup(func() { rows.Close() })
	kek, err := embedded.OpenKEK(filepath.Join(o.Dir, "kek"))
	must(t, err)
	kept := embedded.NewStore(kek, rows)
	e := rotate.New(rotate.Options{
		Rows: rows, Store: kept, Holder: "control",
		Record: func(_ context.Context, s rotate.State, err error) error {
			if err != nil {
				t.Errorf("%s: %v", s.Step, err)
			}
			die("record " + string(s.Step))
			return nil
		},
		Published: func(context.Context, rotate.State) error { die("published"); return nil },
	})
	return e, rotate.Target{Name: "store:db", Path: "rotation/db", Users: []string{"app_a", "app_b"}, Every: time.Hour, Hooks: o.hooks()}, kept
}

func (o orders) run(t *testing.T) error {
	t.Helper()
	text, err := json.Marshal(o)
	must(t, err)
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	c.Env = append(os.Environ(), childEnv+"="+string(text))
	out, err := c.CombinedOutput()
	if err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatalf("child: %v: %s", err, out)
	}
	return err
}

// login is what a reader does with what is published.
func (o orders) login(t *testing.T, kept *embedded.Store) (secrets.Secret, error) {
	t.Helper()
	s, err := kept.Fetch(t.Context(), secrets.Ref{Path: "rotation/db"})
	must(t, err)
	s, err = rotate.ParseCredential(s)
	must(t, err)
	return s, o.hooks().Test(t.Context(), rotate.Credential{User: s.User(), Password: s})
}

// TestPostgres has one real server for all.
func TestPostgres(t *testing.T) {
	server := pgtest.StartWith(t, "hostssl all all 127.0.0.1/32 scram-sha-256\n", "log_statement=all", "log_connections=on")
	server.Wait(t)
	server.Exec(t, prepare)
	t.Run("killed at each step", func(t *testing.T) { killed(t, server) })
	t.Run("revoking ends connections", func(t *testing.T) { revoking(t, server) })
}

// killed kills a control plane (kill -9) at every step of a rotation at a real
// PostgreSQL. What is published works at each moment; the next process brings the
// rotation to its end, once; and then the old password does not work any more.
func killed(t *testing.T, server pgtest.Server) {
	t.Helper()
	o := orders{Dir: t.TempDir(), URL: server.URL("rotator"), CA: server.CA}
	must(t, o.run(t))
	_, _, kept := o.engine(t, func(string) {})
	old, err := o.login(t, kept)
	must(t, err)
	for i, point := range []string{
		"before create", "after create", "record create", "after test", "record test", "before publish", "published", "record publish",
		"record drain", "before revoke", "after revoke", "record revoke",
	} {
		o.Point = point
		if o.run(t) == nil {
			t.Fatalf("nothing died at %q", point)
		}
		if _, err := o.login(t, kept); err != nil {
			t.Errorf("killed at %q: what is published does not work: %v", point, err)
		}
		o.Point = ""
		must(t, o.run(t))
		s, err := o.login(t, kept)
		if err != nil || s.Version() != i+2 || s.User() == old.User() {
			t.Errorf("killed at %q: version %d of %s after version %d of %s: %v", point, s.Version(), s.User(), old.Version(), old.User(), err)
		}
		err = o.hooks().Test(t.Context(), rotate.Credential{User: old.User(), Password: old})
		if rampart.KindOf(err) != rampart.Denied {
			t.Errorf("killed at %q: the old password: %v, want denied", point, err)
		}
		old = s
	}
	noPassword(t, server, kept)
}

// noPassword looks for the password in use, and how it was set, in the server's log.
func noPassword(t *testing.T, server pgtest.Server, kept *embedded.Store) {
	t.Helper()
	log := server.Log(t)
	s, err := kept.Fetch(t.Context(), secrets.Ref{Path: "rotation/db"})
	must(t, err)
	s, err = rotate.ParseCredential(s)
	must(t, err)
	must(t, s.Use(func(b []byte) error {
		if strings.Contains(log, string(b)) {
			t.Error("the server's log has the password")
		}
		return nil
	}))
	if !strings.Contains(log, "PASSWORD 'SCRAM-SHA-256$4096:") {
		t.Error("the log does not have the statements: the search above proves nothing")
	}
}

// revoking ends connections, also those that are open, and a role that the admin
// may not touch is refused in words.
func revoking(t *testing.T, server pgtest.Server) {
	t.Helper()
	o := orders{URL: server.URL("rotator"), CA: server.CA}
	hooks := o.hooks()
	secret := secrets.New([]byte("s3cret-s3cret"), 1)
	c := rotate.Credential{User: "app_a", Password: secret}
	must(t, hooks.Create(t.Context(), c))
	must(t, hooks.Create(t.Context(), c)) // again, as after a crash
	must(t, hooks.Test(t.Context(), c))
	conn := dial(t, server, "app_a", "s3cret-s3cret")
	must(t, hooks.Revoke(t.Context(), "app_a"))
	must(t, hooks.Revoke(t.Context(), "app_a"))
	must(t, hooks.Revoke(t.Context(), "never_made"))
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a connection outlived its password")
	}
	err := hooks.Create(t.Context(), rotate.Credential{User: pgtest.User, Password: secret})
	if rampart.KindOf(err) != rampart.Denied || !strings.Contains(err.Error(), "42501") || strings.Contains(err.Error(), "SCRAM") {
		t.Errorf("a superuser's password: %v, want a refusal by SQLSTATE", err)
	}
	server.Exec(t, "REVOKE pg_signal_backend FROM rotator; REVOKE app_owner FROM rotator")
	must(t, hooks.Create(t.Context(), c))
	dial(t, server, "app_a", "s3cret-s3cret")
	if err := hooks.Revoke(t.Context(), "app_a"); rampart.KindOf(err) != rampart.Denied || !strings.Contains(err.Error(), "pg_signal_backend") {
		t.Errorf("an admin that cannot end connections: %v, want to be told what it needs", err)
	}
	o.CA = pgtest.NewAuthority(t).PEM
	if err := o.hooks().Create(t.Context(), c); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a server of another CA: %v", err)
	}
}

func dial(t *testing.T, server pgtest.Server, user, password string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%s dbname=postgres user=%s password=%s sslmode=disable", server.Port, user, password))
	must(t, err)
	config.TLSConfig, err = profile.Database(server.CA, "localhost")
	must(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
