package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
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
		Args: namedArgs,
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

// readImported reads a line, and says what is wrong in it in the words of
// whoever wrote it.
func readImported(line []byte) (imported, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(line, &keys); err != nil {
		return imported{}, errors.New(`not an account as JSON, such as {"name":"frank","hash":"$2b$12$...","roles":["customer"]}`)
	}
	known := []string{"name", "hash", "roles", "organizations", "team", "managed_teams"}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if slices.Contains(known, key) {
			continue
		}
		if near, ok := spec.Nearest(key, known); ok {
			return imported{}, fmt.Errorf("unknown key %q; did you mean %q?", key, near)
		}
		return imported{}, fmt.Errorf("unknown key %q; the keys are: %s", key, strings.Join(known, ", "))
	}
	var v imported
	err := json.Unmarshal(line, &v)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return v, fmt.Errorf("%s is a JSON %s, and must be %s", wrong.Field, wrong.Value, pick(wrong.Type.Kind() == reflect.String, "text in quotes", `a list such as ["customer"]`))
	}
	switch {
	case v.Name == "":
		return v, errors.New("the name is missing")
	case v.Hash == "":
		return v, errors.New("the hash is missing")
	}
	return v, err
}

func importUser(ctx context.Context, admin *adminClient, line []byte) error {
	v, err := readImported(line)
	if err != nil {
		return err
	}
	if err := refuseKnown(ctx, admin, v.Name); err != nil {
		return err
	}
	u := wire.User{Name: v.Name, Hash: v.Hash}
	u.Facts.Roles, u.Facts.Organizations, u.Facts.Team, u.Facts.ManagedTeams = v.Roles, v.Organizations, v.Team, v.ManagedTeams
	return admin.call(ctx, http.MethodPost, wire.AdminUsers, u, nil)
}
