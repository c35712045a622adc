package control

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets/embedded"
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
	out := wire.KEKInfo{Kind: placeOf(p.system()).KEK.Kind, ID: p.keys.ring.KeyID(), Wraps: map[string]int{}}
	if b := p.keys.ring.before.Load(); b != nil {
		out.Before = b.prefix
	}
	err := p.wraps().each(ctx, func(w wrappedThing) error { out.Wraps[w.by]++; return nil })
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
		return rampart.Errorf(rampart.Invalid, secretControl, "control: a key of kind %s gets a new version where it lives (Vault: vault write -f transit/keys/NAME/rotate; AWS does so by itself; PKCS #11: another label in rampart.yaml); then run rampart kek rewrap", placeOf(p.system()).KEK.Kind)
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
	at := placeOf(p.system())
	at.Prefix = p.keys.ring.current.prefix
	if err := saveWhere(ctx, p.opt.Store, old, kekWhere{Current: at}); err != nil {
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
	err = p.wraps().each(ctx, func(w wrappedThing) error {
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
