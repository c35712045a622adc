package db

import (
	"context"
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
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/secrets"
	"github.com/rampart-security/rampart/tls/profile"
)

// openPostgres opens PostgreSQL over TLS 1.3, verified in full against the CA
// in rampart.yaml. Nothing comes from PG* variables, password or service files.
func openPostgres(svc *sdk.Service, info agent.StoreInfo) (*sql.DB, error) {
	config, err := postgresConfig(info)
	if err != nil {
		return nil, err
	}
	// The password is asked for at each new connection: it may have rotated.
	password := func(ctx context.Context, c *pgx.ConnConfig) error {
		s, err := secrets.Get(ctx, svc, info.Password)
		if err != nil {
			return err
		}
		return s.Use(func(b []byte) error {
			c.Password = string(b)
			return nil
		})
	}
	conns := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(password))
	conns.SetConnMaxLifetime(30 * time.Minute)
	return conns, nil
}

// conflict reports whether PostgreSQL gave up a transaction that would have
// conflicted with another (SQLSTATE 40001, 40P01).
func conflict(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}

func postgresConfig(info agent.StoreInfo) (*pgx.ConnConfig, error) {
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
	c.RequireAuth = "scram-sha-256" // the server never sees the password
	c.ChannelBinding = "prefer"
	c.RuntimeParams = map[string]string{"application_name": "rampart", "search_path": "public"}
	c.ConnectTimeout = 5 * time.Second
	c.DialFunc = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	c.ValidateConnect, c.AfterConnect = nil, nil
	return c, nil
}
