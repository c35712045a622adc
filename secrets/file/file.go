// Package file reads secrets from a folder that something else fills: a Secret
// that Kubernetes mounts, or the credentials of a systemd unit. Nothing is
// written there.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

const (
	maxPath  = 256      // bytes
	maxValue = 64 << 10 // bytes
)

// Backend reads one folder. Each Fetch reads anew, so that a swapped link, as
// Kubernetes changes all files of a Secret at once, counts at the next one.
// Safe for concurrent use.
type Backend struct{ name, folder string }

// New returns a backend over a folder, by its absolute path, which need not be
// there yet. name is what rampart.yaml calls it.
func New(name, folder string) *Backend { return &Backend{name, folder} }

// Fetch implements secrets.Backend. The path is a file below the folder; links
// may lead within it alone. A file that others may read or anybody else may have
// written is Denied. The end of a file's only line is not part of the secret.
// Versions are not counted.
func (b *Backend) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	if err := check(ref); err != nil {
		return secrets.Secret{}, err
	}
	value, err := b.read(ref.Path)
	if errors.Is(err, fs.ErrNotExist) {
		value, err = b.read(ref.Path) // the link was swapped between two steps of the way
	}
	if err != nil {
		return secrets.Secret{}, b.wrap(ref, err)
	}
	defer clear(value)
	if ctx.Err() != nil {
		return secrets.Secret{}, b.fail(rampart.Unavailable, ref, ctx.Err())
	}
	return secrets.Make(oneLine(value), secrets.Meta{}), nil
}

// check refuses whatever does not plainly lead down.
func check(ref secrets.Ref) error {
	if ref.Field != "" {
		return rampart.Errorf(rampart.Invalid, control, "a file is one secret, without fields: remove what follows the #")
	}
	ok := len(ref.Path) <= maxPath
	for seg := range strings.SplitSeq(ref.Path, "/") {
		ok = ok && seg != "" && !strings.HasPrefix(seg, ".")
	}
	for _, r := range ref.Path {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r))
	}
	if !ok {
		return rampart.Errorf(rampart.Invalid, control, "the path of a file is letters, digits and . _ - in segments between slashes that do not begin with a dot, at most %d bytes", maxPath)
	}
	return nil
}

// errFolder: the folder is not there, so nothing can be said of its files.
var errFolder = errors.New("the folder is not there; is it mounted?")

func (b *Backend) read(path string) ([]byte, error) {
	root, err := os.OpenRoot(b.folder)
	if err != nil {
		return nil, fmt.Errorf("%w %v", errFolder, err)
	}
	defer root.Close()
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not keep us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := private(info); err != nil {
		return nil, err
	}
	value, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err == nil && (len(value) == 0 || len(value) > maxValue) {
		err = refusal{rampart.Internal, fmt.Sprintf("it has not 1 to %d bytes", maxValue)}
	}
	return value, err
}

// refusal is a file that is there and is not taken.
type refusal struct {
	kind rampart.Kind
	msg  string
}

func (r refusal) Error() string { return r.msg }

// private demands a file of ours or of root that no stranger could have read
// or written. The group may read: Kubernetes gives files to the pod's so.
func private(info fs.FileInfo) error {
	sys, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.IsDir():
		return fs.ErrNotExist
	case !info.Mode().IsRegular():
		return refusal{rampart.Denied, "it is no regular file"}
	case !ok:
		return refusal{rampart.Denied, "its owner cannot be determined on this system"}
	case sys.Uid != 0 && int(sys.Uid) != os.Geteuid():
		return refusal{rampart.Denied, fmt.Sprintf("it belongs to user %d, not to root or us", sys.Uid)}
	case info.Mode().Perm()&0o027 != 0:
		return refusal{rampart.Denied, fmt.Sprintf("others may read it or the group may write it (mode %#o): in Kubernetes set defaultMode: 0440, elsewhere chmod 600", info.Mode().Perm())}
	}
	return nil
}

// wrap chooses the kind: what is not there is NotFound, a folder that is not
// there an outage, and a file that the kernel keeps from us is Denied.
func (b *Backend) wrap(ref secrets.Ref, err error) error {
	if r, ok := errors.AsType[refusal](err); ok {
		return b.fail(r.kind, ref, err)
	}
	switch {
	case errors.Is(err, errFolder):
		return b.fail(rampart.Unavailable, ref, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return b.fail(rampart.NotFound, ref, errors.New("there is no such file"))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP), strings.Contains(err.Error(), "escapes"):
		return b.fail(rampart.Denied, ref, err)
	}
	return b.fail(rampart.Unavailable, ref, err)
}

func (b *Backend) fail(kind rampart.Kind, ref secrets.Ref, err error) error {
	return &rampart.Error{Kind: kind, Control: control, Msg: fmt.Sprintf("secret %s of backend %s cannot be read: %v", ref.Path, b.name, err), Err: err}
}

// oneLine drops the end of the line of a text that has one line, as editors and
// echo leave it. Keys in PEM and bytes that are no text stay as they are.
func oneLine(value []byte) []byte {
	line, ok := bytes.CutSuffix(value, []byte("\n"))
	if !ok || len(line) == 0 || bytes.ContainsAny(line, "\n\x00") || !utf8.Valid(line) {
		return value
	}
	return line
}
