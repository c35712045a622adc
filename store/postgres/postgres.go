// Package postgres keeps the control plane's state in PostgreSQL, so that
// several control planes can share it.
//
// Connections are of TLS 1.3, the server's certificate verified in full, with
// SCRAM. Nothing is read from PG* variables, password or service files, and the
// password is in no argument: it is asked for at each new connection.
// Every commit waits for the disk (and for synchronous standbys, if the server
// has any), whatever the server's default is.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store/relational"
	"github.com/rampart-security/rampart/tls/profile"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Bounds of a connection. A statement of the store touches few rows: one that
// runs for seconds waits for somebody else, and its caller shall hear of it.
const (
	connectTimeout   = 5 * time.Second
	statementTimeout = 5 * time.Second
	connLife         = 30 * time.Minute // after that the password may be another
	connIdle         = 5 * time.Minute
	defaultConns     = 16
)

// migrateLock is the advisory lock under which one process migrates.
const migrateLock int64 = 0x52616d70617274 // "Rampart"

// migrateWait bounds how long a process waits for another that migrates, and
// its own migration.
const migrateWait = 2 * time.Minute

// Options say which database. URL, CA and Password are required.
type Options struct {
	URL      string                                            // postgres://USER@HOST:PORT/DB
	CA       []byte                                            // PEM; the server's certificate must lead there
	Password func(ctx context.Context) (secrets.Secret, error) // asked at each new connection
	Conns    int                                               // at once; 0: 16
}

// Store is a store.Store in a database. Safe for concurrent use, also by
// several processes.
type Store struct {
	*relational.Store
}

// Open connects and migrates the database to this program's schema. A database
// of a newer program is refused.
func Open(ctx context.Context, opt Options) (*Store, error) {
	if opt.Password == nil {
		return nil, errors.New("postgres: a password is required")
	}
	c, err := config(opt)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := migrate(ctx, c, opt); err != nil {
		return nil, fmt.Errorf("postgres: %s: %w", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), err)
	}
	c.RuntimeParams["statement_timeout"] = millis(statementTimeout)
	c.RuntimeParams["lock_timeout"] = millis(statementTimeout)
	c.RuntimeParams["idle_in_transaction_session_timeout"] = millis(statementTimeout)
	db := connect(c, opt, opt.Conns)
	return &Store{relational.New(relational.Database{
		Write: db, Read: db, Exists: exists, Unspeakable: unspeakable, Again: again,
	})}, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// connect opens a pool; it dials nobody yet.
func connect(c *pgx.ConnConfig, opt Options, conns int) *sql.DB {
	password := func(ctx context.Context, c *pgx.ConnConfig) error {
		s, err := opt.Password(ctx)
		if err != nil {
			return err
		}
		return s.Use(func(b []byte) error {
			c.Password = string(b)
			return nil
		})
	}
	if conns <= 0 {
		conns = defaultConns
	}
	db := stdlib.OpenDB(*c, stdlib.OptionBeforeConnect(password))
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxLifetime(connLife)
	db.SetConnMaxIdleTime(connIdle)
	return db
}

// migrate lets one process at a time bring the schema up. The lock goes with
// its connection: it outlives no process.
func migrate(ctx context.Context, c *pgx.ConnConfig, opt Options) error {
	ctx, cancel := context.WithTimeout(ctx, migrateWait)
	defer cancel()
	db := connect(c, opt, 2) // one holds the lock
	defer db.Close()
	lock, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := lock.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, migrateLock); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return relational.Migrate(ctx, db, goose.DialectPostgres, files)
}

func config(opt Options) (*pgx.ConnConfig, error) {
	u, err := url.Parse(opt.URL)
	if err != nil || u.Scheme != "postgres" || u.User.Username() == "" || u.Hostname() == "" {
		return nil, errors.New("the URL must be postgres://USER@HOST:PORT/DB")
	}
	if _, set := u.User.Password(); set || u.RawQuery != "" {
		return nil, errors.New("the URL may hold neither a password nor options")
	}
	name := strings.TrimPrefix(u.Path, "/")
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || name == "" {
		return nil, errors.New("the URL must name a port and a database")
	}
	tls, err := profile.Database(opt.CA, u.Hostname())
	if err != nil {
		return nil, err
	}
	// pgx insists on its parser, and its parser reads the environment: every
	// field that it may have filled is set again.
	c, err := pgx.ParseConfig("host=unset user=unset sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	c.Host, c.Port, c.Database, c.User, c.Password = u.Hostname(), uint16(port), name, u.User.Username(), ""
	c.TLSConfig, c.Fallbacks = tls, nil // no fallback to plain text
	c.SSLNegotiation = "postgres"
	c.RequireAuth = "scram-sha-256" // the server never sees the password
	c.ChannelBinding = "prefer"
	c.RuntimeParams = map[string]string{
		"application_name": "rampart", "search_path": "public", "synchronous_commit": "on", "default_transaction_isolation": "read committed",
	}
	c.ConnectTimeout = connectTimeout
	c.DialFunc = (&net.Dialer{Timeout: connectTimeout}).DialContext
	c.ValidateConnect, c.AfterConnect = nil, nil
	return c, nil
}

// exists reports whether err is a unique violation.
func exists(err error) bool { return hasCode(err, "23505") }

// unspeakable reports whether a text has bytes that no text of the database can
// have: a NUL, or no UTF-8.
func unspeakable(err error) bool { return hasCode(err, "22021", "22P05") }

// again reports whether the database gave up a transaction for another's sake.
func again(err error) bool { return hasCode(err, "40001", "40P01") }

func hasCode(err error, codes ...string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}
