package ca

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/tls/svid"
)

// Step is where a rotation of the root stands.
type Step string

// Steps of a rotation, in order. From StepActivate it goes back to StepNone,
// which is called retire.
const (
	StepNone     Step = ""         // nothing is under way
	StepPrepare  Step = "prepare"  // the new root exists; nobody is told
	StepPublish  Step = "publish"  // peers believe both roots, the old one signs
	StepActivate Step = "activate" // peers believe both roots, the new one signs
)

// Hint is how often holders of the bundle who cannot acknowledge it are expected
// to fetch it (SPIFFE Federation section 5.2.3); five times that they may miss.
const Hint = 5 * time.Minute

// maxNamed bounds how many certificates a refusal names.
const maxNamed = 20

// Facts are what the steps of a rotation wait for.
type Facts struct {
	Behind []string      // planes that are alive and have not acknowledged Published
	Silent bool          // somebody may hold the bundle who cannot acknowledge it
	Leaf   time.Duration // life of a leaf
	Live   []Live        // certificates that are not expired

	Revoked []string // key ids of issuing certificates that were revoked
}

// Live is a certificate that is not expired.
type Live struct {
	ID       string // SPIFFE ID, or a common name
	Serial   string // hex
	Root     string // key id of its root
	NotAfter time.Time
}

// Prepare makes the new root. It changes a; peers notice nothing.
func (a *Authority) Prepare() error {
	if a.kind == Upstream {
		return conflict("the root is the upstream authority's; put its old and its new root into trust.upstream.roots")
	}
	if a.step != StepNone {
		return conflict("a rotation is at step %s already", a.step)
	}
	root, err := a.newRoot()
	if err != nil {
		return err
	}
	a.roots = append(a.roots, root)
	a.step, a.since = StepPrepare, a.now().UTC()
	return nil
}

// Publish tells peers to believe the new root too. It changes a.
func (a *Authority) Publish() error {
	if err := a.at(StepPrepare, "publish"); err != nil {
		return err
	}
	a.step = StepPublish
	a.changed()
	a.published = a.version
	return nil
}

// Activate has the new root sign. It changes a. A Conflict names what it waits
// for; force does not wait for peers, but cannot do without the key or an
// imported certificate.
func (a *Authority) Activate(f Facts, force bool) error {
	if err := a.at(StepPublish, "activate"); err != nil {
		return err
	}
	if waits := a.waitsForPeers(f); len(waits) > 0 && !force {
		return conflict("activate waits: %s", strings.Join(waits, "; "))
	}
	next, err := a.issuingOfNew(f)
	if err != nil {
		return err
	}
	a.previous, a.next = a.issuing, nil
	a.install(next)
	a.step = StepActivate
	a.changed() // the roots are the same; whoever hears of it asks for a certificate of the new one
	return nil
}

// issuingOfNew returns an issuing certificate below the new root.
func (a *Authority) issuingOfNew(f Facts) (*issuing, error) {
	root := a.roots[1]
	if root.key != nil {
		return a.sign(root)
	}
	if a.next == nil || f.revoked(a.next) {
		return nil, conflict("activate waits: no issuing certificate by root %s; have one signed: rampart ca sign", svid.KeyID(root.cert))
	}
	return a.next, nil
}

// issuingOfOld returns an issuing certificate below the old root, for a rollback:
// a new one where the key is here, as what signed before may have been revoked.
func (a *Authority) issuingOfOld(f Facts) (*issuing, error) {
	root := a.roots[0]
	if root.key != nil {
		return a.sign(root)
	}
	if a.previous == nil || f.revoked(a.previous) {
		return nil, conflict("rollback is not possible: the issuing certificate by root %s was revoked, and the key of the root is not here", svid.KeyID(root.cert))
	}
	return a.previous, nil
}

func (f Facts) revoked(i *issuing) bool { return slices.Contains(f.Revoked, svid.KeyID(i.cert)) }

// Retire takes the old root out of the bundle and destroys its key. It changes
// a. A Conflict names what still chains to the old root; force breaks it.
func (a *Authority) Retire(f Facts, force bool) error {
	if err := a.at(StepActivate, "retire"); err != nil {
		return err
	}
	if waits := a.waitsForOld(f); len(waits) > 0 && !force {
		return conflict("retire waits: %s", strings.Join(waits, "; "))
	}
	a.roots, a.previous, a.step = a.roots[1:], nil, StepNone
	a.changed()
	return nil
}

// Rollback takes back the last step, or the two of a rotation that has not been
// activated. It changes a. After Retire there is no way back. A Conflict names
// what chains to the new root; force breaks it. A revoked issuing certificate does
// not come back, by force neither.
func (a *Authority) Rollback(f Facts, force bool) error {
	switch a.step {
	case StepActivate:
		old, err := a.issuingOfOld(f)
		if err != nil {
			return err
		}
		a.install(old)
		a.previous, a.step = nil, StepPublish
		a.changed()
		return nil
	case StepPublish:
		if live := named(f.Live, svid.KeyID(a.roots[1].cert)); len(live) > 0 && !force {
			return conflict("rollback waits: %s", strings.Join(live, "; "))
		}
		a.drop()
		a.changed()
		return nil
	case StepPrepare:
		a.drop()
		a.since = a.now().UTC()
		return nil
	}
	return conflict("no rotation is under way; a retired root does not come back")
}

// drop forgets the new root.
func (a *Authority) drop() { a.roots, a.next, a.step = a.roots[:1], nil, StepNone }

func (a *Authority) at(want Step, verb string) error {
	if a.step != want {
		return conflict("%s follows on step %s; the rotation is at %s", verb, want, a.step.orNone())
	}
	return nil
}

func (s Step) orNone() string {
	if s == StepNone {
		return "none"
	}
	return string(s)
}

// Waiting says, a line each, why the next step cannot be taken yet.
func (a *Authority) Waiting(f Facts) []string {
	switch a.step {
	case StepPublish:
		return a.waitsForPeers(f)
	case StepActivate:
		return a.waitsForOld(f)
	}
	return nil
}

// waitsForPeers is what Activate waits for.
func (a *Authority) waitsForPeers(f Facts) []string {
	var out []string
	for _, plane := range capped(f.Behind) {
		out = append(out, plane+" has not acknowledged the new root")
	}
	if !f.Silent {
		return out
	}
	if until := a.since.Add(max(f.Leaf, 5*Hint)); a.now().Before(until) {
		out = append(out, "holders of the bundle that cannot acknowledge it have until "+clock(until))
	}
	return out
}

// waitsForOld is what Retire waits for.
func (a *Authority) waitsForOld(f Facts) []string {
	old := svid.KeyID(a.roots[0].cert)
	out := named(f.Live, old)
	if a.issuing.root == old {
		out = append(out, "issuing certificate "+svid.KeyID(a.issuing.cert)+" chains to root "+old)
	}
	if a.now().Before(a.unrecorded) {
		out = append(out, "certificates of the release before are not on record; the last ends "+clock(a.unrecorded))
	}
	return out
}

// named lists the certificates below a root.
func named(live []Live, root string) []string {
	var out []string
	for _, l := range live {
		if l.Root == root {
			out = append(out, fmt.Sprintf("%s holds certificate %s of root %.12s until %s", l.ID, l.Serial, root, clock(l.NotAfter)))
		}
	}
	return capped(out)
}

func capped(list []string) []string {
	if len(list) <= maxNamed {
		return list
	}
	return append(slices.Clone(list[:maxNamed]), fmt.Sprintf("and %d more", len(list)-maxNamed))
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Due is the step that the timers ask for now, "" for none: a new root at half
// the life of the old one, which signs from two thirds of it. A rotation that
// was begun earlier by hand is left to the hand. Where the key of the root is
// elsewhere nothing is due by itself.
func (a *Authority) Due() Step {
	if a.kind != Embedded {
		return StepNone
	}
	old, now := a.roots[0].cert, a.now()
	life := old.NotAfter.Sub(old.NotBefore)
	half, late := !now.Before(old.NotBefore.Add(life/2)), !now.Before(old.NotBefore.Add(life/3*2))
	switch {
	case a.step == StepNone && half:
		return StepPrepare
	case a.step == StepPrepare && half:
		return StepPublish
	case a.step == StepPublish && late:
		return StepActivate
	case a.step == StepActivate && late:
		return StepRetire
	}
	return StepNone
}

// StepRetire is what Due calls the way from StepActivate to StepNone. No
// authority stands there.
const StepRetire Step = "retire"
