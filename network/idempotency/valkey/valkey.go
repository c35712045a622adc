// Package valkey is an idempotency.Store in Valkey or Redis 7, for gateways that
// share a load: a retry may meet any of them.
//
// Each change is one Lua script, which the server runs alone, by its own clock:
// those of gateways differ. Whoever begins chooses the word that proves its lease,
// so that every script may be sent again when its answer is lost: a second Begin of
// one holder finds its own lease, a second Finish or Abandon finds none.
//
// What the store holds opens for nobody who reads it. Names, marks of bodies and
// keys are derived from the client's key and its scope, which whoever repeats the
// request brings along; no key is shared among gateways, rotated or lost. Owners are
// told apart by eight bytes of a hash. Whoever may write to the server can still
// forget a key, and its request would run again: let gateways reach it only.
//
// All owners together hold 400,000 keys and 1 GiB of answers, one the share that
// package fairshare gives, counted over all gateways: above that an owner, or
// everybody, is refused, and nothing is forgotten early. What has expired leaves at
// each Begin, a hundred at a time.
//
// Closed when the server is away, full, or not to be relied on: a request whose key
// cannot be claimed within a second does not run. It must be one primary that evicts
// nothing (refused otherwise), with "appendonly yes" and "appendfsync always" (the
// log says when it is not so): what a crash or a failover of the server forgets
// would run again.
package valkey

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/rampart-security/rampart/network/idempotency"
)

const (
	patience = time.Second     // for one change, tries included
	insist   = 4 * time.Second // for the answer of what was carried out: the lease may end 5 s later
	pause    = 50 * time.Millisecond
	conns    = 16
	connLife = 30 * time.Minute // after that the certificate may be another
	connIdle = 5 * time.Minute
)

//go:embed common.lua
var commonLua string

//go:embed begin.lua
var beginLua string

//go:embed finish.lua
var finishLua string

//go:embed abandon.lua
var abandonLua string

// limits bound what is held; few of it one owner may have before it counts as many.
type limits struct{ keys, bytes, few, fewBytes int }

// Options of a Store. URL and TLS are required.
type Options struct {
	URL    string       // rediss://HOST:PORT
	TLS    *tls.Config  // verifies the server, and shows this plane's certificate
	Prefix string       // of all keys; "": "rampart:idem:". Stores with one prefix share their keys
	Logger *slog.Logger // if not nil, told when the server would forget in a crash
}

// Store is an idempotency.Store. Safe for concurrent use, also by several processes.
type Store struct {
	db                     *redis.Client
	prefix                 string
	limits                 limits
	begin, finish, abandon *redis.Script
	logger                 *slog.Logger
	warned                 atomic.Pointer[string]

	insist   time.Duration
	byCaller bool // tests: the time is the caller's
}

// New returns a Store that has not reached its server yet.
func New(opt Options) (*Store, error) {
	u, err := url.Parse(opt.URL)
	switch {
	case err != nil || u.Scheme != "rediss" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return nil, errors.New("valkey: the URL must be rediss://HOST:PORT")
	case opt.TLS == nil:
		return nil, errors.New("valkey: TLS is required")
	}
	of := func(body string) *redis.Script { return redis.NewScript(commonLua + body) }
	s := &Store{
		prefix: cmp.Or(opt.Prefix, "rampart:idem:"), logger: opt.Logger, insist: insist,
		limits: limits{keys: idempotency.MaxKeys, bytes: idempotency.MaxBytes, few: idempotency.FewKeys, fewBytes: idempotency.FewBytes},
		begin:  of(beginLua), finish: of(finishLua), abandon: of(abandonLua),
	}
	s.db = redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(u.Hostname(), u.Port()), TLSConfig: opt.TLS, OnConnect: s.judge,
		PoolSize: conns, ConnMaxLifetime: connLife, ConnMaxIdleTime: connIdle,
		// After a restart of the server each connection of the pool may fail once.
		MaxRetries: conns, MinRetryBackoff: time.Millisecond, MaxRetryBackoff: 20 * time.Millisecond, DialerRetries: 1,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience, ContextTimeoutEnabled: true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return s, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.db.Close() }

// Check reaches the server once, so that the log says early what is wrong with it. A
// Store works without.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.db.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("valkey: %w", err)
	}
	return nil
}

// Begin implements idempotency.Store. The time is the server's, not now.
func (s *Store) Begin(ctx context.Context, r idempotency.Request, now time.Time) (idempotency.Claim, error) {
	args, lease, err := s.beginning(r, now)
	if err != nil {
		return idempotency.Claim{}, idempotency.Unavailable(err)
	}
	answer, err := s.run(ctx, s.begin, args...).StringSlice()
	if err != nil {
		return idempotency.Claim{}, idempotency.Unavailable(fmt.Errorf("valkey: %w", err))
	}
	return claimOf(r.ID, lease, answer)
}

// beginning returns the arguments of begin.lua.
func (s *Store) beginning(r idempotency.Request, now time.Time) (args []any, lease uint64, err error) {
	name, err := nameOf(r.ID)
	if err != nil {
		return nil, 0, err
	}
	mark, err := markOf(r.ID, r.Hash)
	if err != nil {
		return nil, 0, err
	}
	at := ""
	if s.byCaller {
		at = strconv.FormatInt(now.UnixMicro(), 10)
	}
	within := r.Lease
	if within <= 0 {
		within = idempotency.Lease
	}
	lease = newLease()
	return []any{
		at, name, mark, hex.EncodeToString(r.Owner[:]), lease, within.Microseconds(), r.Keep.Microseconds(),
		s.limits.keys, s.limits.bytes, s.limits.few, s.limits.fewBytes,
	}, lease, nil
}

// newLease is unique among all gateways, and not 0: that is no lease.
func newLease() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return max(1, binary.BigEndian.Uint64(b[:]))
}

func claimOf(id idempotency.ID, lease uint64, answer []string) (idempotency.Claim, error) {
	c := idempotency.Claim{ID: id}
	switch {
	case len(answer) == 1 && answer[0] == "new":
		c.State, c.Lease = idempotency.New, lease
	case len(answer) == 1 && answer[0] == "in flight":
		c.State = idempotency.InFlight
	case len(answer) == 1 && answer[0] == "mismatch":
		c.State = idempotency.Mismatch
	case len(answer) == 1 && answer[0] == "too many":
		return idempotency.Claim{}, idempotency.TooMany()
	case len(answer) == 1 && answer[0] == "full":
		return idempotency.Claim{}, idempotency.Unavailable(errors.New("valkey: full"))
	case len(answer) == 2 && answer[0] == "done":
		r, err := unseal(id, []byte(answer[1]))
		if err != nil {
			return idempotency.Claim{}, idempotency.Unavailable(fmt.Errorf("valkey: %w", err))
		}
		c.State, c.Response = idempotency.Done, r
	default:
		return idempotency.Claim{}, idempotency.Unavailable(errors.New("valkey: a script answered with something else"))
	}
	return c, nil
}

// Finish implements idempotency.Store. It tries for four seconds: an answer that is not
// recorded is not sent, and its request would run again when the lease has ended. A
// restart of the server passes unnoticed.
func (s *Store) Finish(ctx context.Context, c idempotency.Claim, r idempotency.Response) error {
	answer, err := seal(c.ID, r)
	if err != nil {
		return idempotency.Unavailable(err)
	}
	brief, err := seal(c.ID, r.Forgotten())
	if err != nil {
		return idempotency.Unavailable(err)
	}
	return s.insisting(ctx, s.finish, c, answer, brief, s.limits.bytes, s.limits.fewBytes)
}

// Abandon implements idempotency.Store. It tries as long: a lease may last as an answer.
func (s *Store) Abandon(ctx context.Context, c idempotency.Claim) error {
	return s.insisting(ctx, s.abandon, c)
}

func (s *Store) insisting(ctx context.Context, script *redis.Script, c idempotency.Claim, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, s.insist)
	defer cancel()
	for {
		err := s.settle(ctx, script, c, args...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// settle ends a claim. One that is not held is somebody else's by now.
func (s *Store) settle(ctx context.Context, script *redis.Script, c idempotency.Claim, args ...any) error {
	if c.Lease == 0 {
		return nil
	}
	name, err := nameOf(c.ID)
	if err != nil {
		return idempotency.Unavailable(err)
	}
	if err := s.run(ctx, script, append([]any{name, c.Lease}, args...)...).Err(); err != nil {
		return idempotency.Unavailable(fmt.Errorf("valkey: %w", err))
	}
	return nil
}

func (s *Store) run(ctx context.Context, script *redis.Script, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return script.Run(ctx, s.db, nil, append([]any{s.prefix}, args...)...)
}

// judge looks at the server behind each new connection: it may have been restarted
// with other settings.
func (s *Store) judge(ctx context.Context, c *redis.Conn) error {
	report, err := c.Info(ctx, "server", "memory", "persistence").Result()
	if err != nil {
		return err
	}
	if line(report, "redis_mode") == "cluster" {
		return errors.New("the server is part of a cluster: use one primary")
	}
	if policy := line(report, "maxmemory_policy"); policy != "noeviction" {
		return errors.New("the server drops entries when it is full: set maxmemory-policy noeviction")
	}
	s.warn(ctx, weakness(report, fsync(ctx, c)))
	return nil
}

// fsync returns the server's appendfsync, or "" where we may not ask.
func fsync(ctx context.Context, c *redis.Conn) string {
	v, err := c.ConfigGet(ctx, "appendfsync").Result()
	if err != nil {
		return ""
	}
	return v["appendfsync"]
}

// weakness says what the server forgets in a crash, and what to set; "" if nothing
// is known.
func weakness(report, fsync string) string {
	switch {
	case line(report, "aof_enabled") != "1":
		return "the store forgets idempotency keys when it crashes, and their requests would run again: set appendonly yes and appendfsync always"
	case fsync != "" && fsync != "always":
		return "the store forgets the last idempotency keys when it crashes, and their requests would run again: set appendfsync always"
	}
	return ""
}

// warn says each thing once, and again if it was mended in between.
func (s *Store) warn(ctx context.Context, what string) {
	before := s.warned.Swap(&what)
	if s.logger == nil || what == "" || before != nil && *before == what {
		return
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, what)
}

// line returns one line of the server's report, or "".
func line(report, name string) string {
	for l := range strings.Lines(report) {
		if value, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

var _ idempotency.Store = (*Store)(nil)
