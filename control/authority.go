package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// authorityControl decides about certificates.
const authorityControl = "mtls.required"

// Bounds of what the authority does.
const (
	authoritySwaps  = 4                // tries of a change, when another replica was faster
	upstreamTimeout = 20 * time.Second // of one call to the authority above
	settleTimeout   = 5 * time.Second
)

// authority is the certificate authority in force here. What is stored counts:
// every change is one compare-and-set of the sealed value, and every replica
// takes over what another stored.
type authority struct {
	held  atomic.Pointer[heldAuthority]
	rows  issuedRows
	parts []func(*wire.Trust) // add what others contribute to the trust, set before Run

	mu sync.Mutex // held while the authority is read or changed

	settling sync.Mutex     // held while others are told, and guards told
	told     *heldAuthority // what planes and files have
	raised   time.Time      // when the version was raised past a plane's last; guarded by mu
	warned   time.Time      // when an operator was asked for a signature last

	acks acknowledgements
	off  disabledList
}

// heldAuthority is one state of the authority, and how the store has it.
// Immutable.
type heldAuthority struct {
	*ca.Authority
	sealed []byte
}

// openAuthority reads the authority, making it at the first start.
func (p *Plane) openAuthority(ctx context.Context) error {
	p.authority.rows.store = p.opt.Store
	plain, err := p.keys.open(ctx, p.opt, sealedCA, p.newAuthority)
	if err != nil {
		return err
	}
	clear(plain)
	if err := p.reloadAuthority(ctx); err != nil {
		return err
	}
	if err := p.followFile(ctx); err != nil {
		return err
	}
	if err := p.followServices(ctx); err != nil {
		return err
	}
	if _, ok := p.ca().Issuing(); ok {
		return nil
	}
	return p.askUpstream(ctx) // without a certificate of its own the control plane cannot listen
}

// ca is the authority in force.
func (p *Plane) ca() *heldAuthority { return p.authority.held.Load() }

// newAuthority makes what the first start seals.
func (p *Plane) newAuthority() ([]byte, error) {
	domain := p.system().Info.TrustDomain
	if p.system().Trust.Upstream != nil {
		roots, err := p.upstreamRoots()
		if err != nil {
			return nil, err
		}
		a, err := ca.NewUpstream(domain, roots, p.opt.Now)
		if err != nil {
			return nil, err
		}
		return a.Marshal()
	}
	a, err := ca.New(domain, p.opt.Now)
	if err != nil {
		return nil, err
	}
	return a.Marshal()
}

func (p *Plane) upstreamRoots() ([]byte, error) {
	file := p.system().Trust.Upstream.Roots
	text, ok := p.system().Resource(file)
	if !ok {
		return nil, fmt.Errorf("%s is not in the bundle", file)
	}
	return text, nil
}

// followFile brings the authority to what rampart.yaml says of it.
func (p *Plane) followFile(ctx context.Context) error {
	kind := ca.Kind(p.system().Trust.Root)
	if p.system().Trust.Upstream != nil {
		kind = ca.Upstream
	}
	f, err := p.facts(ctx)
	if err != nil {
		return err
	}
	return p.changeAuthority(ctx, "ca.configure", nil, func(a *ca.Authority) (bool, error) {
		changed, err := a.SetKind(kind)
		if err != nil || kind != ca.Upstream {
			return changed, err
		}
		roots, err := p.upstreamRoots()
		if err != nil {
			return false, err
		}
		return a.SetRoots(roots, f.Live)
	})
}

// reloadAuthority puts in force what the store has.
func (p *Plane) reloadAuthority(ctx context.Context) error {
	p.authority.mu.Lock()
	defer p.authority.mu.Unlock()
	_, err := p.loadAuthority(ctx)
	return err
}

// loadAuthority is reloadAuthority for who holds the lock.
func (p *Plane) loadAuthority(ctx context.Context) (*heldAuthority, error) {
	sealed, err := p.opt.Store.Sealed(ctx, sealedCA)
	if err != nil {
		return nil, unavailable(err)
	}
	if held := p.ca(); held != nil && bytes.Equal(held.sealed, sealed) {
		return held, nil
	}
	plain, err := p.keys.kek.Unwrap(ctx, sealed, sealAAD(sealedCA))
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	a, err := ca.Parse(plain, p.opt.Now)
	if err != nil {
		return nil, err
	}
	held := &heldAuthority{a, sealed}
	p.authority.held.Store(held)
	return held, nil
}

// changeAuthority applies change to the authority as the store has it, and
// stores what became of it in one step: of two replicas at once, the slower
// begins again with what the faster left. Then it is on record, in force, and
// told to the planes. A change that reports false is none.
func (p *Plane) changeAuthority(ctx context.Context, action string, detail map[string]string, change func(*ca.Authority) (bool, error)) error {
	changed, err := p.swapAuthority(ctx, change)
	if err != nil || !changed {
		return err
	}
	now := p.ca()
	e := audit.Event{Class: audit.ClassKey, Action: action, Outcome: audit.Allowed, Control: authorityControl, Resource: "ca:" + now.TrustDomain(), Detail: describe(now.Authority)}
	for k, v := range detail {
		e.Detail[k] = v
	}
	return errors.Join(p.opt.Audit.Record(ctx, e), p.settle(ctx))
}

// describe is what the record says of an authority.
func describe(a *ca.Authority) map[string]string {
	step, _ := a.Step()
	out := map[string]string{"step": string(step), "version": fmt.Sprint(a.Version())}
	for i, root := range a.Roots() {
		out[fmt.Sprint("root_", i)] = svid.KeyID(root.Certificate)
	}
	if c, ok := a.Issuing(); ok {
		out["issuing"] = svid.KeyID(c.Certificate)
	}
	return out
}

func (p *Plane) swapAuthority(ctx context.Context, change func(*ca.Authority) (bool, error)) (bool, error) {
	p.authority.mu.Lock()
	defer p.authority.mu.Unlock()
	for range authoritySwaps {
		held, err := p.loadAuthority(ctx)
		if err != nil {
			return false, err
		}
		next := held.Clone()
		if changed, err := change(next); err != nil || !changed {
			return false, err
		}
		sealed, err := p.sealAuthority(ctx, next)
		if err != nil {
			return false, err
		}
		won, err := p.opt.Store.SwapSealed(ctx, sealedCA, held.sealed, sealed)
		if err != nil {
			return false, unavailable(err)
		}
		if won {
			p.authority.held.Store(&heldAuthority{next, sealed})
			return true, nil
		}
	}
	return false, rampart.Errorf(rampart.Conflict, "", "control: the authority is being changed elsewhere; try again")
}

func (p *Plane) sealAuthority(ctx context.Context, a *ca.Authority) ([]byte, error) {
	plain, err := a.Marshal()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return p.keys.kek.Wrap(ctx, plain, sealAAD(sealedCA))
}

// settle brings everything that goes by the authority to where it is: the
// control plane's own certificate first, then whom it believes, the file of the
// roots, and the planes. What fails is tried again by followAuthority.
func (p *Plane) settle(ctx context.Context) error {
	p.authority.settling.Lock()
	defer p.authority.settling.Unlock()
	held, told := p.ca(), p.authority.told
	if held == told || p.keys == nil {
		return nil
	}
	if err := p.ownByCurrent(ctx, held); err != nil {
		return err
	}
	t := p.trust()
	if err := p.believe(t); err != nil {
		return err
	}
	if err := p.opt.State.WriteFile("ca.pem", t.Roots, 0o644); err != nil {
		return err
	}
	if told != nil && told.Version() != held.Version() {
		p.hub.trust(t)
	}
	p.authority.told = held
	return nil
}

// ownByCurrent renews the control plane's own certificate if another issuing
// certificate signs now.
func (p *Plane) ownByCurrent(ctx context.Context, held *heldAuthority) error {
	issuing, ok := held.Issuing()
	own, err := p.svid.Current()
	if !ok || err == nil && bytes.Equal(own.Certificate.Certificate[1], issuing.Raw) {
		return nil
	}
	return p.renewOwn(ctx)
}

// believe makes the control plane go by a trust itself.
func (p *Plane) believe(t *wire.Trust) error {
	if now := p.svid.Trust(); now != nil && now.Version() >= t.Version {
		return nil
	}
	trust, err := svid.NewTrust(t.Version, p.system().Info.TrustDomain, t.Roots, t.Federated)
	if err != nil {
		return err
	}
	return p.svid.SetTrust(trust)
}

// trust is what planes should believe now.
func (p *Plane) trust() *wire.Trust {
	held := p.ca()
	t := &wire.Trust{Version: held.Version(), Roots: held.BundlePEM()}
	for _, root := range held.Roots() {
		if root.Signs {
			t.Signs = svid.KeyID(root.Certificate)
		}
	}
	for _, add := range p.authority.parts {
		add(t)
	}
	return t
}

// trustChanged gives the trust a new version, and tells the planes: something
// that a part of it adds has changed. Call it once for all replicas, after what
// changed is stored.
func (p *Plane) trustChanged(ctx context.Context) error {
	return p.changeAuthority(ctx, "ca.trust", nil, func(a *ca.Authority) (bool, error) {
		a.Touch()
		return true, nil
	})
}

// trust publishes whom to believe.
func (h *hub) trust(t *wire.Trust) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "trust", Trust: t})
}

// followAuthority takes over what another replica did, and tries again what
// settle could not do.
func (p *Plane) followAuthority(ctx context.Context) error {
	if err := p.reloadAuthority(ctx); err != nil {
		return err
	}
	return p.settle(ctx)
}

// tendAuthority does what is due: a new issuing certificate, and the steps of a
// rotation by their timers. A step that has to wait is tried again.
func (p *Plane) tendAuthority(ctx context.Context) {
	errs := []error{p.settle(ctx), p.renewIssuing(ctx), p.stepByTimer(ctx)}
	if p.ca().WantsIssuing() {
		errs = append(errs, p.wantIssuing(ctx))
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "the authority could not be looked after", slog.Any("error", err))
	}
}

// renewIssuing replaces the issuing certificate at half its life.
func (p *Plane) renewIssuing(ctx context.Context) error {
	if changed, err := p.ca().Clone().RenewIssuing(); err != nil || !changed {
		return err
	}
	return p.changeAuthority(ctx, "ca.issuing", nil, (*ca.Authority).RenewIssuing)
}

// wantIssuing has an issuing certificate signed elsewhere: by the authority
// above, or by a person, who is asked once a day.
func (p *Plane) wantIssuing(ctx context.Context) error {
	if p.ca().Kind() == ca.Upstream {
		return p.askUpstream(ctx)
	}
	if now := p.opt.Now(); now.Sub(p.authority.warned) >= 24*time.Hour {
		p.authority.warned = now
		issuing, _ := p.ca().Issuing()
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "the issuing certificate must be signed by hand; see: rampart ca status", slog.Time("ends", issuing.NotAfter))
	}
	return nil
}

// askUpstream has the authority above sign the next issuing certificate. Of two
// replicas both may ask, for one key; the first answer counts.
func (p *Plane) askUpstream(ctx context.Context) error {
	signer, err := p.upstream()
	if err != nil {
		return err
	}
	var csr []byte
	err = p.changeAuthority(ctx, "ca.request", nil, func(a *ca.Authority) (changed bool, err error) {
		csr, changed, err = a.Request()
		return changed, err
	})
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	chain, err := signer.SignIntermediate(call, csr, p.ca().IssuingLife())
	if err != nil {
		return fmt.Errorf("the authority above did not sign: %w", err)
	}
	return p.importIssuing(ctx, chain)
}

func (p *Plane) importIssuing(ctx context.Context, chain [][]byte) error {
	return p.changeAuthority(ctx, "ca.import", nil, func(a *ca.Authority) (bool, error) { return true, a.Import(chain) })
}

// upstream is the authority above ours.
func (p *Plane) upstream() (ca.Signer, error) {
	if p.opt.Upstream != nil {
		return p.opt.Upstream, nil
	}
	u := p.system().Trust.Upstream
	if u == nil {
		return nil, errors.New("no authority stands above this one")
	}
	signer, ok := p.backends.signer(u.Backend, u.Mount)
	if !ok {
		return nil, rampart.Errorf(rampart.Unavailable, authorityControl, "control: backend %s of trust.upstream signs no certificates", u.Backend)
	}
	return signer, nil
}

// signer is the PKI engine of a backend, if it has one.
func (b *backends) signer(name, mount string) (ca.Signer, bool) {
	at, ok := b.from[name].(interface {
		Signer(mount string) (ca.Signer, bool)
	})
	if !ok {
		return nil, false
	}
	return at.Signer(mount)
}

// renewOwn gives the control plane itself a new certificate.
func (p *Plane) renewOwn(ctx context.Context) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	id := p.system().ControlID()
	c, err := p.certify(ctx, "own", id, func(a *ca.Authority) (ca.Certificate, error) { return a.Sign(csr, id, p.issueOptions()) })
	if err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "svid.own", Outcome: audit.Allowed, Control: authorityControl, Subject: id, Detail: certDetail(c)}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	snap, err := svid.NewSnapshot(c.Chain, key, p.ca().BundlePEM())
	if err != nil {
		return err
	}
	p.svid.Set(snap)
	return nil
}
