package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// Names of what the store keeps sealed of policies.
const (
	sealedPolicy   = "key:policy"
	sealedPolicies = "policies"
)

const (
	controlBundle = "policy.bundle"
	keptPolicies  = 16                  // versions that can be shipped again
	renewPolicies = 30 * 24 * time.Hour // a bundle is signed anew at half its life, or after this
	policySwaps   = 4
	policyTests   = 30 * time.Second // all tests of a set together
	// policyKeyLife is how long a key stays published after its last signature:
	// longer than a bundle goes unrenewed.
	policyKeyLife = renewPolicies + 15*24*time.Hour
)

// shipped is what planes are to decide by, as the store keeps it.
type shipped struct {
	Version  uint64    `json:"version"`
	Digest   string    `json:"digest"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Key      string    `json:"key"`
	From     string    `json:"from"`
	Content  string    `json:"content"`   // bundle.SetDigest
	FromFile string    `json:"from_file"` // the same of rampart.yaml, when it was last read
	Bundle   []byte    `json:"bundle"`
	Shadow   []byte    `json:"shadow,omitempty"`
	Trial    uint64    `json:"trial,omitempty"` // version of Shadow
	// Last is the highest version that was ever given out, on trial too.
	Last bundle.Floor `json:"last,omitzero"`
	// Kept are the versions before that can be shipped again, by their place in
	// the store; at most keptPolicies.
	Kept []uint64 `json:"kept,omitempty"`
}

// floor is below which no bundle is shipped: two that differ never have one
// version, whatever became of the first.
func (s shipped) floor() bundle.Floor {
	if s.Last.Version > s.Version {
		return s.Last
	}
	return bundle.Floor{Version: s.Version, Digest: s.Digest}
}

// next is the version of what the control plane signs next.
func (s shipped) next() uint64 { return max(s.Version, s.Trial, s.Last.Version) + 1 }

// policies hold what is shipped. The zero value ships nothing.
type policies struct {
	trying chan struct{} // full while what was pushed is tried, before mu is held: one at a time
	mu     sync.Mutex    // held while the policies or their keys change
	now    shipped
	sealed []byte // now, as the store has it
	ring   *jwt.Ring
}

// ownPolicies reports whether the control plane signs: as long as the file
// names nobody else.
func (p *Plane) ownPolicies() bool { return len(p.system().Authz.Bundle.Keys) == 0 }

// openPolicies takes in what was shipped before, and ships what rampart.yaml
// says if that has changed since.
func (p *Plane) openPolicies(ctx context.Context) error {
	pol := &p.policies
	pol.mu.Lock()
	defer pol.mu.Unlock()
	plain, err := p.keys.open(ctx, p.opt, sealedPolicy, func() ([]byte, error) {
		ring, err := jwt.NewRing(ringOptions(sealedPolicy), nil, p.opt.Now())
		if err != nil {
			return nil, err
		}
		return ring.Marshal()
	})
	if err != nil {
		return err
	}
	pol.ring, err = parseRing(sealedPolicy, plain, p.opt.Now())
	clear(plain)
	if err != nil {
		return fmt.Errorf("%s: %w", sealedPolicy, err)
	}
	if err := p.readPoliciesLocked(ctx); err != nil {
		return err
	}
	if !p.ownPolicies() {
		p.warnForeignLocked(ctx)
		return nil
	}
	return p.shipFileLocked(ctx)
}

// warnForeignLocked says when the planes have nothing to decide by, and how they
// get it: the control plane has no key to help itself.
func (p *Plane) warnForeignLocked(ctx context.Context) {
	now := p.policies.now
	keys, err := p.policyKeysLocked()
	if err == nil && now.Version > 0 {
		_, err = bundle.Open(bytes.NewReader(now.Bundle), bundle.Trust{System: p.system().Info.TrustDomain, Keys: keys, Now: p.opt.Now()})
	}
	if err == nil && now.Version == 0 {
		err = errors.New("none was pushed yet")
	}
	if err == nil {
		return
	}
	p.opt.Logger.LogAttrs(ctx, slog.LevelError, "THERE ARE NO POLICIES: every plane denies. authz.bundle.keys says that the control plane may not sign them; "+
		"sign the bundle with `rampart policy sign --key FILE` and bring it with `rampart policy push --bundle FILE`", slog.Any("error", err))
}

// policyKeysLocked are those whose signatures count.
func (p *Plane) policyKeysLocked() (bundle.Keys, error) {
	if !p.ownPolicies() {
		return bundle.ParseKeys(p.system().Authz.Bundle.Keys)
	}
	public, err := p.policies.ring.Public()
	if err != nil {
		return nil, err
	}
	return bundle.ParseJWKS(public)
}

// readPoliciesLocked reads what is shipped from the store.
func (p *Plane) readPoliciesLocked(ctx context.Context) error {
	pol := &p.policies
	sealed, err := p.opt.Store.Sealed(ctx, sealedPolicies)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return unavailable(err)
	}
	if bytes.Equal(sealed, pol.sealed) {
		return nil
	}
	now, err := p.unsealPolicies(ctx, sealedPolicies, sealed)
	if err == nil {
		pol.now, pol.sealed = now, sealed
	}
	return err
}

func (p *Plane) unsealPolicies(ctx context.Context, name string, sealed []byte) (shipped, error) {
	var now shipped
	plain, err := p.keys.kek.Unwrap(ctx, sealed, sealAAD(name))
	if err != nil {
		return now, err
	}
	return now, json.Unmarshal(plain, &now)
}

// shipFileLocked ships the policies of rampart.yaml, unless they are what it said
// at the start before: then whatever was pushed since stays.
func (p *Plane) shipFileLocked(ctx context.Context) error {
	set := pap.FromSystem(p.system())
	content, err := bundle.SetDigest(set)
	if err != nil {
		return err
	}
	now := p.policies.now
	switch {
	case now.Version == 0:
		return p.tryAndShipLocked(ctx, set) // the first start: whoever starts it sees what is wrong
	case content == now.FromFile || content == now.Content:
		return p.renewPoliciesLocked(ctx)
	}
	if err := p.tryAndShipLocked(ctx, set); err != nil {
		e := audit.Event{Class: audit.ClassConfig, Action: "policy.ship", Control: controlBundle, Resource: "rampart.yaml", Outcome: audit.Refused, Code: codeOfPolicies(err), Detail: map[string]string{"error": err.Error()}}
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "the policies of rampart.yaml are refused, the last good ones stay", slog.Any("error", err))
		return p.opt.Audit.Record(ctx, e)
	}
	return nil
}

// tryAndShipLocked ships rampart.yaml. At the start no plane waits for the lock.
func (p *Plane) tryAndShipLocked(ctx context.Context, set pap.Set) error {
	if err := p.tryPolicies(ctx, set); err != nil {
		return err
	}
	return p.shipSetLocked(ctx, set, "rampart.yaml")
}

func codeOfPolicies(err error) string {
	if e, ok := errors.AsType[*bundle.Error](err); ok {
		return string(e.Code)
	}
	return ""
}

// shipSetLocked signs a set that was tried as the next version and ships it.
func (p *Plane) shipSetLocked(ctx context.Context, set pap.Set, from string) error {
	raw, b, err := p.signLocked(set, p.policies.now.next())
	if err != nil {
		return err
	}
	return p.shipLocked(ctx, raw, b, from)
}

// signLocked makes a bundle with the key that signs now.
func (p *Plane) signLocked(set pap.Set, version uint64) ([]byte, bundle.Manifest, error) {
	now := p.opt.Now()
	draft, err := bundle.Build(set, bundle.Stamp{System: p.system().Info.TrustDomain, Version: version, Created: now, Expires: now.Add(p.policyLife())})
	if err != nil {
		return nil, bundle.Manifest{}, err
	}
	der, err := p.policies.ring.Signer(now).MarshalKey()
	if err != nil {
		return nil, bundle.Manifest{}, err
	}
	defer clear(der)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, bundle.Manifest{}, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, bundle.Manifest{}, errors.New("control: the policy key is not Ed25519")
	}
	raw, err := draft.Sign(private)
	return raw, draft.Manifest, err
}

func (p *Plane) policyLife() time.Duration {
	if d := time.Duration(p.system().Authz.Bundle.Expires); d > 0 {
		return d
	}
	return renewPolicies
}

// tryPolicies refuses what planes would refuse: policies that do not load, and
// tests that fail, or have no end. It needs no lock, and must not have one while
// planes wait.
func (p *Plane) tryPolicies(ctx context.Context, set pap.Set) error {
	ctx, cancel := context.WithTimeout(ctx, policyTests)
	defer cancel()
	if err := p.fits(set); err != nil {
		return err
	}
	for _, name := range p.deciders(set) {
		if err := ctx.Err(); err != nil {
			return unavailable(err)
		}
		if _, err := pdp.New(set.Options(name)); err != nil {
			return &bundle.Error{Code: bundle.CodeCompile, Err: fmt.Errorf("%s: %w", decider(name), err)}
		}
		if p.opt.TestPolicies == nil || len(set.Services[name].Tests) == 0 {
			continue
		}
		if err := p.opt.TestPolicies(ctx, set, name); err != nil {
			return &bundle.Error{Code: bundle.CodeTests, Err: fmt.Errorf("service %s: %w", name, err)}
		}
	}
	return nil
}

// shipLocked makes a bundle durable, then tells the planes.
func (p *Plane) shipLocked(ctx context.Context, raw []byte, m bundle.Manifest, from string) error {
	b, err := p.openedLocked(raw, p.policies.now.floor())
	if err != nil {
		return err
	}
	next := p.policies.now
	next.Version, next.Digest, next.Created, next.Expires, next.Key, next.From = m.Version, b.Digest, m.Created, m.Expires, b.KeyID, from
	next.Bundle, next.Shadow, next.Trial, next.Last = raw, nil, 0, bundle.Floor{Version: m.Version, Digest: b.Digest}
	if next.Content, err = bundle.SetDigest(b.Set); err != nil {
		return err
	}
	if from == "rampart.yaml" {
		next.FromFile = next.Content
	}
	e := audit.Event{Class: audit.ClassConfig, Action: "policy.ship", Outcome: audit.Allowed, Control: controlBundle, Resource: from,
		Detail: map[string]string{"version": strconv.FormatUint(m.Version, 10), "digest": b.Digest, "key": b.KeyID}}
	if err := p.opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	if next.Kept, err = p.keepVersion(ctx, p.policies.now); err != nil {
		return err
	}
	return p.putPoliciesLocked(ctx, next)
}

// openedLocked reads a bundle as planes will.
func (p *Plane) openedLocked(raw []byte, floor bundle.Floor) (*bundle.Bundle, error) {
	keys, err := p.policyKeysLocked()
	if err != nil {
		return nil, err
	}
	return bundle.Open(bytes.NewReader(raw), bundle.Trust{System: p.system().Info.TrustDomain, Keys: keys, Floor: floor, Now: p.opt.Now()})
}

// putPoliciesLocked stores what is shipped, in one step against other replicas,
// and publishes it.
func (p *Plane) putPoliciesLocked(ctx context.Context, next shipped) error {
	plain, err := json.Marshal(next)
	if err != nil {
		return err
	}
	sealed, err := p.keys.kek.Wrap(ctx, plain, sealAAD(sealedPolicies))
	if err != nil {
		return err
	}
	won, err := p.opt.Store.SwapSealed(ctx, sealedPolicies, p.policies.sealed, sealed)
	if err != nil {
		return unavailable(err)
	}
	if !won {
		err := p.readPoliciesLocked(ctx)
		return errors.Join(rampart.Errorf(rampart.Conflict, controlBundle, "control: the policies are being changed elsewhere; try again"), err)
	}
	p.policies.now, p.policies.sealed = next, sealed
	p.hub.policies(next.Bundle, next.Shadow)
	return nil
}

// fits refuses another model of relations than that of the configuration in
// force: sidecars read it with their configuration, and refuse any other.
func (p *Plane) fits(set pap.Set) error {
	sys := p.system()
	if model, _ := sys.Resource(sys.Authz.Model); !bytes.Equal(set.Files[set.Model], model) {
		return &bundle.Error{Code: bundle.CodeCompile, Err: errors.New("the model of relations changes with rampart.yaml and a restart; push the other policies with the model that runs, or restart with the new file")}
	}
	return nil
}

// ours refuses what was made from the file of another system.
func (p *Plane) ours(set pap.Set) error {
	info := p.system().Info
	if set.System == info.Name && set.Domain == info.TrustDomain {
		return nil
	}
	return &bundle.Error{Code: bundle.CodeSystem, Err: fmt.Errorf("they are of system %.100q (trust domain %.100q), and this is %q (%q); push the file that this system was started from", set.System, set.Domain, info.Name, info.TrustDomain)}
}

// deciders are the services that will decide by a set, those of the
// configuration in force and those of the set, and "", the gateway.
func (p *Plane) deciders(set pap.Set) []string {
	names := map[string]bool{"": true}
	for name := range set.Services {
		names[name] = true
	}
	for name, svc := range p.system().Services {
		if len(svc.Policy) > 0 {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func decider(service string) string {
	if service == "" {
		return "the gateway"
	}
	return "service " + service
}

// slot names one of the places in which versions are kept.
func slot(i int) string { return fmt.Sprintf("%s/%02d", sealedPolicies, i) }

// keepVersion keeps what is about to be replaced for a later rollback, in a free
// place or that of the oldest, and returns what is kept then. All replicas that
// do so at once write the same: who wins comes after.
func (p *Plane) keepVersion(ctx context.Context, s shipped) ([]uint64, error) {
	if s.Version == 0 {
		return nil, nil
	}
	kept, i := slices.Clone(s.Kept), len(s.Kept)
	if i < keptPolicies {
		kept = append(kept, s.Version)
	} else {
		i = slices.Index(kept, slices.Min(kept))
		kept[i] = s.Version
	}
	s.Shadow, s.Kept = nil, nil
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sealed, err := p.keys.kek.Wrap(ctx, plain, sealAAD(slot(i)))
	if err != nil {
		return nil, err
	}
	err = p.opt.Store.PutSealed(ctx, slot(i), sealed)
	if errors.Is(err, store.ErrExists) {
		err = p.opt.Store.ReplaceSealed(ctx, slot(i), sealed)
	}
	return kept, unavailable(err)
}

// keptVersion returns a version that was shipped before, or is now.
func (p *Plane) keptVersion(ctx context.Context, version uint64) (shipped, error) {
	p.policies.mu.Lock()
	now := p.policies.now
	p.policies.mu.Unlock()
	if version == now.Version {
		return now, nil
	}
	gone := rampart.Errorf(rampart.NotFound, controlBundle, "control: version %d is not kept", version)
	i := slices.Index(now.Kept, version)
	if i < 0 {
		return shipped{}, gone
	}
	sealed, err := p.opt.Store.Sealed(ctx, slot(i))
	if errors.Is(err, store.ErrNotFound) {
		return shipped{}, gone
	}
	if err != nil {
		return shipped{}, unavailable(err)
	}
	s, err := p.unsealPolicies(ctx, slot(i), sealed)
	if err == nil && s.Version != version {
		err = gone
	}
	return s, err
}

// renewPoliciesLocked signs the same policies anew, as the next version, before
// they expire or when their key was revoked. Only what the control plane signed
// it can sign again.
func (p *Plane) renewPoliciesLocked(ctx context.Context) error {
	now, t := p.policies.now, p.opt.Now()
	if !p.ownPolicies() || now.Version == 0 {
		return nil
	}
	keys, err := p.policyKeysLocked()
	if err != nil {
		return err
	}
	_, trusted := keys[now.Key]
	if age := t.Sub(now.Created); trusted && age < min(renewPolicies, now.Expires.Sub(now.Created)/2) {
		return nil
	}
	set, err := p.setOf(now)
	if err != nil {
		return err
	}
	raw, m, err := p.signLocked(set, now.next())
	if err != nil {
		return err
	}
	return p.shipLocked(ctx, raw, m, now.From)
}

// setOf reads the set of a bundle that this control plane shipped, whoever
// signed it and whenever: the seal of the store vouches for it.
func (p *Plane) setOf(s shipped) (pap.Set, error) {
	return bundle.Content(s.Bundle, s.Digest)
}

// renewPolicies is called by housekeeping.
func (p *Plane) renewPolicies(ctx context.Context) {
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	if err := p.renewPoliciesLocked(ctx); err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "policies not renewed", slog.Any("error", err))
	}
}

// followPolicies takes in what another control plane shipped.
func (p *Plane) followPolicies(ctx context.Context) error {
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	before := p.policies.sealed
	if err := p.readPoliciesLocked(ctx); err != nil {
		return err
	}
	if !bytes.Equal(before, p.policies.sealed) {
		p.hub.policies(p.policies.now.Bundle, p.policies.now.Shadow)
	}
	return nil
}

// publicKeys are all that planes verify with.
func (p *Plane) publicKeys() wire.Keys {
	keys := p.tokens.Keys()
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	if p.ownPolicies() {
		keys.Policy, _ = p.policies.ring.Public()
	}
	return keys
}

// changePolicyRing applies change to the ring of policy keys and reports whether
// it did. The caller publishes the keys, and signs the policies anew in case
// that their key went.
func (p *Plane) changePolicyRing(ctx context.Context, action string, change func(*jwt.Ring) (bool, error)) (bool, error) {
	p.policies.mu.Lock()
	ring, changed, err := p.keys.changeRing(ctx, sealedPolicy, p.opt.Now(), change)
	if err == nil {
		p.policies.ring = ring
	}
	p.policies.mu.Unlock()
	if err != nil || !changed {
		return false, err
	}
	return true, p.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassKey, Action: action, Outcome: audit.Allowed, Control: controlBundle, Resource: sealedPolicy,
		Detail: map[string]string{"active": ring.Signer(p.opt.Now()).KeyID()},
	})
}

// decides reports whether a plane answers by policies.
func decides(plane string) bool {
	return strings.HasPrefix(plane, "gateway/") || strings.HasPrefix(plane, "sidecar/")
}

// policiesFor returns what a plane is to decide by.
func (p *Plane) policiesFor(id identity) (newest, shadow []byte) {
	if !decides(id.plane()) {
		return nil, nil
	}
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	return p.policies.now.Bundle, p.policies.now.Shadow
}

// policies publishes the newest bundle, and the candidate beside it.
func (h *hub) policies(newest, shadow []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "policies", Policies: newest, Shadow: shadow})
}

// bounded cuts what a plane says of refused bundles to what is kept of it.
func bounded(list []wire.Refused) []wire.Refused {
	list = list[:min(len(list), wire.MaxRefused)]
	for i, r := range list {
		list[i].Code, list[i].Reason = r.Code[:min(len(r.Code), wire.MaxReasonCode)], r.Reason[:min(len(r.Reason), wire.MaxReason)]
	}
	return list
}
