package attest_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/attest"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMain also is the process that connects and ends when it is told to.
func TestMain(m *testing.M) {
	if path := os.Getenv("ATTEST_DIAL"); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			os.Exit(1)
		}
		io.WriteString(conn, "\n")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// connected runs another process that connects; end ends it.
func connected(t *testing.T) (peer *attest.Peer, end func()) {
	t.Helper()
	conn, end := dialled(t)
	peer, err := attest.PeerOf(conn)
	ok(t, err)
	t.Cleanup(func() { peer.Close() })
	return peer, end
}

// dialled is connected before anybody asks who that is.
func dialled(t *testing.T) (conn *net.UnixConn, end func()) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	self, err := os.Executable()
	ok(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "ATTEST_DIAL="+l.Addr().String())
	stdin, err := cmd.StdinPipe()
	ok(t, err)
	ok(t, cmd.Start())
	end = func() { stdin.Close(); cmd.Wait() }
	t.Cleanup(end)
	c, err := l.Accept()
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = bufio.NewReader(c).ReadString('\n')
	ok(t, err)
	return c.(*net.UnixConn), end
}

// TestPeerThatEnded: who has ended before it was asked for is nobody, though its
// id may be another's by then.
func TestPeerThatEnded(t *testing.T) {
	conn, end := dialled(t)
	end()
	if peer, err := attest.PeerOf(conn); err == nil {
		peer.Close()
		t.Errorf("process %d has ended, and was found", peer.PID)
	}
}

// TestPeerByID is how older kernels do: a live process is found, one of another
// user and one that has ended are not.
func TestPeerByID(t *testing.T) {
	conn, end := dialled(t)
	ok(t, attest.ByID(conn, uint32(os.Getuid())))
	if attest.ByID(conn, uint32(os.Getuid())+1) == nil {
		t.Error("the process of another user was taken")
	}
	end()
	if attest.ByID(conn, uint32(os.Getuid())) == nil {
		t.Error("a process that has ended was taken")
	}
}

// TestUnix: user, program and content must be those of the file; a process that
// has ended proves nothing, whoever has its id.
func TestUnix(t *testing.T) {
	peer, end := connected(t)
	exe, err := os.Executable()
	ok(t, err)
	b, err := os.ReadFile(exe)
	ok(t, err)
	sum := sha256.Sum256(b)
	me := attest.Process{UID: uint32(os.Getuid()), Exe: exe, SHA256: hex.EncodeToString(sum[:])}
	with := func(change func(*attest.Process)) attest.Process { p := me; change(&p); return p }
	u := attest.Unix{Processes: map[string]attest.Process{
		"me":           me,
		"any content":  with(func(p *attest.Process) { p.SHA256 = "" }),
		"another user": with(func(p *attest.Process) { p.UID++ }),
		"another path": with(func(p *attest.Process) { p.Exe += "x" }),
		"another hash": with(func(p *attest.Process) { p.SHA256 = hex.EncodeToString(make([]byte, 32)) }),
		"a prefix":     with(func(p *attest.Process) { p.Exe = filepath.Dir(p.Exe) }),
	}}
	for name, want := range map[string]bool{"me": true, "any content": true, "another user": false, "another path": false, "another hash": false, "a prefix": false, "a stranger": false} {
		got, err := u.Attest(peer, name)
		if (err == nil) != want || want && (got.Name != name || got.Selectors["exe"] != exe) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && rampart.KindOf(err) != rampart.Denied {
			t.Errorf("%s: kind %v", name, rampart.KindOf(err))
		}
	}
	if _, err := u.Attest(nil, "me"); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("nobody: %v", err)
	}
	if peer.Ended() {
		t.Error("a process that waits has ended")
	}
	end()
	if !peer.Ended() {
		t.Error("a process that was waited for goes on")
	}
	if _, err := u.Attest(peer, "me"); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a process that has ended: %v", err)
	}
	ok(t, peer.Close())
	ok(t, peer.Close())
}

func TestKubernetes(t *testing.T) {
	k := attest.Kubernetes{Accounts: map[string]string{"shop/orders": "orders"}, Verify: func(_ context.Context, token string) (string, error) {
		if token == "bad" {
			return "", errors.New("signature")
		}
		return token, nil
	}}
	for name, row := range map[string]struct {
		k     attest.Kubernetes
		token string
		want  rampart.Kind
	}{
		"a declared account": {k, "shop/orders", 0},
		"another":            {k, "shop/payments", rampart.Denied},
		"another space":      {k, "orders", rampart.Denied},
		"a bad token":        {k, "bad", rampart.Unauthenticated},
		"no cluster":         {attest.Kubernetes{}, "shop/orders", rampart.Denied},
	} {
		got, err := row.k.Attest(t.Context(), row.token)
		if err != nil && rampart.KindOf(err) != row.want || err == nil && (row.want != 0 || got.Name != "orders") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzStart(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"))
	f.Add([]byte("1 (x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := attest.ParseStart(b); err == nil && len(b) < 20 {
			t.Fatalf("%q", b)
		}
	})
}
