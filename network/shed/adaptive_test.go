package shed

import (
	"testing"
	"testing/synctest"
	"time"
)

// server answers workers requests at once, each in work; the rest queue.
type server struct {
	workers chan struct{}
	work    time.Duration
}

// phase is what a stretch of load saw.
type phase struct {
	answered, refused int
	worst             time.Duration
	byPriority        [Important + 1]int // answered
}

// load sends perSecond requests for a while, evenly, and waits for all.
func (s *server) load(a *Adaptive, perSecond int, d time.Duration, pick func(i int) Priority) phase {
	var out phase
	done := make(chan func(), 1024)
	n := int(d.Seconds() * float64(perSecond))
	go func() {
		for i := range n {
			time.Sleep(time.Second / time.Duration(perSecond))
			go func() {
				p := pick(i)
				began, err := a.Enter(p)
				if err != nil {
					done <- func() { out.refused++ }
					return
				}
				s.workers <- struct{}{}
				time.Sleep(s.work)
				<-s.workers
				a.Leave(began, Answered)
				took := time.Since(began)
				done <- func() { out.answered++; out.byPriority[p]++; out.worst = max(out.worst, took) }
			}()
		}
	}()
	for range n {
		(<-done)()
	}
	return out
}

func all(p Priority) func(int) Priority { return func(int) Priority { return p } }

// TestOverload: at twice what a service can bear it does nearly all it can, and
// those who are let in do not wait for long; afterwards everybody is let in again.
// Without the gate the queue would grow for as long as the load lasts.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{make(chan struct{}, 20), 20 * time.Millisecond} // bears 1000 a second
		a := NewAdaptive(AdaptiveOptions{})
		s.load(a, 500, 5*time.Second, all(Important))
		for _, seconds := range []int{5, 60} {
			d := time.Duration(seconds) * time.Second
			over := s.load(a, 2000, d, all(Important))
			if over.answered < 900*seconds {
				t.Errorf("%v of overload: %d answered of %d that the service can do", d, over.answered, 1000*seconds)
			}
			if over.worst > 400*time.Millisecond {
				t.Errorf("%v of overload: the slowest took %v, at a limit of %d", d, over.worst, a.Limit())
			}
		}
		if calm := s.load(a, 500, 5*time.Second, all(Normal)); calm.refused > 0 {
			t.Errorf("afterwards %d are refused, at a limit of %d", calm.refused, a.Limit())
		}
	})
}

// TestSlowerToday: a service that can do a quarter of what it could is asked less,
// and is asked more when it is well again.
func TestSlowerToday(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{make(chan struct{}, 40), 10 * time.Millisecond}
		a := NewAdaptive(AdaptiveOptions{})
		s.load(a, 3500, 5*time.Second, all(Important))
		well := a.Limit()
		s.workers = make(chan struct{}, 10) // bears 1000
		s.load(a, 3500, 5*time.Second, all(Important))
		if ill := a.Limit(); ill > 150 {
			t.Errorf("limit %d when it is ill, %d before", ill, well)
		}
		s.workers = make(chan struct{}, 40)
		s.load(a, 3500, 2*time.Second, all(Important))
		if again := s.load(a, 3500, 2*time.Second, all(Important)); again.refused > 0 {
			t.Errorf("well again, %d are refused at a limit of %d", again.refused, a.Limit())
		}
	})
}

// TestTheLowGoFirst: under overload the important lose nothing, and the low the
// most.
func TestTheLowGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{make(chan struct{}, 20), 20 * time.Millisecond}
		a := NewAdaptive(AdaptiveOptions{})
		kinds := []Priority{Low, Normal, Low, High, Normal, Low, Normal, Important} // 2000 a second: 250 important, 250 high, 750 normal, 750 low
		mix := func(i int) Priority { return kinds[i%len(kinds)] }
		s.load(a, 2000, 3*time.Second, mix)
		got := s.load(a, 2000, 10*time.Second, mix)
		if got.byPriority[Important] < 2400 || got.byPriority[High] < 2300 {
			t.Errorf("of 2500 each, %d important and %d high were answered", got.byPriority[Important], got.byPriority[High])
		}
		if got.byPriority[Low] > got.byPriority[Normal]/2 {
			t.Errorf("%d low beside %d normal of as many", got.byPriority[Low], got.byPriority[Normal])
		}
	})
}

// TestQuickAnswers: a service whose answers became ten times slower, and are quick
// all the same, loses nobody: the machine is busy, and nothing queues for long.
func TestQuickAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{make(chan struct{}, 400), 2 * time.Millisecond}
		a := NewAdaptive(AdaptiveOptions{})
		s.load(a, 1000, 5*time.Second, all(Normal))
		s.work = 20 * time.Millisecond
		if busy := s.load(a, 1000, 5*time.Second, all(Normal)); busy.refused > 0 {
			t.Errorf("%d are refused, at a limit of %d", busy.refused, a.Limit())
		}
	})
}

// TestOverloadIsTold: a service that says that it is full is believed, whatever
// time it took to say so.
func TestOverloadIsTold(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	a := NewAdaptive(AdaptiveOptions{Least: 4, Now: func() time.Time { return at }})
	for range 1000 {
		began, err := a.Enter(Important)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(10 * time.Millisecond)
		a.Leave(began, Overload)
	}
	if a.Limit() != 4 {
		t.Errorf("limit %d, want the least", a.Limit())
	}
}

// TestQuietHours: a limit that is not used does not grow.
func TestQuietHours(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	a := NewAdaptive(AdaptiveOptions{Now: func() time.Time { return at }})
	for range 1000 {
		began, _ := a.Enter(Low)
		at = at.Add(10 * time.Millisecond)
		a.Leave(began, Answered)
	}
	if a.Limit() != startLimit {
		t.Errorf("limit %d, want %d", a.Limit(), startLimit)
	}
}

func BenchmarkAdaptive(b *testing.B) {
	a := NewAdaptive(AdaptiveOptions{})
	b.ReportAllocs()
	for b.Loop() {
		began, err := a.Enter(Normal)
		if err != nil {
			b.Fatal(err)
		}
		a.Leave(began, Answered)
	}
}

// TestSlowerByNature: work that takes five times as long, with nothing queueing,
// is let through again once that is known.
func TestSlowerByNature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{make(chan struct{}, 1000), 10 * time.Millisecond}
		a := NewAdaptive(AdaptiveOptions{})
		s.load(a, 1000, 5*time.Second, all(Important))
		s.work = 50 * time.Millisecond
		s.load(a, 1000, 15*time.Second, all(Important))
		if got := s.load(a, 1000, 2*time.Second, all(Important)); got.refused > 0 {
			t.Errorf("%d refused at a limit of %d", got.refused, a.Limit())
		}
	})
}
