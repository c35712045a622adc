// Package valkey lets gateways that share a load count together, in Valkey or
// Redis 7, without a request ever waiting for it.
//
// A gateway decides by itself: on what the store said last of a key, plus what it
// has admitted since. Behind its back one goroutine pushes what was admitted, in
// pipelines, and takes home what all gateways together admitted. Two rules bound
// what can go wrong meanwhile. Nothing is admitted above the limit as far as this
// gateway knows; and between two answers of the store it admits at most its share
// of what was free, or a hundredth of its share of the limit if that is more.
//
// So for N gateways and a limit L, no window of the limit's length holds more than
// L + (N-1)*U, where U is the most that one gateway admits of a key between two
// answers: max(u, rate*S) for a threshold u = max(1, L/100N) and answers each
// S = 50 ms, and whatever the rate never more than L/N (or u). A gateway that dies
// with something unsaid is one of the N.
//
// While the store is away each gateway admits L/N per window of what it sees, so
// that all of them together admit at most L; a limit below N admits nobody then.
// That lasts until the store has been back for three seconds: by then each gateway
// has told it what it admitted meanwhile, so there is no burst. A store that has
// lost its memory is found out by a word that it was given to keep; then each
// gateway tells it all that it admitted in the window.
package valkey

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Bounds of the goroutine that talks to the store.
const (
	every    = 50 * time.Millisecond // S: what was admitted is pushed at least so often
	atLeast  = 5 * time.Millisecond  // between two pushes: under load, more goes into each
	patience = 250 * time.Millisecond
	firstTry = 100 * time.Millisecond // after a failure, doubled up to lastTry
	lastTry  = time.Second
	look     = time.Second     // whether the store is the one of before is asked at least so often
	settle   = 3 * time.Second // above lastTry and look: who comes back waits for the others
	batch    = 512             // keys per pipeline
	connLife = 30 * time.Minute
)

// epochLife is how long the store keeps its word without being asked.
const epochLife = 30 * 24 * time.Hour

//go:embed push.lua
var pushLua string

// Options of a Store. URL, TLS and Gateways are required.
type Options struct {
	URL      string           // rediss://HOST:PORT
	TLS      *tls.Config      // verifies the server, and shows this plane's certificate
	Gateways int              // N: how many share the store at most
	Prefix   string           // of all keys; "": "rampart:limit:"
	Logger   *slog.Logger     // if not nil, told when the store goes and comes back
	Now      func() time.Time // if nil, time.Now; read by its monotonic clock
}

// Store is where gateways count together. Its limiters decide from the start,
// each for its gateway's share, and together once Run has reached the server.
// Safe for concurrent use.
type Store struct {
	opt    Options
	db     *redis.Client
	script *redis.Script
	start  time.Time
	kick   chan struct{}

	alone  atomic.Bool  // decide by the share alone
	away   atomic.Int64 // since when, on our clock, the server has not answered; here: it answers
	offset atomic.Int64 // the server's clock minus ours since start, ns: at most what is true
	pushes atomic.Uint64
	most   atomic.Int64 // most that was ever unsaid of one key

	mu       sync.Mutex
	limiters []*Limiter

	// of Run's goroutine alone
	down    bool
	retry   time.Duration
	retryAt int64
	settle  time.Duration
	settled int64 // when to stop being alone
	pushed  int64
	epoch   string
}

// New returns a Store that has not reached its server yet.
func New(opt Options) (*Store, error) {
	u, err := url.Parse(opt.URL)
	switch {
	case err != nil || u.Scheme != "rediss" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return nil, errors.New("valkey: the URL must be rediss://HOST:PORT")
	case opt.TLS == nil || opt.Gateways < 1:
		return nil, errors.New("valkey: TLS and the number of gateways are required")
	}
	if opt.Prefix == "" {
		opt.Prefix = "rampart:limit:"
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	s := &Store{opt: opt, script: redis.NewScript(pushLua), start: opt.Now(), kick: make(chan struct{}, 1), down: true, settle: settle}
	s.alone.Store(true)
	s.offset.Store(s.start.UnixNano())
	s.db = redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(u.Hostname(), u.Port()), TLSConfig: opt.TLS,
		// One goroutine uses it; what failed is pushed again by us.
		PoolSize: 1, MaxRetries: -1, DialerRetries: 1, ConnMaxLifetime: connLife,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience, ContextTimeoutEnabled: true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return s, nil
}

// Alone reports whether this gateway counts for itself at the moment, because the
// store is away or has just come back.
func (s *Store) Alone() bool { return s.alone.Load() }

// here is the value of away while the server answers; our clock starts at 0.
const here = -1

// Away reports whether the server does not answer, and since when: one that was
// never reached, since New.
func (s *Store) Away() (since time.Time, away bool) {
	at := s.away.Load()
	if at == here {
		return time.Time{}, false
	}
	return s.start.Add(time.Duration(at)), true
}

// Run talks to the server until ctx ends, then says what is unsaid. It may be
// called once; all I/O is its goroutine's.
func (s *Store) Run(ctx context.Context) error {
	defer s.db.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.last()
			return nil
		case <-s.kick:
			s.pause(ctx)
		case <-tick.C:
		}
		if ctx.Err() == nil {
			s.round(ctx)
		}
	}
}

// last says what is unsaid, also when the round before was broken off.
func (s *Store) last() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	s.retryAt = 0
	s.round(ctx)
}

// pause keeps two pushes apart.
func (s *Store) pause(ctx context.Context) {
	wait := time.Duration(s.pushed + int64(atLeast) - s.since())
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// since is our clock: monotonic, from 0.
func (s *Store) since() int64 { return int64(s.opt.Now().Sub(s.start)) }

// round pushes what there is, after finding the server if it was away.
func (s *Store) round(ctx context.Context) {
	now := s.since()
	if s.down {
		if now < s.retryAt {
			return
		}
		if err := s.connect(ctx); err != nil {
			s.failed(err)
			return
		}
		s.found(now)
	}
	if err := s.pushAll(ctx); err != nil {
		s.failed(err)
		return
	}
	if s.alone.Load() && s.since() >= s.settled {
		s.alone.Store(false)
		s.log(slog.LevelInfo, "limits are shared", nil)
	}
}

// failed makes this gateway count alone: degraded, never open.
func (s *Store) failed(err error) {
	s.away.CompareAndSwap(here, s.since())
	if s.alone.Store(true); !s.down || s.retry == 0 {
		s.log(slog.LevelWarn, "the store of limits is away: this gateway admits its share alone", err)
	}
	s.retry = min(max(2*s.retry, firstTry), lastTry)
	s.down, s.retryAt = true, s.since()+int64(s.retry)
}

func (s *Store) found(now int64) {
	s.away.Store(here)
	s.down, s.retry = false, 0
	s.settled = now + int64(s.settle)
}

func (s *Store) log(level slog.Level, msg string, err error) {
	if s.opt.Logger == nil {
		return
	}
	var attrs []slog.Attr
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	s.opt.Logger.LogAttrs(context.Background(), level, msg, attrs...)
}

// connect refuses a server that could forget while it runs: counts that are
// evicted would let through what was refused.
func (s *Store) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	// The client writes to standard error of its own accord when it cannot dial.
	probe, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", s.db.Options().Addr)
	if err != nil {
		return err
	}
	probe.Close()
	report, err := s.db.Info(ctx, "memory").Result()
	if err != nil {
		return err
	}
	if _, policy, ok := strings.Cut(report, "maxmemory_policy:"); ok && !strings.HasPrefix(policy, "noeviction") {
		return errors.New("the server drops entries when it is full: set maxmemory-policy noeviction")
	}
	if err := s.script.Load(ctx, s.db).Err(); err != nil {
		return err
	}
	return s.db.SetNX(ctx, s.epochKey(), rand.Text(), epochLife).Err()
}

func (s *Store) epochKey() string { return s.opt.Prefix + "epoch" }

// keep compares the store's word with that of before, and begins anew with a
// store that has another: its memory is not the one that we pushed to.
func (s *Store) keep(word string) error {
	if word == "" {
		return errors.New("the store has lost its memory")
	}
	before := s.epoch
	s.epoch = word
	if before == "" || before == word {
		return nil
	}
	for _, l := range s.list() {
		l.repeat()
	}
	s.alone.Store(true)
	s.settled = s.since() + int64(s.settle)
	s.log(slog.LevelWarn, "the store of limits has lost its memory: this gateway tells it anew", nil)
	return nil
}

func (s *Store) list() []*Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Limiter(nil), s.limiters...)
}

func (s *Store) add(l *Limiter) *Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limiters = append(s.limiters, l)
	return l
}

// wake has the goroutine push soon.
func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// String names the server, for logs.
func (s *Store) String() string { return fmt.Sprintf("store of limits %s", s.opt.URL) }
