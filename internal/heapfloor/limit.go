package heapfloor

import (
	"bufio"
	"io"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

const maxFile = 64 << 10 // bytes of a file that is read

// limit is how much memory the control groups of this process allow, or all there
// is where they cannot be read: a floor too high costs memory that the operator can
// forbid by GOMEMLIMIT, and no plane stays down for want of such a file.
func limit(fsys fs.FS) uint64 {
	least := uint64(math.MaxUint64)
	for group := ownGroup(fsys); ; group = path.Dir(group) {
		b, _ := read(fsys, path.Join("sys/fs/cgroup", group, "memory.max"))
		if n, err := strconv.ParseUint(strings.TrimSpace(b), 10, 64); err == nil { // else "max"
			least = min(least, n)
		}
		if group == "." || group == "/" {
			return least
		}
	}
}

// ownGroup is the control group of version 2 that this process is in, as seen from
// where the groups are mounted.
func ownGroup(fsys fs.FS) string {
	b, _ := read(fsys, "proc/self/cgroup")
	for s := bufio.NewScanner(strings.NewReader(b)); s.Scan(); {
		if group, ok := strings.CutPrefix(s.Text(), "0::"); ok {
			return path.Join("/", group)
		}
	}
	return "/"
}

func read(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(b), err
}
