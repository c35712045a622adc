package control

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
)

// wrappedThing is something under the key encryption key.
type wrappedThing struct {
	by   string // id of the key
	move func(ctx context.Context) error
}

// wraps finds all that is under the key encryption key.
type wraps struct {
	store   store.Store
	ring    *keyring
	secrets *embedded.Store
}

func newWraps(st store.Store, ring *keyring) wraps {
	return wraps{st, ring, embedded.NewStore(ring, st)}
}

func (p *Plane) wraps() wraps { return newWraps(p.opt.Store, p.keys.ring) }

// left counts what is under a key whose ids begin so, and opens nothing for it.
func (w wraps) left(ctx context.Context, prefix string) (n int, err error) {
	err = w.each(ctx, func(t wrappedThing) error {
		if begins(t.by, prefix) {
			n++
		}
		return nil
	})
	return n, err
}

// each calls f with all that outlives an hour: what lives shorter ends by
// itself before an old key is thrown away.
func (w wraps) each(ctx context.Context, f func(wrappedThing) error) error {
	for _, each := range []func(context.Context, func(wrappedThing) error) error{w.eachSeal, w.eachSecret, w.eachFactor, w.eachEdge, w.eachDataKey} {
		if err := each(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (w wraps) eachSeal(ctx context.Context, f func(wrappedThing) error) error {
	names, err := w.store.SealNames(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, name := range names {
		if name == sealedWhere {
			continue
		}
		sealed, err := w.store.Sealed(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return unavailable(err)
		}
		err = f(wrappedThing{wrappedBy(sealed), func(ctx context.Context) error {
			again, err := w.ring.Rewrap(ctx, sealed, sealAAD(name))
			if err == nil {
				_, err = w.store.SwapSealed(ctx, name, sealed, again)
			}
			return err
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachSecret goes through the embedded store, which moves its rows itself.
func (w wraps) eachSecret(ctx context.Context, f func(wrappedThing) error) error {
	var failed error
	err := w.secrets.Rewrap(ctx, func(wrapped []byte) bool {
		due := false
		if failed == nil {
			failed = f(wrappedThing{wrappedBy(wrapped), func(context.Context) error { due = true; return nil }})
		}
		return due
	})
	return errors.Join(failed, err)
}

// eachFactor goes through second factors. Some hold nothing secret, and are not
// wrapped.
func (w wraps) eachFactor(ctx context.Context, f func(wrappedThing) error) error {
	users, err := w.store.Users(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, u := range users {
		factors, err := w.store.Factors(ctx, u.Facts.Subject)
		if err != nil {
			return unavailable(err)
		}
		for _, one := range factors {
			wrapped, err := w.isWrapped(ctx, one)
			if err != nil {
				return err
			}
			if !wrapped {
				continue
			}
			err = f(wrappedThing{wrappedBy(one.Data), func(ctx context.Context) error {
				again, err := w.ring.Rewrap(ctx, one.Data, one.Row())
				if err == nil {
					one.Data = again
					_, err = w.store.SwapFactor(ctx, one)
				}
				return err
			}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// isWrapped reports whether a factor is under a key. Where it does not say so
// itself, only the key knows.
func (w wraps) isWrapped(ctx context.Context, one mfa.Factor) (bool, error) {
	if p, err := partsOf(one.Data); err == nil && p.id != "" {
		return true, nil
	}
	plain, err := w.ring.Unwrap(ctx, one.Data, one.Row())
	clear(plain)
	if err != nil && rampart.KindOf(err) == rampart.Unavailable {
		return false, err
	}
	return err == nil, nil
}

// eachEdge goes through what gateways share. What a gateway stores meanwhile is
// under the newest key already, and stays.
func (w wraps) eachEdge(ctx context.Context, f func(wrappedThing) error) error {
	keys, err := w.store.EdgeKeys(ctx, "", maxEdgeSeen)
	if err != nil {
		return unavailable(err)
	}
	for _, key := range keys {
		v, err := w.store.EdgeValue(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return unavailable(err)
		}
		if len(v.Sealed) < 3 || len(v.Sealed) < 3+int(binary.BigEndian.Uint16(v.Sealed[1:])) {
			continue
		}
		n := 3 + int(binary.BigEndian.Uint16(v.Sealed[1:]))
		err = f(wrappedThing{wrappedBy(v.Sealed[3:n]), func(ctx context.Context) error {
			again, err := w.ring.Rewrap(ctx, v.Sealed[3:n], edgeAAD(key))
			if err != nil {
				return err
			}
			head := binary.BigEndian.AppendUint16([]byte{v.Sealed[0]}, uint16(len(again)))
			_, err = w.store.SwapEdge(ctx, key, v.Sealed, append(append(head, again...), v.Sealed[n:]...))
			return err
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w wraps) eachDataKey(ctx context.Context, f func(wrappedThing) error) error {
	return eachDEK(ctx, w.store, "", "", store.DEK{}, func(d store.DEK) error {
		return f(wrappedThing{d.KEK, func(ctx context.Context) error {
			_, err := rewrapDEK(ctx, w.store, w.ring, d)
			return err
		}})
	})
}
