package rotate

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// Bounds of an Engine.
const (
	lease      = time.Minute      // how long one control plane may be at one step
	actTimeout = 20 * time.Second // of what it does there: well before the lease ends
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
	tryAgain   = time.Hour // after a test that failed
	maxError   = 300       // bytes of State.Error
)

// Target is one credential that rotates.
type Target struct {
	Name  string
	Path  string        // of the store of secrets, where readers find it
	Users []string      // two that take turns; nil: a value without a user
	Every time.Duration // 0: only by Start
	Hooks Hooks

	// Make returns the next value; if nil, Password does.
	Make func(ctx context.Context) ([]byte, error)
	// Drained says who still uses a version before s.Version, a line each; if nil,
	// nobody does.
	Drained func(ctx context.Context, s State) (waiting []string, err error)
	// Longest is how long a use of the old version may last: it is revoked when
	// that has passed, whoever has not reported.
	Longest time.Duration
}

// Options of an Engine. Rows, Store, Holder and Record are required.
type Options struct {
	Rows   Rows
	Store  secrets.Writer // sealed at rest
	Holder string         // name of this control plane among those on one database
	Now    func() time.Time

	// Record puts a step that was done on record. A step that cannot be recorded
	// is done again.
	Record func(ctx context.Context, s State, err error) error
	// Published tells readers to fetch a name anew. If nil, they find out in their
	// own time.
	Published func(ctx context.Context, s State) error
}

// Engine moves rotations on. Safe for concurrent use, also by several processes
// on the same Rows.
type Engine struct{ opt Options }

// New returns an Engine. It panics when something required is missing.
func New(opt Options) *Engine {
	if opt.Rows == nil || opt.Store == nil || opt.Holder == "" || opt.Record == nil {
		panic("rotate: rows, store, holder and record are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Published == nil {
		opt.Published = func(context.Context, State) error { return nil }
	}
	return &Engine{opt}
}

// Turn does at most one step of t and reports whether it did one. Nothing is
// done while another control plane is at it, or before its time. A step that
// failed is in the row and no error here: it will be tried again.
func (e *Engine) Turn(ctx context.Context, t Target) (moved bool, err error) {
	s, err := e.opt.Rows.Rotation(ctx, t.Name)
	if rampart.KindOf(err) == rampart.NotFound {
		return e.first(ctx, t)
	}
	if err != nil {
		return false, err
	}
	now := e.opt.Now()
	if s.Holder != e.opt.Holder && now.Before(s.Until) || now.Before(s.Due) {
		return false, nil
	}
	if s.Step == Idle {
		if s.Due.IsZero() {
			return false, nil // only by Start
		}
		return e.swap(ctx, begin(s, t, now))
	}
	if s.Step == Drain {
		return e.drain(ctx, t, s)
	}
	s.Holder, s.Until = e.opt.Holder, now.Add(lease)
	if ok, err := e.opt.Rows.SwapRotation(ctx, s); err != nil || !ok {
		return false, err
	}
	s.Rev++
	return e.act(ctx, t, s)
}

// first makes the row of a credential that was never rotated. One with users has
// none yet, so the first is made at once; of another the store may have one.
func (e *Engine) first(ctx context.Context, t Target) (bool, error) {
	now := e.opt.Now()
	s := State{Name: t.Name, Step: Idle, Since: now}
	old, err := e.opt.Store.Fetch(ctx, at(t.Path))
	switch {
	case rampart.KindOf(err) == rampart.NotFound && t.Users != nil:
		s = begin(s, t, now)
	case rampart.KindOf(err) == rampart.NotFound:
		return false, nil // whoever generates it has not come to it
	case err != nil:
		return false, err
	default:
		s.Version = old.Version()
		s.Due = after(now, t.Every)
	}
	return e.opt.Rows.AddRotation(ctx, s)
}

// begin returns s at the start of a rotation: the user who is not in use is next.
func begin(s State, t Target, now time.Time) State {
	s.Step, s.Since, s.Due, s.Error, s.Failures = Create, now, time.Time{}, "", 0
	s.Next = ""
	if len(t.Users) > 0 {
		s.Next = t.Users[0]
		if s.Next == s.Current {
			s.Next = t.Users[1]
		}
	}
	return s
}

func after(now time.Time, every time.Duration) time.Time {
	if every == 0 {
		return time.Time{}
	}
	return now.Add(every)
}

// Start begins a rotation now, or tries at once what failed before. One under way
// goes on.
func (e *Engine) Start(ctx context.Context, t Target) (State, error) {
	if _, err := e.first(ctx, t); err != nil {
		return State{}, err
	}
	s, err := e.opt.Rows.Rotation(ctx, t.Name)
	if err != nil {
		return State{}, err
	}
	if s.Step == Idle {
		s = begin(s, t, e.opt.Now())
	}
	s.Due = time.Time{}
	if ok, err := e.opt.Rows.SwapRotation(ctx, s); err != nil || !ok {
		return s, err // somebody else moved it: it is under way
	}
	s.Rev++
	return s, nil
}

func (e *Engine) swap(ctx context.Context, s State) (bool, error) {
	return e.opt.Rows.SwapRotation(ctx, s)
}

// act does the step of s, which this control plane holds, and moves the row.
func (e *Engine) act(ctx context.Context, t Target, s State) (bool, error) {
	doing, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	next, err := e.step(doing, t, s)
	if ctx.Err() != nil {
		return false, ctx.Err() // this process ends; the next one goes on from the row
	}
	if rerr := e.opt.Record(ctx, s, err); rerr != nil {
		return false, rerr
	}
	if err != nil {
		next = e.failed(doing, t, s, err)
	}
	next.Holder, next.Until = "", time.Time{}
	return e.swap(ctx, next)
}

// step does what is to be done and returns where that leads.
func (e *Engine) step(ctx context.Context, t Target, s State) (State, error) {
	next := s
	next.Since, next.Due, next.Error, next.Failures = e.opt.Now(), time.Time{}, "", 0
	var err error
	switch s.Step {
	case Create:
		next.Step, err = Test, e.create(ctx, t, s)
	case Test:
		next.Step, err = Publish, e.withPending(ctx, t, s, func(c Credential) error { return t.Hooks.Test(ctx, c) })
	case Publish:
		return e.publish(ctx, t, s, next)
	case Revoke:
		next.Step, next.Old, next.Previous, next.Due = Idle, "", 0, after(e.opt.Now(), t.Every)
		err = e.revoke(ctx, t, s)
	default:
		err = rampart.Errorf(rampart.Internal, control, "rotate: %.20q is no step", s.Step)
	}
	return next, err
}

// create keeps the next credential, sealed, before it makes it count: whoever
// goes on after a crash can still test and publish it. One from a try before is
// replaced.
func (e *Engine) create(ctx context.Context, t Target, s State) error {
	generate := t.Make
	if generate == nil {
		generate = Password
	}
	value, err := generate(ctx)
	if err != nil {
		return err
	}
	defer clear(value)
	c := Credential{s.Next, secrets.New(value, 0)}
	kept, err := c.encode()
	if err != nil {
		return err
	}
	defer clear(kept)
	if _, err := e.opt.Store.Put(ctx, pending(t), kept, -1); err != nil {
		return err
	}
	return t.Hooks.Create(ctx, c)
}

// pending is the path of the credential that readers do not get yet.
func pending(t Target) string {
	name := []byte(t.Name)
	for i, c := range name {
		if c == ':' {
			name[i] = '.' // a path has no colon
		}
	}
	return "rotation/next/" + string(name)
}

func at(path string) secrets.Ref { return secrets.Ref{Backend: "embedded", Path: path} }

// withPending calls f with the credential that create kept.
func (e *Engine) withPending(ctx context.Context, t Target, s State, f func(Credential) error) error {
	kept, err := e.opt.Store.Fetch(ctx, at(pending(t)))
	if err != nil {
		return err
	}
	if s.Next == "" {
		return f(Credential{"", kept})
	}
	c, err := ParseCredential(kept)
	if err != nil {
		return err
	}
	if c.User() != s.Next {
		return rampart.Errorf(rampart.Internal, control, "rotate: %s was to be next, and the credential kept is of %s", s.Next, c.User())
	}
	return f(Credential{c.User(), c})
}

// publish makes the next credential what readers get. What a try before
// published is known by its value.
func (e *Engine) publish(ctx context.Context, t Target, s, next State) (State, error) {
	kept, err := e.opt.Store.Fetch(ctx, at(pending(t)))
	if err != nil {
		return s, err
	}
	if next.Version, err = e.putOnce(ctx, t.Path, kept); err != nil {
		return s, err
	}
	if err := e.withPending(ctx, t, s, func(c Credential) error { return t.Hooks.Publish(ctx, c) }); err != nil {
		return s, err
	}
	next.Current, next.Old, next.Next, next.Previous = s.Next, s.Current, "", s.Version
	next.Step = Drain
	if next.Previous == 0 {
		next.Step, next.Due = Idle, after(e.opt.Now(), t.Every) // the first of all: none is old
	}
	if err := e.opt.Published(ctx, next); err != nil {
		return s, err
	}
	return next, nil
}

// putOnce stores value as the newest version of path, unless it is that already.
func (e *Engine) putOnce(ctx context.Context, path string, value secrets.Secret) (version int, err error) {
	newest, err := e.opt.Store.Fetch(ctx, at(path))
	if err != nil && rampart.KindOf(err) != rampart.NotFound {
		return 0, err
	}
	if err == nil && same(newest, value) {
		return newest.Version(), nil
	}
	err = value.Use(func(b []byte) error {
		version, err = e.opt.Store.Put(ctx, path, b, -1)
		return err
	})
	return version, err
}

func same(a, b secrets.Secret) (equal bool) {
	a.Use(func(x []byte) error {
		return b.Use(func(y []byte) error {
			equal = subtle.ConstantTimeCompare(x, y) == 1
			return nil
		})
	})
	return equal
}

// drain goes on when nobody uses the old version, or no use of it can be left.
func (e *Engine) drain(ctx context.Context, t Target, s State) (bool, error) {
	now := e.opt.Now()
	if t.Drained != nil && now.Before(s.Since.Add(t.Longest)) {
		waiting, err := t.Drained(ctx, s)
		if err != nil || len(waiting) > 0 {
			return false, err
		}
	}
	if err := e.opt.Record(ctx, s, nil); err != nil {
		return false, err
	}
	s.Step, s.Since, s.Due, s.Error, s.Failures = Revoke, now, time.Time{}, "", 0
	return e.swap(ctx, s)
}

// revoke ends the old credential, and destroys what was kept of it and beside
// the one in use.
func (e *Engine) revoke(ctx context.Context, t Target, s State) error {
	if s.Old != "" || len(t.Users) == 0 {
		if err := t.Hooks.Revoke(ctx, s.Old); err != nil {
			return err
		}
	}
	for path, version := range map[string]int{t.Path: s.Previous, pending(t): 0} {
		err := e.opt.Store.Destroy(ctx, path, version)
		if err != nil && rampart.KindOf(err) != rampart.NotFound {
			return err
		}
	}
	return nil
}

// failed returns s after an attempt that failed. What may help later is tried
// again; a credential that does not work is given up, and the one in use stays.
func (e *Engine) failed(ctx context.Context, t Target, s State, err error) State {
	now := e.opt.Now()
	s.Error, s.Failures = brief(err), s.Failures+1
	s.Due = now.Add(min(firstRetry<<min(s.Failures-1, 10), lastRetry))
	if s.Step != Test || rampart.KindOf(err) == rampart.Unavailable {
		return s
	}
	if s.Next != "" {
		// It was published to nobody. That it still ends is tidiness: should it
		// fail, the next rotation gives the user another password anyway.
		_ = t.Hooks.Revoke(ctx, s.Next)
	}
	s.Step, s.Since, s.Next, s.Due = Idle, now, "", now.Add(tryAgain)
	return s
}

// brief is an error as people read it in a list; hooks keep secrets out.
func brief(err error) string {
	text := err.Error()
	return text[:min(len(text), maxError)]
}
