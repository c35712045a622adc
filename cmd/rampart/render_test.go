package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rampart-security/rampart/test/freeport"
	"github.com/rampart-security/rampart/test/pgtest"
)

// TestRenderedPgBouncer starts a real PgBouncer with what is rendered: it takes
// the configuration, lets a role in with its own password, and nobody in plain
// text.
func TestRenderedPgBouncer(t *testing.T) {
	server := pgtest.Start(t)
	server.Wait(t)
	server.Exec(t, `CREATE ROLE payments LOGIN PASSWORD '`+pgtest.Password+`'`)
	port := freeport.Take(t)
	file := filepath.Join(t.TempDir(), "rampart.yaml")
	text := strings.Replace(pooledSystem, "PORT", port, 1)
	for name, b := range map[string]string{file: text, filepath.Join(filepath.Dir(file), "db-ca.pem"): string(server.CA)} {
		if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server.RunBouncer(t, port, func(dir string) string {
		var out bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"render", "pgbouncer", "-f", file, "--server", "localhost:" + server.Port, "--address", "127.0.0.1", "--dir", dir})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	})
	ca := filepath.Join(filepath.Dir(file), "db-ca.pem")
	url := "postgres://payments:" + pgtest.Password + "@localhost:" + port + "/postgres?default_query_exec_mode=exec&sslmode="
	db, err := pgx.Connect(t.Context(), url+"verify-full&sslrootcert="+ca)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	var who string
	if err := db.QueryRow(t.Context(), "SELECT current_user").Scan(&who); err != nil || who != "payments" {
		t.Errorf("the database sees %q: %v", who, err)
	}
	if db, err := pgx.Connect(t.Context(), url+"disable"); err == nil {
		db.Close(context.Background())
		t.Error("plain text is let in")
	}
}

const pooledSystem = `rampart: v1
system: { name: shop }
data:
  order: { class: internal }
services:
  gateway: { role: gateway }
  payments: { upstream: "http://127.0.0.1:9000" }
stores:
  payments_db: { kind: postgres, holds: [order], url: "postgres://payments@localhost:PORT/postgres", password: "secret://embedded/db", ca: db-ca.pem, pooler: true }
flows:
  - { from: users, to: gateway }
  - { from: gateway, to: payments, allow: "role:member" }
  - { from: payments, to: payments_db, carries: [order], db: { role: payments, pool: 8 } }
`
