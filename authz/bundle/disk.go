package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pap"
)

// Of a plane's folder: policies/PLANE/ in the state folder.
const (
	floorFile   = "floor.json"
	keysFile    = "keys.json" // public keys that signed what is archived
	maxSmall    = 64 << 10    // bytes of either
	maxArchived = 64          // bundles

	saveEvery = 10 * time.Minute // how exactly the disk knows when a bundle was confirmed
)

// floorText is floor.json. It stands apart from the bundle: whoever puts an old
// bundle back does not put the floor back.
type floorText struct {
	Floor
	Confirmed time.Time `json:"confirmed"`
	None      bool      `json:"none,omitzero"` // nothing was active yet; an archive may have begun
}

// ArchivePath returns where a plane's folder has a version.
func ArchivePath(folder string, version uint64) string {
	return filepath.Join(folder, archiveName(version))
}

func archiveName(version uint64) string { return fmt.Sprintf("%012d.tar.gz", version) }

func (a *Activator) rel(name string) string {
	return decisionlog.FolderName("policies", a.opt.Plane) + "/" + name
}

// restore puts the last good bundle back in force, after all the checks that a
// new one meets. One that fails is on record and stays out.
func (a *Activator) restore(ctx context.Context) error {
	f, err := a.readFloor()
	if err != nil || f.None {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.floor, a.confirmed, a.saved = f.Floor, f.Confirmed, f.Confirmed
	raw, err := os.ReadFile(a.opt.State.Path(a.rel(archiveName(f.Version))))
	if err != nil {
		a.refuseLocked(ctx, "policy.activate", nil, nil, refuse(CodeStorage, "the last good bundle: %w", err))
		return nil
	}
	next, err := a.reopened(ctx, raw)
	if err == nil {
		err = a.announce(ctx, next.Bundle, map[string]string{"at": "start"})
	}
	if err != nil {
		a.refuseLocked(ctx, "policy.activate", nil, raw, fmt.Errorf("bundle: the last good bundle on disk: %w", err))
		return nil
	}
	a.active.Store(next)
	a.lookLocked(ctx)
	return nil
}

// readFloor returns what was active before. At the first start nothing was, and
// nothing is archived: an archive without a floor has lost it.
func (a *Activator) readFloor() (f floorText, err error) {
	name := a.opt.State.Path(a.rel(floorFile))
	text, err := readSmall(name)
	if errors.Is(err, fs.ErrNotExist) && len(archived(a.opt.State.Path(a.rel("")))) == 0 {
		return floorText{None: true}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil || (f.Version == 0) != f.None {
		return f, fmt.Errorf("bundle: %s does not say which policies were active, so an older version could not be told: put it back (%v)", name, err)
	}
	return f, nil
}

func (a *Activator) reopened(ctx context.Context, raw []byte) (*snapshot, error) {
	b, err := Open(bytes.NewReader(raw), a.trust(a.floor))
	if err != nil {
		return nil, err
	}
	p, err := a.tried(ctx, b)
	return &snapshot{b, p}, err
}

// archiveLocked makes a bundle durable. It decides nothing yet: the floor says which
// one is in force after a restart.
func (a *Activator) archiveLocked(b *Bundle) error {
	var err error
	if a.floor.Version == 0 {
		err = a.writeFloor(floorText{None: true})
	}
	if err == nil {
		err = a.opt.State.WriteFile(a.rel(archiveName(b.Manifest.Version)), b.Raw, 0o600)
	}
	if err == nil {
		err = a.keepKey(b)
	}
	if err != nil {
		return refuse(CodeStorage, "%w", err)
	}
	return nil
}

// raiseLocked makes an archived bundle the one after a restart. A crash before
// leaves the old one in force.
func (a *Activator) raiseLocked(b *Bundle) error {
	floor := Floor{b.Manifest.Version, b.Digest}
	if err := a.writeFloor(floorText{Floor: floor, Confirmed: a.opt.Now().UTC()}); err != nil {
		return refuse(CodeStorage, "%w", err)
	}
	a.floor = floor
	a.prune()
	return nil
}

func (a *Activator) writeFloor(f floorText) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return a.opt.State.WriteFile(a.rel(floorFile), append(text, '\n'), 0o600)
}

// saveLocked notes now and then that the active bundle is the newest, so that a
// restart does not make it young again.
func (a *Activator) saveLocked(ctx context.Context) {
	if a.confirmed.Sub(a.saved) < saveEvery {
		return
	}
	a.saved = a.confirmed
	if err := a.writeFloor(floorText{Floor: a.floor, Confirmed: a.confirmed.UTC()}); err != nil {
		a.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "policies", slog.Any("error", err))
	}
}

// keepKey notes the key that signed a bundle, so that it can be verified when
// the configuration names other keys.
func (a *Activator) keepKey(b *Bundle) error {
	known := archivedKeys(a.opt.State.Path(a.rel("")))
	key := a.opt.Settings().Keys[b.KeyID]
	if _, ok := known[b.KeyID]; ok || key == nil {
		return nil
	}
	texts := append(known.texts(), FormatKey(key))
	text, err := json.Marshal(texts[max(0, len(texts)-maxKeys):])
	if err != nil {
		return err
	}
	return a.opt.State.WriteFile(a.rel(keysFile), append(text, '\n'), 0o600)
}

func archivedKeys(folder string) Keys {
	text, err := readSmall(filepath.Join(folder, keysFile))
	var texts []string
	if err != nil || json.Unmarshal(text, &texts) != nil {
		return nil
	}
	keys, err := ParseKeys(texts)
	if err != nil {
		return nil
	}
	return keys
}

// prune removes bundles that no decision on record refers to, and the oldest
// beyond a number.
func (a *Activator) prune() {
	list := archived(a.opt.State.Path(a.rel("")))
	var oldest uint64
	if a.opt.Log != nil {
		oldest = a.opt.Log.Oldest()
	}
	for i, version := range list {
		unused := oldest > 0 && version < oldest
		if version < a.floor.Version && (unused || i < len(list)-maxArchived) {
			os.Remove(a.opt.State.Path(a.rel(archiveName(version)))) // else at the next one
		}
	}
}

// archived lists the versions in a folder, oldest first.
func archived(folder string) []uint64 {
	names, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var out []uint64
	for _, e := range names {
		text, ok := strings.CutSuffix(e.Name(), ".tar.gz")
		if n, err := strconv.ParseUint(text, 10, 64); ok && err == nil && archiveName(n) == e.Name() {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Archived opens a version from a plane's folder, to make a decision of that
// time again. Its signature and every file are verified; that it is no longer
// in date, or not the newest, is in the nature of an archive.
func Archived(folder, system string, version uint64, at time.Time) (pap.Set, error) {
	raw, err := os.ReadFile(ArchivePath(folder, version))
	if err != nil {
		return pap.Set{}, fmt.Errorf("bundle: version %d is not in the archive: %w", version, err)
	}
	b, err := Open(bytes.NewReader(raw), Trust{System: system, Keys: archivedKeys(folder), Now: at})
	if err != nil {
		return pap.Set{}, err
	}
	if b.Manifest.Version != version {
		return pap.Set{}, refuse(CodeRollback, "the archive has version %d in the place of version %d", b.Manifest.Version, version)
	}
	return b.Set, nil
}

func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSmall {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxSmall)
	}
	return os.ReadFile(name)
}
