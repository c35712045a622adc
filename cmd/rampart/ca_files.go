package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// maxPEMFile bounds what is read from files, in bytes.
const maxPEMFile = 64 << 10

func caExportCmd(f *adminFlags) *cobra.Command {
	var q wire.ExportRoot
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:   "export-root",
		Short: "Write the root and its key to a file, encrypted with age; --remove destroys the key here",
		Long: `export-root writes the root certificate and its key, encrypted to an age public key,
so that it can be kept where no network is. With --remove, and trust: { root: offline }
in rampart.yaml, the key here is destroyed once the file is written: from then on
issuing certificates live 90 days and are signed by hand; rampart ca status says when.`,
		Example: `  age-keygen -o key.txt                       on the machine without network
  rampart ca export-root --recipient age1... --out root.age
  rampart ca export-root --recipient age1... --out root.age --remove`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notThere(out, force); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			if q.Remove {
				if err := f.confirm(cmd, "destroy the root's key here and leave it in %s alone", out); err != nil {
					return err
				}
			}
			// The file is there, and durable, before the key goes.
			got := wire.ExportedRoot{}
			for _, remove := range []bool{false, true}[:1+btoi(q.Remove)] {
				if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminCARoot, wire.ExportRoot{Recipient: q.Recipient, Remove: remove}, &got); err != nil {
					return err
				}
				if err := writeWhole(out, got.Encrypted, 0o600); err != nil {
					return err
				}
			}
			got.Encrypted = nil
			state := "its key is still here too"
			if got.Removed {
				state = "its key is nowhere else; keep the file and your age key apart, and a copy of both"
			}
			return f.tell(cmd, got, "root %s is in %s; %s", got.Cert.KeyID, out, state)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&q.Recipient, "recipient", "", "age public key (age1...)")
	fl.StringVar(&out, "out", "", "file to write")
	fl.BoolVar(&q.Remove, "remove", false, "destroy the key here")
	fl.BoolVar(&force, "force", false, "replace the file if it is there")
	f.addYes(cmd)
	cmd.MarkFlagRequired("recipient")
	cmd.MarkFlagRequired("out")
	return cmd
}

// notThere refuses to replace a file that may be the only copy of something.
func notThere(path string, force bool) error {
	if _, err := os.Lstat(path); force || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return usageError("%s is there already, and may be the only copy of a key; choose another name, or say --force", path)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func caSignCmd(f *adminFlags) *cobra.Command {
	var request bool
	var root, identity, csr, out string
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign the issuing certificate with an exported root; --request fetches what to sign",
		Long: `sign has two halves. With --request it fetches the request for the next issuing
certificate from the running system. With --root, --identity and --csr it signs that
request, on the machine where the exported root is kept; no system needs to run there.
Bring the result back with: rampart ca import.`,
		Example: `  rampart ca sign --request --out issuing.csr                 where the system runs
  rampart ca sign --root root.age --identity key.txt --csr issuing.csr --out issuing.pem
  rampart ca import issuing.pem                               where the system runs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var text []byte
			var err error
			switch {
			case request && root+identity+csr == "":
				text, err = f.fetchRequest(cmd)
			case !request && root != "" && identity != "" && csr != "":
				text, err = signOffline(root, identity, csr)
			default:
				return usageError("say --request, or all of --root, --identity and --csr")
			}
			if err != nil {
				return err
			}
			return emit(cmd, out, text)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&request, "request", false, "fetch the request from the running system")
	fl.StringVar(&root, "root", "", "file that rampart ca export-root wrote")
	fl.StringVar(&identity, "identity", "", "file with the age secret key")
	fl.StringVar(&csr, "csr", "", "file with the request")
	fl.StringVar(&out, "out", "", "file to write (default: standard output)")
	return cmd
}

func (f *adminFlags) fetchRequest(cmd *cobra.Command) ([]byte, error) {
	admin, err := f.open()
	if err != nil {
		return nil, err
	}
	var got wire.PEM
	err = admin.call(cmd.Context(), http.MethodGet, wire.AdminCASign, nil, &got)
	return []byte(got.PEM), err
}

// signOffline signs a request with a root that lies here.
func signOffline(rootFile, identityFile, csrFile string) ([]byte, error) {
	encrypted, err := readPEM(rootFile)
	if err != nil {
		return nil, err
	}
	keys, err := readPEM(identityFile)
	if err != nil {
		return nil, err
	}
	defer clear(keys)
	root, err := ca.OpenRoot(encrypted, bytes.NewReader(keys))
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	text, err := readPEM(csrFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, usageError("%s holds no certificate request; fetch one with: rampart ca sign --request", csrFile)
	}
	signed, err := root.SignRequest(block.Bytes, nil)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return signed, nil
}

func readPEM(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxPEMFile+1))
	if err == nil && len(b) > maxPEMFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxPEMFile)
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return b, nil
}

// emit writes to a file, or to standard output.
func emit(cmd *cobra.Command, out string, text []byte) error {
	if out == "" {
		_, err := cmd.OutOrStdout().Write(text)
		return err
	}
	return writeWhole(out, text, 0o644)
}

func caImportCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Take in an issuing certificate that was signed elsewhere",
		Example: "  rampart ca import issuing.pem",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readPEM(args[0])
			if err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			var st wire.CAStatus
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminCASign, wire.PEM{PEM: string(text)}, &st); err != nil {
				return err
			}
			return f.showCA(cmd, st)
		},
	}
}

func caCRLCmd(f *adminFlags) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "crl",
		Short: "Sign a list of revoked certificates, for those outside who read one",
		Long: `crl prints certificate revocation lists (RFC 5280) in PEM, good for a day: of each
issuing certificate and each root whose key is here. On them is every certificate
that is not expired and void, whether its serial, its issuer or its holder was
revoked. Where the key is gone that would have to sign the list, the certificate is
named on standard error. Rampart's own planes do not read lists: they are told of a
revocation within a second.`,
		Example: "  rampart ca crl --out rampart.crl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var got wire.CRL
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminCRL, nil, &got); err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(got)
			}
			for _, c := range got.Unlisted {
				cmd.PrintErrf("on no list, as the key that signed it is gone: %s of %s, until %s\n", c.Issuer+"."+c.Serial, c.ID, when(c.NotAfter, "-"))
			}
			return emit(cmd, out, []byte(got.PEM))
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: standard output)")
	return cmd
}

// serverFiles is how a kind of server wants its certificate.
type serverFiles struct {
	cert, key, roots string // names in the folder
	use              string // how to configure and reload it; %[1]s is the folder
}

// serversKnown are the kinds of server that rampart ca write knows.
func serversKnown() map[string]serverFiles {
	return map[string]serverFiles{
		"postgres": {"server.crt", "server.key", "root.crt", `postgresql.conf:
  ssl = on
  ssl_min_protocol_version = 'TLSv1.3'
  ssl_cert_file = '%[1]s/server.crt'
  ssl_key_file = '%[1]s/server.key'
  ssl_ca_file = '%[1]s/root.crt'
load it, without a restart:
  psql -c 'SELECT pg_reload_conf()'`},
		"redis": {"redis.crt", "redis.key", "ca.crt", `redis.conf:
  port 0
  tls-port 6379
  tls-protocols "TLSv1.3"
  tls-cert-file %[1]s/redis.crt
  tls-key-file %[1]s/redis.key
  tls-ca-cert-file %[1]s/ca.crt
load it, without a restart:
  redis-cli CONFIG SET tls-cert-file %[1]s/redis.crt tls-key-file %[1]s/redis.key tls-ca-cert-file %[1]s/ca.crt`},
	}
}

func caWriteCmd(f *adminFlags) *cobra.Command {
	var kind, out string
	var names []string
	cmd := &cobra.Command{
		Use:   "write",
		Short: "Write certificate and key files for a database of your own; run it again before they end",
		Long: `write issues a server certificate to files, for servers that can have theirs in no
other way: PostgreSQL and Redis. The key is made here and is readable by this user
alone. Each file is replaced in one step. The certificate lives 7 days: run this
daily, from cron or a timer, followed by the command that it prints.`,
		Example: `  rampart ca write --for postgres --name db.shop.internal --out /etc/postgresql/tls
  rampart ca write --for redis --name localhost --name 127.0.0.1 --out /etc/redis/tls`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, ok := serversKnown()[kind]
			if !ok {
				return usageError("--for is postgres or redis, not %q", kind)
			}
			folder, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			id, err := f.writeServer(cmd, names, folder, files)
			if err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"folder": folder, "not_after": id.NotAfter})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificate for %s in %s, until %s\n\n", words(names, "-"), folder, when(id.NotAfter, "-"))
			fmt.Fprintf(cmd.OutOrStdout(), files.use+"\n", folder)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&kind, "for", "", "postgres or redis")
	fl.StringArrayVar(&names, "name", nil, "name or loopback address that clients connect to, may be repeated")
	fl.StringVar(&out, "out", "", "folder to write to")
	for _, name := range []string{"for", "name", "out"} {
		cmd.MarkFlagRequired(name)
	}
	cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"postgres", "redis"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *adminFlags) writeServer(cmd *cobra.Command, names []string, folder string, files serverFiles) (wire.Identity, error) {
	var id wire.Identity
	admin, err := f.open()
	if err != nil {
		return id, err
	}
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return id, err
	}
	if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminCAWrite, wire.CAWrite{Names: names, CSR: csr}, &id); err != nil {
		return id, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return id, err
	}
	var chain []byte
	for _, c := range id.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return id, err
	}
	return id, errors.Join(
		writeWhole(filepath.Join(folder, files.key), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
		writeWhole(filepath.Join(folder, files.cert), chain, 0o644),
		writeWhole(filepath.Join(folder, files.roots), id.Bundle, 0o644),
	)
}

// writeWhole replaces a file: a reader, and a crash, sees the old content or the
// new. It keeps the owner of one that is there, if this user may.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".rampart-")
	if err != nil {
		return &exitError{exitUsage, err}
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing to remove
	defer tmp.Close()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(mode), tmp.Sync(), keepOwner(tmp, path)); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// keepOwner gives a file the owner of the one that it is to replace: a database
// server reads its key as a user of its own. Who may not do that leaves it.
func keepOwner(f *os.File, old string) error {
	info, err := os.Stat(old)
	if err != nil {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
