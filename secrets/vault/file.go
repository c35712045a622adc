package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

const maxFile = 16 << 10 // bytes of a file that proves who we are

// readFile reads one line of a file. Unless it is shared, as Kubernetes mounts
// tokens, nobody but this user may have access to it, and no link leads to it.
func readFile(path string, shared bool) ([]byte, error) {
	flags := os.O_RDONLY | syscall.O_NONBLOCK
	if !shared {
		flags |= syscall.O_NOFOLLOW
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := private(info, shared); err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	line := bytes.TrimSpace(data)
	if len(line) == 0 || len(data) > maxFile || bytes.ContainsAny(line, " \t\r\n\x00") {
		clear(data)
		return nil, fmt.Errorf("%s does not hold one word of at most %d bytes", path, maxFile)
	}
	return line, nil
}

func private(info fs.FileInfo, shared bool) error {
	sys, ok := info.Sys().(*syscall.Stat_t)
	others := fs.FileMode(0o077)
	if shared {
		others = 0o022
	}
	switch {
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case !ok || !shared && int(sys.Uid) != os.Geteuid():
		return errors.New("belongs to another user than the one who runs this")
	case info.Mode().Perm()&others != 0:
		return fmt.Errorf("is open to other users (mode %#o): run chmod 600 on it and replace what it holds if others may have read it", info.Mode().Perm())
	}
	return nil
}
