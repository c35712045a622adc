package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// backupAge is how long a backup of the data keys may be restored. Its copies are
// to be deleted then, and so are dumps that hold the table against the advice.
const backupAge = 7 * 24 * time.Hour

// adminShred makes what was sealed for a tenant or a person unreadable, for good:
// it deletes every version of the wrapped keys, tells every plane, and waits for
// those that may hold one. Nothing is wrapped anew, under a shared key least of
// all. Whoever is cut off in between shreds again.
func (p *Plane) adminShred(r *http.Request, e *audit.Event) (any, error) {
	t, err := p.target(r, e)
	if err != nil {
		return nil, err
	}
	items, err := p.shredded(r.Context(), t)
	if err != nil {
		return nil, err
	}
	if err := p.somethingThere(r.Context(), t, items); err != nil {
		return nil, err
	}
	out := wire.Shredded{Waiting: []string{}, Certificate: hex.EncodeToString(newKey()[:16]), Irrecoverable: p.opt.Now().Add(backupAge).UTC()}
	if err := p.shredIntent(r.Context(), *e, out.Certificate, items); err != nil {
		return nil, err
	}
	forget := wire.Forget{}
	for _, item := range items {
		n, err := p.opt.Store.Shred(r.Context(), item, t.Tenant, p.keyOwner(item, t), p.opt.Now())
		if err != nil {
			return nil, unavailable(err)
		}
		out.Keys += n
		// Of a person too: what is told to planes stays on disk for a while, and
		// names nobody.
		forget.DEKs = append(forget.DEKs, wire.DEKTarget{Item: item, Tenant: t.Tenant})
	}
	id, err := p.forget(r.Context(), forget)
	if err != nil {
		return nil, err
	}
	var waiting []string
	out.Planes, waiting = p.acknowledged(r.Context(), id, items)
	out.Waiting = append(out.Waiting, waiting...)
	e.Trace = out.Certificate
	e.Detail["keys"], e.Detail["irrecoverable"] = strconv.Itoa(out.Keys), out.Irrecoverable.Format(time.RFC3339)
	return out, nil
}

// somethingThere refuses to shred what never was: a name that is misspelt must not
// read as one that is forgotten. What was shredded before is shredded again.
func (p *Plane) somethingThere(ctx context.Context, t wire.DEKTarget, items []string) error {
	for _, item := range items {
		who := p.keyOwner(item, t)
		_, err := p.opt.Store.KeySet(ctx, item, t.Tenant, who)
		if errors.Is(err, store.ErrNotFound) && who != "" { // a person has a set once shredded
			_, err = p.opt.Store.Subkey(ctx, item, t.Tenant, who, 0)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return unavailable(err)
		}
	}
	return rampart.Errorf(rampart.NotFound, dataControl, "control: nobody of that name has keys; nothing was destroyed")
}

// shredIntent is on record before the first key is gone.
func (p *Plane) shredIntent(ctx context.Context, e audit.Event, trace string, items []string) error {
	e.Class, e.Action, e.Trace, e.Outcome = audit.ClassKey, "dek.shred", trace, audit.Allowed
	for _, item := range items {
		e.Resource = "dek:" + item
		if err := p.opt.Audit.Record(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// shredded lists the items to shred: those that a target means, and those that
// the file names no more but whose keys are still there.
func (p *Plane) shredded(ctx context.Context, t wire.DEKTarget) ([]string, error) {
	if t.Tenant == "" && t.Item == "" {
		return nil, rampart.Errorf(rampart.Invalid, dataControl, "control: name a tenant; data without one is shredded by item")
	}
	items := p.itemsOf(t)
	if t.Item != "" || t.Subject != "" {
		return items, nil
	}
	err := p.eachSet(ctx, "", t.Tenant, store.KeySet{}, func(k store.KeySet) error {
		if !slices.Contains(items, k.Item) {
			items = append(items, k.Item)
		}
		return nil
	})
	return items, err
}

// backupID names one backup.
func backupID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}
