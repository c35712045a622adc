// Package valkeytest starts a real Valkey, or Redis, for a test: a server of its
// own in a temporary folder, on a free loopback port, that takes TLS 1.3 with a
// password only and has every change on disk before it answers.
package valkeytest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rampart-security/rampart/test/freeport"
	"github.com/rampart-security/rampart/test/pgtest"
)

// Password is that of the server's default user.
const Password = "canary-password"

// startTimeout bounds how long the server may take until it answers.
const startTimeout = 30 * time.Second

// Server is one server.
type Server struct {
	URL         string          // rediss://localhost:PORT
	CA          []byte          // PEM
	Certificate tls.Certificate // one that the server takes from clients as well

	t       *testing.T
	program string
	dir     string
	port    string
	running *exec.Cmd
}

// CertificatesAlone are settings of a server that takes a certificate of its CA
// for a password.
func CertificatesAlone() []string {
	return []string{"tls-auth-clients yes", `requirepass ""`}
}

// Start starts a server that ends with the test. Further settings have the form
// of its configuration file, such as "tls-auth-clients yes". It skips the test
// where no server is installed, or fails it when RAMPART_PEERS is "required".
func Start(t *testing.T, settings ...string) *Server {
	t.Helper()
	s := &Server{t: t, program: find(t), dir: t.TempDir(), port: freeport.Take(t)}
	files, ca := pgtest.Certificate(t, "localhost")
	files["ca.pem"] = ca
	files["server.conf"] = []byte(strings.Join(append([]string{
		"port 0", "bind 127.0.0.1", "tls-port " + s.port, "tls-protocols TLSv1.3", "tls-auth-clients no",
		"tls-cert-file cert.pem", "tls-key-file key.pem", "tls-ca-cert-file ca.pem",
		"requirepass " + Password, "dir " + s.dir, `save ""`, "appendonly yes", "appendfsync always", "daemonize no", "loglevel warning",
	}, settings...), "\n"))
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(files["cert.pem"], files["key.pem"])
	if err != nil {
		t.Fatal(err)
	}
	s.URL, s.CA, s.Certificate = "rediss://localhost:"+s.port, ca, pair
	t.Cleanup(s.Kill)
	s.Run()
	return s
}

// Run starts the server on what it left on disk, and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	s.running = exec.Command(s.program, "server.conf")
	s.running.Dir, s.running.Stderr = s.dir, os.Stderr
	if err := s.running.Start(); err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{s.Certificate}}
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := answers(net.JoinHostPort("127.0.0.1", s.port), config)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s does not answer: %v", s.program, err)
		}
	}
}

// answers wants a refusal for the lack of a password, or an answer where none is
// asked for.
func answers(address string, config *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 7)
	if _, err := conn.Read(answer); err != nil {
		return err
	}
	if string(answer) != "-NOAUTH" && string(answer) != "+PONG\r\n" {
		return fmt.Errorf("it says %q to whoever has no password", answer)
	}
	return nil
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	if s.running == nil {
		return
	}
	s.running.Process.Kill()
	s.running.Wait()
	s.running = nil
}

// Trust has the server take certificates of another CA besides, which it restarts
// for.
func (s *Server) Trust(pem []byte) {
	s.t.Helper()
	s.Kill()
	if err := os.WriteFile(filepath.Join(s.dir, "ca.pem"), append(append([]byte(nil), s.CA...), pem...), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Run()
}

// Freeze stops the server without ending it: it is there, and does not answer.
// Thaw lets it go on.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.running.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func find(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const why = "neither valkey-server nor redis-server is installed; run make tools"
	if os.Getenv("RAMPART_PEERS") == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
	return ""
}
