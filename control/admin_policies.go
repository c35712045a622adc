package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// maxPush bounds what brings policies: a bundle, or its files, in base64.
const maxPush = bundle.MaxUnpacked*4/3 + 1<<20

func (p *Plane) adminPolicyRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminPolicies:  p.adminPolicyStatus,
		"POST " + wire.AdminPolicies: p.adminPushPolicies,
	}
}

func (p *Plane) adminPolicyStatus(r *http.Request, _ *audit.Event) (any, error) {
	return p.policyStatus(r.Context()), nil
}

func (p *Plane) policyStatus(ctx context.Context) wire.PolicyStatus {
	p.policies.mu.Lock()
	now := p.policies.now
	keys, err := p.policyKeysLocked()
	p.policies.mu.Unlock()
	if err != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "policy keys", slog.Any("error", err))
	}
	st := wire.PolicyStatus{
		Version: now.Version, Digest: now.Digest, Created: now.Created, Expires: now.Expires, Key: now.Key, From: now.From,
		Own: p.ownPolicies(), Shadow: now.Trial, Keys: slices.Sorted(maps.Keys(keys)), Planes: []wire.PlanePolicies{},
	}
	st.Kept = slices.Clone(now.Kept)
	slices.Sort(st.Kept)
	slices.Reverse(st.Kept)
	at := p.opt.Now()
	for _, s := range p.planes.all() {
		if decides(s.hb.Plane) {
			st.Planes = append(st.Planes, wire.PlanePolicies{Plane: s.hb.Plane, Version: s.hb.Policy, Shadow: s.hb.Shadow, Refused: s.hb.Refused, SeenSeconds: at.Sub(s.at).Seconds()})
		}
	}
	return st
}

// adminPushPolicies takes new policies. Rolling back is shipping old content as
// a new version: nothing older than what a plane runs ever becomes active there.
func (p *Plane) adminPushPolicies(r *http.Request, e *audit.Event) (any, error) {
	var q wire.PolicyPush
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	select {
	case p.policies.trying <- struct{}{}:
		defer func() { <-p.policies.trying }()
	case <-r.Context().Done():
		return nil, unavailable(r.Context().Err())
	}
	now, err := p.pushPolicies(r.Context(), q)
	e.Resource = "policies"
	if refused, ok := errors.AsType[*bundle.Error](err); ok {
		e.Code = string(refused.Code)
		return nil, rampart.Errorf(rampart.Invalid, controlBundle, "control: the policies are refused (%s): %s", refused.Code, refused.Err)
	}
	if err != nil {
		return nil, err
	}
	e.Detail["version"] = strconv.FormatUint(cmp.Or(now.Trial, now.Version), 10)
	return p.policyStatus(r.Context()), nil
}

// pushPolicies does what an administrator asks for and returns what is shipped
// then. What takes long, reading and trying policies, is done before the lock is
// held that planes wait for.
func (p *Plane) pushPolicies(ctx context.Context, q wire.PolicyPush) (shipped, error) {
	ship, err := p.preparePush(ctx, q)
	if err != nil {
		return shipped{}, err
	}
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	err = ship()
	return p.policies.now, err
}

// preparePush tries what is pushed. What it returns ships it, under the lock.
func (p *Plane) preparePush(ctx context.Context, q wire.PolicyPush) (shipLocked func() error, err error) {
	switch {
	case q.Bundle != nil && q.Set == nil && q.Rollback == 0:
		return p.prepareSigned(ctx, q.Bundle, q.Shadow)
	case q.Rollback != 0 && q.Bundle == nil && q.Set == nil && !q.Shadow:
		return p.prepareRollback(ctx, q.Rollback)
	case q.Set != nil && q.Bundle == nil && q.Rollback == 0:
		return p.prepareSet(ctx, q)
	case q.Shadow && q.Set == nil && q.Bundle == nil && q.Rollback == 0:
		return func() error { return p.tryOutLocked(ctx, nil, bundle.Floor{}) }, nil
	}
	return nil, rampart.Errorf(rampart.Invalid, controlBundle, "control: want a signed bundle, a set, or a version to roll back to")
}

// mustSign refuses to sign where the file names others who do.
func (p *Plane) mustSign() error {
	if p.ownPolicies() {
		return nil
	}
	return rampart.Errorf(rampart.Denied, controlBundle, "control: authz.bundle.keys says who signs policies, and the control plane is not among them; sign a bundle with: rampart policy sign --key FILE")
}

func (p *Plane) prepareSet(ctx context.Context, q wire.PolicyPush) (func() error, error) {
	if err := p.mustSign(); err != nil {
		return nil, err
	}
	var set pap.Set
	if err := json.Unmarshal(q.Set, &set); err != nil {
		return nil, rampart.Errorf(rampart.Invalid, controlBundle, "control: the set does not parse")
	}
	set.Files = q.Files
	if err := p.ours(set); err != nil {
		return nil, err
	}
	if err := p.tryPolicies(ctx, set); err != nil {
		return nil, err
	}
	if !q.Shadow {
		return func() error { return p.shipSetLocked(ctx, set, "push") }, nil
	}
	return func() error {
		raw, _, err := p.signLocked(set, p.policies.now.next())
		if err != nil {
			return err
		}
		b, err := p.openedLocked(raw, p.policies.now.floor())
		if err != nil {
			return err
		}
		return p.tryOutLocked(ctx, raw, bundle.Floor{Version: b.Manifest.Version, Digest: b.Digest})
	}, nil
}

// prepareSigned passes on what somebody else signed. It is opened again when it
// ships, since another version may have come between.
func (p *Plane) prepareSigned(ctx context.Context, raw []byte, shadow bool) (func() error, error) {
	b, err := p.openedPolicies(raw)
	if err != nil {
		return nil, err
	}
	if err := p.ours(b.Set); err != nil {
		return nil, err
	}
	if err := p.tryPolicies(ctx, b.Set); err != nil {
		return nil, err
	}
	if !shadow {
		return func() error { return p.shipLocked(ctx, raw, b.Manifest, "push") }, nil
	}
	return func() error {
		if _, err := p.openedLocked(raw, p.policies.now.floor()); err != nil {
			return err
		}
		return p.tryOutLocked(ctx, raw, bundle.Floor{Version: b.Manifest.Version, Digest: b.Digest})
	}, nil
}

func (p *Plane) openedPolicies(raw []byte) (*bundle.Bundle, error) {
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	return p.openedLocked(raw, p.policies.now.floor())
}

// tryOutLocked ships a candidate, or takes the present one off when raw is nil.
func (p *Plane) tryOutLocked(ctx context.Context, raw []byte, version bundle.Floor) error {
	next := p.policies.now
	next.Shadow, next.Trial = raw, version.Version
	if raw != nil {
		next.Last = version
	}
	return p.putPoliciesLocked(ctx, next)
}

func (p *Plane) prepareRollback(ctx context.Context, version uint64) (func() error, error) {
	if err := p.mustSign(); err != nil {
		return nil, err
	}
	old, err := p.keptVersion(ctx, version)
	if err != nil {
		return nil, err
	}
	set, err := p.setOf(old)
	if err != nil {
		return nil, err
	}
	if err := p.tryPolicies(ctx, set); err != nil {
		return nil, err
	}
	return func() error { return p.shipSetLocked(ctx, set, "rollback of "+strconv.FormatUint(version, 10)) }, nil
}
