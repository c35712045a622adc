package db

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/tls/profile"
)

// openPostgres opens PostgreSQL over TLS 1.3, verified in full against the CA
// in rampart.yaml. Nothing comes from PG* variables, password or service files.
// What it returns beside the pool ends with it.
func openPostgres(svc *sdk.Service, store string, info agent.StoreInfo) (*sql.DB, *logins, error) {
	var cert *clientCert
	if info.ClientCert {
		cert = &clientCert{svc: svc, store: store}
	}
	config, err := postgresConfig(info, cert)
	if err != nil {
		return nil, nil, err
	}
	l := newLogins(svc, info.Password, info.Pool)
	conns := sql.OpenDB(newConnector(*config, info, l, cert))
	conns.SetConnMaxLifetime(maxLifetime)
	l.watch(conns)
	return conns, l, nil
}

// conflict reports whether PostgreSQL gave up a transaction that would have
// conflicted with another (SQLSTATE 40001, 40P01).
func conflict(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}

// tooLong tells a caller to come back later when the server broke off a statement
// that ran for too long (SQLSTATE 57014).
func tooLong(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "57014" {
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "the database took too long", Err: err}
	}
	return err
}

// statementTimeout is a setting of that name, in whole milliseconds.
func statementTimeout(d time.Duration) string {
	return "statement_timeout = " + strconv.FormatInt(max(1, d.Milliseconds()), 10)
}

func postgresConfig(info agent.StoreInfo, cert *clientCert) (*pgx.ConnConfig, error) {
	u, err := url.Parse(info.URL)
	if err != nil || u.Scheme != "postgres" || u.User.Username() == "" {
		return nil, fmt.Errorf("the URL must be postgres://USER@HOST:PORT/DB")
	}
	if _, set := u.User.Password(); set || u.RawQuery != "" {
		return nil, fmt.Errorf("the URL may hold neither a password nor options")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("the URL must name a port")
	}
	tls, err := profile.Database(info.CA, u.Hostname())
	if err == nil && cert != nil {
		tls, err = profile.DatabaseWithCert(info.CA, u.Hostname(), cert.current)
	}
	if err != nil {
		return nil, err
	}
	// pgx insists on its parser, and its parser reads the environment: every
	// field that it may have filled is set again.
	c, err := pgx.ParseConfig("host=unset user=unset sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	c.Host, c.Port = u.Hostname(), uint16(port)
	c.Database, c.User = strings.TrimPrefix(u.Path, "/"), u.User.Username()
	c.Password = ""
	c.TLSConfig, c.Fallbacks = tls, nil // no fallback to plain text
	c.SSLNegotiation = "postgres"
	c.RequireAuth = proofs(info)
	c.ChannelBinding = "prefer"
	c.RuntimeParams = map[string]string{"application_name": "rampart", "search_path": "public"}
	c.ConnectTimeout = 5 * time.Second
	c.DialFunc = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	c.ValidateConnect, c.AfterConnect = nil, nil
	if info.Pooler {
		pooled(c)
	}
	return c, nil
}

// proofs are how the server may ask who this is. It never sees the password; one
// that asks for none has taken the certificate, or anybody, and its own was
// verified before.
func proofs(info agent.StoreInfo) string {
	switch {
	case !info.ClientCert:
		return "scram-sha-256"
	case info.Password == "":
		return "none"
	}
	return "scram-sha-256,none"
}

// pooled prepares for PgBouncer with transaction pooling. A connection there has
// another server at each transaction: statements are parsed where they run,
// arguments apart from them, and nothing stays behind. PgBouncer refuses
// parameters at the start that it does not know, such as search_path.
func pooled(c *pgx.ConnConfig) {
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	delete(c.RuntimeParams, "search_path")
}
