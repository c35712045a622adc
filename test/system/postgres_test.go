//go:build system

package system

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/pgtest"
)

// TestPostgres keeps payments in a PostgreSQL that takes TLS 1.3 and SCRAM only.
// Its password reaches the service through the secrets manager: until it is
// stored the service says what it lacks, and starts by itself afterwards.
func TestPostgres(t *testing.T) {
	t.Parallel()
	need(t, "psql")
	server := pgtest.Start(t)
	const secret = "prod/payments-db/password"
	example := filepath.Dir(payments)
	ca := filepath.Join(example, ".variant-"+server.Port+".pem")
	if err := os.WriteFile(ca, server.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(ca) })
	file := variant(t, "payments_db: { kind: sqlite,", fmt.Sprintf(`payments_db: { kind: postgres, url: "postgres://%s@localhost:%s/postgres", password: "secret://embedded/%s", ca: %q,`,
		pgtest.User, server.Port, secret, filepath.Base(ca)))

	r := prepare(t)
	r.launch(file, "--free-ports")
	r.await("the reason why payments does not start", time.Minute, func() bool {
		return strings.Contains(r.out.String(), "rampart secret put "+secret)
	})
	must(t, pgtest.Password, binary, "secret", "set", secret, "--state", r.dir)
	r.await("the start after the secret came", time.Minute, func() bool { return r.load() && strings.Contains(r.out.String(), "up and defended") })

	const processorKey = "sk_test_8f2c61d90be74a35c1a7"
	must(t, processorKey, binary, "secret", "set", "prod/stripe/api-key", "--state", r.dir)

	alice := r.login("alice")
	o := r.order(alice, "acme")
	status, body, err := r.pay(alice, o, "key-1")
	if err != nil || status != http.StatusCreated {
		t.Fatalf("pay: %d %s %v", status, body, err)
	}
	var p struct{ ID string }
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	if status, body := r.call(alice, http.MethodGet, "/payments/"+p.ID, nil); status != http.StatusOK {
		t.Errorf("own payment: %d %s", status, body)
	}
	r.mailArrives(p.ID)

	db := psql{t, server, ca}
	query := func(q string) string { return db.must("sslmode=verify-full", q) }
	if got := query(`SELECT COUNT(*) > 0 AND BOOL_AND(version = 'TLSv1.3') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rampart'`); got != "t" {
		t.Errorf("the service's connections are not all of TLS 1.3: %q", got)
	}
	if got := query(`SELECT status || ' ' || amount FROM payments WHERE id = '` + p.ID + `'`); got != fmt.Sprint("completed ", o.Total) {
		t.Errorf("the row says %q", got)
	}
	if got := query(`SELECT COUNT(*) FROM payments WHERE position('example.com'::bytea IN email) > 0 OR position('tok_visa'::bytea IN card_ref) > 0`); got != "0" {
		t.Errorf("%s rows hold an address or a card in the clear", got)
	}
	if out, code := db.run("sslmode=disable", "SELECT 1"); code == 0 || !strings.Contains(out, "no encryption") {
		t.Errorf("plain text: exit code %d: %s", code, out)
	}
	if out, code := db.run("sslmode=verify-full ssl_max_protocol_version=TLSv1.2", "SELECT 1"); code == 0 || !strings.Contains(out, "protocol version") {
		t.Errorf("TLS 1.2: exit code %d: %s", code, out)
	}
	r.leaks(
		canary{"the processor's key", []byte(processorKey), []string{"control", "sidecar/payments", "processor"}, "sidecar/payments"},
		canary{"the database password", []byte(pgtest.Password), []string{"control", "sidecar/payments", "payments"}, "sidecar/payments"},
		canary{"the key encryption key", r.keyOf(), []string{"control"}, "control"},
	)
	for _, f := range []string{file, filepath.Join(r.dir, "logs", "payments.log"), filepath.Join(r.dir, "control.db"), filepath.Join(r.dir, "run", "system.json")} {
		if b, err := os.ReadFile(f); err != nil || strings.Contains(string(b), pgtest.Password) {
			t.Errorf("%s holds the password: %v", filepath.Base(f), err)
		}
	}
}

// psql is PostgreSQL's own client.
type psql struct {
	t      *testing.T
	server pgtest.Server
	ca     string
}

func (p psql) run(options, query string) (string, int) {
	p.t.Helper()
	pass := writeFile(p.t, "pgpass", []byte("*:*:*:*:"+pgtest.Password+"\n"))
	return command(p.t, "", "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query,
		fmt.Sprintf("host=localhost port=%s user=%s dbname=postgres passfile=%s sslrootcert=%s %s", p.server.Port, pgtest.User, pass, p.ca, options))
}

func (p psql) must(options, query string) string {
	p.t.Helper()
	out, code := p.run(options, query)
	if code != 0 {
		p.t.Fatalf("psql: exit code %d: %s", code, out)
	}
	return strings.TrimSpace(out)
}
