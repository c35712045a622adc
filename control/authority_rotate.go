package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// Who counts as alive, and how often what planes say of their certificates is
// written when it has not changed.
const (
	ackAlive = time.Minute
	ackWrite = 10 * time.Second
	maxAcks  = 4096 // processes whose last word is remembered
	maxLive  = 10_000

	raiseEvery = time.Minute // a plane that lies about versions costs no more than that
	maxAhead   = 1 << 20     // versions that a backup can be behind; who claims more says nothing
)

// acknowledgements are what processes of planes said last, so that each word is
// written once. The zero value is ready.
type acknowledgements struct {
	mu   sync.Mutex
	last map[[2]string]store.Acknowledged // by plane and instance
}

// news notes what a process says, and reports whether it is to be written.
func (k *acknowledgements) news(a store.Acknowledged) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := [2]string{a.Plane, a.Instance}
	old, ok := k.last[key]
	if ok && old.Version == a.Version && old.Root == a.Root && old.Until.Equal(a.Until) && a.Seen.Sub(old.Seen) < ackWrite {
		return false
	}
	if k.last == nil || len(k.last) >= maxAcks {
		k.last = map[[2]string]store.Acknowledged{} // all are written once more
	}
	k.last[key] = a
	return true
}

func (k *acknowledgements) forget(a store.Acknowledged) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.last, [2]string{a.Plane, a.Instance})
}

// maxAuthorityKey bounds key ids in bytes, as hex.
const maxAuthorityKey = 2 * 64

// acknowledge takes in what a heartbeat says of certificates.
func (p *Plane) acknowledge(ctx context.Context, hb wire.Heartbeat) error {
	if len(hb.Trust.Root) > maxAuthorityKey || hb.Instance == "" {
		return nil // it has not said anything of use, and counts as one that has not
	}
	version, err := p.versionOf(ctx, hb.Trust.Version)
	if err != nil {
		return err
	}
	a := store.Acknowledged{
		Plane: hb.Plane, Instance: hb.Instance, Version: version, Root: hb.Trust.Root, Until: hb.Trust.Until.UTC(), Seen: p.opt.Now().UTC(),
	}
	if !p.authority.acks.news(a) {
		return nil
	}
	err = p.opt.Store.PutAcknowledged(ctx, a)
	if err != nil {
		p.authority.acks.forget(a)
	}
	return unavailable(err)
}

// versionOf is the version of the trust that a plane says it goes by. One from the
// future is of a life that we forgot, as the database came back from a backup: the
// plane refuses all that is not newer, so our own version is raised past it.
func (p *Plane) versionOf(ctx context.Context, said uint64) (uint64, error) {
	if said <= p.ca().Version() {
		return said, nil
	}
	if err := p.reloadAuthority(ctx); err != nil { // another control plane may be ahead of this one
		return 0, err
	}
	if said > p.ca().Version()+maxAhead {
		return 0, nil
	}
	if said > p.ca().Version() && p.authority.mayRaise(p.opt.Now()) {
		return said, p.changeAuthority(ctx, "ca.version", nil, func(a *ca.Authority) (bool, error) { return a.Raise(said), nil })
	}
	return said, nil
}

// mayRaise reports whether the version was not raised just now, and notes it.
func (a *authority) mayRaise(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.raised) < raiseEvery {
		return false
	}
	a.raised = now
	return true
}

// facts are what a step of a rotation waits for.
func (p *Plane) facts(ctx context.Context) (ca.Facts, error) {
	now, held := p.opt.Now(), p.ca()
	f := ca.Facts{Leaf: p.leafLife(), Silent: p.silentHolders()}
	acks, err := p.opt.Store.AllAcknowledged(ctx)
	if err != nil {
		return f, unavailable(err)
	}
	for _, a := range acks {
		switch {
		case a.Version >= held.Published() && a.Version <= held.Version():
		case now.Sub(a.Seen) <= ackAlive:
			f.Behind = append(f.Behind, a.Plane)
		case a.Until.After(now):
			f.Silent = true // it may come back with the certificate that it has
		}
	}
	f.Behind = slices.Compact(f.Behind)
	for _, i := range held.Issuers() {
		if p.tokens.Voided(wire.RevokedIssuer, i.KeyID) {
			f.Revoked = append(f.Revoked, i.KeyID)
		}
	}
	for _, root := range held.Roots() {
		list, err := p.opt.Store.LiveIssued(ctx, svid.KeyID(root.Certificate), now, maxLive)
		if err != nil {
			return f, unavailable(err)
		}
		for _, c := range list {
			f.Silent = f.Silent || c.Kind == "written"
			f.Live = append(f.Live, ca.Live{ID: c.ID, Serial: c.Serial, Root: c.Root, NotAfter: c.NotAfter})
		}
	}
	return f, nil
}

// silentHolders reports whether the file lets somebody have the bundle who does
// not acknowledge it: clients of the Workload API, and other trust domains.
func (p *Plane) silentHolders() bool {
	if p.system().Trust.Serve {
		return true
	}
	for _, svc := range p.system().Services {
		if svc.Workload {
			return true
		}
	}
	return false
}

// steps are the ways on.
var stepNames = []string{"prepare", "publish", "activate", "retire", "rollback"}

// takeStep takes one step of a rotation. It returns what a forced one breaks.
func (p *Plane) takeStep(ctx context.Context, to string, force bool, detail map[string]string) (broken []string, err error) {
	if !slices.Contains(stepNames, to) {
		return nil, rampart.Errorf(rampart.Invalid, "", "control: %.20q is no step; use prepare, publish, activate, retire or rollback", to)
	}
	if err := p.reloadAuthority(ctx); err != nil { // what another replica published counts
		return nil, err
	}
	f, err := p.facts(ctx)
	if err != nil {
		return nil, err
	}
	before := p.ca()
	err = p.changeAuthority(ctx, "ca."+to, detail, func(a *ca.Authority) (bool, error) {
		if force {
			broken = a.Waiting(f)
		}
		return true, step(a, to, f, force)
	})
	if err != nil || to != "retire" || !force {
		return broken, err
	}
	return broken, p.denyRetired(ctx, before)
}

func step(a *ca.Authority, to string, f ca.Facts, force bool) error {
	switch to {
	case "prepare":
		return a.Prepare()
	case "publish":
		return a.Publish()
	case "activate":
		return a.Activate(f, force)
	case "retire":
		return a.Retire(f, force)
	}
	return a.Rollback(f, force)
}

// denyRetired voids what a root that was retired by force has signed, so that
// connections which are open end too.
func (p *Plane) denyRetired(ctx context.Context, before *heldAuthority) error {
	root := before.Roots()[0]
	old := svid.KeyID(root.Certificate)
	var errs []error
	for _, i := range before.Issuers() {
		if i.Root == old {
			_, err := p.tokens.RevokeCertificates(ctx, wire.RevokedIssuer, i.KeyID, i.NotAfter)
			errs = append(errs, err)
		}
	}
	_, err := p.tokens.RevokeCertificates(ctx, wire.RevokedIssuer, old, root.NotAfter)
	return errors.Join(append(errs, err)...)
}

// stepByTimer takes the step that is due. One that has to wait is no error.
func (p *Plane) stepByTimer(ctx context.Context) error {
	due := p.ca().Due()
	if due == ca.StepNone {
		return nil
	}
	f, err := p.facts(ctx)
	if err != nil {
		return err
	}
	err = p.changeAuthority(ctx, "ca."+string(due), map[string]string{"by": "timer"}, func(a *ca.Authority) (bool, error) {
		if a.Due() != due {
			return false, nil // another replica took it
		}
		return true, step(a, string(due), f, false)
	})
	if rampart.KindOf(err) == rampart.Conflict {
		return nil
	}
	return err
}

// caStatus is how the authority stands.
func (p *Plane) caStatus(ctx context.Context) (wire.CAStatus, error) {
	held, now := p.ca(), p.opt.Now()
	step, since := held.Step()
	out := wire.CAStatus{Domain: held.TrustDomain(), Kind: string(held.Kind()), Step: string(step), Version: held.Version(), Since: since}
	for _, root := range held.Roots() {
		out.Roots = append(out.Roots, certOf(root))
	}
	if c, ok := held.Issuing(); ok {
		out.Issuing = certOf(c)
	}
	var err error
	if out.Live, err = p.opt.Store.CountIssued(ctx, now); err != nil {
		return out, unavailable(err)
	}
	f, err := p.facts(ctx)
	if err != nil {
		return out, err
	}
	out.Waiting = append(held.Waiting(f), p.wantsHand(held)...)
	acks, err := p.opt.Store.AllAcknowledged(ctx)
	if err != nil {
		return out, unavailable(err)
	}
	for _, a := range acks {
		out.Planes = append(out.Planes, wire.PlaneCA{
			Plane: a.Plane, TrustState: wire.TrustState{Version: a.Version, Root: a.Root, Until: a.Until}, SeenSeconds: now.Sub(a.Seen).Seconds(),
		})
	}
	return out, nil
}

// wantsHand is what only a person can do.
func (p *Plane) wantsHand(held *heldAuthority) []string {
	if held.Kind() != ca.Offline {
		return nil
	}
	var out []string
	for _, root := range held.Roots() {
		if root.Key {
			out = append(out, "the key of root "+svid.KeyID(root.Certificate)+" is still here; take it out with: rampart ca export-root --remove")
		}
	}
	if held.WantsIssuing() {
		issuing, _ := held.Issuing()
		out = append(out, fmt.Sprintf("the issuing certificate ends %s; have the next one signed: rampart ca sign", issuing.NotAfter.UTC().Format(time.RFC3339)))
	}
	return out
}

func certOf(c ca.Cert) wire.Cert {
	return wire.Cert{
		Subject: c.Subject.String(), KeyID: svid.KeyID(c.Certificate), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Signs: c.Signs, Key: c.Key, PEM: string(ca.PEM(c.Certificate)),
	}
}
