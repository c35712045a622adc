package db_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sidecar"
	"github.com/rampart-security/rampart/test/pgtest"
)

// file has one service and one database behind two addresses: its own, and that
// of PgBouncer.
const file = `rampart: v1
system: { name: shop }
principals:
  customer: { kind: human }
services:
  edge: { role: gateway }
  shop: { upstream: "http://127.0.0.1:9001" }
stores:
  direct: { kind: postgres, url: "postgres://nobody@localhost:PORT/postgres", ca: ca.pem,
    rotate: { every: 24h, roles: [direct_a, direct_b], owner: app_owner, admin: "postgres://rotator@localhost:PORT/postgres", password: "secret://embedded/rotator" } }
  pooled: { kind: postgres, url: "postgres://nobody@localhost:POOLER/postgres", ca: ca.pem, pooler: true,
    rotate: { every: 24h, roles: [pooled_a, pooled_b], owner: app_owner, admin: "postgres://rotator@localhost:PORT/postgres", password: "secret://embedded/rotator" } }
  certified: { kind: postgres, url: "postgres://certified@localhost:PORT/postgres", ca: ca.pem, client_cert: true }
flows:
  - { from: customer, to: edge, authn: session }
  - { from: edge, to: shop }
  - { from: shop, to: direct, db: { pool: 10 } }
  - { from: shop, to: pooled, db: { pool: 10 } }
  - { from: shop, to: certified, db: { pool: 2 } }
`

// access lets one role in by its certificate alone, and all others by SCRAM.
const access = "hostssl all certified 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n"

const prepare = `CREATE ROLE app_owner NOLOGIN;
CREATE ROLE certified LOGIN;
CREATE ROLE rotator LOGIN CREATEROLE PASSWORD '` + pgtest.Password + `';
GRANT app_owner TO rotator WITH ADMIN OPTION;
GRANT pg_signal_backend TO rotator;
GRANT CREATE ON SCHEMA public TO app_owner;
SET ROLE app_owner;
CREATE TABLE sales (leg text, n bigint);`

// system is a control plane, a sidecar, a service and its database, all real.
type system struct {
	*controltest.House
	t      *testing.T
	server pgtest.Server
	pooler pgtest.Bouncer
	svc    *sdk.Service
	dbs    map[string]*db.DB
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T) *system {
	t.Helper()
	s := &system{t: t, server: pgtest.StartWith(t, access), dbs: map[string]*db.DB{}}
	s.server.Wait(t)
	s.server.Exec(t, prepare)
	s.pooler = s.server.StartBouncer(t)
	dir := t.TempDir()
	text := strings.NewReplacer("PORT", s.server.Port, "POOLER", s.pooler.Port).Replace(file)
	must(t, os.WriteFile(filepath.Join(dir, "rampart.yaml"), []byte(text), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), s.server.CA, 0o600))
	s.House = controltest.Start(t, filepath.Join(dir, "rampart.yaml"))
	s.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "rotator", Value: []byte(pgtest.Password)}, nil)
	s.Admin(wire.AdminRotate, wire.RotateNow{Name: "store:direct"}, nil) // what failed for want of the secret goes on
	s.Admin(wire.AdminRotate, wire.RotateNow{Name: "store:pooled"}, nil)
	s.wait("store:direct", 1)
	s.wait("store:pooled", 1)
	s.sidecar()
	svc, err := sdk.Connect(t.Context())
	must(t, err)
	s.svc = svc
	for _, name := range []string{"direct", "pooled"} {
		s.dbs[name], err = db.Open(t.Context(), svc, name)
		must(t, err)
		t.Cleanup(func() { s.dbs[name].Close() })
	}
	return s
}

// sidecar runs the service's, and points the SDK at it.
func (s *system) sidecar() {
	s.t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	out, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	socket := s.State.Path("shop.sock")
	side, err := sidecar.New(sidecar.Options{
		Service: "shop", Link: s.Link(s.Options("service/shop", "sidecar/shop")), Audit: s.Log("sidecar/shop"), Logger: s.Logger, Inbound: in, Outbound: out,
		Socket: socket, Upstream: "http://127.0.0.1:9001", StandIns: s.t.TempDir(), DataDir: s.t.TempDir(), State: s.State,
	})
	must(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- side.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("sidecar: %v", err)
		}
	})
	s.t.Setenv(agent.EnvSocket, socket)
	s.t.Setenv(agent.EnvService, "shop")
}

// rotation is how far one is.
func (s *system) rotation(name string) wire.Rotation {
	s.t.Helper()
	var list []wire.Rotation
	s.Admin(wire.AdminRotate, nil, &list)
	i := slices.IndexFunc(list, func(r wire.Rotation) bool { return r.Name == name })
	if i < 0 {
		s.t.Fatalf("%s is not among %v", name, list)
	}
	return list[i]
}

// wait returns when a rotation has come to its end with this version.
func (s *system) wait(name string, version int) wire.Rotation {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r := s.rotation(name)
		if r.Step == "idle" && r.Version == version {
			return r
		}
		if time.Now().After(end) {
			s.t.Fatalf("waiting for version %d: %+v", version, r)
		}
	}
}

// load asks one database rate times a second and counts. What a slow answer keeps
// it from asking in time is asked afterwards.
type load struct {
	asked, failed atomic.Int64
	slowest       atomic.Int64
	first         sync.Once
	err           error
	users         sync.Map // who was logged in
}

func (l *load) run(ctx context.Context, d *db.DB, leg string, rate int) {
	const workers = 8
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			every, due := time.Second*workers/time.Duration(rate), time.Now()
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Until(due)):
				}
				l.one(d, leg, n)
				due = due.Add(every)
			}
		})
	}
	wg.Wait()
}

// one is a transaction: every tenth writes.
func (l *load) one(d *db.DB, leg string, n int) {
	begun := time.Now()
	ask := d.View
	if n%10 == 0 {
		ask = d.Update
	}
	err := ask(context.Background(), func(tx *sql.Tx) error {
		if n%10 == 0 {
			if _, err := tx.Exec(`INSERT INTO sales (leg, n) VALUES ($1, $2)`, leg, n); err != nil {
				return err
			}
		}
		var acts, login string
		if err := tx.QueryRow(`SELECT current_user, session_user FROM (SELECT $1::int) x`, n).Scan(&acts, &login); err != nil {
			return err
		}
		l.users.Store(login, true)
		if acts != "app_owner" {
			return fmt.Errorf("acts as %s", acts)
		}
		return nil
	})
	l.asked.Add(1)
	for took := int64(time.Since(begun)); ; {
		old := l.slowest.Load()
		if took <= old || l.slowest.CompareAndSwap(old, took) {
			break
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.Do(func() { l.err = err })
	}
}

// TestRotation changes the password of a real database under load, at its own
// address and behind PgBouncer, with TLS 1.3 on both legs, and no query fails.
// With RAMPART_LONG=1 it takes a minute at 500 transactions a second and says what
// it measured.
func TestRotation(t *testing.T) {
	rounds, rate, pause := 2, 100, time.Duration(0)
	if os.Getenv("RAMPART_LONG") != "" {
		rounds, rate, pause = 9, 500, 4*time.Second
	}
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	loads, running := map[string]*load{}, sync.WaitGroup{}
	begun := time.Now()
	for leg, d := range s.dbs {
		l := &load{}
		loads[leg] = l
		running.Go(func() { l.run(ctx, d, leg, rate) })
	}
	for i := range rounds {
		s.swapCertificate()
		for leg := range s.dbs {
			s.Admin(wire.AdminRotate, wire.RotateNow{Name: "store:" + leg}, nil)
		}
		for leg := range s.dbs {
			s.wait("store:"+leg, i+2)
		}
		time.Sleep(pause)
	}
	cancel()
	running.Wait()
	for leg, l := range loads {
		users := slices.Sorted(maps.Keys(asMap(&l.users)))
		t.Logf("%s: %d rotations of the password and of the server's certificate in %v, %d transactions (%.0f/s), %d failed, slowest %v, logged in as %v", leg, rounds,
			time.Since(begun).Round(time.Millisecond), l.asked.Load(), float64(l.asked.Load())/time.Since(begun).Seconds(), l.failed.Load(),
			time.Duration(l.slowest.Load()).Round(time.Millisecond), users)
		if l.failed.Load() > 0 || l.asked.Load() < 20 || len(users) != 2 {
			t.Errorf("%s: %d of %d failed, first: %v", leg, l.failed.Load(), l.asked.Load(), l.err)
		}
	}
	s.verified()
	s.certified()
}

// swapCertificate gives the server another certificate of its CA while it runs, as
// pg_reload_conf() does.
func (s *system) swapCertificate() {
	s.t.Helper()
	before := s.server.Presented(s.t)
	for name, b := range s.server.Authority().Issue(s.t, "localhost") {
		s.server.Write(s.t, name, b)
	}
	s.server.Reload(s.t)
	s.Until("the server shows its new certificate", func() bool { return !s.server.Presented(s.t).Equal(before) })
}

// verified: the database's own client accepts this server under this name alone,
// and the server nobody in plain text.
func (s *system) verified() {
	s.t.Helper()
	root, other := filepath.Join(s.t.TempDir(), "root.pem"), filepath.Join(s.t.TempDir(), "other.pem")
	must(s.t, os.WriteFile(root, s.server.CA, 0o600))
	must(s.t, os.WriteFile(other, pgtest.NewAuthority(s.t).PEM, 0o600))
	for _, port := range []string{s.server.Port, s.pooler.Port} {
		for name, tc := range map[string]struct{ how, want string }{
			"verify-full":   {"host=localhost sslmode=verify-full sslrootcert=" + root, ""},
			"another CA":    {"host=localhost sslmode=verify-full sslrootcert=" + other, "certificate verify failed|SSL error"},
			"another name":  {"host=127.0.0.1 sslmode=verify-full sslrootcert=" + root, "does not match host name"},
			"in plain text": {"host=localhost sslmode=disable", "no encryption|SSL required"},
		} {
			out, err := s.server.Psql(s.t, pgtest.Password, tc.how+" port="+port+" dbname=postgres user=rotator", "SELECT 1")
			if tc.want == "" && (err != nil || out != "1") || tc.want != "" && (err == nil || !regexp.MustCompile(tc.want).MatchString(out)) {
				s.t.Errorf("psql at %s, %s: %s, %v, want %q", port, name, out, err, tc.want)
			}
		}
	}
}

// certified: a service logs in with a certificate that the control plane gives to
// the role of its flow, and nobody without one.
func (s *system) certified() {
	s.t.Helper()
	if _, err := db.Open(s.t.Context(), s.svc, "certified"); err == nil {
		s.t.Error("a certificate of an authority that the database does not know was accepted")
	}
	ours, err := os.ReadFile(s.State.Path("ca.pem"))
	must(s.t, err)
	s.server.Write(s.t, "clients.pem", ours)
	s.server.Reload(s.t)
	var d *db.DB
	s.Until("the database knows the authority", func() bool { d, err = db.Open(s.t.Context(), s.svc, "certified"); return err == nil })
	s.t.Cleanup(func() { d.Close() })
	var login, subject string
	must(s.t, d.View(s.t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT session_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&login, &subject)
	}))
	if login != "certified" || subject != "/CN=certified" {
		s.t.Errorf("logged in as %s with %s", login, subject)
	}
	root := filepath.Join(s.t.TempDir(), "root.pem")
	must(s.t, os.WriteFile(root, s.server.CA, 0o600))
	out, err := s.server.Psql(s.t, pgtest.Password, "host=localhost sslmode=verify-full sslrootcert="+root+" port="+s.server.Port+" dbname=postgres user=certified", "SELECT 1")
	if err == nil || !strings.Contains(out, "requires a valid client certificate") {
		s.t.Errorf("psql without a certificate: %s, %v", out, err)
	}
}

func asMap(m *sync.Map) map[string]bool {
	out := map[string]bool{}
	m.Range(func(k, _ any) bool { out[k.(string)] = true; return true })
	return out
}
