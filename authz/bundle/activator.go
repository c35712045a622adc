package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/authz/decisionlog"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/statedir"
)

// DefaultStaleness is how long a plane decides by a bundle that it cannot renew.
const DefaultStaleness = 24 * time.Hour

const (
	// lookEvery is the pause between two looks at the age of the active bundle.
	lookEvery = time.Second
	// retryEvery is the pause before an offer is judged again that only the disk
	// or the audit log kept out.
	retryEvery = 10 * time.Second
	// testTime bounds all tests of one bundle together.
	testTime = 30 * time.Second
)

// Settings may change while an Activator runs.
type Settings struct {
	Keys         Keys          // whose signatures count; none: no bundle is accepted
	MaxStaleness time.Duration // 0: DefaultStaleness
	Replay       int           // newest decisions that a bundle is tried on; 0: none
	MaxChanged   int           // percent of them that may come out otherwise; more refuses the bundle
	// Heard is when whoever delivers bundles was last heard: what it offered
	// last was its newest then.
	Heard time.Time
	// Context names what else Compile depends on: what was refused is judged again
	// when it changes.
	Context string
}

// Event is what an audit log is told of.
type Event struct {
	Action  string // "policy.activate", "policy.shadow" or "policy.stale"
	Allowed bool
	Code    Code // of a refusal
	Version uint64
	Detail  map[string]string
}

// ActivatorOptions configure an Activator. System, State, Plane, Settings,
// Compile and Record are required.
type ActivatorOptions struct {
	System   string // trust domain
	Service  string // whose tests are run; "" is the gateway, which has none
	State    *statedir.Dir
	Plane    string // "gateway/edge": names the folder in State
	Settings func() Settings
	// Compile makes the decision point of a set. It is the plane's: it knows
	// graph, providers, clock and log.
	Compile func(set pap.Set, version uint64) (*pdp.PDP, error)
	// Test runs the tests that a set brings for a service, within half a minute. If
	// nil, none are run.
	Test func(ctx context.Context, set pap.Set, service string) error
	// Activated is called after each change of the active bundle, and must not
	// block. If nil, nobody is.
	Activated func()
	Log       *decisionlog.Log // past decisions to try a bundle on; nil: none
	Record    func(ctx context.Context, e Event) error
	Logger    *slog.Logger // if nil, slog.Default
	Now       func() time.Time
}

// Activator holds the active bundle of one plane and decides which comes next.
// A bundle that fails any check changes nothing: the last good one stays, until
// it is too old. Safe for concurrent use.
type Activator struct {
	opt    ActivatorOptions
	none   *pdp.PDP // denies while there is no bundle
	active atomic.Pointer[snapshot]
	shadow atomic.Pointer[candidate]
	until  atomic.Int64 // when the active bundle is too old, in nanoseconds since 1970
	box    mailbox

	notTaken atomic.Pointer[Refusal] // the bundle offered last; nil: it is in force
	notTried atomic.Pointer[Refusal] // the same of the candidate

	mu        sync.Mutex // held while a bundle is judged; guards below
	floor     Floor
	confirmed time.Time // when the active bundle was last known to be the newest
	saved     time.Time // confirmed, as it is on disk
	offered   []byte    // what was offered last
	refused   string    // code and content of the last refusal on record
	stale     bool      // and on record as such
}

// snapshot is a bundle in force. It is immutable.
type snapshot struct {
	*Bundle
	pdp *pdp.PDP
}

// NewActivator returns an activator that has the last good bundle of its folder
// in force, if that still passes. Nothing else may use the folder.
func NewActivator(ctx context.Context, opt ActivatorOptions) (*Activator, error) {
	if opt.System == "" || opt.State == nil || opt.Plane == "" || opt.Settings == nil || opt.Compile == nil || opt.Record == nil {
		return nil, errors.New("bundle: system, state folder, plane, settings, compiler and audit log are required")
	}
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	a := &Activator{opt: opt, box: mailbox{news: make(chan struct{}, 1)}}
	var err error
	a.none, err = pdp.New(pdp.Options{Fresh: func() error { return errNone }})
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return a, a.restore(ctx)
}

var errNone = errors.New("there are no policies: no bundle has arrived that passes every check; the audit log says why, `rampart policy status` who runs what, and where authz.bundle.keys is set, `rampart policy sign` and `rampart policy push` bring one")

// PDP returns the decision point of the active bundle; without one it denies
// everything with CodeStale. Whoever is in the middle of a request keeps what it
// was given.
func (a *Activator) PDP() *pdp.PDP {
	if s := a.active.Load(); s != nil {
		return s.pdp
	}
	return a.none
}

// Active returns the active bundle, or nil. It must not be changed.
func (a *Activator) Active() *Bundle {
	if s := a.active.Load(); s != nil {
		return s.Bundle
	}
	return nil
}

// Version returns the version of the active bundle, 0 for none.
func (a *Activator) Version() uint64 {
	if s := a.active.Load(); s != nil {
		return s.Manifest.Version
	}
	return 0
}

// Fresh is pdp.Options.Fresh: it fails when the active bundle has expired, or
// could not be renewed for longer than Settings.MaxStaleness.
func (a *Activator) Fresh() error {
	if until := a.until.Load(); a.opt.Now().UnixNano() >= until {
		return fmt.Errorf("the policies of version %d may not be used after %s: they expired, or no newer ones could be had for too long", a.Version(), time.Unix(0, until).UTC().Format(time.RFC3339))
	}
	return nil
}

// Activate judges a bundle and, if it passes, puts it in force. The error is an
// *Error and on record. It blocks for as long as compiling and tests take.
func (a *Activator) Activate(ctx context.Context, raw []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offered = raw
	if s := a.active.Load(); s != nil && bytes.Equal(s.Raw, raw) {
		a.notTaken.Store(nil)
		a.lookLocked(ctx)
		return nil
	}
	next, detail, err := a.prepareLocked(ctx, raw)
	a.notTaken.Store(refusal(raw, err))
	if err != nil {
		a.refuseLocked(ctx, "policy.activate", next, raw, err)
		return err
	}
	a.active.Store(next)
	a.confirmed, a.refused = a.opt.Now(), ""
	a.lookLocked(ctx)
	if a.opt.Activated != nil {
		a.opt.Activated()
	}
	a.opt.Logger.LogAttrs(ctx, slog.LevelInfo, "policies are in force", slog.Uint64("version", next.Manifest.Version), slog.String("replay", detail["replay"]))
	return nil
}

// prepareLocked does all that can fail. The bundle is returned with an error
// too, as far as it could be read.
func (a *Activator) prepareLocked(ctx context.Context, raw []byte) (*snapshot, map[string]string, error) {
	b, err := Open(bytes.NewReader(raw), a.trust(a.floor))
	if err != nil {
		return nil, nil, err
	}
	next, detail := &snapshot{Bundle: b}, map[string]string{}
	if old := a.active.Load(); old != nil && old.Digest == b.Digest {
		next.pdp = old.pdp // signed anew, no other content
		return next, detail, a.takeLocked(ctx, b, detail)
	}
	if next.pdp, err = a.tried(ctx, b); err != nil {
		return next, nil, err
	}
	if detail, err = a.compare(ctx, a.active.Load(), next); err != nil {
		return next, nil, err
	}
	return next, detail, a.takeLocked(ctx, b, detail)
}

// takeLocked makes a bundle the one that is in force after a restart. The floor
// follows the record, so that none comes into force which is not on record; one
// that was recorded, and then could not be kept, is refused on record too.
func (a *Activator) takeLocked(ctx context.Context, b *Bundle, detail map[string]string) error {
	if err := a.archiveLocked(b); err != nil {
		return err
	}
	if err := a.announce(ctx, b, detail); err != nil {
		return err
	}
	return a.raiseLocked(b)
}

// announce puts on record that a bundle comes into force.
func (a *Activator) announce(ctx context.Context, b *Bundle, detail map[string]string) error {
	detail["digest"], detail["key"] = b.Digest, b.KeyID
	if err := a.opt.Record(ctx, Event{Action: "policy.activate", Allowed: true, Version: b.Manifest.Version, Detail: detail}); err != nil {
		return refuse(CodeStorage, "not on record: %w", err)
	}
	return nil
}

func (a *Activator) trust(floor Floor) Trust {
	return Trust{System: a.opt.System, Keys: a.opt.Settings().Keys, Floor: floor, Now: a.opt.Now()}
}

// tried compiles a bundle and runs its tests.
func (a *Activator) tried(ctx context.Context, b *Bundle) (*pdp.PDP, error) {
	p, err := a.opt.Compile(b.Set, b.Manifest.Version)
	if err != nil {
		return nil, refuse(CodeCompile, "version %d: %w", b.Manifest.Version, err)
	}
	if a.opt.Test == nil || len(b.Set.Services[a.opt.Service].Tests) == 0 {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	if err := a.opt.Test(ctx, b.Set, a.opt.Service); err != nil {
		return nil, refuse(CodeTests, "version %d: %w", b.Manifest.Version, err)
	}
	return p, nil
}

// compare replays past decisions and refuses a bundle that changes too many.
func (a *Activator) compare(ctx context.Context, old, next *snapshot) (map[string]string, error) {
	detail := map[string]string{}
	s := a.opt.Settings()
	if old == nil || a.opt.Log == nil || s.Replay <= 0 {
		return detail, nil
	}
	past, err := a.opt.Log.Last(ctx, s.Replay)
	if err != nil {
		detail["replay"] = err.Error() // a damaged log must not keep new policies out
	}
	diff := Compare(ctx, past, old.pdp, next.pdp)
	if err == nil {
		detail["replay"] = diff.String()
	}
	if diff.Changed*100 > s.MaxChanged*diff.Replayed {
		return nil, refuse(CodeReplay, "version %d: %s; max_changed allows %d percent", next.Manifest.Version, diff, s.MaxChanged)
	}
	return detail, nil
}

// refuseLocked puts a refusal on record, once however often it is repeated.
func (a *Activator) refuseLocked(ctx context.Context, action string, s *snapshot, raw []byte, err error) {
	e := Event{Action: action, Code: codeOf(err), Detail: map[string]string{"error": err.Error(), "active": strconv.FormatUint(a.Version(), 10)}}
	if s != nil {
		e.Version = s.Manifest.Version
	}
	what := action + string(e.Code) + hash(raw)
	if a.refused == what {
		return
	}
	a.opt.Logger.LogAttrs(ctx, slog.LevelError, "policies refused, the last good ones stay", slog.String("code", string(e.Code)), slog.Any("error", err))
	if a.record(ctx, e) {
		a.refused = what
	}
}

// Refusal says why a bundle that was offered is not in force, or not on trial.
type Refusal struct {
	Version uint64 // as the bundle claims; 0 when it cannot be read
	Code    Code
	Reason  string // for operators
}

// refusal returns nil for no error.
func refusal(raw []byte, err error) *Refusal {
	if err == nil {
		return nil
	}
	m, _ := claimed(raw) // what cannot be read claims nothing
	return &Refusal{m.Version, codeOf(err), err.Error()}
}

// Refused lists what was offered last and not taken over: the newest bundle,
// then the candidate. It is empty when both are what they should be.
func (a *Activator) Refused() []Refusal {
	var out []Refusal
	for _, p := range []*Refusal{a.notTaken.Load(), a.notTried.Load()} {
		if p != nil {
			out = append(out, *p)
		}
	}
	return out
}

// record puts on record what stays as it is even if that fails, and reports
// whether it is there.
func (a *Activator) record(ctx context.Context, e Event) bool {
	err := a.opt.Record(ctx, e)
	if err != nil {
		a.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
	return err == nil
}

// codeOf returns why a bundle was refused, "" for no error.
func codeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeFormat
}

// lookLocked moves the time at which the active bundle is too old, and puts on
// record when it has come.
func (a *Activator) lookLocked(ctx context.Context) {
	s, set, now := a.active.Load(), a.opt.Settings(), a.opt.Now()
	if s == nil {
		return
	}
	if _, trusted := set.Keys[s.KeyID]; trusted && bytes.Equal(a.offered, s.Raw) && set.Heard.After(a.confirmed) && !set.Heard.After(now) {
		a.confirmed = set.Heard
		a.saveLocked(ctx)
	}
	limit := set.MaxStaleness
	if limit <= 0 {
		limit = DefaultStaleness
	}
	until, code := a.confirmed.Add(limit), CodeStaleness
	if s.Expires.Before(until) {
		until, code = s.Expires, CodeExpired
	}
	a.until.Store(until.UnixNano())
	stale := !now.Before(until)
	if stale && !a.stale {
		a.record(ctx, Event{Action: "policy.stale", Code: code, Version: s.Manifest.Version, Detail: map[string]string{"until": until.UTC().Format(time.RFC3339)}})
	}
	a.stale = stale
}

// Run judges what is offered, and watches the age of the active bundle, until
// ctx ends. It may be called once.
func (a *Activator) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.box.news:
			a.Settle(ctx)
		case <-tick.C:
			a.mu.Lock()
			a.lookLocked(ctx)
			a.mu.Unlock()
			a.Settle(ctx) // what waits for its next try
		}
	}
}

// Settle judges what was offered and not judged yet. Run does it by itself; a
// plane that starts calls it to begin with the newest policies. What only the
// disk or the audit log kept out stays open: it is judged again, ten seconds
// later at the earliest.
func (a *Activator) Settle(ctx context.Context) {
	o, ok := a.box.take(a.opt.Settings(), a.opt.Now())
	if !ok {
		return
	}
	if o.policies != nil && codeOf(a.Activate(ctx, o.policies)) == CodeStorage {
		a.box.again(o, a.opt.Now().Add(retryEvery))
	}
	a.setShadow(ctx, o.shadow)
}

// Offer leaves the newest bundle, and a candidate to try beside it, for Run to
// judge; nil is none. It does not block, and what was offered before and not
// judged yet is forgotten.
func (a *Activator) Offer(policies, shadow []byte) { a.box.put(offer{policies, shadow}) }

// offer is what was delivered last.
type offer struct{ policies, shadow []byte }

func (o offer) same(p offer) bool {
	return bytes.Equal(o.policies, p.policies) && bytes.Equal(o.shadow, p.shadow)
}

// mailbox holds the newest offer.
type mailbox struct {
	news chan struct{}

	mu     sync.Mutex // guards below
	newest offer
	done   offer     // judged last
	by     string    // keys and context that done was judged by
	retry  time.Time // when done is to be judged again; zero: never
}

func (m *mailbox) put(o offer) {
	m.mu.Lock()
	m.newest = o
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default: // one waits already
	}
}

// take returns the newest offer, unless it was judged already by the same.
func (m *mailbox) take(s Settings, now time.Time) (offer, bool) {
	by := fmt.Sprint(s.Context, s.Keys.texts())
	m.mu.Lock()
	defer m.mu.Unlock()
	due := !m.retry.IsZero() && !now.Before(m.retry)
	if m.newest.same(m.done) && by == m.by && !due {
		return offer{}, false
	}
	m.done, m.by, m.retry = m.newest, by, time.Time{}
	return m.newest, true
}

// again leaves an offer open that was taken, unless another has arrived.
func (m *mailbox) again(o offer, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done.same(o) {
		m.retry = at
	}
}

// denied is a question that no policy was asked about.
func denied(q pdp.Question) bool { return q.Refused != nil }
