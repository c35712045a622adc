//go:build system

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestScan sends scanners that we did not write to every kind of TLS listener of
// the running example. What they say lies beside the report of verify.
func TestScan(t *testing.T) {
	for _, tool := range []string{"sslscan", "nmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: test/install.sh does", tool)
		}
	}
	file := variant(t)
	r := start(t, file)
	listeners := map[string]string{"edge": r.Edge, "control": r.Control}
	for name, addr := range r.Sidecars {
		listeners["sidecar-"+name] = addr
	}
	for name, addr := range r.Queues {
		listeners["queue-"+name] = addr
	}
	for _, name := range slices.Sorted(maps.Keys(listeners)) {
		out, found := scanned(t, listeners[name])
		if len(found) > 0 {
			t.Errorf("%s: %s\n%s", name, strings.Join(found, "; "), out)
		}
		for _, g := range groups(listeners[name]) {
			t.Errorf("%s: %s", name, g)
		}
		fine(t, os.MkdirAll(filepath.Join(r.dir, "verify"), 0o700))
		fine(t, os.WriteFile(filepath.Join(r.dir, "verify", "scan-"+name+".txt"), []byte(out), 0o600))
	}
	t.Logf("%d listeners scanned", len(listeners))
	// A scan that finds nothing anywhere proves nothing.
	if out, found := scanned(t, oldServer(t)); len(found) == 0 {
		t.Errorf("a server of TLS 1.2 goes unnoticed\n%s", out)
	}
	reported(t, r, file)
}

// reported demands that verify's own scans passed and are in the report.
func reported(t *testing.T, r *running, file string) {
	t.Helper()
	out, code := command(t, "", binary, "verify", "-f", file, "--state", r.dir, "--only", "P-008,P-057", "--json")
	if code != 0 {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	for _, id := range []string{"P-008", "P-057"} {
		for line := range strings.Lines(out) {
			var o struct{ ID, Verdict, Evidence string }
			if json.Unmarshal([]byte(line), &o) == nil && o.ID == id && (o.Verdict != "pass" || !strings.Contains(o.Evidence, "X25519MLKEM768")) {
				t.Errorf("%s: %s", id, line)
			}
		}
	}
}

var (
	// enabled is a protocol that sslscan found, such as "TLSv1.2   enabled".
	enabled = regexp.MustCompile(`(?m)^(SSLv2|SSLv3|TLSv1\.[0-3])\s+enabled`)
	// offered is a protocol that nmap found, at the head of its suites.
	offered = regexp.MustCompile(`(?m)^\|\s+(SSLv3|TLSv1\.[0-3]):`)
	least   = regexp.MustCompile(`least strength: ([A-F])`)
)

// scanned lists what two scanners find fault with.
func scanned(t *testing.T, addr string) (out string, found []string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	fine(t, err)
	if host == "" || host == "::" || host == "0.0.0.0" {
		host = "127.0.0.1"
	}
	one, err := exec.Command("sslscan", "--no-colour", "--no-failed", host+":"+port).CombinedOutput()
	fine(t, err)
	two, err := exec.Command("nmap", "-Pn", "-n", "-p", port, "--script", "ssl-enum-ciphers", "--script-args", "unsafe=0", host).CombinedOutput()
	fine(t, err)
	out = string(one) + string(two)
	protocols := map[string]bool{}
	for _, re := range []*regexp.Regexp{enabled, offered} {
		for _, m := range re.FindAllStringSubmatch(out, -1) {
			protocols[m[1]] = true
		}
	}
	if !protocols["TLSv1.3"] {
		found = append(found, "no scanner sees TLS 1.3")
	}
	delete(protocols, "TLSv1.3")
	for p := range protocols {
		found = append(found, p+" is offered")
	}
	if m := least.FindStringSubmatch(out); m == nil || m[1] != "A" {
		found = append(found, fmt.Sprintf("least strength %v, want A", m))
	}
	for _, bad := range []string{"vulnerable to heartbleed", "Insecure session renegotiation supported", "Compression enabled", "warnings:"} {
		for line := range strings.Lines(out) {
			if strings.Contains(line, bad) && !strings.Contains(line, "not vulnerable") {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return out, found
}

// groups says whether a client that knows the hybrid group alone is served:
// these scanners are older than it.
func groups(addr string) (found []string) {
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return []string{"no handshake with X25519MLKEM768: " + err.Error()}
	}
	defer conn.Close()
	if got := conn.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
		found = append(found, "group "+got.String())
	}
	return found
}

// oldServer speaks TLS 1.2 too.
func oldServer(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fine(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	fine(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	fine(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				conn.(*tls.Conn).Handshake()
			}()
		}
	}()
	return l.Addr().String()
}

func fine(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
