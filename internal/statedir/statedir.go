// Package statedir owns the folder in which one Rampart system keeps its
// state: keys, database, audit log and sockets.
//
// The folder belongs to one user and is closed to everyone else. Whether it is
// a throw-away folder, the only kind in which a plane accepts a file that
// disables controls, is decided when it is created and never again.
package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	stateFile  = "state.json"
	version    = 1
	folderMode = 0o700
	tempPrefix = ".tmp-"
	maxState   = 4096 // bytes of state.json
)

// Options says how to open a state folder. The zero Options opens an existing
// one.
type Options struct {
	Create    bool             // make the folder when it is missing
	Throwaway bool             // a new folder is a throw-away one; an existing folder must be one already
	Now       func() time.Time // if nil, time.Now
}

// Dir is an open state folder. Its methods may be called concurrently, by
// several processes of the same user too.
type Dir struct {
	root  string // absolute
	state state
}

// state is the content of state.json.
type state struct {
	Version   int       `json:"version"`
	Created   time.Time `json:"created"`
	Throwaway bool      `json:"throwaway"`
}

// Open opens the state folder dir, which must belong to this user and be
// closed to group and others.
func Open(dir string, opt Options) (*Dir, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("state folder %s: %w", dir, err)
	}
	d := &Dir{root: root}
	if err := d.open(opt); err != nil {
		return nil, fmt.Errorf("state folder %s: %w", dir, err)
	}
	return d, nil
}

func (d *Dir) open(opt Options) error {
	if opt.Create {
		if err := os.MkdirAll(d.root, folderMode); err != nil {
			return err
		}
	}
	if err := checkPrivate(d.root, os.Stat); err != nil {
		return err
	}
	err := d.load()
	if errors.Is(err, fs.ErrNotExist) && opt.Create {
		err = d.create(opt)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("has no state.json: start the system once, or name another folder")
	}
	if err != nil {
		return err
	}
	if opt.Throwaway && !d.state.Throwaway {
		return errors.New("was not created as a throw-away folder and cannot become one: use a new folder")
	}
	return nil
}

func (d *Dir) load() error {
	name := filepath.Join(d.root, stateFile)
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return errors.New("state.json is not a small regular file")
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("state.json: %w", err)
	}
	if s.Version != version {
		return fmt.Errorf("state.json: version %d is not supported, want %d", s.Version, version)
	}
	d.state = s
	return nil
}

// create writes state.json unless another process wins the race, in which case
// the other's word counts.
func (d *Dir) create(opt Options) error {
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile && !strings.HasPrefix(e.Name(), tempPrefix) {
			return fmt.Errorf("is not empty and has no state.json (found %s): name an empty or new folder", e.Name())
		}
	}
	now := time.Now
	if opt.Now != nil {
		now = opt.Now
	}
	data, err := json.Marshal(state{Version: version, Created: now().UTC(), Throwaway: opt.Throwaway})
	if err != nil {
		return err
	}
	err = publish(filepath.Join(d.root, stateFile), append(data, '\n'), 0o600, os.Link)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.load()
}

// Path returns the absolute path of an element of the folder.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// Throwaway reports whether the folder was created to be thrown away.
func (d *Dir) Throwaway() bool { return d.state.Throwaway }

// Created returns when the folder was created.
func (d *Dir) Created() time.Time { return d.state.Created }

// WriteFile replaces the file rel of the folder: a reader, and a crash, sees
// the old content or the new and nothing between. Missing parents are created.
func (d *Dir) WriteFile(rel string, data []byte, perm fs.FileMode) error {
	if !filepath.IsLocal(rel) || filepath.Clean(rel) == stateFile {
		return fmt.Errorf("state folder: %q is not a file to write in it", rel)
	}
	name := d.Path(rel)
	if err := os.MkdirAll(filepath.Dir(name), folderMode); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := publish(name, data, perm, os.Rename); err != nil {
		return fmt.Errorf("state folder: write %s: %w", rel, err)
	}
	return nil
}

// publish writes a durable temporary file and gives it its name with place:
// os.Rename replaces, os.Link refuses an existing file.
func publish(name string, data []byte, perm fs.FileMode, place func(from, to string) error) error {
	folder := filepath.Dir(name)
	f, err := os.CreateTemp(folder, tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename there is nothing to remove
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := place(f.Name(), name); err != nil {
		return err
	}
	return syncFolder(folder)
}

func syncFolder(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
