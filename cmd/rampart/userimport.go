package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

// maxImportLine bounds one account of an import, in bytes.
const maxImportLine = 64 << 10

func userImportCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "import [FILE]",
		Short: "Create accounts with the password hashes of another system, one JSON object per line",
		Long: `import reads one account per line: name, hash (argon2id, bcrypt, scrypt or PBKDF2
as another system kept it), roles, organizations, team. People keep their
passwords; at the next login each is stored anew with argon2id. A name that
exists is refused and the rest goes on.`,
		Example: `  rampart user import users.jsonl
  echo '{"name":"frank","hash":"$2b$12$...","roles":["customer"],"organizations":["acme"]}' | rampart user import`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if len(args) == 1 {
				file, err := os.Open(args[0])
				if err != nil {
					return &exitError{exitUsage, err}
				}
				defer file.Close()
				in = file
			}
			done, failed, err := importUsers(cmd, admin, in)
			if err != nil {
				return err
			}
			if err := f.tell(cmd, map[string]int{"imported": done, "refused": failed}, "%s imported, %d refused", plural(done, "account"), failed); err != nil || failed == 0 {
				return err
			}
			return &exitError{exitFailed, nil}
		},
	}
}

// imported is one line of an import.
type imported struct {
	Name          string   `json:"name"`
	Hash          string   `json:"hash"`
	Roles         []string `json:"roles"`
	Organizations []string `json:"organizations"`
	Team          string   `json:"team"`
	ManagedTeams  []string `json:"managed_teams"`
}

func importUsers(cmd *cobra.Command, admin *adminClient, in io.Reader) (done, failed int, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxImportLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if err := importUser(cmd.Context(), admin, lines.Bytes()); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "line %d: %v\n", n, err)
			failed++
			continue
		}
		done++
	}
	return done, failed, lines.Err()
}

func importUser(ctx context.Context, admin *adminClient, line []byte) error {
	var v imported
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("not an account as JSON: %w", err)
	}
	if v.Hash == "" {
		return errors.New("the hash is missing")
	}
	if err := refuseKnown(ctx, admin, v.Name); err != nil {
		return err
	}
	u := wire.User{Name: v.Name, Hash: v.Hash}
	u.Facts.Roles, u.Facts.Organizations, u.Facts.Team, u.Facts.ManagedTeams = v.Roles, v.Organizations, v.Team, v.ManagedTeams
	return admin.call(ctx, http.MethodPost, wire.AdminUsers, u, nil)
}
