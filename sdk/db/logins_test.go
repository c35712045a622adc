package db

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/sdktest"
	"github.com/rampart-security/rampart/test/pgtest"
)

// turns has two roles take turns at a real server: a transaction keeps the
// connection that it has, the next one has the new role, and a password of which
// nobody was told is asked for when the old one is refused.
func turns(t *testing.T, server pgtest.Server) {
	t.Helper()
	server.Exec(t, `CREATE ROLE shop_owner NOLOGIN; CREATE ROLE a LOGIN PASSWORD 'one' IN ROLE shop_owner; CREATE ROLE b LOGIN PASSWORD 'two' IN ROLE shop_owner`)
	a := &sdktest.Agent{Info: agent.ServiceInfo{Name: "orders", Stores: map[string]agent.StoreInfo{
		"db": {Kind: "postgres", URL: "postgres://nobody@localhost:" + server.Port + "/postgres", Password: "store:db", Owner: "shop_owner", CA: server.CA, Pool: 3},
	}}}
	a.Replace("store:db", "a", []byte("one"))
	sdktest.Start(t, a)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), svc, "db")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	who := func(tx *sql.Tx, want string) {
		t.Helper()
		var login, acts string
		if err := tx.QueryRowContext(t.Context(), `SELECT session_user, current_user`).Scan(&login, &acts); err != nil || login != want || acts != "shop_owner" {
			t.Errorf("%s acts as %s, want %s: %v", login, acts, want, err)
		}
	}
	view := func(f func(*sql.Tx)) {
		t.Helper()
		if err := d.View(t.Context(), func(tx *sql.Tx) error { f(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain: %s; in use %v", what, a.InUse())
			}
		}
	}
	wait("the first version is told", func() bool { return a.InUse()["store:db"] == 2 })
	view(func(tx *sql.Tx) {
		who(tx, "a")
		a.Rotate("store:db", "b", []byte("two"))
		wait("the news is carried out", a.Forgotten)
		who(tx, "a") // never in the middle
		view(func(other *sql.Tx) { who(other, "b") })
		if used := a.InUse()["store:db"]; used != 2 {
			t.Errorf("version %d is told to be the oldest in use, want 2", used)
		}
	})
	wait("nobody uses the old one", func() bool { return a.InUse()["store:db"] == 3 })
	server.Exec(t, `ALTER ROLE a PASSWORD 'three'; ALTER ROLE b NOLOGIN PASSWORD NULL`)
	a.Replace("store:db", "b", []byte("two")) // the sidecar has an old one, and says so until asked again
	d.sql.SetMaxIdleConns(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.View(ctx, func(*sql.Tx) error { return nil }); err == nil {
		t.Error("a role that may not log in did")
	}
	a.Later("store:db", "a", []byte("three"))
	view(func(tx *sql.Tx) { who(tx, "a") })
}
