package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

const (
	maxApply = (spec.MaxFile+spec.MaxResources)*4/3 + 1<<20 // a bundle in base64
	// policyWait bounds how long the planes may take to decide by the policies of a
	// new file before they get the file itself. One that takes longer judges its new
	// operations by the old policies meanwhile: what those do not permit is denied.
	policyWait = 5 * time.Second
	policyLook = 50 * time.Millisecond
	maxFrozen  = 12 // changes that one refusal names
	maxPath    = 4 << 10
)

// applying is how a changed file is put in force. The zero value is ready.
type applying struct {
	mu     sync.Mutex // held while the configuration changes
	sealed []byte     // of several control planes: the record that was read last
}

func (p *Plane) adminConfigRoutes() map[string]adminCall {
	return map[string]adminCall{"POST " + wire.AdminConfig: p.adminApply}
}

func (p *Plane) adminApply(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Apply
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if len(q.File) > maxPath {
		return nil, invalid("the name of the file is too long")
	}
	e.Resource = "config:" + q.Bundle.Digest[:min(len(q.Bundle.Digest), 64)]
	return p.apply(r.Context(), q, e)
}

// apply checks a configuration and puts it in force, everywhere or nowhere. The
// order is:
//
//  1. everything that can be refused is: its form, controls that it switches off,
//     what takes a restart, roles, documents, policies and their tests;
//  2. it goes on record;
//  3. new policies are shipped and the planes get a while to take them over, since
//     an operation must not be judged by policies that do not know it. One that was
//     there before is judged by the new policies from then on;
//  4. the configuration is made durable;
//  5. it is in force here, and planes are told.
//
// What fails before 3 has changed nothing. What fails at 3 or 4 brings the policies
// of before back, as a version of their own.
func (p *Plane) apply(ctx context.Context, q wire.Apply, e *audit.Event) (wire.Applied, error) {
	p.applying.mu.Lock()
	defer p.applying.mu.Unlock()
	now := p.living()
	out := wire.Applied{Old: now.sys.Bundle().Digest, New: q.Bundle.Digest}
	e.Detail["old"], e.Detail["new"] = out.Old, out.New[:min(len(out.New), 64)]
	next, err := p.examine(q)
	if err != nil {
		return out, err
	}
	if out.Changes = spec.Changes(now.sys, next.sys); out.Changes == nil {
		out.Changes = []spec.Change{}
	}
	if q.DryRun || out.New == out.Old {
		e.Class, e.Detail["changed"] = audit.ClassAPIRead, "nothing" // a question, which waits for no disk
		return out, nil
	}
	if err := refuseFrozen(out.Changes); err != nil {
		return out, err
	}
	if err := p.recordApply(ctx, *e, len(out.Changes)); err != nil {
		return out, err
	}
	back := func(context.Context) error { return nil }
	if out.Policy, back, err = p.shipPoliciesOf(ctx, next.sys); err == nil {
		err = p.keepConfig(ctx, next)
	}
	if err != nil {
		return out, errors.Join(err, back(context.WithoutCancel(ctx)))
	}
	p.enforce(next)
	e.Action = "" // config.apply has said it
	return out, nil
}

// examine checks all that can be checked before anything changes.
func (p *Plane) examine(q wire.Apply) (*living, error) {
	sys, err := spec.FromBundle(q.Bundle)
	if err == nil {
		err = sys.AdmitUnsafe(p.opt.State.Throwaway())
	}
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "control: " + err.Error(), Err: err}
	}
	next, err := p.opt.examined(sys, q.File)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "control: " + err.Error(), Err: err}
	}
	return next, nil
}

// refuseFrozen names what cannot change in a running system.
func refuseFrozen(changes []spec.Change) error {
	var text []string
	for _, c := range changes {
		if c.Why != "" && len(text) < maxFrozen {
			text = append(text, fmt.Sprintf("%s (line %d): %s", c.Key, c.Line, c.Why))
		}
	}
	if len(text) == 0 {
		return nil
	}
	return rampart.Errorf(rampart.Conflict, "", "control: this cannot change in a running system: %s", strings.Join(text, "; "))
}

// recordApply puts on record what is about to be in force.
func (p *Plane) recordApply(ctx context.Context, e audit.Event, changes int) error {
	return p.opt.Audit.Record(ctx, audit.Event{
		Class: audit.ClassConfig, Action: "config.apply", Outcome: audit.Allowed, Actor: e.Actor, Resource: e.Resource,
		Detail: map[string]string{"old": e.Detail["old"], "new": e.Detail["new"], "changes": strconv.Itoa(changes)},
	})
}

// shipPoliciesOf ships the policies of a file, if they are others than those that
// the file before brought, and waits a while for the planes. back ships those of
// before again. Where others sign, policies come by `rampart policy push` alone.
func (p *Plane) shipPoliciesOf(ctx context.Context, sys *spec.System) (version uint64, back func(context.Context) error, err error) {
	back = func(context.Context) error { return nil }
	if !p.ownPolicies() {
		return 0, back, nil
	}
	set := pap.FromSystem(sys)
	content, err := bundle.SetDigest(set)
	if err != nil {
		return 0, back, err
	}
	p.policies.mu.Lock()
	before := p.policies.now
	p.policies.mu.Unlock()
	if content == before.FromFile || content == before.Content {
		return 0, back, nil
	}
	if err := p.tryPolicies(ctx, set); err != nil {
		return 0, back, &rampart.Error{Kind: rampart.Invalid, Control: controlBundle, Msg: "control: the policies of this file are refused: " + err.Error(), Err: err}
	}
	if version, err = p.shipFrom(ctx, set); err != nil {
		return 0, back, err
	}
	back = func(ctx context.Context) error { return p.shipAgain(ctx, before) }
	return version, back, p.awaitPolicies(ctx, version)
}

// shipFrom ships the policies of a file.
func (p *Plane) shipFrom(ctx context.Context, set pap.Set) (uint64, error) {
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	err := p.shipSetLocked(ctx, set, "rampart.yaml")
	return p.policies.now.Version, err
}

// shipAgain ships what was shipped before, as a version of its own: two that differ
// never have one version.
func (p *Plane) shipAgain(ctx context.Context, before shipped) error {
	ctx, cancel := context.WithTimeout(ctx, policyTests)
	defer cancel()
	p.policies.mu.Lock()
	defer p.policies.mu.Unlock()
	b, err := p.openedLocked(before.Bundle, bundle.Floor{})
	if err == nil {
		err = p.shipSetLocked(ctx, b.Set, before.From)
	}
	if next := p.policies.now; err == nil && next.FromFile != before.FromFile {
		next.FromFile = before.FromFile // else the file's would count as shipped when it is applied again
		err = p.putPoliciesLocked(ctx, next)
	}
	if err != nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "THE POLICIES OF A FILE THAT WAS NOT APPLIED ARE IN FORCE; bring back those of before with `rampart policy push --rollback`",
			slog.Uint64("version", before.Version), slog.Any("error", err))
		return fmt.Errorf("control: its policies are in force, and could not be taken back: %w", err)
	}
	return nil
}

// awaitPolicies waits until the planes that live here decide by a version. One that
// refuses it ends the wait, and the apply. One that is slow is not waited for
// longer: closed, as its old policies deny what they do not know.
func (p *Plane) awaitPolicies(ctx context.Context, version uint64) error {
	tick := time.NewTicker(policyLook)
	defer tick.Stop()
	end := time.NewTimer(policyWait)
	defer end.Stop()
	for {
		late, err := p.latePolicies(version)
		if err != nil || !late {
			return err
		}
		select {
		case <-ctx.Done():
			return unavailable(ctx.Err())
		case <-end.C:
			return nil
		case <-tick.C:
		}
	}
}

// latePolicies reports whether a plane that lives decides by an older version, and
// the refusal of one that will not take this one.
func (p *Plane) latePolicies(version uint64) (late bool, err error) {
	now := p.opt.Now()
	for _, v := range p.planes.all() {
		if !decides(v.hb.Plane) || now.Sub(v.at) >= readyAge {
			continue
		}
		for _, r := range v.hb.Refused {
			if r.Version == version {
				return false, rampart.Errorf(rampart.Conflict, controlBundle, "control: %s refuses the policies of this file (%s): %s", v.hb.Plane, r.Code, r.Reason)
			}
		}
		late = late || v.hb.Policy < version
	}
	return late, nil
}

// config publishes a configuration.
func (h *hub) config(b spec.Bundle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "config", Config: &b})
}
