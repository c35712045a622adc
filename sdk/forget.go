package sdk

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
)

const (
	forgetTimeout = 40 * time.Second // of one question: the sidecar answers within 25 s
	forgetPause   = 500 * time.Millisecond
)

// forgetting asks the sidecar what caches must not serve any more, while anybody
// wants to know.
type forgetting struct {
	mu   sync.Mutex // guards below
	fns  map[int]func(agent.ForgetAnswer)
	next int
	stop context.CancelFunc // of the goroutine; nil when there is none
}

// OnForget calls fn with what the caches of this process must not serve any
// more, until cancel is called. fn returns when it has forgotten: only then the
// sidecar is told so, and a key that is shredded or a password that rotates
// waits for that. One goroutine asks for all; it ends with the last cancel.
func (s *Service) OnForget(fn func(agent.ForgetAnswer)) (cancel func()) {
	f := &s.forgetting
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fns == nil {
		f.fns = map[int]func(agent.ForgetAnswer){}
	}
	id := f.next
	f.next++
	f.fns[id] = fn
	if f.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		f.stop = stop
		go s.askForget(ctx)
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.fns, id)
		if len(f.fns) == 0 && f.stop != nil {
			f.stop()
			f.stop = nil
		}
	}
}

// askForget asks until ctx ends. When the sidecar is away, what caches hold stays
// as good as their own bounds say; one that comes back tells to forget
// everything.
func (s *Service) askForget(ctx context.Context) {
	var after uint64
	for ctx.Err() == nil {
		a, err := s.forgetOnce(ctx, after)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(forgetPause):
			}
			continue
		}
		if a.All || len(a.Secrets)+len(a.DEKs) > 0 {
			s.forgetting.tell(a)
		}
		after = a.ID
	}
}

func (s *Service) forgetOnce(ctx context.Context, after uint64) (a agent.ForgetAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sidecar"+agent.PathForget+"?after="+strconv.FormatUint(after, 10), nil)
	if err != nil {
		return a, err
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return a, err
	}
	var b []byte
	if err := AnswerBytes(resp, &b); err != nil {
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

func (f *forgetting) tell(a agent.ForgetAnswer) {
	f.mu.Lock()
	fns := make([]func(agent.ForgetAnswer), 0, len(f.fns))
	for _, fn := range f.fns {
		fns = append(fns, fn)
	}
	f.mu.Unlock()
	for _, fn := range fns {
		fn(a)
	}
}
