package db

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rampart-security/rampart/internal/agent"
)

const password = "canary-password"

// TestPostgres runs a real server that takes TLS 1.3 and SCRAM only.
func TestPostgres(t *testing.T) {
	port, ca := startPostgres(t)
	// Nothing of this may count: neither the mode nor the password.
	t.Setenv("PGSSLMODE", "disable")
	t.Setenv("PGPASSWORD", "wrong")
	t.Setenv("PGHOST", "/nowhere")
	t.Setenv("PGOPTIONS", "-c search_path=pg_temp")
	store := agent.StoreInfo{Kind: "postgres", URL: "postgres://app@localhost:" + port + "/postgres", Password: "store:orders_db", CA: ca, Pool: 4}
	d := openWhenUp(t, store)
	var version, path string
	err := d.View(t.Context(), func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(t.Context(), `SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&version); err != nil {
			return err
		}
		return tx.QueryRowContext(t.Context(), `SHOW search_path`).Scan(&path)
	})
	if err != nil || version != "TLSv1.3" || path != "public" {
		t.Errorf("%q, search path %q: %v", version, path, err)
	}
	counts(t, d)

	_, other := certificate(t, "localhost")
	for name, change := range map[string]func(*agent.StoreInfo){
		"another CA":             func(s *agent.StoreInfo) { s.CA = other },
		"another name":           func(s *agent.StoreInfo) { s.URL = "postgres://app@127.0.0.1:" + port + "/postgres" },
		"no right to the secret": func(s *agent.StoreInfo) { s.Password = "store:other" },
	} {
		wrong := store
		change(&wrong)
		if _, err := open(t, wrong); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// counts has many transactions read, add one and write; none may be lost.
func counts(t *testing.T, d *DB) {
	t.Helper()
	steps := []Step{{Postgres: `CREATE TABLE counter (n BIGINT NOT NULL); INSERT INTO counter (n) VALUES (0)`}}
	if err := d.Migrate(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
	add := func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(t.Context(), `SELECT n FROM counter`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = $1`, n+1)
		return err
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- d.Update(t.Context(), add) }()
	}
	want := 0
	for range cap(results) {
		if err := <-results; err == nil {
			want++
		} else if !conflict(err) {
			t.Error(err)
		}
	}
	var got int
	err := d.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT n FROM counter`).Scan(&got)
	})
	if err != nil || got != want || got == 0 {
		t.Errorf("counted %d of %d: %v", got, want, err)
	}
}

// startPostgres makes a cluster in a temporary folder and returns its port and
// the PEM of its CA. The test is skipped where PostgreSQL is not installed.
func startPostgres(t *testing.T) (port string, ca []byte) {
	t.Helper()
	for _, tool := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir, err := os.MkdirTemp("", "pg") // the server's own user must reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	files, ca := certificate(t, "localhost")
	files["password"] = []byte(password)
	files["hba"] = []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n")
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	who := owner(t, dir)
	data := filepath.Join(dir, "data")
	run := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, name, args...)
		c.Dir, c.SysProcAttr = dir, who
		return c
	}
	init := run(t.Context(), "initdb", "-D", data, "-U", "app", "--auth=scram-sha-256", "--pwfile="+filepath.Join(dir, "password"), "-N")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port = freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	server := run(ctx, "postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "ssl=on", "-c", "ssl_min_protocol_version=TLSv1.3", "-c", "ssl_cert_file="+filepath.Join(dir, "cert.pem"),
		"-c", "ssl_key_file="+filepath.Join(dir, "key.pem"), "-c", "hba_file="+filepath.Join(dir, "hba"), "-c", "fsync=off")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		server.Wait()
	})
	return port, ca
}

// owner hands dir to the system's postgres user when the test runs as root,
// as whom the server refuses to start.
func owner(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip("PostgreSQL does not run as root, and there is no user postgres")
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	err = filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(name, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
}

func openWhenUp(t *testing.T, store agent.StoreInfo) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		d, err := open(t, store)
		if err == nil {
			return d
		}
		e, answered := errors.AsType[*pgconn.PgError](err)
		starting := answered && e.Code == "57P03" || errors.Is(err, syscall.ECONNREFUSED)
		if !starting || ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// certificate makes the server's files, signed by a CA of its own.
func certificate(t *testing.T, host string) (files map[string][]byte, ca []byte) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database CA"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, DNSNames: []string{host},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootKey, leafKey := key(), key()
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return map[string][]byte{"cert.pem": encode("CERTIFICATE", leafDER), "key.pem": encode("PRIVATE KEY", keyDER)}, encode("CERTIFICATE", rootDER)
}
