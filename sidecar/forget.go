package sidecar

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
)

// Bounds of what is told to the service's caches.
const (
	forgetWait  = 25 * time.Second // of one call
	forgetGone  = 30 * time.Second // who has not asked again by then has ended, and its caches with it
	maxForgets  = 1024             // remembered; who is further behind forgets everything
	maxWaiters  = 64               // calls at once
	maxNamesTo  = 1000             // names and keys of one answer; more is everything
	limitSocket = "limit.pool"
)

// forgets passes on what caches must not serve any more, and knows how far the
// service has carried it out. Each process of the service that asks is either
// waiting here or away with an answer; asking again with the answer's id says
// that it is done.
type forgets struct {
	now func() time.Time

	mu      sync.Mutex // guards below
	last    uint64     // id of the newest
	dropped uint64     // ids up to it are not in log any more
	log     []forgotten
	news    chan struct{} // closed when last grows
	waiting []uint64      // after, of each call that waits
	away    []answered
}

type forgotten struct {
	id uint64
	wire.Forget
}

// answered is a process that was answered and has not asked again.
type answered struct {
	done uint64 // all up to it it has forgotten
	told uint64 // id of the answer
	at   time.Time
}

// newForgets starts counting at the time of day: ids of a sidecar that was here
// before are lower, so that who brings one is told to forget everything.
func newForgets(now func() time.Time) *forgets {
	first := uint64(now().UnixMicro())
	return &forgets{now: now, last: first, dropped: first, news: make(chan struct{})}
}

// add passes one on.
func (f *forgets) add(what wire.Forget) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.log = append(f.log, forgotten{f.last, what})
	if over := len(f.log) - maxForgets; over > 0 {
		f.dropped = f.log[over-1].id
		f.log = slices.Delete(f.log, 0, over)
	}
	close(f.news)
	f.news = make(chan struct{})
}

// wait answers what came after an id, or that nothing did for a while.
func (f *forgets) wait(ctx context.Context, after uint64) (agent.ForgetAnswer, error) {
	news, leave, err := f.enter(after)
	if err != nil {
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
func (f *forgets) enter(after uint64) (news <-chan struct{}, leave func(told bool) agent.ForgetAnswer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backLocked(after)
	if len(f.waiting) >= maxWaiters {
		return nil, nil, rampart.Errorf(rampart.Limited, limitSocket, "more than %d calls wait for what to forget", maxWaiters)
	}
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
		f.waiting = slices.Delete(f.waiting, slices.Index(f.waiting, done), slices.Index(f.waiting, done)+1)
		if !told {
			return agent.ForgetAnswer{}
		}
		a := f.sinceLocked(after, behind)
		f.away = append(f.away, answered{done: done, told: a.ID, at: f.now()})
		return a
	}, nil
}

// backLocked strikes one who was away and comes again off the list.
func (f *forgets) backLocked(after uint64) {
	f.away = slices.DeleteFunc(f.away, func(a answered) bool { return f.now().Sub(a.at) > forgetGone })
	if i := slices.IndexFunc(f.away, func(a answered) bool { return a.told == after }); i >= 0 {
		f.away = slices.Delete(f.away, i, i+1)
	}
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
// everything. A service that never asks caches nothing that we know of.
func (f *forgets) carriedOut() (id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	floor := f.last
	for _, after := range f.waiting {
		floor = min(floor, after)
	}
	for _, a := range f.away {
		if f.now().Sub(a.at) <= forgetGone {
			floor = min(floor, a.done)
		}
	}
	for _, v := range f.log {
		if v.id <= floor {
			id = max(id, v.ID)
		}
	}
	return id
}

// obey has the link's news reach this process's caches and the service's, and
// heartbeats tell what came of them.
func (s *Sidecar) obey() {
	s.opt.Link.OnForget(func(what wire.Forget) {
		if len(what.Secrets)+len(what.DEKs) == 0 {
			s.opt.Link.Forgot(what.ID)
			return
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

// forget tells the service what its caches must not serve any more.
func (s *Sidecar) forget(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		problem.Write(w, rampart.Errorf(rampart.Invalid, "", "after must be the id of the last answer, or 0"), "")
		return
	}
	a, err := s.forgets.wait(r.Context(), after)
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	answer(w, a)
}
