package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// Bounds of the files, and how often they are looked at. A file that is
// replaced by a rename, through a link as Kubernetes does, or in place is seen.
const (
	maxCertFile  = 1 << 20
	filesEvery   = 5 * time.Second
	maxCertChain = 10
)

// fileCert is the source for files that somebody else renews. A pair that is
// not sound changes nothing, and is told once.
type fileCert struct {
	files spec.Files
	names []string
	now   func() time.Time
	event func(name string, err error)
	cert  atomic.Pointer[tls.Certificate]

	mu   sync.Mutex // guards below
	seen [2]fileMark
	last error
}

// fileMark changes when a file does.
type fileMark struct {
	size, inode, modified, changed int64
}

// newFileCert reads the files for the first time. A pair that is not sound is
// no reason not to start: handshakes fail until it is mended.
func newFileCert(files spec.Files, names []string, now func() time.Time, event func(string, error)) *fileCert {
	f := &fileCert{files: files, names: names, now: now, event: event}
	f.look()
	return f
}

func (f *fileCert) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return holding(f.cert.Load(), f.now())
}

func (f *fileCert) run(ctx context.Context) {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look()
		}
	}
}

// look reads the files if one of them changed.
func (f *fileCert) look() {
	marks := [2]fileMark{markOf(f.files.Chain), markOf(f.files.Key)}
	f.mu.Lock()
	same := marks == f.seen
	f.seen = marks
	f.mu.Unlock()
	if same {
		return
	}
	cert, err := loadPair(f.files, f.names, f.now())
	if err == nil {
		f.cert.Store(cert)
	}
	f.mu.Lock()
	f.last = err
	f.mu.Unlock()
	f.event(f.names[0], err)
}

func markOf(name string) fileMark {
	info, err := os.Stat(name)
	if err != nil {
		return fileMark{size: -1}
	}
	m := fileMark{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.inode, m.changed = int64(st.Ino), st.Ctim.Nano() // a chmod mends a refused key
	}
	return m
}

func (f *fileCert) state() []wire.EdgeCert {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]wire.EdgeCert, 0, len(f.names))
	for _, name := range f.names {
		c := wire.EdgeCert{Name: name, Source: "files"}
		if cert := f.cert.Load(); cert != nil {
			c.NotBefore, c.NotAfter = cert.Leaf.NotBefore, cert.Leaf.NotAfter
		}
		if f.last != nil {
			c.Error = shortened(f.last.Error(), wire.MaxReason)
		}
		out = append(out, c)
	}
	return out
}

// loadPair reads a chain and its key, and demands that clients will take them
// for every name, today.
func loadPair(files spec.Files, names []string, now time.Time) (*tls.Certificate, error) {
	chain, err := readCertFile(files.Chain, false)
	if err != nil {
		return nil, err
	}
	key, err := readCertFile(files.Key, true)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := tls.X509KeyPair(chain, key) // the key is that of the first certificate
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", files.Chain, files.Key, withoutContent(err))
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", files.Chain, err)
	}
	if err := sound(&cert, names, now); err != nil {
		return nil, fmt.Errorf("%s: %w", files.Chain, err)
	}
	return &cert, nil
}

// withoutContent keeps what a parser says of a key out of logs: some name bytes.
func withoutContent(err error) error {
	if msg := err.Error(); len(msg) < 200 && !bytes.ContainsAny([]byte(msg), "\n\"") {
		return errors.New(msg)
	}
	return errors.New("certificate and key do not parse, or do not belong together")
}

// readCertFile reads a file of bounded size; a private one must be this user's
// or root's alone.
func readCertFile(name string, private bool) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCertFile {
		return nil, fmt.Errorf("%s is no regular file of up to 1 MiB", name)
	}
	if private {
		st, ok := info.Sys().(*syscall.Stat_t)
		if mode := info.Mode().Perm(); mode&0o077 != 0 || !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return nil, fmt.Errorf("%s may be read by others (mode %04o): chown it to the gateway's user and chmod 600", name, mode)
		}
	}
	return io.ReadAll(io.LimitReader(f, maxCertFile))
}

// sound demands that the leaf holds now, covers the names and has a strong key,
// and that each certificate signed the one before it.
func sound(cert *tls.Certificate, names []string, now time.Time) error {
	leaf := cert.Leaf
	switch {
	case now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
		return fmt.Errorf("it holds from %s to %s, not now", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	case leaf.IsCA:
		return errors.New("the first certificate is a CA's; the server's comes first")
	case len(cert.Certificate) > maxCertChain:
		return fmt.Errorf("more than %d certificates", maxCertChain)
	}
	for _, name := range names {
		if err := leaf.VerifyHostname(name); err != nil {
			return fmt.Errorf("it is not for %s", name)
		}
	}
	if err := strongKey(leaf); err != nil {
		return err
	}
	for i := 1; i < len(cert.Certificate); i++ {
		child, err := x509.ParseCertificate(cert.Certificate[i-1])
		if err != nil {
			return err
		}
		parent, err := x509.ParseCertificate(cert.Certificate[i])
		if err != nil {
			return err
		}
		if err := child.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("certificate %d is not signed by the next: want the server's first, then its issuers in order", i)
		}
	}
	return nil
}

func strongKey(leaf *x509.Certificate) error {
	switch k := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("its key is weak: want ECDSA P-256, RSA 2048 or Ed25519 at least")
}
