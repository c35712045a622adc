package rotate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// PostgresOptions of a Postgres. All but URL are required.
type PostgresOptions struct {
	Admin    string                                            // postgres://ROLE@HOST:PORT/DB of a role that may change the two
	Password func(ctx context.Context) (secrets.Secret, error) // the admin's, asked for each time
	TLS      func(serverName string) (*tls.Config, error)      // verifies the server in full
	Owner    string                                            // role that owns the tables; the two are its members
	URL      string                                            // where readers log in, as Admin is written; "": where the admin does. A pooler may stand there
	Pooler   bool                                              // PgBouncer with transaction pooling stands at URL
}

// Postgres are the Hooks of two login roles of a PostgreSQL database, members of
// one role that owns everything. Passwords are set as SCRAM verifiers: neither
// the server nor its log ever has one. Safe for concurrent use.
type Postgres struct{ opt PostgresOptions }

// NewPostgres returns the hooks. It panics when something required is missing.
func NewPostgres(opt PostgresOptions) *Postgres {
	if opt.Admin == "" || opt.Password == nil || opt.TLS == nil || opt.Owner == "" {
		panic("rotate: a database has an admin with a password, TLS and an owner")
	}
	if opt.URL == "" {
		opt.URL = opt.Admin
	}
	return &Postgres{opt}
}

var _ Hooks = (*Postgres)(nil)

// Create implements Hooks. A role that is missing is made, so that it can log in
// and be nobody but the owner; of one that is there, login and password change.
func (p *Postgres) Create(ctx context.Context, c Credential) error {
	var text string
	err := c.Password.Use(func(b []byte) (err error) {
		text, err = Verifier(b)
		return err
	})
	if err != nil {
		return err
	}
	return p.asAdmin(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return p.set(ctx, tx, c.User, text) })
	})
}

// lockKey keeps two who make one role apart.
const lockKey = 7269

func (p *Postgres) set(ctx context.Context, tx pgx.Tx, user, verifier string) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey); err != nil {
		return err
	}
	var there, member bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
		EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member JOIN pg_roles o ON o.oid = m.roleid WHERE r.rolname = $1 AND o.rolname = $2)`,
		user, p.opt.Owner).Scan(&there, &member)
	if err != nil {
		return err
	}
	verb := "ALTER ROLE %s LOGIN PASSWORD '%s'"
	if !there {
		verb = "CREATE ROLE %s LOGIN NOINHERIT PASSWORD '%s'"
	}
	// A verifier has no character that ends a text in quotes, and no statement
	// that sets one takes arguments.
	if _, err := tx.Exec(ctx, fmt.Sprintf(verb, name(user), verifier)); err != nil || member {
		return err
	}
	_, err = tx.Exec(ctx, "GRANT "+name(p.opt.Owner)+" TO "+name(user))
	return err
}

// Test implements Hooks: it logs in as readers do, and acts as the owner.
func (p *Postgres) Test(ctx context.Context, c Credential) error {
	config, err := p.config(p.opt.URL)
	if err != nil {
		return err
	}
	config.User = c.User
	if p.opt.Pooler {
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	}
	if err := c.Password.Use(func(b []byte) error { config.Password = string(b); return nil }); err != nil {
		return err
	}
	err = connect(ctx, config, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL ROLE "+name(p.opt.Owner))
			return err
		})
	})
	return told("the new credential of "+c.User+" does not work", err)
}

// Publish implements Hooks. A pooler that asks the database who may log in
// (auth_query) knows already.
func (p *Postgres) Publish(context.Context, Credential) error { return nil }

// Revoke implements Hooks: user has no password and may not log in, and the
// connections that it still has end.
func (p *Postgres) Revoke(ctx context.Context, user string) error {
	if user == "" {
		return nil
	}
	return p.asAdmin(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "ALTER ROLE "+name(user)+" NOLOGIN PASSWORD NULL")
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42704" {
			return nil // there is no such role
		}
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid()`, user)
		return err
	})
}

func (p *Postgres) asAdmin(ctx context.Context, f func(*pgx.Conn) error) error {
	config, err := p.config(p.opt.Admin)
	if err != nil {
		return err
	}
	password, err := p.opt.Password(ctx)
	if err != nil {
		return err
	}
	if err := password.Use(func(b []byte) error { config.Password = string(b); return nil }); err != nil {
		return err
	}
	return told("the admin role cannot change the two that take turns", connect(ctx, config, f))
}

func connect(ctx context.Context, config *pgx.ConnConfig, f func(*pgx.Conn) error) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// told keeps of an error what the server answered, never what was sent to it. A
// server that is away, starts, stops or is full may answer later.
func told(msg string, err error) error {
	if err == nil {
		return nil
	}
	e, answered := errors.AsType[*pgconn.PgError](err)
	if !answered {
		return unavailable("rotate: the database cannot be reached", err)
	}
	if slices.Contains([]string{"57P01", "57P02", "57P03", "53300", "08006", "40001", "40P01"}, e.Code) {
		return unavailable("rotate: the database is not available", err)
	}
	hint := ""
	if e.Code == "42501" {
		hint = "; it needs CREATEROLE, membership WITH ADMIN OPTION in the owner, and pg_signal_backend"
	}
	return rampart.Errorf(rampart.Denied, control, "rotate: %s: %s (SQLSTATE %s)%s", msg, e.Message, e.Code, hint)
}

// config builds what pgx needs. Nothing comes from PG* variables, password or
// service files: pgx insists on its parser, which reads them, so every field
// that it may have filled is set again.
func (p *Postgres) config(text string) (*pgx.ConnConfig, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" || u.Hostname() == "" || u.User.Username() == "" {
		return nil, rampart.Errorf(rampart.Invalid, control, "rotate: write the database as postgres://ROLE@HOST:PORT/DB")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return nil, rampart.Errorf(rampart.Invalid, control, "rotate: the database's address must name a port")
	}
	verified, err := p.opt.TLS(u.Hostname())
	if err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig("host=unset user=unset sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	c.Host, c.Port = u.Hostname(), uint16(port)
	c.Database, c.User, c.Password = strings.TrimPrefix(u.Path, "/"), u.User.Username(), ""
	c.TLSConfig, c.Fallbacks = verified, nil // no fallback to plain text
	c.SSLNegotiation = "postgres"
	c.RequireAuth = "scram-sha-256"
	c.ChannelBinding = "prefer"
	c.RuntimeParams = map[string]string{"application_name": "rampart-rotate"}
	c.ConnectTimeout = 5 * time.Second
	c.DialFunc = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	c.ValidateConnect, c.AfterConnect = nil, nil
	return c, nil
}

func name(role string) string { return pgx.Identifier{role}.Sanitize() }
