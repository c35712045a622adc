package control

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
)

// maxEdgeSeen bounds how much of what gateways share is looked at.
const maxEdgeSeen = 100_000

func (p *Plane) adminKEKRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminKEK:  p.adminKEK,
		"POST " + wire.AdminKEK: p.adminKEKOp,
	}
}

func (p *Plane) adminKEK(r *http.Request, _ *audit.Event) (any, error) { return p.kekInfo(r.Context()) }

// kekInfo counts what is under which key.
func (p *Plane) kekInfo(ctx context.Context) (wire.KEKInfo, error) {
	if err := p.learnKEK(ctx); err != nil {
		return wire.KEKInfo{}, err
	}
	out := wire.KEKInfo{Kind: placeOf(p.opt.System).KEK.Kind, ID: p.keys.ring.KeyID(), Wraps: map[string]int{}}
	if b := p.keys.ring.before.Load(); b != nil {
		out.Before = b.prefix
	}
	err := p.eachWrapped(ctx, func(w wrappedThing) error { out.Wraps[w.by]++; return nil })
	for id, n := range out.Wraps {
		if id != out.ID {
			out.Left += n
		}
	}
	return out, err
}

// learnKEK asks a key that is elsewhere which version of it wraps now.
func (p *Plane) learnKEK(ctx context.Context) error {
	if k, ok := p.keys.ring.current.kek.(interface{ Check(context.Context) error }); ok {
		return k.Check(ctx)
	}
	return nil
}

func (p *Plane) adminKEKOp(r *http.Request, e *audit.Event) (any, error) {
	var q wire.KEKOp
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Control, e.Action, e.Class = secretControl, "kek."+q.Op[:min(len(q.Op), 16)], audit.ClassKey
	var err error
	switch q.Op {
	case "rotate":
		err = p.rotateKEK()
	case "rewrap":
		var done int
		done, err = p.rewrapAll(r.Context(), time.Now().Add(rewrapTime))
		e.Detail["done"] = strconv.Itoa(done)
	default:
		err = rampart.Errorf(rampart.Invalid, secretControl, "control: op is rotate or rewrap")
	}
	if err != nil {
		return nil, err
	}
	info, err := p.kekInfo(r.Context())
	e.Resource = "kek:" + info.ID
	if err == nil && q.Op == "rewrap" && info.Left == 0 && info.Before != "" {
		info.Before, err = "", p.endMove(r.Context())
	}
	return info, err
}

// rotateKEK gives a key file a new key. Other kinds rotate where they live.
func (p *Plane) rotateKEK() error {
	k, ok := p.keys.ring.current.kek.(*embedded.FileKEK)
	switch {
	case !ok:
		return rampart.Errorf(rampart.Invalid, secretControl, "control: a key of kind %s gets a new version where it lives (Vault: vault write -f transit/keys/NAME/rotate; AWS does so by itself; PKCS #11: another label in rampart.yaml); then run rampart kek rewrap", placeOf(p.opt.System).KEK.Kind)
	case p.opt.Replica != "":
		return rampart.Errorf(rampart.Invalid, secretControl, "control: each of several control planes has a copy of the key file, and the others would not have the new key: stop all but one, rotate at that one started without --replica, and copy its key file to the others")
	}
	return k.Rotate()
}

// endMove forgets the key of before, under which nothing is left.
func (p *Plane) endMove(ctx context.Context) error {
	old, err := p.opt.Store.Sealed(ctx, sealedWhere)
	if err != nil {
		return unavailable(err)
	}
	if err := saveWhere(ctx, p.opt.Store, old, kekWhere{Current: placeOf(p.opt.System)}); err != nil {
		return err
	}
	p.keys.ring.before.Store(nil)
	return nil
}

// rewrapAll moves whatever is not under the newest version of the key there,
// until a time, and returns how many it moved. It may be ended at any point,
// and begin again: each thing moves by itself, and only if nobody else has
// changed it meanwhile.
func (p *Plane) rewrapAll(ctx context.Context, until time.Time) (done int, err error) {
	if err := p.learnKEK(ctx); err != nil {
		return 0, err
	}
	newest := p.keys.ring.KeyID()
	err = p.eachWrapped(ctx, func(w wrappedThing) error {
		if w.by == newest {
			return nil
		}
		if !time.Now().Before(until) {
			return errEnough
		}
		done++
		return w.move(ctx)
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return done, err
}

var errEnough = errors.New("control: time is up")

// wrappedThing is something under the key encryption key.
type wrappedThing struct {
	by   string // id of the key
	move func(ctx context.Context) error
}

// eachWrapped calls f with all that outlives an hour: what lives shorter ends by
// itself before an old key is thrown away.
func (p *Plane) eachWrapped(ctx context.Context, f func(wrappedThing) error) error {
	for _, each := range []func(context.Context, func(wrappedThing) error) error{p.eachSeal, p.eachSecret, p.eachFactor, p.eachEdge, p.eachDataKey} {
		if err := each(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) eachSeal(ctx context.Context, f func(wrappedThing) error) error {
	names, err := p.opt.Store.SealNames(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, name := range names {
		if name == sealedWhere {
			continue
		}
		sealed, err := p.opt.Store.Sealed(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return unavailable(err)
		}
		err = f(wrappedThing{wrappedBy(sealed), func(ctx context.Context) error {
			again, err := p.keys.ring.Rewrap(ctx, sealed, sealAAD(name))
			if err == nil {
				_, err = p.opt.Store.SwapSealed(ctx, name, sealed, again)
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
func (p *Plane) eachSecret(ctx context.Context, f func(wrappedThing) error) error {
	var failed error
	err := p.keys.secrets.Rewrap(ctx, func(wrapped []byte) bool {
		due := false
		if failed == nil {
			failed = f(wrappedThing{wrappedBy(wrapped), func(context.Context) error { due = true; return nil }})
		}
		return due
	})
	return errors.Join(failed, err)
}

// eachFactor goes through second factors. Some hold nothing secret, and are not
// wrapped: they do not open.
func (p *Plane) eachFactor(ctx context.Context, f func(wrappedThing) error) error {
	users, err := p.opt.Store.Users(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, u := range users {
		factors, err := p.factors.Factors(ctx, u.Facts.Subject)
		if err != nil {
			return unavailable(err)
		}
		for _, one := range factors {
			if plain, err := p.keys.ring.Unwrap(ctx, one.Data, one.Row()); err != nil {
				if rampart.KindOf(err) == rampart.Unavailable {
					return err
				}
				continue
			} else {
				clear(plain)
			}
			err := f(wrappedThing{wrappedBy(one.Data), func(ctx context.Context) error {
				again, err := p.keys.ring.Rewrap(ctx, one.Data, one.Row())
				if err == nil {
					one.Data = again
					_, err = p.factors.SwapFactor(ctx, one)
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

// eachEdge goes through what gateways share. What a gateway is at work on is left
// for the next time.
func (p *Plane) eachEdge(ctx context.Context, f func(wrappedThing) error) error {
	keys, err := p.opt.Store.EdgeKeys(ctx, "", maxEdgeSeen)
	if err != nil {
		return unavailable(err)
	}
	for _, key := range keys {
		v, err := p.opt.Store.EdgeValue(ctx, key)
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
			again, err := p.keys.ring.Rewrap(ctx, v.Sealed[3:n], edgeAAD(key))
			if err != nil {
				return err
			}
			head := binary.BigEndian.AppendUint16([]byte{v.Sealed[0]}, uint16(len(again)))
			v.Sealed = append(append(head, again...), v.Sealed[n:]...)
			if err := p.opt.Store.PutEdge(ctx, v, 0, maxEdgeSeen); !errors.Is(err, store.ErrFenced) {
				return err
			}
			return nil
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) eachDataKey(ctx context.Context, f func(wrappedThing) error) error {
	return p.eachDEK(ctx, "", "", func(d store.DEK) error {
		return f(wrappedThing{d.KEK, func(ctx context.Context) error {
			_, err := p.rewrap(ctx, d, p.keys.ring.KeyID())
			return err
		}})
	})
}
