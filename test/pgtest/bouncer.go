package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rampart-security/rampart/test/freeport"
)

// PoolerPassword is how the pooler itself logs in, as "pgbouncer".
const PoolerPassword = "canary-pooler"

// lookup lets the pooler, and nobody else, read the verifiers of those who come
// to it.
const lookup = `CREATE ROLE pgbouncer LOGIN PASSWORD '` + PoolerPassword + `';
CREATE SCHEMA pooler AUTHORIZATION CURRENT_USER;
REVOKE ALL ON SCHEMA pooler FROM PUBLIC;
GRANT USAGE ON SCHEMA pooler TO pgbouncer;
CREATE FUNCTION pooler.lookup(name text, OUT username text, OUT verifier text) RETURNS record
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
	'SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = name AND rolcanlogin AND NOT rolsuper';
REVOKE ALL ON FUNCTION pooler.lookup FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pooler.lookup TO pgbouncer;`

// Bouncer is a running PgBouncer in front of a Server.
type Bouncer struct {
	Port string // on 127.0.0.1; the certificate is of the server's CA and names localhost
	s    Server
}

// StartBouncer starts PgBouncer with transaction pooling, TLS 1.3 on both legs,
// the server's verified in full. It asks the server who may log in. It skips the
// test where PgBouncer is not installed.
func (s Server) StartBouncer(t *testing.T, settings ...string) Bouncer {
	t.Helper()
	port := freeport.Take(t)
	return s.RunBouncer(t, port, func(dir string) string {
		at := func(name string) string { return filepath.Join(dir, name) }
		ini := fmt.Sprintf(bouncerText, s.Port, port, at("log"), at("users.txt"), at("cert.pem"), at("key.pem"), at("server-ca.pem"))
		for _, v := range settings {
			ini += v + "\n"
		}
		return ini
	})
}

const bouncerText = `[databases]
postgres = host=localhost port=%s auth_user=pgbouncer
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
logfile = %s
auth_type = scram-sha-256
auth_file = %s
auth_query = SELECT username, verifier FROM pooler.lookup($1)
admin_users = pgbouncer
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
client_tls_sslmode = require
client_tls_protocols = tlsv1.3
client_tls_cert_file = %s
client_tls_key_file = %s
server_tls_sslmode = verify-full
server_tls_protocols = tlsv1.3
server_tls_ca_file = %s
`

// RunBouncer starts PgBouncer, with the configuration that ini makes for a folder:
// it holds cert.pem, key.pem, users.txt and server-ca.pem. It must listen on port
// of 127.0.0.1.
func (s Server) RunBouncer(t *testing.T, port string, ini func(dir string) string) Bouncer {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(path); err != nil {
		missing(t, "PgBouncer is not installed; run make tools")
	}
	s.Exec(t, lookup)
	dir, err := os.MkdirTemp("", "pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	files := s.authority.Issue(t, "localhost")
	files["ini"], files["users.txt"], files["server-ca.pem"] = []byte(ini(dir)), []byte(`"pgbouncer" "`+PoolerPassword+`"`+"\n"), s.CA
	for name, b := range files {
		if err := os.WriteFile(at(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(context.Background(), path, at("ini"))
	c.Dir, c.SysProcAttr = dir, owner(t, dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(at("log"))
			t.Logf("PgBouncer: %s", b[max(0, len(b)-4000):])
		}
		c.Process.Signal(syscall.SIGQUIT)
		c.Wait()
	})
	s.waitAt(t, port)
	return Bouncer{port, s}
}
