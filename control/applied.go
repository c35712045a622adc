package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

// appliedFile is where a control plane that is the only one keeps what is in force,
// in its state folder. Several keep it in their store, sealed.
const (
	appliedFile    = "config.json"
	sealedConfig   = "config"
	keptReplaced   = 64 // digests of files that were replaced
	maxAppliedFile = maxApply + 1<<20
)

// applied is a configuration as it is kept.
type applied struct {
	Bundle spec.Bundle `json:"bundle"`
	File   string      `json:"file"` // where it was read
	// Replaced are the digests of the files before, the newest last: whoever starts
	// with one of these has missed the change.
	Replaced []string `json:"replaced,omitempty"`
}

// ReadApplied returns the configuration that the control plane of a state folder
// had in force last, and where it was read. NotFound: it has none.
func ReadApplied(state *statedir.Dir) (*spec.System, string, error) {
	info, err := os.Stat(state.Path(appliedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", rampart.Errorf(rampart.NotFound, "", "control: nothing was applied in this state folder yet")
	}
	if err == nil && info.Size() > maxAppliedFile {
		err = errors.New("it is too large")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(state.Path(appliedFile))
	}
	var a applied
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return nil, "", fmt.Errorf("control: %s: %w", state.Path(appliedFile), err)
	}
	sys, err := spec.FromBundle(a.Bundle)
	return sys, a.File, err
}

// keepConfig makes a configuration durable, in one step against other control
// planes.
func (p *Plane) keepConfig(ctx context.Context, next *living) error {
	a := applied{Bundle: next.sys.Bundle(), File: next.file}
	if p.opt.Replica == "" {
		text, err := json.Marshal(a)
		if err != nil {
			return err
		}
		return unavailable(p.opt.State.WriteFile(appliedFile, text, 0o600))
	}
	before, err := p.storedConfig(ctx)
	if err != nil {
		return err
	}
	if now := p.system().Bundle().Digest; before.Bundle.Digest != "" && before.Bundle.Digest != now {
		return rampart.Errorf(rampart.Conflict, "", "control: the configuration is being changed elsewhere; try again")
	}
	a.Replaced = replaced(before, a.Bundle.Digest)
	return p.putConfig(ctx, a)
}

// replaced are the digests of the files before one, without its own: who goes back
// to an older file means it.
func replaced(before applied, digest string) []string {
	out := slices.Clone(before.Replaced)
	if before.Bundle.Digest != "" {
		out = append(out, before.Bundle.Digest)
	}
	out = slices.DeleteFunc(out, func(d string) bool { return d == digest })
	return out[max(0, len(out)-keptReplaced):]
}

func (p *Plane) putConfig(ctx context.Context, a applied) error {
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sealed, err := p.keys.kek.Wrap(ctx, plain, sealAAD(sealedConfig))
	if err != nil {
		return err
	}
	won, err := p.opt.Store.SwapSealed(ctx, sealedConfig, p.applying.sealed, sealed)
	if err != nil {
		return unavailable(err)
	}
	if !won {
		return rampart.Errorf(rampart.Conflict, "", "control: the configuration is being changed elsewhere; try again")
	}
	p.applying.sealed = sealed
	return nil
}

// storedConfig reads what several control planes have in force, the zero value if
// there is nothing yet.
func (p *Plane) storedConfig(ctx context.Context) (applied, error) {
	var a applied
	sealed, err := p.opt.Store.Sealed(ctx, sealedConfig)
	if errors.Is(err, store.ErrNotFound) {
		return a, nil
	}
	if err != nil {
		return a, unavailable(err)
	}
	plain, err := p.keys.kek.Unwrap(ctx, sealed, sealAAD(sealedConfig))
	if err == nil {
		err = json.Unmarshal(plain, &a)
	}
	if err == nil {
		p.applying.sealed = sealed
	}
	return a, err
}

// chooseConfig settles what this control plane starts with. The only one takes the
// file that it is given. One of several takes what the others have in force, if the
// file that it is given is one that was replaced since: it was away, and its
// machine has the old one. A file that nobody has seen yet is a new one, and the
// others take it from here.
func (p *Plane) chooseConfig(ctx context.Context) error {
	given := p.living()
	if p.opt.Replica == "" {
		return p.keepConfig(ctx, given)
	}
	there, err := p.storedConfig(ctx)
	digest := given.sys.Bundle().Digest
	switch {
	case err != nil:
		return err
	case there.Bundle.Digest == digest:
		return nil
	case !slices.Contains(there.Replaced, digest):
		return p.putConfig(ctx, applied{Bundle: given.sys.Bundle(), File: given.file, Replaced: replaced(there, digest)})
	}
	newer, err := p.readLiving(there)
	if err != nil {
		return fmt.Errorf("the file was replaced by a newer one, which this control plane cannot read: %w", err)
	}
	p.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "the file that this control plane was given was replaced since; the newer one is enforced: put it here too",
		slog.String("given", digest), slog.String("newer", there.Bundle.Digest), slog.String("newer_file", there.File))
	p.alive.Store(newer)
	p.ids = identities(newer.sys)
	p.opt.System = newer.sys
	return nil
}

func (p *Plane) readLiving(a applied) (*living, error) {
	sys, err := spec.FromBundle(a.Bundle)
	if err == nil {
		err = sys.AdmitUnsafe(p.opt.State.Throwaway())
	}
	if err != nil {
		return nil, err
	}
	return p.opt.examined(sys, a.File)
}

// followConfig puts in force what was applied at another control plane. Its
// policies have come before it. What takes a restart waits for one: this control
// plane serves its planes with the file that it has, and says so.
func (p *Plane) followConfig(ctx context.Context) error {
	p.applying.mu.Lock()
	defer p.applying.mu.Unlock()
	before := p.applying.sealed
	a, err := p.storedConfig(ctx)
	if err != nil || bytes.Equal(before, p.applying.sealed) || a.Bundle.Digest == p.system().Bundle().Digest {
		return err
	}
	next, err := p.readLiving(a)
	if err == nil {
		err = refuseFrozen(spec.Frozen(p.system(), next.sys))
	}
	if err != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "another control plane enforces a file that this one cannot; start this one again with it",
			slog.String("digest", a.Bundle.Digest), slog.Any("error", err))
		return nil
	}
	p.enforce(next)
	return nil
}
