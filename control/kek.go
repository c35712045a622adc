package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/secrets/kms"
	"github.com/rampart-security/rampart/secrets/kms/pkcs11"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/svid"
)

// filePrefix is how ids of a key file begin.
const filePrefix = "local"

// sealedWhere is the one value among the sealed that is not: it says where the
// key is that opens the others.
const sealedWhere = "kek:where"

// kekWhere says where the key encryption key is, and, while everything moves
// under another, where it was.
type kekWhere struct {
	Current kekPlace  `json:"current"`
	Before  *kekPlace `json:"before,omitempty"`
}

// kekPlace is all that it takes to open a key again after rampart.yaml names
// another. Nothing of it is secret.
type kekPlace struct {
	KEK     spec.KEK     `json:"kek"`
	Backend spec.Backend `json:"backend"` // of kinds vault and aws
	CA      []byte       `json:"ca,omitempty"`
	Prefix  string       `json:"prefix,omitempty"` // how ids of the key begin; "": it was never opened
}

func placeOf(sys *spec.System) kekPlace {
	place := kekPlace{KEK: sys.KEK}
	if place.KEK.Kind == "" {
		place.KEK.Kind = "file"
	}
	if b, ok := sys.Secrets[sys.KEK.Backend]; ok {
		place.Backend = b
		place.CA, _ = sys.Resource(b.CA)
	}
	return place
}

// key names the key that a place means. How it is reached may change.
func (k kekPlace) key() string {
	switch k.KEK.Kind {
	case "vault":
		return fmt.Sprintf("vault %s %s %s/%s", k.Backend.Address, k.Backend.Namespace, k.KEK.Mount, k.KEK.Key)
	case "aws":
		return fmt.Sprintf("aws %s %s", k.Backend.Region, k.KEK.Key)
	case "pkcs11":
		return fmt.Sprintf("pkcs11 %s/%s", k.KEK.Token, k.KEK.Key)
	}
	return k.KEK.Kind
}

// openKEK opens the key that rampart.yaml names, and the one before it while
// something is under that still. The key has to answer now, as without it nothing
// opens, and only then is it on record: one that is written wrong changes nothing,
// and the place of before is gone back to at any time.
func openKEK(ctx context.Context, opt Options, own *svid.Source) (*keyring, error) {
	known, text, err := knownKEK(ctx, opt)
	if err != nil {
		return nil, err
	}
	want := placeOf(opt.System)
	if err := fileThere(ctx, opt, known, want); err != nil {
		return nil, err
	}
	current, err := openPlace(ctx, opt, want, own)
	if err != nil {
		return nil, err
	}
	if err := probe(ctx, current.kek); err != nil {
		return nil, fmt.Errorf("the key encryption key (kek: %s) does not answer, and without it nothing opens: %w", want.KEK.Kind, err)
	}
	want.Prefix = current.prefix
	ring := newKeyring(opt.Now, current, nil)
	left := func(prefix string) (int, error) { return newWraps(opt.Store, ring).left(ctx, prefix) }
	next, err := known.to(want, left)
	if err != nil {
		return nil, err
	}
	if next, err = openBefore(ctx, opt, next, ring, own); err != nil {
		return nil, err
	}
	return ring, saveWhere(ctx, opt.Store, text, next)
}

// openBefore opens the key that things are under still. When it does not answer,
// we start without it: what is under it does not open, which whoever needs it
// hears, and the rest does. It stays on record for the next start.
func openBefore(ctx context.Context, opt Options, w kekWhere, ring *keyring, own *svid.Source) (kekWhere, error) {
	if w.Before == nil {
		return w, nil
	}
	if w.Before.Prefix == w.Current.Prefix {
		return kekWhere{Current: w.Current}, sameKey(ctx, opt, w, ring)
	}
	from, to := slog.String("from", w.Before.key()), slog.String("to", w.Current.key())
	before, err := openPlace(ctx, opt, *w.Before, own)
	if err == nil {
		err = probe(ctx, before.kek)
	}
	if err != nil {
		opt.Logger.LogAttrs(ctx, slog.LevelError, "the key encryption key of before does not answer, and what is under it does not open: put it right, restart, and run rampart kek rewrap", from, to, slog.Any("error", err))
		return w, nil
	}
	w.Before.Prefix = before.prefix
	ring.before.Store(&before)
	opt.Logger.LogAttrs(ctx, slog.LevelWarn, "kek has changed: run rampart kek rewrap, and keep the old key until it says that nothing is left", from, to)
	return w, nil
}

// sameKey takes a key of the name of the one before it for the same at another
// address, if it opens what that wrapped. Two keys of one name are refused: what
// each of them wrapped could not be told apart.
func sameKey(ctx context.Context, opt Options, w kekWhere, ring *keyring) error {
	sealed, err := opt.Store.Sealed(ctx, sealedCA)
	if err == nil && begins(wrappedBy(sealed), w.Current.Prefix) {
		_, err = ring.Unwrap(ctx, sealed, sealAAD(sealedCA))
	}
	if err != nil {
		return fmt.Errorf("control: the keys %s and %s have one name, and what they wrapped could not be told apart: give the new one another name: %w", w.Before.key(), w.Current.key(), err)
	}
	return nil
}

// knownKEK is where the key was so far, and how that is stored.
func knownKEK(ctx context.Context, opt Options) (known kekWhere, text []byte, err error) {
	text, err = opt.Store.Sealed(ctx, sealedWhere)
	if errors.Is(err, store.ErrNotFound) {
		first, err := firstStart(ctx, opt)
		if err != nil || first {
			return kekWhere{}, nil, err
		}
		file := kekPlace{KEK: spec.KEK{Kind: "file"}, Prefix: filePrefix} // a database from when there was no other
		return kekWhere{Current: file}, nil, nil
	}
	if err != nil {
		return kekWhere{}, nil, err
	}
	if json.Unmarshal(text, &known) != nil {
		return kekWhere{}, nil, rampart.Errorf(rampart.Internal, secretControl, "control: where the key encryption key is cannot be read from the database")
	}
	return known, text, nil
}

// firstStart reports whether nothing is sealed yet.
func firstStart(ctx context.Context, opt Options) (bool, error) {
	names, err := opt.Store.SealNames(ctx)
	names = slices.DeleteFunc(names, func(name string) bool { return name == sealedWhere })
	return len(names) == 0, err
}

// to says what is opened when rampart.yaml wants a place. A place under which
// nothing is left, or never was, is not asked for any more.
func (w kekWhere) to(want kekPlace, left func(prefix string) (int, error)) (kekWhere, error) {
	if w.Current.KEK.Kind == "" {
		return kekWhere{Current: want}, nil // the first start
	}
	empty := func(place kekPlace) bool {
		if place.Prefix == "" || place.Prefix == want.Prefix {
			return false // no id says what is under it
		}
		n, err := left(place.Prefix)
		return err == nil && n == 0
	}
	var needed []kekPlace
	for _, place := range []*kekPlace{&w.Current, w.Before} {
		if place != nil && place.key() != want.key() && !empty(*place) {
			needed = append(needed, *place)
		}
	}
	switch len(needed) {
	case 0:
		return kekWhere{Current: want}, nil
	case 1:
		return kekWhere{Current: want, Before: &needed[0]}, nil
	}
	return kekWhere{}, rampart.Errorf(rampart.Invalid, secretControl, "control: the move of the key encryption key from %s to %s is not done: put kek of rampart.yaml back to the latter, run rampart kek rewrap, and change it then", needed[1].key(), needed[0].key())
}

func saveWhere(ctx context.Context, seals store.Seals, old []byte, w kekWhere) error {
	text, err := json.Marshal(w)
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	done, err := seals.SwapSealed(ctx, sealedWhere, old, text)
	if err == nil && !done {
		err = rampart.Errorf(rampart.Unavailable, secretControl, "control: another control plane has changed where the key encryption key is: try again")
	}
	return err
}

// openPlace opens one key.
func openPlace(ctx context.Context, opt Options, place kekPlace, own *svid.Source) (held, error) {
	k := place.KEK
	switch k.Kind {
	case "file":
		kek, err := embedded.OpenKEK(opt.State.Path("kek"))
		return held{kek: kek, prefix: filePrefix}, err
	case "pkcs11":
		kek, err := pkcs11.Open(pkcs11.Options{Module: k.Module, Token: k.Token, Key: k.Key, PINFile: k.PINFile})
		if err != nil {
			return held{}, err
		}
		return held{kek: kek, prefix: kek.KeyID(), remote: true}, nil
	}
	if l := place.Backend.Login; l != nil && l.Method == "cert" {
		return held{}, rampart.Errorf(rampart.Invalid, secretControl, "control: the key of our own certificate is sealed under kek, so backend %s of kek cannot be asked with it: use another login", k.Backend)
	}
	at, err := openBackend(ctx, k.Backend, place.Backend, place.CA, own, opt.Now)
	if err != nil {
		return held{}, err
	}
	if k.Kind == "vault" {
		return held{kek: at.vault.Transit(k.Mount, k.Key), prefix: "vault:" + k.Mount + "/" + k.Key, remote: true}, nil
	}
	kek, err := kms.New(ctx, at.aws, k.Key)
	if err != nil {
		return held{}, err
	}
	return held{kek: kek, prefix: kek.KeyID(), remote: true}, nil
}

// probe wraps and unwraps something, which a key of another kind or without a
// permission cannot.
func probe(ctx context.Context, kek secrets.KEK) error {
	text, aad := []byte("rampart-kek-probe-of-32-bytes-xx"), []byte("rampart-kek-probe")
	wrapped, err := kek.Wrap(ctx, text, aad)
	if err != nil {
		return err
	}
	got, err := kek.Unwrap(ctx, wrapped, aad)
	if err == nil && !bytes.Equal(got, text) {
		err = rampart.Errorf(rampart.Internal, secretControl, "control: what the key encryption key wraps opens as something else")
	}
	return err
}

// fileThere refuses a database whose key file is gone: a new key would open
// nothing and stand in the way of the old one's return. Where nothing is under it,
// there was none.
func fileThere(ctx context.Context, opt Options, known kekWhere, want kekPlace) error {
	path := opt.State.Path("kek")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file := func(place kekPlace) bool { return place.KEK.Kind == "file" }
	if !file(want) && !file(known.Current) && (known.Before == nil || !file(*known.Before)) {
		return nil
	}
	n, err := newWraps(opt.Store, newKeyring(opt.Now, held{}, nil)).left(ctx, filePrefix)
	if err != nil || n == 0 {
		return err
	}
	return fmt.Errorf("the key file %s is gone, but the database is sealed under it: put it back, or copy it from the first control plane", path)
}
