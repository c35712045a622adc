package valkey

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// pushing is one key of a pipeline.
type pushing struct {
	l   *Limiter
	key string
	cmd *redis.Cmd
}

// pushAll says what is unsaid, in pipelines. After an error the rest stays unsaid.
func (s *Store) pushAll(ctx context.Context) error {
	var list []pushing
	for _, l := range s.list() {
		for _, key := range l.take() {
			list = append(list, pushing{l: l, key: key})
		}
	}
	if len(list) == 0 && s.since() < s.pushed+int64(look) {
		return nil
	}
	for {
		n := min(len(list), batch)
		if err := s.push(ctx, list[:n]); err != nil {
			for _, p := range list[n:] {
				p.l.requeue(p.key)
			}
			return err
		}
		if list = list[n:]; len(list) == 0 {
			return nil
		}
	}
}

// push sends one pipeline. What was sent and not answered counts as unsaid: sent
// again it may count twice, which is on the safe side.
func (s *Store) push(ctx context.Context, list []pushing) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pipe := s.db.Pipeline()
	word := pipe.GetEx(ctx, s.epochKey(), epochLife)
	for i := range list {
		p := &list[i]
		if n := p.l.lift(p.key); n > 0 {
			p.cmd = pipe.EvalSha(ctx, s.script.Hash(), []string{p.l.prefix + p.key + "}"}, p.l.bucket/1000, p.l.m, n)
		}
	}
	_, err := pipe.Exec(ctx)
	heard := s.since()
	s.pushed = heard
	s.pushes.Add(1)
	if errors.Is(err, redis.Nil) {
		err = nil // the word: said by keep
	}
	for _, p := range list {
		if p.cmd == nil {
			continue
		}
		if v, cerr := p.cmd.Int64Slice(); cerr == nil && len(v) == p.l.m+2 {
			p.l.land(p.key, v, heard)
			continue
		}
		p.l.drop(p.key)
		err = errors.Join(err, p.cmd.Err())
	}
	switch {
	case err != nil && strings.Contains(err.Error(), "NOSCRIPT"):
		return errors.New("the store has lost its memory") // and the script with it
	case err != nil:
		return err
	}
	return s.keep(word.Val())
}

// take returns the keys with something to push.
func (l *Limiter) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.dirty
	l.dirty = nil
	return out
}

// lift takes what is unsaid of key on its way.
func (l *Limiter) lift(key string) int {
	s, e := l.keys.Peek(key, l.store.since())
	defer s.Unlock()
	if e == nil {
		return 0
	}
	e.advance(l.at(s.Now()), l)
	e.queued = false
	e.flying = e.unsaid.Sum()
	e.unsaid.Clear()
	return e.flying
}

// land takes home what the store says of key: its newest bucket, its time, and
// its counters. heard is when.
func (l *Limiter) land(key string, v []int64, heard int64) {
	counts := make([]int32, l.m)
	for i, n := range v[2:] {
		counts[i] = int32(min(n, mostLimit))
	}
	// The answer was under way: the server's clock shows more by now, so what is
	// in its window leaves late, never early.
	l.store.offset.Store(v[1]*1000 - heard)
	s, e := l.keys.Peek(key, heard)
	defer s.Unlock()
	if e != nil {
		e.flying = 0
		e.view.Set(v[0], counts, l.m)
	}
}

// drop makes what was on its way unsaid again.
func (l *Limiter) drop(key string) {
	s, e := l.keys.Peek(key, l.store.since())
	defer s.Unlock()
	if e == nil {
		return
	}
	e.advance(l.at(s.Now()), l)
	e.unsaid.Add(e.flying, l.m)
	e.flying = 0
	l.queue(e, key)
}

// requeue keeps a key for the next push.
func (l *Limiter) requeue(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = append(l.dirty, key)
}

// repeat has all of this gateway's window said again.
func (l *Limiter) repeat() {
	now := l.store.since()
	l.keys.Each(func(key string, e *entry) {
		e.advance(l.at(now), l)
		if e.own.Sum() > 0 {
			e.unsaid = e.own
			l.queue(e, key)
		}
	})
}
