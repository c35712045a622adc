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

	fileMade bool // something is under the key file already
}

// kekPlace is all that it takes to open a key again after rampart.yaml names
// another. Nothing of it is secret.
type kekPlace struct {
	KEK     spec.KEK     `json:"kek"`
	Backend spec.Backend `json:"backend"` // of kinds vault and aws
	CA      []byte       `json:"ca,omitempty"`
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
// something is under that still. It has to answer now: without it nothing opens.
func openKEK(ctx context.Context, opt Options, own *svid.Source) (*keyring, error) {
	where, err := whereKEK(ctx, opt)
	if err != nil {
		return nil, err
	}
	if err := where.fileThere(opt); err != nil {
		return nil, err
	}
	current, err := openPlace(ctx, opt, where.Current, own)
	if err != nil {
		return nil, err
	}
	if err := probe(ctx, current.kek); err != nil {
		return nil, fmt.Errorf("the key encryption key (kek: %s) does not answer, and without it nothing opens: %w", where.Current.KEK.Kind, err)
	}
	if where.Before == nil {
		return newKeyring(opt.Now, current, nil), nil
	}
	before, err := openPlace(ctx, opt, *where.Before, own)
	if err != nil {
		return nil, fmt.Errorf("the key encryption key of before, which is needed until rampart kek rewrap is done: %w", err)
	}
	opt.Logger.LogAttrs(ctx, slog.LevelWarn, "kek has changed: run rampart kek rewrap, and keep the old key until it says that nothing is left", slog.String("from", where.Before.key()), slog.String("to", where.Current.key()))
	return newKeyring(opt.Now, current, &before), nil
}

// whereKEK compares the file with what was so far.
func whereKEK(ctx context.Context, opt Options) (kekWhere, error) {
	want := placeOf(opt.System)
	text, err := opt.Store.Sealed(ctx, sealedWhere)
	known, first := kekWhere{Current: want}, false
	switch {
	case errors.Is(err, store.ErrNotFound):
		if first, err = firstStart(ctx, opt); err != nil {
			return kekWhere{}, err
		}
		if !first {
			known.Current = kekPlace{KEK: spec.KEK{Kind: "file"}} // a database from when there was no other
		}
	case err != nil:
		return kekWhere{}, err
	default:
		if err := json.Unmarshal(text, &known); err != nil {
			return kekWhere{}, rampart.Errorf(rampart.Internal, secretControl, "control: where the key encryption key is cannot be read from the database")
		}
	}
	made := !first && (known.Current.KEK.Kind == "file" || known.Before != nil && known.Before.KEK.Kind == "file")
	now, err := known.move(want)
	if err != nil {
		return kekWhere{}, err
	}
	now.fileMade = made
	return now, saveWhere(ctx, opt.Store, text, now)
}

// firstStart reports whether nothing is sealed yet.
func firstStart(ctx context.Context, opt Options) (bool, error) {
	_, err := opt.Store.Sealed(ctx, sealedCA)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// move says what is opened when rampart.yaml wants a place. Only one move is
// under way at a time.
func (w kekWhere) move(want kekPlace) (kekWhere, error) {
	switch {
	case w.Current.key() == want.key():
		return kekWhere{Current: want, Before: w.Before}, nil
	case w.Before == nil, w.Before.key() == want.key():
		before := w.Current
		return kekWhere{Current: want, Before: &before}, nil
	}
	return kekWhere{}, rampart.Errorf(rampart.Invalid, secretControl, "control: the move of the key encryption key from %s to %s is not done: put kek of rampart.yaml back to the latter, run rampart kek rewrap, and change it then", w.Before.key(), w.Current.key())
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
// nothing and stand in the way of the old one's return.
func (w kekWhere) fileThere(opt Options) error {
	if !w.fileMade {
		return nil
	}
	path := opt.State.Path("kek")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("the key file %s is gone, but the database is sealed under it: put it back, or copy it from the first control plane", path)
}
