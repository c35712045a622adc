package decisionlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
)

// ErrNotFound is in the chain of the error of Find when no decision has the id.
var ErrNotFound = errors.New("decisionlog: no such decision")

// Entry is one decision on record, with every value that it rested on.
type Entry struct {
	Question pdp.Question
	Decision rampart.Decision
	Hidden   []string // values that were sealed and must not be shown: "attrs.total", "context.ip"
}

// Folder is a plane's log as a reader sees it. It is read-only and safe for
// concurrent use, while the plane writes too.
type Folder struct {
	path string
	key  []byte
}

// OpenFolder opens the folder of a plane's log to read it.
func OpenFolder(path string) (Folder, error) {
	key, err := os.ReadFile(filepath.Join(path, "key"))
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("key has %d bytes, not %d", len(key), keySize)
	}
	if err != nil {
		return Folder{}, fmt.Errorf("decisionlog: %w", err)
	}
	return Folder{path, key}, nil
}

// Find returns the decision with this id, or ErrNotFound. A record that was
// damaged is an error if it may be the one: it bears the id.
func (f Folder) Find(id string) (Entry, error) {
	var found *Entry
	err := f.backwards(func(name string, n int, line []byte, seal *sealer) (bool, error) {
		if id == "" || !bytes.Contains(line, []byte(id)) {
			return true, nil
		}
		e, err := parseRecord(line, seal)
		if err != nil {
			return false, fmt.Errorf("decisionlog: %s:%d: %w", name, n, err)
		}
		if e.Question.ID != id {
			return true, nil
		}
		found = &e
		return false, nil
	})
	if err != nil {
		return Entry{}, err
	}
	if found == nil {
		return Entry{}, fmt.Errorf("%w: %.100q", ErrNotFound, id)
	}
	return *found, nil
}

// IDs returns the ids of decisions that begin with prefix, newest first, at most
// max of them. A record that was damaged is an error if it may be one.
func (f Folder) IDs(prefix string, max int) ([]string, error) {
	var out []string
	err := f.backwards(func(name string, n int, line []byte, seal *sealer) (bool, error) {
		if prefix == "" || !bytes.Contains(line, []byte(prefix)) {
			return true, nil
		}
		e, err := parseRecord(line, seal)
		if err != nil {
			return false, fmt.Errorf("decisionlog: %s:%d: %w", name, n, err)
		}
		if strings.HasPrefix(e.Question.ID, prefix) {
			out = append(out, e.Question.ID)
		}
		return len(out) < max, nil
	})
	return out, err
}

// Last returns the newest n decisions, newest first, or all if there are fewer.
// A record that was damaged is an error.
func (f Folder) Last(n int) ([]Entry, error) {
	var out []Entry
	err := f.backwards(func(name string, at int, line []byte, seal *sealer) (bool, error) {
		if len(out) >= n {
			return false, nil
		}
		e, err := parseRecord(line, seal)
		if err != nil {
			return false, fmt.Errorf("decisionlog: %s:%d: %w", name, at, err)
		}
		out = append(out, e)
		return true, nil
	})
	return out, err
}

// Oldest returns the version of the bundle behind the oldest decision on
// record, or 0 when there is none or it cannot be read.
func (f Folder) Oldest() uint64 {
	s := segments{folder: f.path}
	list, err := s.list()
	if err != nil || len(list) == 0 {
		return 0
	}
	lines, err := f.lines(segmentName(list[0]))
	if err != nil || len(lines) == 0 {
		return 0
	}
	e, err := parseRecord(lines[0], &sealer{key: f.key})
	if err != nil {
		return 0
	}
	return e.Decision.Revision.Policy
}

// backwards calls see with every line, newest first, until it returns false.
// Lines are counted from 1.
func (f Folder) backwards(see func(name string, n int, line []byte, seal *sealer) (bool, error)) error {
	s := segments{folder: f.path}
	list, err := s.list()
	if err != nil {
		return fmt.Errorf("decisionlog: %w", err)
	}
	seal := &sealer{key: f.key}
	for _, number := range slices.Backward(list) {
		name := segmentName(number)
		lines, err := f.lines(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // swept meanwhile, and all before it
		}
		if err != nil {
			return fmt.Errorf("decisionlog: %w", err)
		}
		for i, line := range slices.Backward(lines) {
			if more, err := see(name, i+1, line, seal); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// largest is how large a segment of any version can be, in bytes.
const largest = segmentBytes + 1024*recordBytes

// lines reads a segment. A last line without an end is being written, or was cut
// off by a crash: it is none.
func (f Folder) lines(name string) ([][]byte, error) {
	info, err := os.Stat(filepath.Join(f.path, name))
	if err != nil {
		return nil, err
	}
	if info.Size() > largest {
		return nil, fmt.Errorf("%s is larger than any segment", name)
	}
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(b, []byte("\n"))
	return lines[:len(lines)-1], nil
}
