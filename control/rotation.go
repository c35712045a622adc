package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/rotate"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

const (
	rotateEvery = time.Second // between looks at what is due
	// longestUse is how long a password may be in use of which a plane that is cut
	// off has not heard that it is old: for as long as its cache serves it in an
	// outage, then for the life of the last connection that was made with it, and a
	// grace. For a service in another language longestConn is what its pool must keep.
	longestUse  = secrets.DefaultMaxStale + longestConn + useGrace
	longestConn = 30 * time.Minute // as in sdk/db
	useGrace    = 5 * time.Minute
)

// rotations are the credentials of the file that take turns.
type rotations struct {
	engine  *rotate.Engine
	targets map[string]rotate.Target
}

// openRotations finds what rotates, and lets readers find it.
func (p *Plane) openRotations() {
	p.rotations.engine = rotate.New(rotate.Options{
		Rows: p.opt.Store, Store: p.keys.secrets, Holder: p.opt.LogName(), Now: p.opt.Now, Record: p.recordRotation,
		Published: func(ctx context.Context, s rotate.State) error {
			_, err := p.forget(ctx, wire.Forget{Secrets: []string{secretOf(s.Name)}})
			return err
		},
	})
	p.rotations.targets = map[string]rotate.Target{}
	for name, st := range p.system().Stores {
		if st.Rotate != nil {
			t := p.databaseTarget(name, st)
			p.rotations.targets[t.Name] = t
		}
	}
	for name, d := range p.system().Data {
		if t, ok := p.valueTarget(name, d); ok {
			p.rotations.targets[t.Name] = t
		}
	}
	p.leases = &leases{now: p.opt.Now, open: p.openLease, disabled: p.offServices, log: p.opt.Logger, told: func(ctx context.Context, store string) error {
		_, err := p.forget(ctx, wire.Forget{Secrets: []string{"store:" + store}})
		return err
	}}
	p.backends.from[accessBackend] = access{p}
}

// offServices says of services whether they are disabled.
func (p *Plane) offServices(ctx context.Context) (func(service string) bool, error) {
	off, _, err := p.disabledServices(ctx)
	return func(service string) bool { return slices.Contains(off, p.system().ServiceID(service)) }, err
}

// openLease is where Vault makes users of a store.
func (p *Plane) openLease(store string) (leasing, secrets.Ref, error) {
	d := p.system().Stores[store].Dynamic
	c, ok := p.backends.vault(d.Backend)
	if !ok {
		return nil, secrets.Ref{}, rampart.Errorf(rampart.Unavailable, secretControl, "control: backend %.64q is not open", d.Backend)
	}
	return c.Database(d.Mount), secrets.Ref{Backend: d.Backend, Path: "creds/" + d.Role}, nil
}

// generated is a value that the file asks to make up: its prefix and 96 random
// bits.
func generated(prefix string) ([]byte, error) {
	raw := make([]byte, 12)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	return hex.AppendEncode([]byte(prefix), raw), nil
}

// secretOf is under which name readers ask for what a rotation is of.
func secretOf(rotation string) string { return strings.TrimPrefix(rotation, "data:") }

// pathOfStore is where the password of a store with two roles is kept.
func pathOfStore(store string) string { return "rotation/" + store }

// databaseTarget is a store with two roles. Its admin's password is read each
// time, and put on record as any read is.
func (p *Plane) databaseTarget(name string, st spec.Store) rotate.Target {
	r := st.Rotate
	hooks := rotate.NewPostgres(rotate.PostgresOptions{
		Admin: r.Admin, Owner: r.Owner, URL: st.URL, Pooler: st.Pooler,
		Password: func(ctx context.Context) (secrets.Secret, error) {
			ref, err := secrets.ParseRef(r.Password)
			if err != nil {
				return secrets.Secret{}, err
			}
			e := audit.Event{Class: audit.ClassSecret, Action: "secret.read", Control: secretControl, Subject: p.system().ControlID(), Resource: "rotation:store:" + name}
			return p.read(ctx, e, ref)
		},
		TLS: func(host string) (*tls.Config, error) {
			ca, ok := p.system().Resource(st.CA)
			if !ok {
				return nil, rampart.Errorf(rampart.Invalid, secretControl, "control: store %s has no CA: write ca: FILE.pem", name)
			}
			return profile.Database(ca, host)
		},
	})
	return rotate.Target{
		Name: "store:" + name, Path: pathOfStore(name), Users: r.Roles, Every: time.Duration(r.Every), Hooks: hooks,
		Drained: p.drained, Longest: longestUse,
	}
}

// valueTarget is a value that the control plane made up itself and may replace.
// What an outside party made only that party can.
func (p *Plane) valueTarget(name string, d spec.Data) (rotate.Target, bool) {
	ref, err := secrets.ParseRef(d.Source)
	if err != nil || ref.Backend != spec.EmbeddedBackend || d.Generate == "" || d.Rotate == 0 {
		return rotate.Target{}, false
	}
	hooks := p.opt.RotationHooks["data:"+name]
	if hooks == nil {
		hooks = rotate.Nothing{}
	}
	return rotate.Target{
		Name: "data:" + name, Path: ref.Path, Every: time.Duration(d.Rotate), Hooks: hooks,
		Make:    func(context.Context) ([]byte, error) { return generated(d.Generate) },
		Drained: p.drained, Longest: longestUse,
	}, true
}

// access reads credentials of stores that no backend keeps as they are. The path
// is the store, the field the service that asks.
type access struct{ p *Plane }

// Fetch implements secrets.Backend.
func (a access) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	st := a.p.system().Stores[ref.Path]
	if st.Dynamic != nil {
		return a.p.leases.fetch(ctx, ref.Field, ref.Path)
	}
	s, err := a.p.keys.secrets.Get(ctx, pathOfStore(ref.Path))
	if rampart.KindOf(err) == rampart.NotFound {
		return secrets.Secret{}, rampart.Errorf(rampart.Unavailable, secretControl, "control: store %s has no credential yet: see rampart secret rotations", ref.Path)
	}
	if err != nil {
		return secrets.Secret{}, err
	}
	return rotate.ParseCredential(s)
}

// turnCredentials moves rotations on until ctx ends, each by itself: a database
// that is away holds up no other.
func (p *Plane) turnCredentials(ctx context.Context) {
	var wg sync.WaitGroup
	for _, t := range p.rotations.targets {
		wg.Go(func() {
			tick := time.NewTicker(rotateEvery)
			defer tick.Stop()
			for {
				p.turn(ctx, t)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	wg.Wait()
}

// turn carries out what is due of one rotation.
func (p *Plane) turn(ctx context.Context, t rotate.Target) {
	p.noteUses(ctx, t.Name)
	for ctx.Err() == nil {
		moved, err := p.rotations.engine.Turn(ctx, t)
		if err != nil && ctx.Err() == nil {
			p.opt.Logger.LogAttrs(ctx, slog.LevelError, "rotation", slog.String("name", t.Name), slog.Any("error", err))
		}
		if err != nil || !moved {
			return
		}
	}
}

// recordRotation puts a step on record.
func (p *Plane) recordRotation(ctx context.Context, s rotate.State, err error) error {
	e := audit.Event{
		Class: audit.ClassSecret, Action: "rotation." + string(s.Step), Outcome: audit.Allowed, Control: secretControl,
		Subject: p.system().ControlID(), Resource: "rotation:" + s.Name,
		Detail: map[string]string{"version": strconv.Itoa(s.Version)},
	}
	if user := cmp.Or(s.Next, s.Old); user != "" {
		e.Detail["role"] = user
	}
	if err != nil {
		e.Outcome, e.Detail["error"] = audit.Failed, err.Error()
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "rotation failed", slog.String("name", s.Name), slog.String("step", string(s.Step)), slog.Any("error", err))
	}
	return p.opt.Audit.Record(ctx, e)
}

// noteUses stores, while an old credential waits for its end, what the planes
// that report here say: another control plane may be the one that ends it.
func (p *Plane) noteUses(ctx context.Context, rotation string) {
	s, err := p.opt.Store.Rotation(ctx, rotation)
	if err != nil || s.Step != rotate.Drain {
		return
	}
	readers := p.readers(secretOf(rotation))
	for _, v := range p.planes.all() {
		if !slices.Contains(readers, v.hb.Plane) || v.at.Before(s.Since) {
			continue
		}
		version, uses := v.hb.Trust.Secrets[secretOf(rotation)]
		if !uses {
			version = s.Version
		}
		u := rotate.Use{Name: rotation, Plane: v.hb.Plane, Version: min(max(version, 0), math.MaxInt32), Seen: v.at}
		if err := p.opt.Store.PutRotationUse(ctx, u); err != nil && ctx.Err() == nil {
			p.opt.Logger.LogAttrs(ctx, slog.LevelError, "rotation", slog.String("name", rotation), slog.Any("error", err))
		}
	}
}

// readers are the planes that may have a secret.
func (p *Plane) readers(name string) []string {
	var out []string
	for g := range p.living().grants.secrets {
		if g.item == name {
			out = append(out, "sidecar/"+g.service)
		}
	}
	slices.Sort(out)
	return out
}

// drained says which planes may still use an older version than the one that is
// published. One counts until it says otherwise: when it is silent, it may be cut
// off, and its service at work. Only one that was silent for as long as any use
// lasts has none.
func (p *Plane) drained(ctx context.Context, s rotate.State) ([]string, error) {
	list, err := p.opt.Store.RotationUses(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	said := map[string]rotate.Use{}
	for _, u := range list {
		said[u.Plane] = u
	}
	seen, err := p.seen(ctx)
	if err != nil {
		return nil, err
	}
	var waiting []string
	for _, plane := range p.readers(secretOf(s.Name)) {
		u, ok := said[plane]
		switch {
		case seen[plane].Before(s.Since.Add(-longestUse)): // never, or long ago
		case !ok || u.Seen.Before(s.Since):
			waiting = append(waiting, plane+" has not said what it uses")
		case u.Version < s.Version:
			waiting = append(waiting, fmt.Sprintf("%s uses version %d", plane, u.Version))
		}
	}
	return waiting, nil
}

// seen is when each plane was heard of last, by any control plane.
func (p *Plane) seen(ctx context.Context) (map[string]time.Time, error) {
	heads, err := p.opt.Store.Heads(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	out := map[string]time.Time{}
	for _, h := range heads {
		out[h.Plane] = h.Seen
	}
	for _, v := range p.planes.all() {
		if v.at.After(out[v.hb.Plane]) {
			out[v.hb.Plane] = v.at
		}
	}
	return out, nil
}

// rotationOf is a rotation as it is shown.
func (p *Plane) rotationOf(ctx context.Context, s rotate.State) (wire.Rotation, error) {
	out := wire.Rotation{
		Name: s.Name, Step: string(s.Step), Current: s.Current, Next: s.Next, Version: s.Version, Since: s.Since, Due: s.Due, Error: s.Error,
	}
	if s.Step != rotate.Drain {
		return out, nil
	}
	var err error
	out.Waiting, err = p.drained(ctx, s)
	return out, err
}

// rotationNames are what rotates, in order.
func (p *Plane) rotationNames() []string { return slices.Sorted(maps.Keys(p.rotations.targets)) }
