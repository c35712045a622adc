package sidecar

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

// holds reports whether the file lets the service hold a credential itself.
func (t *table) holds(name string) bool {
	_, ok := t.svc.Secrets[name]
	return ok
}

// filed lists the credentials that are written to files, by name.
func (t *table) filed() []string {
	return slices.Sorted(maps.Keys(mapsWhere(t.svc.Secrets, spec.DeliverFile)))
}

func mapsWhere(all map[string]string, how string) map[string]string {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(_, v string) bool { return v != how })
	return out
}

const (
	fileEvery  = 15 * time.Second // between looks for a newer value; a notice comes at once
	firstFiles = 5 * time.Second  // for all of them, before the service's socket opens

	secretMode fs.FileMode = 0o400
)

// Kinds of file systems that never reach a disk of their own (statfs(2)). Swap
// is the machine's affair: docs/secrets.md says so.
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// NewMemoryFolder makes a folder in memory that only this user can enter, for
// Options.SecretsDir.
func NewMemoryFolder() (string, error) {
	var errs []error
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm", "/run/shm"} {
		if base == "" || !filepath.IsAbs(base) {
			continue
		}
		path := filepath.Join(base, "rampart-"+strings.ToLower(rand.Text()))
		err := os.Mkdir(path, 0o700)
		if err == nil {
			err = checkMemory(path)
		}
		if err == nil {
			return path, nil
		}
		os.Remove(path)
		errs = append(errs, err)
	}
	return "", fmt.Errorf("sidecar: no folder in memory for files of secrets (tmpfs at XDG_RUNTIME_DIR or /dev/shm); deliver them by socket instead: %w", errors.Join(errs...))
}

// checkMemory demands a folder in memory that nobody else can enter.
func checkMemory(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(sys.Uid) != os.Geteuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s is no folder of this user with mode 0700", path)
	}
	var where unix.Statfs_t
	if err := unix.Statfs(path, &where); err != nil {
		return err
	}
	if kind := uint32(where.Type); kind != tmpfsMagic && kind != ramfsMagic {
		return fmt.Errorf("%s is on a file system that keeps what is written there (kind %#x), not in memory", path, kind)
	}
	return nil
}

// files are the secrets that the service reads from a folder in memory.
type files struct {
	s       *Sidecar
	folder  string
	written map[string][sha256.Size]byte // by name
	news    chan struct{}                // holds one when something was forgotten
}

// openFiles refuses a folder that is not in memory. A service whose secrets are
// none of them in files may have one too, of a run before, and gets no error for
// a folder that nothing is written to. nil: there is none.
func (s *Sidecar) openFiles() (*files, error) {
	needed := len(s.table.Load().filed()) > 0
	if s.opt.SecretsDir == "" {
		if !needed {
			return nil, nil
		}
		return nil, errors.New("sidecar: rampart.yaml delivers secrets to this service by file: start the sidecar with --secrets-dir FOLDER, in memory and of mode 0700")
	}
	if err := checkMemory(s.opt.SecretsDir); err != nil {
		if !needed {
			return nil, nil
		}
		return nil, fmt.Errorf("sidecar: secrets are written to memory only: %w", err)
	}
	return &files{s: s, folder: s.opt.SecretsDir, written: map[string][sha256.Size]byte{}, news: make(chan struct{}, 1)}, nil
}

// look makes run look at once.
func (f *files) look() {
	if f == nil {
		return
	}
	select {
	case f.news <- struct{}{}:
	default: // it will anyway
	}
}

// run keeps the files as new as the secrets until ctx ends, then removes them.
func (f *files) run(ctx context.Context) error {
	defer f.sweep(nil)
	tick := time.NewTicker(fileEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.news:
		}
		f.renew(ctx)
	}
}

// renew writes what has changed. A secret that cannot be had any more, because it
// is refused or its bound has passed, leaves, and so does one that rampart.yaml
// gives no more: whoever reads the file must not work on with what nobody stands
// for.
func (f *files) renew(ctx context.Context) {
	names := f.s.table.Load().filed()
	f.sweep(names)
	for _, name := range names {
		if err := f.renewOne(ctx, name); err != nil && ctx.Err() == nil {
			f.s.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "a secret is not in its file", slog.String("secret", name), slog.Any("error", err))
		}
	}
}

func (f *files) renewOne(ctx context.Context, name string) error {
	sec, err := f.s.held(ctx, name)
	if err != nil {
		delete(f.written, name)
		return errors.Join(err, ignoreMissing(os.Remove(filepath.Join(f.folder, name))))
	}
	return sec.Use(func(b []byte) error {
		sum := sha256.Sum256(b)
		if f.written[name] == sum {
			return nil
		}
		if err := f.handOut(ctx, name, sec); err != nil {
			return err
		}
		if err := f.write(name, b); err != nil {
			return err
		}
		f.written[name] = sum
		f.s.inUse.gave(name, sec.Version())
		return nil
	})
}

// handOut puts a hand-out on record before it happens.
func (f *files) handOut(ctx context.Context, name string, sec secrets.Secret) error {
	return f.s.opt.Audit.Record(ctx, audit.Event{Class: audit.ClassSecret, Action: "hand secret to service", Outcome: audit.Allowed, Control: "secret.acl",
		Subject: f.s.table.Load().id, Resource: "secret:" + name, Detail: map[string]string{"by": "file", "version": fmt.Sprint(sec.Version())}})
}

// write replaces a file in one step. It was checked at the start that this is in
// memory; it is again, as something may have been mounted over it.
func (f *files) write(name string, value []byte) error {
	if err := checkMemory(f.folder); err != nil {
		return &rampart.Error{Kind: rampart.Internal, Control: "secret.acl", Msg: "the folder of secrets is not in memory any more", Err: err}
	}
	tmp := filepath.Join(f.folder, ".next")
	if err := ignoreMissing(os.Remove(tmp)); err != nil {
		return err
	}
	if err := os.WriteFile(tmp, value, secretMode); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(f.folder, name))
}

// sweep removes every secret but these, those of a run that was killed among
// them. Files that this user did not write as write does are somebody else's, and
// stay: the folder may be one that others use.
func (f *files) sweep(keep []string) {
	list, err := os.ReadDir(f.folder)
	for _, e := range list {
		if slices.Contains(keep, e.Name()) || !ours(e) {
			continue
		}
		delete(f.written, e.Name())
		err = errors.Join(err, ignoreMissing(os.Remove(filepath.Join(f.folder, e.Name()))))
	}
	if err != nil {
		f.s.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "secrets stay in files", slog.Any("error", err))
	}
}

// ours reports whether a file is as write leaves it.
func ours(e fs.DirEntry) bool {
	info, err := e.Info()
	if err != nil {
		return false
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid() && info.Mode() == secretMode
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ownPeers lets in processes of this user and of root alone. The mode of the
// socket does so too; this holds where somebody has changed that.
type ownPeers struct{ net.Listener }

func (l ownPeers) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if ownPeer(c) {
			return c, nil
		}
		c.Close()
	}
}

func ownPeer(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && failed == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}
