package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
)

// How backends are asked whether they are there. An outage that begins right after
// a round is known after two more, each a pause and a timeout: in less than a
// minute.
const (
	healthEvery    = 15 * time.Second
	healthJitter   = 3 * time.Second // around it, so that replicas do not ask in step
	healthTimeout  = 5 * time.Second // of a round, in which all that the file names are asked side by side
	healthFailures = 2               // in a row before one counts as away: a lost packet alerts nobody
	maxHealthText  = 400             // bytes of why
)

// healthPath is what is read at a backend that has no question of its own. No
// secret needs to be there: that there is none, or that we may not see it, is an
// answer.
const healthPath = "rampart-health"

// healthWatch notices that a backend or the key encryption key is away, or sealed,
// before anybody asks for what it has. It decides nothing: what is served in an
// outage the memory of each reader bounds. Each of several control planes watches
// for itself, as the network may be cut before one of them alone. Safe for
// concurrent use.
type healthWatch struct {
	now     func() time.Time
	jitter  func() float64                      // in [0, 1)
	asks    func() map[string]healthAsk         // by the resource that events name
	changed func(context.Context, health) error // puts on record that one went away or came back
	log     *slog.Logger

	mu     sync.Mutex // guards known and asking
	known  map[string]health
	asking map[string]bool // there is no answer yet
}

// healthAsk asks one of them whether it is there. Nil says that it is.
type healthAsk func(context.Context) error

// health is what is known of one of them.
type health struct {
	name   string
	failed int // in a row
	away   bool
	since  time.Time // that it is away, or back
	why    string    // of the last failure
}

// newHealthWatch watches all that is behind a network or in a module: backends of
// kinds vault and aws, and the key encryption keys in use but those in a file.
//
// A folder (kind file) is not asked: it is read each time and nothing of it is
// remembered, so there is no outage to bridge, and whoever reads hears of it.
func (p *Plane) newHealthWatch() *healthWatch {
	return &healthWatch{now: p.opt.Now, jitter: anywhere, asks: p.healthAsks, changed: p.healthChanged, log: p.opt.Logger}
}

// anywhere is a random number in [0, 1).
func anywhere() float64 {
	var b [4]byte
	rand.Read(b[:])
	return float64(binary.BigEndian.Uint32(b[:])) / (1 << 32)
}

// healthAsks are the questions of one round. Which keys are in use may change.
func (p *Plane) healthAsks() map[string]healthAsk {
	out := map[string]healthAsk{}
	for name := range p.backends.caches { // what is behind a network is remembered, and nothing else
		out["backend:"+name] = askBackend(p.backends.places[name], p.backends.vaults[name])
	}
	for _, h := range []*held{&p.keys.ring.current, p.keys.ring.before.Load()} {
		if h != nil && h.remote {
			out["kek:"+h.prefix] = askKEK(h.kek)
		}
	}
	return out
}

// askBackend is the cheapest question that a backend answers. Vault says how it is
// to anybody. At AWS it is one read of a secret that is not there: that needs no
// permission which reading secrets does not, shows that our credentials count, and
// moves no value.
func askBackend(at secrets.Backend, v *vault.Client) healthAsk {
	if v != nil {
		return func(ctx context.Context) error { return askVault(ctx, v) }
	}
	return func(ctx context.Context) error {
		_, err := at.Fetch(ctx, secrets.Ref{Path: healthPath})
		if kind := rampart.KindOf(err); kind == rampart.NotFound || kind == rampart.Denied {
			return nil // it answers
		}
		return unlessBusy(err)
	}
}

func askVault(ctx context.Context, v *vault.Client) error {
	h, err := v.Health(ctx)
	if err == nil && h.Sealed {
		return rampart.Errorf(rampart.Unavailable, secretControl, "control: it is sealed")
	}
	return unlessBusy(err)
}

// unlessBusy lets one pass that answers that it has too much to do: it is there, and
// who reads honours how long it wants to be left alone.
func unlessBusy(err error) error {
	if _, busy := errors.AsType[secrets.Busy](err); busy || rampart.KindOf(err) == rampart.Limited {
		return nil
	}
	return err
}

// askKEK has a key wrap something: one call that shows that it is there, that it is
// switched on, and that we may use it.
func askKEK(kek secrets.KEK) healthAsk {
	return func(ctx context.Context) error {
		_, err := kek.Wrap(ctx, []byte("rampart-kek-probe-of-32-bytes-xx"), []byte("rampart-kek-probe"))
		return unlessBusy(err)
	}
}

// run asks until ctx ends.
func (w *healthWatch) run(ctx context.Context) {
	timer := time.NewTimer(w.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		w.round(ctx)
		timer.Reset(w.pause())
	}
}

func (w *healthWatch) pause() time.Duration {
	return healthEvery + time.Duration((w.jitter()-0.5)*float64(healthJitter))
}

// round asks all of them once.
func (w *healthWatch) round(ctx context.Context) {
	asks := w.asks()
	w.forgetOthers(asks)
	call, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var g errgroup.Group
	for name, ask := range asks {
		g.Go(func() error {
			err := w.ask(call, name, ask)
			if ctx.Err() == nil { // else we end, and it says nothing
				w.judge(ctx, name, err)
			}
			return nil
		})
	}
	_ = g.Wait()
}

var errNoAnswer = errors.New("no answer in time")

// ask waits for an answer no longer than ctx does, whatever the other end does: the
// library of a hardware module knows no deadline. One that has not answered is not
// asked again, which bounds what waits.
func (w *healthWatch) ask(ctx context.Context, name string, ask healthAsk) error {
	if !w.begin(name) {
		return errNoAnswer
	}
	done := make(chan error, 1)
	go func() {
		err := ask(ctx)
		w.end(name)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errNoAnswer
	}
}

func (w *healthWatch) begin(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asking[name] {
		return false
	}
	if w.asking == nil {
		w.asking = map[string]bool{}
	}
	w.asking[name] = true
	return true
}

func (w *healthWatch) end(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.asking, name)
}

// judge takes in one answer. A change that cannot be put on record is none yet: the
// next round tries again.
func (w *healthWatch) judge(ctx context.Context, name string, err error) {
	before, next := w.next(name, err)
	if next.away != before.away {
		if failed := w.changed(ctx, next); failed != nil {
			w.log.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", failed))
			next.away, next.since = before.away, before.since
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = map[string]health{}
	}
	w.known[name] = next
}

func (w *healthWatch) next(name string, err error) (before, next health) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before = w.known[name]
	next = before
	next.name = name
	if before.since.IsZero() {
		next.since = w.now()
	}
	if err == nil {
		next.failed, next.away, next.why = 0, false, ""
	} else {
		why := err.Error()
		next.failed, next.why = before.failed+1, why[:min(len(why), maxHealthText)]
		next.away = before.away || next.failed >= healthFailures
	}
	if next.away != before.away {
		next.since = w.now()
	}
	return before, next
}

// forgetOthers drops what is not asked any more, such as a key that all has moved
// away from.
func (w *healthWatch) forgetOthers(asks map[string]healthAsk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.known {
		if asks[name] == nil {
			delete(w.known, name)
		}
	}
}

// status is what is known of all of them, by name.
func (w *healthWatch) status() []wire.BackendStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []wire.BackendStatus
	for _, h := range w.known {
		out = append(out, wire.BackendStatus{Name: h.name, Away: h.away, Since: h.since, Error: h.why})
	}
	slices.SortFunc(out, func(a, b wire.BackendStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// healthChanged puts on record, and warns, that a backend or a key went away, or
// that it is back.
func (p *Plane) healthChanged(ctx context.Context, h health) error {
	e := audit.Event{Class: audit.ClassSecret, Action: "backend.health", Outcome: audit.Allowed, Control: secretControl, Subject: p.system().ControlID(), Resource: h.name}
	level, text := slog.LevelInfo, "a backend is back"
	if h.away {
		level, text = slog.LevelError, "a backend is away"
		e.Outcome, e.Detail = audit.Failed, alert(map[string]string{"error": h.why})
	}
	p.opt.Logger.LogAttrs(ctx, level, text, slog.String("backend", h.name), slog.String("error", h.why))
	return p.opt.Audit.Record(ctx, e)
}
