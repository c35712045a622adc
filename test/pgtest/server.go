package pgtest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Wait returns when the server takes connections.
func (s Server) Wait(t *testing.T) {
	t.Helper()
	s.waitAt(t, s.Port)
}

func (s Server) waitAt(t *testing.T, port string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.CommandContext(t.Context(), s.tool("pg_isready"), "-h", "127.0.0.1", "-p", port).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no server at port %s: %v: %s", port, err, out)
		}
	}
}

// tool is a client's program: of the server's folder, or the system's.
func (s Server) tool(name string) string {
	path := filepath.Join(s.bin, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return name
}

// Write replaces a file of the server, whole, as its user.
func (s Server) Write(t *testing.T, name string, b []byte) {
	t.Helper()
	tmp := filepath.Join(s.dir, "."+name)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.who != nil {
		if err := os.Chown(tmp, int(s.who.Credential.Uid), int(s.who.Credential.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// Reload has the server read its files again, as pg_reload_conf() does.
func (s Server) Reload(t *testing.T) {
	t.Helper()
	if err := s.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// Presented is the certificate that the server shows now.
func (s Server) Presented(t *testing.T) *x509.Certificate {
	t.Helper()
	raw, err := net.Dial("tcp", "127.0.0.1:"+s.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 1)
	if _, err := raw.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
		t.Fatal(err)
	}
	if _, err := io.ReadFull(raw, answer); err != nil || answer[0] != 'S' {
		t.Fatalf("the server answers %q to a request for TLS: %v", answer, err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it is looked at, not talked to
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0]
}

// Log is what the server wrote to its log.
func (s Server) Log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Authority signed the server's certificate.
func (s Server) Authority() *Authority { return s.authority }

// URL is where role logs in, without a password.
func (s Server) URL(role string) string {
	return "postgres://" + role + "@localhost:" + s.Port + "/postgres"
}

// Exec runs SQL as User and returns what psql prints of the rows.
func (s Server) Exec(t *testing.T, sql string) string {
	t.Helper()
	out, err := s.Psql(t, Password, "host=localhost port="+s.Port+" dbname=postgres user="+User+" sslmode=verify-full sslrootcert="+s.file(t, "root.pem", s.CA), sql)
	if err != nil {
		t.Fatalf("%s: %v: %s", sql, err, out)
	}
	return out
}

// Psql runs the database's own client with a password in its environment, which
// no other process of another user can read.
func (s Server) Psql(t *testing.T, password, conninfo, sql string) (out string, err error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), s.tool("psql"), "-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-d", conninfo)
	c.Stdin = strings.NewReader(sql)
	c.Env = []string{"PGPASSWORD=" + password, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	b, err := c.CombinedOutput()
	return strings.TrimSpace(string(b)), err
}

// file writes a file for a client.
func (s Server) file(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
