package sidecar

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/attest"
)

// Bounds of what is told to the service's caches.
const (
	forgetWait  = 25 * time.Second // of one call
	maxForgets  = 1024             // remembered; who is further behind forgets everything
	maxWaiters  = 64               // calls at once
	maxAway     = 256              // processes that are away; more count as unknown ones
	maxNamesTo  = 1000             // names and keys of one answer; more is everything
	limitSocket = "limit.pool"
)

// forgets passes on what caches must not serve any more, and knows how far the
// service has carried it out. Each process of the service that asks is either
// waiting here or away; asking again with the answer's id says that it is done.
//
// One that is away and does not come back has hung, or lost its connection: what
// it keeps ends by itself, keysLast after the news at the earliest, and until then
// it counts. Only the end of the process says so earlier.
type forgets struct {
	now     func() time.Time
	unknown time.Time // until then a process that never asked here may keep something

	mu      sync.Mutex // guards below, and unknown
	last    uint64     // id of the newest
	dropped uint64     // ids up to it are not in log any more
	log     []forgotten
	news    chan struct{} // closed when last grows
	waiting []uint64      // after, of each call that waits
	away    []answered    // oldest first
}

type forgotten struct {
	id uint64
	at time.Time
	wire.Forget
}

// answered is a process that was here and has not asked again.
type answered struct {
	done    uint64 // all up to it it has forgotten
	told    uint64 // id of the answer; done if there was none
	at      time.Time
	process *attest.Peer // nil: the kernel did not say
}

// holds reports whether the process may still keep what v names. Whoever was
// silent for as long as anything is kept when v came has nothing to forget.
func (a answered) holds(v forgotten, now time.Time) bool {
	heard := a.at
	if v.at.After(heard) {
		heard = v.at
	}
	return a.done < v.id && v.at.Sub(a.at) <= keysLast && now.Sub(heard) <= keysLast
}

// is reports whether this is the process that asks now.
func (a answered) is(p *attest.Peer) bool { return pidOf(a.process) == pidOf(p) }

// pidOf is 0 for a process that the kernel did not name, which has no such id.
func pidOf(p *attest.Peer) int32 {
	if p == nil {
		return 0
	}
	return p.PID
}

func (a answered) leave() {
	if a.process != nil {
		a.process.Close()
	}
}

// newForgets starts counting at the time of day: ids of a sidecar that was here
// before are lower, so that who brings one is told to forget everything. Processes
// that it gave keys to may be there until unknown, and need not come.
func newForgets(now func() time.Time, unknown time.Time) *forgets {
	first := uint64(now().UnixMicro())
	return &forgets{now: now, unknown: unknown, last: first, dropped: first, news: make(chan struct{})}
}

// add passes one on.
func (f *forgets) add(what wire.Forget) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.log = append(f.log, forgotten{f.last, f.now(), what})
	if over := len(f.log) - maxForgets; over > 0 {
		f.dropped = f.log[over-1].id
		f.log = slices.Delete(f.log, 0, over)
	}
	close(f.news)
	f.news = make(chan struct{})
}

// wait answers what came after an id, or that nothing did for a while. It closes
// process, which may be nil, when it is done with it.
func (f *forgets) wait(ctx context.Context, after uint64, process *attest.Peer) (agent.ForgetAnswer, error) {
	news, leave, err := f.enter(after, process)
	if err != nil {
		answered{process: process}.leave()
		return agent.ForgetAnswer{}, err
	}
	timeout := time.NewTimer(forgetWait)
	defer timeout.Stop()
	if news != nil {
		select {
		case <-news:
		case <-timeout.C:
		case <-ctx.Done():
			leave(false)
			return agent.ForgetAnswer{}, ctx.Err()
		}
	}
	return leave(true), nil
}

// enter notes a call. news is nil when there is an answer already; leave must be
// called, and says what came.
func (f *forgets) enter(after uint64, process *attest.Peer) (news <-chan struct{}, leave func(told bool) agent.ForgetAnswer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) >= maxWaiters {
		return nil, nil, rampart.Errorf(rampart.Limited, limitSocket, "more than %d calls wait for what to forget", maxWaiters)
	}
	f.backLocked(after, process)
	behind := after < f.dropped || after > f.last
	done := after
	if behind {
		done = f.last // it will forget everything before it asks again
	}
	f.waiting = append(f.waiting, done)
	if !behind && after == f.last {
		news = f.news
	}
	return news, func(told bool) agent.ForgetAnswer {
		f.mu.Lock()
		defer f.mu.Unlock()
		i := slices.Index(f.waiting, done)
		f.waiting = slices.Delete(f.waiting, i, i+1)
		a := agent.ForgetAnswer{ID: after}
		if told {
			a = f.sinceLocked(after, behind)
		}
		f.awayLocked(answered{done: done, told: a.ID, at: f.now(), process: process})
		return a
	}, nil
}

// awayLocked notes who leaves. When there are too many, the one that left first
// joins those that are unknown.
func (f *forgets) awayLocked(a answered) {
	f.pruneLocked()
	if len(f.away) >= maxAway {
		f.away[0].leave()
		f.away = slices.Delete(f.away, 0, 1)
		f.unknown = f.now().Add(keysLast)
	}
	f.away = append(f.away, a)
}

// backLocked strikes one who was away and comes again off the list: one of the
// same process that was told this, or else whom the answer did not reach. Of
// several the one that has least to do goes, so that none passes for another.
func (f *forgets) backLocked(after uint64, process *attest.Peer) {
	best := -1
	for i, a := range f.away {
		fits := a.is(process) && (a.told == after || a.done == after)
		if fits && (best < 0 || f.away[best].closer(a, after)) {
			best = i
		}
	}
	if best >= 0 {
		f.away[best].leave()
		f.away = slices.Delete(f.away, best, best+1)
	}
}

// closer reports whether b fits a call with after better than a does.
func (a answered) closer(b answered, after uint64) bool {
	if (a.told == after) != (b.told == after) {
		return b.told == after
	}
	return b.done > a.done
}

// pruneLocked strikes off who has ended, and who was silent for so long that it
// has nothing of what is in the log or comes.
func (f *forgets) pruneLocked() {
	f.away = slices.DeleteFunc(f.away, func(a answered) bool {
		over := f.now().Sub(a.at) > 2*keysLast || a.process != nil && a.process.Ended()
		if over {
			a.leave()
		}
		return over
	})
}

func (f *forgets) sinceLocked(after uint64, all bool) agent.ForgetAnswer {
	out := agent.ForgetAnswer{ID: f.last, All: all}
	for _, v := range f.log {
		if all || v.id <= after {
			continue
		}
		out.Secrets = append(out.Secrets, v.Secrets...)
		for _, d := range v.DEKs {
			out.DEKs = append(out.DEKs, agent.DEKRequest{Item: d.Item, Tenant: d.Tenant, Subject: d.Subject})
		}
	}
	if len(out.Secrets)+len(out.DEKs) > maxNamesTo {
		return agent.ForgetAnswer{ID: f.last, All: true}
	}
	return out
}

// carriedOut returns the highest wire id up to which the service has forgotten
// everything. A service that never asks caches nothing that we know of, but for
// what it got from a sidecar before this one.
func (f *forgets) carriedOut() (id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pruneLocked()
	now := f.now()
	if now.Before(f.unknown) {
		return 0
	}
	for _, v := range f.log {
		behind := slices.ContainsFunc(f.waiting, func(after uint64) bool { return after < v.id }) ||
			slices.ContainsFunc(f.away, func(a answered) bool { return a.holds(v, now) })
		if behind {
			break
		}
		id = max(id, v.ID)
	}
	return id
}

// obey has the link's news reach this process's caches and the service's, and
// heartbeats tell what came of them.
func (s *Sidecar) obey() {
	s.opt.Link.OnState(func(*planelink.State) {
		if s.opt.Link.Disabled() != nil {
			s.dropSecrets()
			return
		}
		s.files.look() // the file may give the service others
	})
	s.opt.Link.OnForget(func(what wire.Forget) {
		if what.ID == 0 {
			return // nothing lately
		}
		s.secrets.Forget(what.Secrets...)
		s.inUse.forget(what.Secrets)
		s.files.look()
		s.forgets.add(what)
		s.opt.Link.Forgot(s.forgets.carriedOut())
	})
	s.opt.Link.OnSecretsInUse(func() map[string]int {
		s.opt.Link.Forgot(s.forgets.carriedOut())
		return s.inUse.oldest(s.table.Load().held())
	})
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// processOf is the one behind a question; nil when the kernel does not say.
func processOf(r *http.Request) *attest.Peer {
	c, ok := r.Context().Value(connKey{}).(*net.UnixConn)
	if !ok {
		return nil
	}
	p, err := attest.PeerOf(c)
	if err != nil {
		return nil
	}
	return p
}

// forget tells the service what its caches must not serve any more.
func (s *Sidecar) forget(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		problem.Write(w, rampart.Errorf(rampart.Invalid, "", "after must be the id of the last answer, or 0"), "")
		return
	}
	a, err := s.forgets.wait(r.Context(), after, processOf(r))
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	answer(w, a)
}
