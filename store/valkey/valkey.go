// Package valkey is a store.Shared in Valkey or Redis 7: sessions, counters and
// tickets that several control planes share.
//
// Whatever must happen once is one Lua script, which the server runs alone. All
// keys begin with one prefix, and each has an expiry: the server forgets by
// itself, a minute after an entry has stopped to matter. Until then times are
// compared with those that callers give, to the nanosecond.
//
// How durable an entry is, is the server's matter: it survives a crash of the
// server with "appendonly yes" alone, to the last write with "appendfsync
// always". Without, a crash logs people out, forgets guesses, and makes spent
// tickets good again until they expire; Durable tells. A server that evicts
// keys when it is full would do that while it runs: Open refuses it. It also
// refuses a cluster, as scripts reach keys of several slots.
package valkey

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/profile"
)

// Bounds of a command. It takes well under a millisecond on both sides; who
// waits for longer gets an error, and says 503 to its own caller.
const (
	dialTimeout    = 3 * time.Second
	commandTimeout = time.Second
	connLife       = 30 * time.Minute // after that the password may be another
	connIdle       = 5 * time.Minute
	conns          = 32
)

// grace is how much longer than an entry its key lives: clocks differ.
const grace = time.Minute

// Options say which server. URL, CA and Password are required.
type Options struct {
	URL      string                                            // rediss://HOST:PORT or rediss://USER@HOST:PORT
	CA       []byte                                            // PEM; the server's certificate must lead there
	Password func(ctx context.Context) (secrets.Secret, error) // asked at each new connection
	// Certificate is shown to a server that asks for one. May be nil.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	Prefix      string // of all keys; "": "rampart:"
}

// Store is a store.Shared. Safe for concurrent use, also by several processes.
type Store struct {
	db     *redis.Client
	prefix string
	run    scripts
}

// Open connects, and refuses a server that could not keep its word.
func Open(ctx context.Context, opt Options) (*Store, error) {
	c, err := config(opt)
	if err != nil {
		return nil, fmt.Errorf("valkey: %w", err)
	}
	s := &Store{db: redis.NewClient(c), prefix: opt.Prefix, run: newScripts()}
	if s.prefix == "" {
		s.prefix = "rampart:"
	}
	if err := s.judge(ctx); err != nil {
		s.db.Close()
		return nil, fmt.Errorf("valkey: %s: %w", c.Addr, err)
	}
	return s, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.db.Close() }

func config(opt Options) (*redis.Options, error) {
	if opt.Password == nil {
		return nil, errors.New("a password is required")
	}
	u, err := url.Parse(opt.URL)
	if err != nil || u.Scheme != "rediss" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("the URL must be rediss://HOST:PORT")
	}
	if _, set := u.User.Password(); set || u.RawQuery != "" {
		return nil, errors.New("the URL may hold neither a password nor options")
	}
	t, err := profile.Database(opt.CA, u.Hostname())
	if err != nil {
		return nil, err
	}
	t.GetClientCertificate = opt.Certificate
	return &redis.Options{
		Addr:   net.JoinHostPort(u.Hostname(), u.Port()),
		Dialer: dialer(t),
		CredentialsProviderContext: func(ctx context.Context) (user, password string, err error) {
			s, err := opt.Password(ctx)
			if err != nil {
				return "", "", err
			}
			err = s.Use(func(b []byte) error {
				password = string(b)
				return nil
			})
			return u.User.Username(), password, err
		},
		// A command whose answer is lost may have been run: sent again, a ticket
		// would be "taken by somebody else". The caller decides.
		MaxRetries:            -1,
		DialTimeout:           dialTimeout,
		ReadTimeout:           commandTimeout,
		WriteTimeout:          commandTimeout,
		PoolTimeout:           commandTimeout,
		ContextTimeoutEnabled: true,
		PoolSize:              conns,
		ConnMaxLifetime:       connLife,
		ConnMaxIdleTime:       connIdle,
		DisableIdentity:       true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}, nil
}

// judge reads the server's own report.
func (s *Store) judge(ctx context.Context) error {
	mode, err := s.info(ctx, "server", "redis_mode")
	if err != nil {
		return err
	}
	if mode == "cluster" {
		return errors.New("the server is part of a cluster: use one primary, with replicas if need be")
	}
	policy, err := s.info(ctx, "memory", "maxmemory_policy")
	if err != nil {
		return err
	}
	if policy != "noeviction" {
		return fmt.Errorf("the server drops entries when it is full: set maxmemory-policy noeviction, not %q", policy)
	}
	return nil
}

// Durable reports whether the server keeps a log of what it was told, so that
// entries survive its crash.
func (s *Store) Durable(ctx context.Context) (bool, error) {
	on, err := s.info(ctx, "persistence", "aof_enabled")
	return on == "1", err
}

// info returns one line of the server's report, or "".
func (s *Store) info(ctx context.Context, section, name string) (string, error) {
	text, err := s.db.Info(ctx, section).Result()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", nil
}

// script runs one and returns its answer. A failure is an outage, never an
// answer.
func (s *Store) script(ctx context.Context, which *redis.Script, keys []string, args ...any) (any, error) {
	var v any
	err := live(func() (err error) {
		v, err = which.Run(ctx, s.db, keys, args...).Result()
		return err
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err)
	}
	return v, nil
}

// count runs a script that answers with a number.
func (s *Store) count(ctx context.Context, which *redis.Script, keys []string, args ...any) (int64, error) {
	v, err := s.script(ctx, which, keys, args...)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok {
		return 0, unavailable(fmt.Errorf("a script answered with %T", v))
	}
	return n, nil
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Msg: "store: shared state not available", Err: fmt.Errorf("valkey: %w", err)}
}

// forget is when a key may go: the latest of the times, and grace, in
// milliseconds since 1970.
func forget(times ...time.Time) int64 {
	latest := times[0]
	for _, t := range times[1:] {
		if t.After(latest) {
			latest = t
		}
	}
	return latest.Add(grace).UnixMilli()
}

// stamp writes a time so that texts compare as times do.
func stamp(t time.Time) string {
	if t.IsZero() {
		return fmt.Sprintf("%020d", 0)
	}
	return fmt.Sprintf("%020d", max(0, t.UnixNano()))
}

var _ store.Shared = (*Store)(nil)
