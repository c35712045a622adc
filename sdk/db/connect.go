package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/secrets"
)

// connector makes connections with the credential of the moment.
type connector struct {
	config pgx.ConnConfig
	logins *logins
	cert   *clientCert // nil: the database asks for none
	pooler bool        // PgBouncer with transaction pooling
	once   string      // SQL at the start of a connection
	each   string      // SQL at the start of a transaction
}

func newConnector(config pgx.ConnConfig, info agent.StoreInfo, l *logins, cert *clientCert) *connector {
	c := &connector{config: config, logins: l, cert: cert, pooler: info.Pooler}
	var settings []string
	if info.Pooler {
		settings = append(settings, "search_path = public")
	}
	if info.Timeout > 0 {
		settings = append(settings, statementTimeout(info.Timeout))
	}
	if info.Owner != "" {
		settings = append(settings, "ROLE "+pgx.Identifier{info.Owner}.Sanitize())
	}
	for _, s := range settings {
		if info.Pooler { // what is set for a session, the next client of the server would find
			c.each += "SET LOCAL " + s + "; "
		} else {
			c.once += "SET " + s + "; "
		}
	}
	return c
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Connect implements driver.Connector. When the database refuses a credential,
// that has rotated and the news of it are on their way: it tries once more with
// what the secrets manager says now.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	if c.cert != nil {
		if err := c.cert.renew(ctx); err != nil {
			return nil, err
		}
	}
	s, err := c.logins.take(ctx)
	if err != nil {
		return nil, err
	}
	got, err := c.login(ctx, s)
	if !refused(err) || s.IsZero() {
		return got, err
	}
	again, missing := c.logins.instead(ctx, s)
	if missing != nil || again.IsZero() {
		return nil, err
	}
	return c.login(ctx, again)
}

// refused reports whether the database let nobody in with this user and password
// (SQLSTATE class 28), or a pooler said so in its own words.
func refused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "28P01" || e.Code == "28000" || e.Code == "08P01")
}

// login makes one connection with a credential that was taken for it.
func (c *connector) login(ctx context.Context, s secrets.Secret) (driver.Conn, error) {
	config := c.config
	if !s.IsZero() {
		_ = s.Use(func(b []byte) error { config.Password = string(b); return nil }) // it fails for none, and as f does
	}
	if s.User() != "" {
		config.User = s.User()
	}
	inner, err := stdlib.GetConnector(config).Connect(ctx)
	if err != nil {
		c.logins.closed(s.Version())
		return nil, err
	}
	out := &conn{Conn: inner.(*stdlib.Conn), by: c, version: s.Version(), ends: ends(s.Until(), time.Now())}
	if err := out.run(ctx, c.once); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// ends is when a connection stops being used that was made with a credential that
// ends: halfway, so that what is under way then still ends before it.
func ends(until, now time.Time) time.Time {
	if until.IsZero() {
		return until
	}
	return now.Add(until.Sub(now) / 2)
}

// conn is one connection and the credential that it was made with.
type conn struct {
	*stdlib.Conn
	by      *connector
	version int
	ends    time.Time // zero: not known to
	gone    bool
}

// old reports whether the credential has been replaced, or nears its end.
func (c *conn) old() bool {
	return c.version < c.by.logins.newest() || !c.ends.IsZero() && time.Now().After(c.ends)
}

// IsValid implements driver.Validator: a connection whose credential is old does
// not go back to the pool. It is asked between uses only, never within one.
func (c *conn) IsValid() bool { return !c.Conn.Conn().IsClosed() && !c.old() }

// ResetSession implements driver.SessionResetter: nor does it come out of it.
func (c *conn) ResetSession(ctx context.Context) error {
	if c.old() {
		return driver.ErrBadConn
	}
	return c.Conn.ResetSession(ctx)
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.Conn.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := c.run(ctx, c.by.each); err != nil {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// run sends statements of our own, without arguments, in one message.
func (c *conn) run(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	_, err := c.Conn.Conn().PgConn().Exec(ctx, text).ReadAll()
	return err
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.by.pooler {
		return nil, rampart.Errorf(rampart.Invalid, "", "db: PgBouncer with transaction pooling keeps no prepared statements: run the query itself")
	}
	return c.Conn.PrepareContext(ctx, query)
}

// Close implements driver.Conn.
func (c *conn) Close() error {
	if !c.gone { // database/sql closes once; a failed login of ours may, too
		c.gone = true
		defer c.by.logins.closed(c.version)
	}
	return c.Conn.Close()
}
