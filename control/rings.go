package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/token"
)

// ringSwaps bounds how often a change of a ring is tried again when another
// replica was faster.
const ringSwaps = 4

// ringNames are the rings by the name that they are sealed under.
func ringNames() []string { return []string{sealedInternal, sealedEdge, sealedID} }

// ringOptions says what keys a ring has.
func ringOptions(name string) jwt.RingOptions {
	switch name {
	case sealedInternal:
		return jwt.RingOptions{Generate: jwt.GenerateInternal, MaxLife: token.InternalKeyLife}
	case sealedEdge:
		return jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: token.EdgeKeyLife}
	case sealedPolicy:
		return jwt.RingOptions{Generate: jwt.GenerateInternal, MaxLife: policyKeyLife}
	case sealedSVID:
		return jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: jwt.SVIDLife, Ahead: svidKeyAhead}
	}
	return jwt.RingOptions{Generate: jwt.GenerateRSA, MaxLife: token.IDKeyLife}
}

// ringOf returns the place of a ring.
func ringOf(r *token.Rings, name string) **jwt.Ring {
	switch name {
	case sealedInternal:
		return &r.Internal
	case sealedEdge:
		return &r.Edge
	}
	return &r.ID
}

// openRings opens the rings of the store, making those that are missing.
func (k *keys) openRings(ctx context.Context, opt Options) (token.Rings, error) {
	var rings token.Rings
	for _, name := range ringNames() {
		plain, err := k.open(ctx, opt, name, func() ([]byte, error) {
			ring, err := jwt.NewRing(ringOptions(name), nil, opt.Now())
			if err != nil {
				return nil, err
			}
			return ring.Marshal()
		})
		if err != nil {
			return rings, err
		}
		*ringOf(&rings, name), err = parseRing(name, plain, opt.Now())
		clear(plain)
		if err != nil {
			return rings, fmt.Errorf("%s: %w", name, err)
		}
	}
	return rings, nil
}

// parseRing reads a ring, or the single PKCS #8 key that was kept before there
// were rings: it becomes the first of one.
func parseRing(name string, plain []byte, now time.Time) (*jwt.Ring, error) {
	if bytes.HasPrefix(plain, []byte("{")) {
		return jwt.ParseRing(ringOptions(name), plain)
	}
	first, err := jwt.ParseSigner(plain)
	if err != nil {
		return nil, err
	}
	return jwt.NewRing(ringOptions(name), first, now)
}

// changeRing applies change to a ring as the store has it, and stores what it
// made of it in one step: of two replicas at once, the slower begins again with
// what the faster left. It returns the ring that is in force then.
func (k *keys) changeRing(ctx context.Context, name string, now time.Time, change func(*jwt.Ring) (bool, error)) (*jwt.Ring, bool, error) {
	for range ringSwaps {
		old, err := k.store.Sealed(ctx, name)
		if err != nil {
			return nil, false, unavailable(err)
		}
		ring, err := k.unsealRing(ctx, name, old, now)
		if err != nil {
			return nil, false, err
		}
		changed, err := change(ring)
		if err != nil || !changed {
			return ring, false, err
		}
		sealed, err := k.sealRing(ctx, name, ring)
		if err != nil {
			return nil, false, err
		}
		won, err := k.store.SwapSealed(ctx, name, old, sealed)
		if err != nil {
			return nil, false, unavailable(err)
		}
		if won {
			return ring, true, nil
		}
	}
	return nil, false, rampart.Errorf(rampart.Conflict, "", "control: the signing keys are being changed elsewhere; try again")
}

func (k *keys) unsealRing(ctx context.Context, name string, sealed []byte, now time.Time) (*jwt.Ring, error) {
	plain, err := k.kek.Unwrap(ctx, sealed, sealAAD(name))
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return parseRing(name, plain, now)
}

func (k *keys) sealRing(ctx context.Context, name string, ring *jwt.Ring) ([]byte, error) {
	plain, err := ring.Marshal()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return k.kek.Wrap(ctx, plain, sealAAD(name))
}

// changeKeys applies change to every ring, puts the rings in force and tells
// the planes. What other replicas did comes in by the same way. What is stored
// is in force even if something else fails.
func (p *Plane) changeKeys(ctx context.Context, action string, change func(*jwt.Ring) (bool, error)) error {
	p.rotating.Lock()
	defer p.rotating.Unlock()
	rings, now := p.tokens.Rings(), p.opt.Now()
	news, err := p.changePolicyRing(ctx, action, change)
	errs := []error{err}
	for _, name := range ringNames() {
		ring, changed, err := p.keys.changeRing(ctx, name, now, change)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*ringOf(&rings, name) = ring
		if changed {
			errs = append(errs, p.opt.Audit.Record(ctx, audit.Event{
				Class: audit.ClassKey, Action: action, Outcome: audit.Allowed, Control: "authn.jwt", Resource: name,
				Detail: map[string]string{"active": ring.Signer(now).KeyID()},
			}))
		}
	}
	errs = append(errs, p.putKeys(rings, news), p.changeSVIDRing(ctx, action, change))
	if news {
		p.renewPolicies(ctx)
	}
	return errors.Join(errs...)
}

// putKeys puts rings in force here and, if planes verify by other keys then or
// there is other news of keys, there.
func (p *Plane) putKeys(rings token.Rings, news bool) error {
	before := p.tokens.Keys()
	if err := p.tokens.SetRings(rings); err != nil {
		return err
	}
	if after := p.tokens.Keys(); news || !bytes.Equal(before.Internal, after.Internal) || !bytes.Equal(before.Edge, after.Edge) {
		p.hub.keys(p.publicKeys())
	}
	return nil
}

// advanceKeys makes the keys that are due and forgets those that are done.
func (p *Plane) advanceKeys(ctx context.Context) {
	now := p.opt.Now()
	err := p.changeKeys(ctx, "key.rotate", func(r *jwt.Ring) (bool, error) { return r.Advance(now) })
	if err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "signing keys not advanced", slog.Any("error", err))
	}
}

// RotateKeys makes the next signing key of every ring. It is published at once
// and signs ten minutes later; no token is refused for it.
func (p *Plane) RotateKeys(ctx context.Context) error {
	now := p.opt.Now()
	return p.changeKeys(ctx, "key.rotate", func(r *jwt.Ring) (bool, error) {
		pending := len(r.Status(now))
		err := r.Rotate(now)
		return len(r.Status(now)) != pending, err
	})
}

// SigningKey says how one signing key stands.
type SigningKey struct {
	Ring string // "internal", "edge", "id", "policy" or "jwt-svid"
	jwt.KeyStatus
}

// SigningKeys lists the signing keys, of each ring in the order in which they
// sign.
func (p *Plane) SigningKeys() []SigningKey {
	var out []SigningKey
	rings := p.tokens.Rings()
	for _, name := range ringNames() {
		for _, key := range (*ringOf(&rings, name)).Status(p.opt.Now()) {
			out = append(out, SigningKey{Ring: name[len("key:"):], KeyStatus: key})
		}
	}
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	for _, key := range p.policies.ring.Status(p.opt.Now()) {
		out = append(out, SigningKey{Ring: sealedPolicy[len("key:"):], KeyStatus: key})
	}
	p.workloads.mu.Lock()
	defer p.workloads.mu.Unlock()
	if p.workloads.ring != nil {
		for _, key := range p.workloads.ring.Status(p.opt.Now()) {
			out = append(out, SigningKey{Ring: sealedSVID[len("key:"):], KeyStatus: key})
		}
	}
	return out
}

// RevokeKey forgets a signing key that may be in other hands. Everything that
// it signed is refused at every plane, and its successor signs at once. An
// unknown kid is NotFound.
func (p *Plane) RevokeKey(ctx context.Context, kid string) error {
	found := false
	now := p.opt.Now()
	err := p.changeKeys(ctx, "key.revoke", func(r *jwt.Ring) (bool, error) {
		for _, key := range r.Status(now) {
			if key.ID == kid {
				found = true
				return true, r.Revoke(kid, now)
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	if !found {
		return rampart.Errorf(rampart.NotFound, "", "control: no signing key has this kid")
	}
	_, err = p.tokens.Revoke(ctx, "kid", kid)
	return err
}

// revoked tells the planes of a revocation that is durable. If it is of a
// signing key, whoever revoked it has changed the ring before: this replica must
// not go on with the old one.
func (p *Plane) revoked(ctx context.Context, v wire.Revocation) error {
	if v.Kind == "kid" {
		p.advanceKeys(ctx)
	}
	if v.Kind == wire.RevokedSerial || v.Kind == wire.RevokedIssuer {
		p.svid.Touch()
	}
	return p.hub.revoked(ctx, v)
}

// keys publishes the public keys that planes verify with.
func (h *hub) keys(k wire.Keys) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "keys", Keys: &k})
}
