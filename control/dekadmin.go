package control

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

const (
	dekPage     = 500
	maxDEKInfos = 1000            // of one call; the caller asks for what comes after
	rewrapTime  = 2 * time.Second // of one call; the caller shows progress and asks again
)

// adminDEKRoutes is what administrators do with data keys.
func (p *Plane) adminDEKRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminDEKs:     p.adminListDEKs,
		"POST " + wire.AdminRewrap:  p.adminRewrap,
		"POST " + wire.AdminRekey:   p.adminRekey,
		"POST " + wire.AdminShred:   p.adminShred,
		"POST " + wire.AdminReopen:  p.adminReopen,
		"POST " + wire.AdminBackup:  p.adminBackupDEKs,
		"POST " + wire.AdminRestore: p.adminRestoreDEKs,
	}
}

func (p *Plane) adminListDEKs(r *http.Request, e *audit.Event) (any, error) {
	q := r.URL.Query()
	of := wire.DEKTarget{Item: q.Get("item"), Tenant: q.Get("tenant")}
	after := wire.DEKTarget{Item: q.Get("after_item"), Tenant: q.Get("after_tenant")}
	e.Resource = "dek:" + of.Item[:min(len(of.Item), maxTenant)]
	return p.dekInfos(r.Context(), of, after, maxDEKInfos)
}

// dekInfos describes the keys of an item and tenant, or of all when they are "":
// the next limit of them, in their order, after one. None are the end.
func (p *Plane) dekInfos(ctx context.Context, of, after wire.DEKTarget, limit int) ([]wire.DEKInfo, error) {
	page := dekPageOf{limit: limit, found: map[wire.DEKTarget]*wire.DEKInfo{}}
	first := store.DEK{Item: after.Item, Tenant: after.Tenant}
	if after.Item != "" {
		first.Version = math.MaxUint32 // past all of its versions
	}
	err := eachDEK(ctx, p.opt.Store, of.Item, of.Tenant, first, page.key)
	if err == nil || errors.Is(err, errEnough) {
		// Of the one that the page before ended with all but the tenant's own set is
		// another person's, which is not shown.
		err = p.eachSet(ctx, of.Item, of.Tenant, store.KeySet{Item: after.Item, Tenant: after.Tenant}, page.set)
	}
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return page.sorted(), nil
}

// dekPageOf collects a page from the keys and then from the sets of keys, both in
// the order of item and tenant.
type dekPageOf struct {
	limit int
	end   wire.DEKTarget // the last of the page, once there are limit of keys; zero: not yet
	found map[wire.DEKTarget]*wire.DEKInfo
}

func (g *dekPageOf) of(t wire.DEKTarget) *wire.DEKInfo {
	if g.found[t] == nil {
		g.found[t] = &wire.DEKInfo{DEKTarget: t, Versions: []wire.DEKVersion{}}
	}
	return g.found[t]
}

func (g *dekPageOf) key(d store.DEK) error {
	t := wire.DEKTarget{Item: d.Item, Tenant: d.Tenant}
	if g.found[t] == nil && len(g.found) >= g.limit {
		return errEnough
	}
	info := g.of(t)
	for i := range info.Versions {
		info.Versions[i].State = "decrypt"
	}
	info.Versions = append(info.Versions, wire.DEKVersion{Version: d.Version, State: "active", KEK: d.KEK, Created: d.Created, Messages: d.Messages})
	if len(g.found) == g.limit {
		g.end = t
	}
	return nil
}

// set takes those of the destroyed in that lie before the end of the page. Where
// they are more than fit, sorted cuts the page.
func (g *dekPageOf) set(k store.KeySet) error {
	t := wire.DEKTarget{Item: k.Item, Tenant: k.Tenant}
	switch {
	case g.end.Item != "" && byTarget(t, g.end) > 0, g.found[t] == nil && len(g.found) >= 2*g.limit:
		return errEnough
	case k.Who == "" && k.Closed:
		g.of(t).Shredded = k.Shredded
	}
	return nil
}

func (g *dekPageOf) sorted() []wire.DEKInfo {
	out := make([]wire.DEKInfo, 0, len(g.found))
	for _, info := range g.found {
		out = append(out, *info)
	}
	slices.SortFunc(out, func(a, b wire.DEKInfo) int { return byTarget(a.DEKTarget, b.DEKTarget) })
	return out[:min(len(out), g.limit)]
}

func byTarget(a, b wire.DEKTarget) int {
	return cmp.Or(cmp.Compare(a.Item, b.Item), cmp.Compare(a.Tenant, b.Tenant))
}

// eachDEK calls f with every key after one, in order.
func eachDEK(ctx context.Context, st store.DEKs, item, tenant string, last store.DEK, f func(store.DEK) error) error {
	for {
		page, err := st.ListDEKs(ctx, item, tenant, last, dekPage)
		if err != nil {
			return unavailable(err)
		}
		for _, last = range page {
			if err := f(last); err != nil {
				return err
			}
		}
		if len(page) < dekPage {
			return nil
		}
	}
}

func (p *Plane) eachSet(ctx context.Context, item, tenant string, last store.KeySet, f func(store.KeySet) error) error {
	for {
		page, err := p.opt.Store.ListKeySets(ctx, item, tenant, last, dekPage)
		if err != nil {
			return unavailable(err)
		}
		for _, last = range page {
			if err := f(last); err != nil {
				return err
			}
		}
		if len(page) < dekPage {
			return nil
		}
	}
}

// target reads which keys a call is about and puts that on record.
func (p *Plane) target(r *http.Request, e *audit.Event) (wire.DEKTarget, error) {
	var t wire.DEKTarget
	if err := readJSON(r, &t); err != nil {
		return t, err
	}
	if len(t.Tenant) > maxTenant || len(t.Item) > maxTenant || len(t.Subject) > maxPerson {
		return t, rampart.Errorf(rampart.Invalid, dataControl, "control: item and tenant have at most %d bytes, a subject %d", maxTenant, maxPerson)
	}
	e.Resource, e.Control = "dek:"+t.Item, dataControl
	e.Detail["tenant"] = t.Tenant
	if t.Subject != "" && t.Item != "" {
		e.Detail["person"] = p.hashed(t.Item, t.Tenant, t.Subject)
	}
	return t, p.known(t)
}

// known refuses an item that has no keys, or none of people.
func (p *Plane) known(t wire.DEKTarget) error {
	var names []string
	now := p.living()
	for name, d := range now.sys.Data {
		if now.grants.items[name] && (t.Subject == "" || d.Shred == spec.ShredSubject) {
			names = append(names, name)
		}
	}
	switch {
	case t.Item != "" && slices.Contains(names, t.Item), t.Item == "" && len(names) > 0:
		return nil
	case t.Subject != "":
		return rampart.Errorf(rampart.Invalid, dataControl, "control: people have keys of their own only in items with shred: subject; those are %q", names)
	}
	return unknown("data item with keys", t.Item, names)
}

// adminRekey makes the next version of a tenant's or a person's key: it seals
// from now on. Data that the old ones sealed stays readable, and is sealed anew
// by the service's own job.
func (p *Plane) adminRekey(r *http.Request, e *audit.Event) (any, error) {
	t, err := p.target(r, e)
	if err != nil {
		return nil, err
	}
	if t.Item == "" {
		return nil, rampart.Errorf(rampart.Invalid, dataControl, "control: name the data item")
	}
	version, err := p.nextKey(r.Context(), t)
	if err != nil {
		return nil, err
	}
	e.Detail["version"] = strconv.FormatUint(uint64(version), 10)
	if _, err := p.forget(r.Context(), wire.Forget{DEKs: []wire.DEKTarget{{Item: t.Item, Tenant: t.Tenant}}}); err != nil {
		return nil, err
	}
	infos, err := p.dekInfos(r.Context(), t, wire.DEKTarget{}, 1)
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	return infos[0], nil
}

// nextKey makes the version after the newest that is there, and returns its number.
func (p *Plane) nextKey(ctx context.Context, t wire.DEKTarget) (uint32, error) {
	none := rampart.Errorf(rampart.NotFound, dataControl, "control: there are no keys of %q in %s; rampart dek list shows those that are", t.Tenant, t.Item)
	under, err := p.opt.Store.DEK(ctx, t.Item, t.Tenant, 0)
	if errors.Is(err, store.ErrNotFound) {
		return 0, none
	}
	if err != nil {
		return 0, unavailable(err)
	}
	if t.Subject == "" {
		return under.Version + 1, p.made(p.makeDEK(ctx, t.Item, t.Tenant, under.Version+1))
	}
	who := p.hashed(t.Item, t.Tenant, t.Subject)
	k, err := p.opt.Store.Subkey(ctx, t.Item, t.Tenant, who, 0)
	if errors.Is(err, store.ErrNotFound) {
		return 0, none
	}
	if err != nil {
		return 0, unavailable(err)
	}
	return k.Version + 1, p.made(p.makeSubkey(ctx, under, who, k.Version))
}

// made takes a key that another made at the same time for one's own.
func (p *Plane) made(err error) error {
	if err == nil || errors.Is(err, store.ErrExists) {
		return nil
	}
	return p.unkept(err)
}

// adminReopen lets keys be made again after a shredding. What was sealed before it
// stays unreadable.
func (p *Plane) adminReopen(r *http.Request, e *audit.Event) (any, error) {
	t, err := p.target(r, e)
	if err != nil {
		return nil, err
	}
	opened := false
	for _, item := range p.itemsOf(t) {
		ok, err := p.opt.Store.Reopen(r.Context(), item, t.Tenant, p.keyOwner(item, t))
		if err != nil {
			return nil, unavailable(err)
		}
		opened = opened || ok
	}
	if !opened {
		return nil, rampart.Errorf(rampart.NotFound, dataControl, "control: nothing of %q is shredded", t.Tenant)
	}
	return nil, nil
}

// itemsOf lists the items that a target means.
func (p *Plane) itemsOf(t wire.DEKTarget) []string {
	if t.Item != "" {
		return []string{t.Item}
	}
	var out []string
	now := p.living()
	for name, d := range now.sys.Data {
		if now.grants.items[name] && (t.Subject == "" || d.Shred == spec.ShredSubject) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// keyOwner is how the store knows whom a target means: "" is the tenant.
func (p *Plane) keyOwner(item string, t wire.DEKTarget) string {
	if t.Subject == "" {
		return ""
	}
	return p.hashed(item, t.Tenant, t.Subject)
}

// adminRewrap moves data keys to the newest version of the KEK, for as long as one
// call may take. Where it stopped the rows say: whoever is cut off goes on.
func (p *Plane) adminRewrap(r *http.Request, e *audit.Event) (any, error) {
	out := wire.Rewrapped{KEK: p.keys.kek.KeyID()}
	e.Resource, e.Control = "kek:"+out.KEK, dataControl
	until := time.Now().Add(rewrapTime)
	err := eachDEK(r.Context(), p.opt.Store, "", "", store.DEK{}, func(d store.DEK) error {
		if d.KEK == out.KEK {
			return nil
		}
		if !time.Now().Before(until) {
			out.Left++
			return nil
		}
		moved, err := rewrapDEK(r.Context(), p.opt.Store, p.keys.ring, d)
		if err == nil && moved {
			out.Done++
		}
		return err
	})
	e.Detail["done"], e.Detail["left"] = strconv.Itoa(out.Done), strconv.Itoa(out.Left)
	return out, err
}

// rewrapDEK moves one key to the newest version of the KEK.
func rewrapDEK(ctx context.Context, st store.DEKs, ring *keyring, d store.DEK) (bool, error) {
	old := d.Wrapped
	var err error
	if d.Wrapped, err = ring.Rewrap(ctx, old, dekAAD(d)); err != nil {
		return false, err
	}
	d.KEK = ring.KeyID()
	moved, err := st.SwapDEK(ctx, d, old)
	if err != nil {
		return false, unavailable(err)
	}
	return moved, nil
}
