package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/postgres"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/store/valkey"
)

// maxStoreFile bounds files with a password or with roots, in bytes.
const maxStoreFile = 64 << 10

// remote are the flags of one server that keeps state.
type remote struct {
	url, password, ca string
}

func (r *remote) add(cmd *cobra.Command, name, form, what string) {
	fl := cmd.Flags()
	fl.StringVar(&r.url, name, "", what+", "+form)
	fl.StringVar(&r.password, name+"-password-file", "", "file with its password, mode 0600, read at each new connection")
	fl.StringVar(&r.ca, name+"-ca", "", "PEM file with the roots that its certificate must lead to")
}

// read returns the roots and checks the password file once, so that a mistake
// is named at the start.
func (r *remote) read(ctx context.Context, name string) ([]byte, error) {
	if r.password == "" || r.ca == "" {
		return nil, usageError("--%s needs --%s-password-file and --%s-ca", name, name, name)
	}
	if _, err := r.secret(ctx); err != nil {
		return nil, err
	}
	return readSmall(r.ca)
}

// secret reads the password.
func (r *remote) secret(context.Context) (secrets.Secret, error) {
	info, err := os.Stat(r.password)
	if err != nil {
		return secrets.Secret{}, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return secrets.Secret{}, fmt.Errorf("others may read %s (mode %#o): chmod 600 it", r.password, mode)
	}
	b, err := readSmall(r.password)
	if err != nil {
		return secrets.Secret{}, err
	}
	defer clear(b)
	line := bytes.TrimRight(b, "\r\n")
	if len(line) == 0 || bytes.ContainsAny(line, "\r\n") {
		return secrets.Secret{}, fmt.Errorf("%s must hold one line with the password", r.password)
	}
	return secrets.New(line, 1), nil
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStoreFile+1))
	if err == nil && len(b) > maxStoreFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxStoreFile)
	}
	return b, err
}

// storeFlags say where the control plane keeps its state.
type storeFlags struct {
	database, shared remote
	replica          string
}

func (f *storeFlags) add(cmd *cobra.Command) {
	f.database.add(cmd, "database", "postgres://USER@HOST:PORT/DB", "PostgreSQL instead of a file in the state folder")
	f.shared.add(cmd, "shared", "rediss://HOST:PORT", "Valkey or Redis for sessions, counters and tickets")
	cmd.Flags().StringVar(&f.replica, "replica", "", "name of this control plane, if several share the database")
}

// check finds flags that do not go together.
func (f *storeFlags) check() error {
	if f.replica != "" && !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`).MatchString(f.replica) {
		return usageError("--replica must have 1 to 32 of a-z, 0-9 and -, and begin with a letter or digit")
	}
	if f.replica != "" && f.database.url == "" {
		return usageError("--replica needs --database: a file in the state folder is for one control plane")
	}
	for name, r := range map[string]remote{"database": f.database, "shared": f.shared} {
		if r.url == "" && (r.password != "" || r.ca != "") {
			return usageError("--%s-password-file and --%s-ca need --%s", name, name, name)
		}
	}
	return nil
}

// open opens the store that the flags name.
func (f *storeFlags) open(ctx context.Context, state *statedir.Dir, log *slog.Logger) (store.Store, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	base, err := f.openBase(ctx, state)
	if err != nil || f.shared.url == "" {
		return base, err
	}
	shared, err := f.openShared(ctx, log)
	if err != nil {
		return nil, errors.Join(err, base.Close())
	}
	return store.WithShared(base, shared), nil
}

func (f *storeFlags) openBase(ctx context.Context, state *statedir.Dir) (store.Store, error) {
	if f.database.url == "" {
		return sqlite.Open(ctx, state.Path("control.db"))
	}
	roots, err := f.database.read(ctx, "database")
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Options{URL: f.database.url, CA: roots, Password: f.database.secret})
}

func (f *storeFlags) openShared(ctx context.Context, log *slog.Logger) (store.Shared, error) {
	roots, err := f.shared.read(ctx, "shared")
	if err != nil {
		return nil, err
	}
	st, err := valkey.Open(ctx, valkey.Options{URL: f.shared.url, CA: roots, Password: f.shared.secret})
	if err != nil {
		return nil, err
	}
	durable, err := st.Durable(ctx)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	if !durable {
		log.LogAttrs(ctx, slog.LevelWarn, "the shared store keeps no log of its writes: its crash logs people out and forgets failed logins; set appendonly yes")
	}
	return st, nil
}
