// Package pgtest starts a real PostgreSQL for a test: a cluster of its own in a
// temporary folder, on a free loopback port, that takes TLS 1.3 and SCRAM only.
package pgtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/freeport"
)

// User owns the cluster, and Password is how it logs in, to the database
// "postgres".
const (
	User     = "app"
	Password = "canary-password"
)

// Server is one running cluster.
type Server struct {
	Port string // on 127.0.0.1; the certificate names localhost
	CA   []byte // PEM

	authority *Authority
	dir       string // of its files: cert.pem, key.pem, hba
	bin       string // of its programs
	who       *syscall.SysProcAttr
	process   *os.Process
}

// Start makes a cluster that ends with the test. It skips the test where
// PostgreSQL is not installed, or fails it when RAMPART_PEERS is "required". The
// server may need a moment until it takes connections.
func Start(t *testing.T) Server { return StartWith(t, "hostssl all all 127.0.0.1/32 scram-sha-256\n") }

// StartWith is Start with another pg_hba.conf, and further settings of the server
// as "name=value". Client certificates are judged by the CA in the file clients.pem,
// which is the server's own until the test writes another.
func StartWith(t *testing.T, hba string, settings ...string) Server {
	t.Helper()
	bin := binaries(t)
	dir, err := os.MkdirTemp("", "pg") // the server's own user must reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	authority := NewAuthority(t)
	files := authority.Issue(t, "localhost")
	files["password"], files["hba"], files["clients.pem"] = []byte(Password), []byte(hba), authority.PEM
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	who := owner(t, dir)
	data := filepath.Join(dir, "data")
	run := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
		c.Dir, c.SysProcAttr = dir, who
		return c
	}
	init := run(t.Context(), "initdb", "-D", data, "-U", User, "--auth=scram-sha-256", "--pwfile="+filepath.Join(dir, "password"), "-N")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port := freeport.Take(t)
	args := []string{"-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "ssl=on", "-c", "ssl_min_protocol_version=TLSv1.3", "-c", "ssl_cert_file=" + filepath.Join(dir, "cert.pem"),
		"-c", "ssl_key_file=" + filepath.Join(dir, "key.pem"), "-c", "hba_file=" + filepath.Join(dir, "hba"), "-c", "ssl_ca_file=" + filepath.Join(dir, "clients.pem"), "-c", "fsync=off"}
	for _, v := range settings {
		args = append(args, "-c", v)
	}
	server := run(context.Background(), "postgres", args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stderr = log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("PostgreSQL: %s", b[max(0, len(b)-2000):])
		}
		server.Process.Signal(syscall.SIGQUIT) // at once, children included
		server.Wait()
	})
	return Server{Port: port, CA: authority.PEM, authority: authority, dir: dir, bin: bin, who: who, process: server.Process}
}

// binaries finds the folder of initdb and postgres: Debian keeps them out of
// PATH, one folder for each version.
func binaries(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	missing(t, "PostgreSQL is not installed; run make tools")
	return ""
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("RAMPART_PEERS") == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
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
		missing(t, "PostgreSQL does not run as root, and there is no user postgres")
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

// Certificate makes cert.pem and key.pem for a host, signed by a CA of its own,
// whose PEM is ca.
func Certificate(t *testing.T, host string) (files map[string][]byte, ca []byte) {
	t.Helper()
	a := NewAuthority(t)
	return a.Issue(t, host), a.PEM
}

// Authority signs certificates of databases.
type Authority struct {
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one that lasts an hour.
func NewAuthority(t *testing.T) *Authority {
	t.Helper()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database CA"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{encode("CERTIFICATE", der), root, key}
}

// Issue makes cert.pem and key.pem for a host.
func (a *Authority) Issue(t *testing.T, host string) map[string][]byte {
	t.Helper()
	key := newKey(t)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	der := a.Sign(t, &x509.Certificate{DNSNames: []string{host}}, key.Public())
	return map[string][]byte{"cert.pem": encode("CERTIFICATE", der), "key.pem": encode("PRIVATE KEY", keyDER)}
}

// Sign signs a leaf for both ends of TLS with the names of like.
func (a *Authority) Sign(t *testing.T, like *x509.Certificate, public any) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: like.Subject, DNSNames: like.DNSNames, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
