package statedir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocket is how long a socket's path may be, in bytes. The kernel's own
// bound is 108 on Linux and 104 elsewhere, its final NUL included.
const maxSocket = 100

// ErrLocked is in the chain of the error of Lock when another process holds
// the folder.
var ErrLocked = errors.New("state folder is in use")

// checkPrivate refuses a folder that someone else could write to or read.
func checkPrivate(name string, stat func(string) (fs.FileInfo, error)) error {
	info, err := stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("does not exist: start the system once, or name another folder")
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("is not a folder")
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner cannot be determined on this system")
	}
	if uid := os.Geteuid(); int(sys.Uid) != uid {
		return fmt.Errorf("belongs to user %d, not to %d who runs this: name a folder of your own", sys.Uid, uid)
	}
	if p := info.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("is open to other users (mode %#o): run chmod 700 on it", p)
	}
	return nil
}

// Socket returns the path for the Unix socket name and creates its folder. The
// path is the same for every process of this user: under run/, or, where that
// is too long for the kernel, in a private folder of the system's temporary
// folder.
func (d *Dir) Socket(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("state folder: %q is not a socket's name", name)
	}
	if path := d.Path("run", name); len(path) <= maxSocket {
		return path, privateFolder(filepath.Dir(path))
	}
	folder := filepath.Join(os.TempDir(), "rampart-"+strconv.Itoa(os.Geteuid()))
	sum := sha256.Sum256([]byte(d.root + "\x00" + name))
	path := filepath.Join(folder, hex.EncodeToString(sum[:12])+".sock")
	if len(path) > maxSocket {
		return "", fmt.Errorf("state folder: no path for socket %q is short enough: set TMPDIR to a shorter folder", name)
	}
	return path, privateFolder(folder)
}

// privateFolder creates the folder or makes sure that the one found there is
// ours: in a shared temporary folder anybody may have made it, or a link.
func privateFolder(name string) error {
	if err := os.Mkdir(name, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := checkPrivate(name, os.Lstat); err != nil {
		return fmt.Errorf("state folder: socket folder %s: %w", name, err)
	}
	return nil
}

// Lock takes the folder for one runner until unlock is called or the process
// ends, however it ends. When another process has it, the error wraps
// ErrLocked and names its process id.
func (d *Dir) Lock() (unlock func(), err error) {
	f, err := os.OpenFile(d.Path("lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, fmt.Errorf("%w by process %s: stop it first, or name another folder", ErrLocked, holder(f))
	}
	if err == nil {
		err = sign(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("state folder: lock: %w", err)
	}
	return func() { f.Close() }, nil
}

// sign writes the pid of this process into the lock file, for people to read;
// the lock itself is the kernel's.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

func holder(f *os.File) string {
	buf := make([]byte, 20)
	n, _ := f.ReadAt(buf, 0)
	if pid, err := strconv.Atoi(string(buf[:n])); err == nil {
		return strconv.Itoa(pid)
	}
	return "unknown"
}
