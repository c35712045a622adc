package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/spec"
)

// bouncerFlags are what the file does not say of a PgBouncer.
type bouncerFlags struct {
	file     string
	server   string
	address  string
	dir      string
	out      string
	replicas int
}

func renderPgBouncerCmd() *cobra.Command {
	var f bouncerFlags
	cmd := &cobra.Command{
		Use:   "pgbouncer [STORE]",
		Short: "Print a pgbouncer.ini for a postgres store with pooler: true",
		Long: `pgbouncer prints the configuration of the PgBouncer that the url of a store leads
to: transaction pooling, TLS 1.3 on both legs with the server verified in full,
who may log in asked of the server itself (auth_query), and pools of the size
that the flows to the store declare (db.pool). With client_cert: true clients
must show a certificate of our authority, too.

The files that it names are looked for in --dir: cert.pem and key.pem of the
pooler, server-ca.pem of the database, users.txt with the password of the role
pgbouncer, and clients-ca.pem (a copy of ca.pem of the state folder) where
clients show certificates. docs/database-credentials.md has the function that
auth_query calls.`,
		Example: `  rampart render pgbouncer payments_db --server db.internal:5432 > /etc/pgbouncer/pgbouncer.ini
  rampart render pgbouncer --server db.internal:5432 --out deploy/pgbouncer   # one file per store
  rampart render pgbouncer payments_db --server db.internal:5432 --replicas 8 # of each service`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, err := spec.Load(f.file)
			if err != nil {
				return err
			}
			return f.render(cmd.OutOrStdout(), sys, append(args, "")[0])
		},
	}
	fileFlag(cmd, &f.file)
	fl := cmd.Flags()
	fl.StringVar(&f.server, "server", "", "host:port of the database itself; its certificate must name the host")
	fl.StringVar(&f.address, "address", "*", "where the pooler listens; the port is that of the store's url")
	fl.StringVar(&f.dir, "dir", "/etc/pgbouncer", "folder of the pooler's files, where it runs")
	fl.StringVar(&f.out, "out", "", "write NAME.ini for each store into this folder, instead of printing one")
	fl.IntVar(&f.replicas, "replicas", 2, "how many processes of each service connect")
	cmd.MarkFlagRequired("server")
	return cmd
}

func (f *bouncerFlags) render(w io.Writer, sys *spec.System, store string) error {
	names, err := f.stores(sys, store)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := f.store(sys, name)
		if err != nil {
			return err
		}
		text, err := b.render()
		if err != nil {
			return err
		}
		if f.out == "" {
			_, err = w.Write(text)
		} else {
			err = os.WriteFile(filepath.Join(f.out, name+".ini"), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stores are those that are asked for.
func (f *bouncerFlags) stores(sys *spec.System, store string) ([]string, error) {
	var pooled []string
	for _, name := range slices.Sorted(maps.Keys(sys.Stores)) {
		if sys.Stores[name].Pooler {
			pooled = append(pooled, name)
		}
	}
	switch {
	case len(pooled) == 0:
		return nil, usageError("no store in %s has a pooler; write pooler: true in a postgres store whose url leads to PgBouncer", f.file)
	case store != "" && !slices.Contains(pooled, store):
		return nil, usageError("there is no store %q with a pooler; there are: %s", store, strings.Join(pooled, ", "))
	case store != "":
		return []string{store}, nil
	case len(pooled) > 1 && f.out == "":
		return nil, usageError("several stores have a pooler, and each has a file of its own; name one of %s, or a folder with --out", strings.Join(pooled, ", "))
	}
	return pooled, nil
}

// bouncer is what one pgbouncer.ini says.
type bouncer struct {
	System, Store      string
	Database           string
	Host, Port         string // of the server
	Address, Listen    string // of the pooler: host and port
	Dir                string
	Pool               int // connections per role
	All                int // connections in all
	Clients            int
	Lines              []string // what the sizes are made of
	ClientCert, Turned bool
}

func (f *bouncerFlags) store(sys *spec.System, name string) (bouncer, error) {
	s := sys.Stores[name]
	host, port, err := net.SplitHostPort(f.server)
	if err != nil || host == "" || port == "" || strings.ContainsAny(f.server+f.address+f.dir, " \t\n='\"") {
		return bouncer{}, usageError("--server %q is no host:port, or a flag holds a blank or a quote", f.server)
	}
	if s.Password == "" && s.Rotate == nil && s.Dynamic == nil {
		return bouncer{}, usageError("stores.%s: PgBouncer cannot show the server a client's certificate; give the store a password, rotate or dynamic", name)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return bouncer{}, fmt.Errorf("stores.%s.url: %w", name, err)
	}
	if f.replicas < 1 || f.replicas > 10_000 {
		return bouncer{}, usageError("--replicas is from 1 to 10000")
	}
	b := bouncer{
		System: sys.Info.Name, Store: name, Database: strings.TrimPrefix(u.Path, "/"), Host: host, Port: port, Address: f.address, Listen: u.Port(),
		Dir: f.dir, ClientCert: s.ClientCert, Turned: s.Rotate != nil || s.Dynamic != nil,
	}
	for _, flow := range sys.FlowsTo(name) {
		if flow.DB == nil {
			continue
		}
		role := cmp.Or(flow.DB.Role, u.User.Username())
		b.Lines = append(b.Lines, fmt.Sprintf("flow %s: %s as %s, %s", flow.ID, flow.From, role, plural(flow.DB.Pool, "connection")))
		b.Pool = max(b.Pool, flow.DB.Pool)
		b.All += flow.DB.Pool
		b.Clients += flow.DB.Pool * f.replicas
	}
	if b.Turned { // the old role and the new, while they change over
		b.Lines = append(b.Lines, "twice, while credentials change over")
		b.All, b.Clients = 2*b.All, 2*b.Clients
	}
	b.All++
	b.Lines = append(b.Lines, "1 connection that asks who may log in")
	return b, nil
}

// render writes the file. The services' pools are what bounds them; the pooler's
// bound the database, whatever the number of services' processes.
func (b bouncer) render() ([]byte, error) {
	t, err := template.New("pgbouncer").Parse(bouncerText)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, b)
	return out.Bytes(), err
}

const bouncerText = `; PgBouncer in front of store {{.Store}} of {{.System}}. Rendered by rampart render
; pgbouncer from rampart.yaml: change that, and render again.
{{range .Lines}};   {{.}}
{{end}}
[databases]
{{.Database}} = host={{.Host}} port={{.Port}} auth_user=pgbouncer pool_size={{.Pool}}

[pgbouncer]
listen_addr = {{.Address}}
listen_port = {{.Listen}}
unix_socket_dir =

; Rampart's SDK keeps nothing in a session: a connection is another client's after
; each transaction.
pool_mode = transaction
max_client_conn = {{.Clients}}
max_db_connections = {{.All}}
query_wait_timeout = 5
idle_transaction_timeout = 60

; Clients.
client_tls_sslmode = {{if .ClientCert}}verify-full{{else}}require{{end}}
client_tls_protocols = tlsv1.3
client_tls_cert_file = {{.Dir}}/cert.pem
client_tls_key_file = {{.Dir}}/key.pem
{{- if .ClientCert}}
client_tls_ca_file = {{.Dir}}/clients-ca.pem
{{- end}}

; Who may log in, the server says: a password that has rotated needs no reload.
auth_type = scram-sha-256
auth_file = {{.Dir}}/users.txt
auth_query = SELECT username, verifier FROM pooler.lookup($1)

; The server, verified in full.
server_tls_sslmode = verify-full
server_tls_protocols = tlsv1.3
server_tls_ca_file = {{.Dir}}/server-ca.pem
`
