package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/secrets/lint"
)

func secretCmd() *cobra.Command {
	var f adminFlags
	cmd := group("secret", "Store, list, rotate and destroy secrets, and find those that lie around in files")
	cmd.Long = `A PATH is one of the embedded store, such as prod/stripe/api-key, or a reference as
rampart.yaml writes it, such as secret://vault/prod/stripe#key. Values come from
standard input or a file, never from the command line, where every process could
read them.`
	cmd.Example = `  rampart secret put prod/stripe/api-key < key.txt
  rampart secret list
  rampart secret rotate store:payments_db
  rampart secret lint .`
	f.add(cmd)
	cmd.AddCommand(secretPutCmd(&f), secretGetCmd(&f), secretListCmd(&f), secretDestroyCmd(&f), secretRotateCmd(&f), secretRotationsCmd(&f), secretLintCmd(&f))
	return cmd
}

// secret calls one operation.
func (f *adminFlags) secret(cmd *cobra.Command, op wire.SecretOp) (wire.SecretAnswer, error) {
	var out wire.SecretAnswer
	admin, err := f.open()
	if err != nil {
		return out, err
	}
	return out, admin.call(cmd.Context(), http.MethodPost, wire.AdminSecrets, op, &out)
}

func secretPutCmd(f *adminFlags) *cobra.Command {
	var file string
	after := -1
	cmd := &cobra.Command{
		Use:     "put PATH",
		Aliases: []string{"set"},
		Short:   "Store a new version, read from standard input or a file",
		Example: "  rampart secret put prod/stripe/api-key < key.txt",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := valueOf(cmd, file)
			if err != nil {
				return err
			}
			defer clear(value)
			op := wire.SecretOp{Op: "put", Path: args[0], Value: value}
			if after >= 0 {
				op.After = &after
			}
			a, err := f.secret(cmd, op)
			if err != nil {
				return err
			}
			return f.tell(cmd, a, "secret %s has a new version, %d; services see it with the next call", args[0], a.Version)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "read the value from a file, without the end of its last line")
	cmd.Flags().IntVar(&after, "after", -1, "only if the newest version is this one; 0: only if there is none")
	return cmd
}

func valueOf(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "" || file == "-" {
		return readSecret(cmd, "value")
	}
	text, err := secretFile(file, "value")
	return []byte(text), err
}

func secretGetCmd(f *adminFlags) *cobra.Command {
	var show bool
	var version int
	cmd := &cobra.Command{
		Use:   "get PATH",
		Short: "Write a value to a file or another program; it is put on record who did",
		Long: `get writes the value as it is, without an end of line, to standard output. To a
terminal, where it would stay on the screen and in its memory, it writes only with
--show. That it was read, and by which user, is on record.`,
		Example: "  rampart secret get prod/stripe/api-key > /dev/shm/key",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if out, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(out.Fd())) && !show {
				return usageError("this would show the value on the screen: send it to a file or a program, or say --show")
			}
			a, err := f.secret(cmd, wire.SecretOp{Op: "get", Path: args[0], Version: version})
			if err != nil {
				return err
			}
			defer clear(a.Value)
			if f.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(a)
			}
			_, err = cmd.OutOrStdout().Write(a.Value)
			return err
		},
	}
	cmd.Flags().BoolVar(&show, "show", false, "write to a terminal, too")
	cmd.Flags().IntVar(&version, "version", 0, "an earlier version, where the backend has them")
	return cmd
}

func secretListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "list [PREFIX]",
		Short:   "List paths and versions, of the embedded store or another backend",
		Example: "  rampart secret list prod\n  rampart secret list secret://vault/",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := f.secret(cmd, wire.SecretOp{Op: "list", Path: strings.Join(args, "")})
			if err != nil {
				return err
			}
			t := table{head: []string{"PATH", "VERSION", "CREATED"}}
			for _, m := range a.List {
				t.add(m.Path, strconv.Itoa(m.Version), m.Created)
			}
			if a.List == nil {
				a.List = []wire.SecretMeta{}
			}
			return f.show(cmd, a.List, t, "no secrets yet; store one with: rampart secret put PATH < FILE")
		},
	}
}

func secretDestroyCmd(f *adminFlags) *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use:   "destroy PATH",
		Short: "Make a secret, or one version of it, unreadable for good",
		Args:  namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "all versions of " + args[0]
			if version > 0 {
				what = fmt.Sprintf("version %d of %s", version, args[0])
			}
			if err := f.confirm(cmd, "destroy %s, which nobody can bring back", what); err != nil {
				return err
			}
			a, err := f.secret(cmd, wire.SecretOp{Op: "destroy", Path: args[0], Version: version})
			if err != nil {
				return err
			}
			return f.tell(cmd, a, "%s destroyed", what)
		},
	}
	f.addYes(cmd)
	cmd.Flags().IntVar(&version, "version", 0, "this version alone; 0: all")
	return cmd
}

func secretRotateCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate NAME",
		Short: "Replace the password of a database with two roles, or a value that Rampart made up",
		Long: `NAME is store:NAME of rampart.yaml that has rotate, or a credential that has generate.
A database's other role gets a new password, which is tried before it is used; the
old one goes when nobody uses it any more. A made-up value is replaced at once.`,
		Example: "  rampart secret rotate store:payments_db\n  rampart secret rotate webhook_key",
		Args:    namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var all []wire.Rotation
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminRotate, nil, &all); err != nil {
				return err
			}
			at := slices.IndexFunc(all, func(r wire.Rotation) bool {
				return r.Name == args[0] || r.Name == "store:"+args[0] || r.Name == "data:"+args[0]
			})
			if at < 0 {
				a, err := f.secret(cmd, wire.SecretOp{Op: "generate", Path: args[0]})
				if err != nil {
					return err
				}
				return f.tell(cmd, a, "%s has a new value, version %d", args[0], a.Version)
			}
			var r wire.Rotation
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRotate, wire.RotateNow{Name: all[at].Name}, &r); err != nil {
				return err
			}
			inUse := "in use is " + r.Current
			if r.Current == "" {
				inUse = "it is the first time, so nothing is in use yet"
			}
			return f.tell(cmd, r, "%s rotates: step %s, %s; watch it with: rampart secret rotations", r.Name, r.Step, inUse)
		},
	}
}

func secretLintCmd(f *adminFlags) *cobra.Command {
	var sarif, all bool
	cmd := &cobra.Command{
		Use:   "lint [PATH]...",
		Short: "Find secrets that stand in files as they are; exit code 1 if there are any",
		Long: `lint reads files and folders (default: this one) and names each line that holds a
well-known kind of credential, or a random value under the name of a secret. It
never prints what it found. A line, or the line above it, may say

  rampart:allow REASON

in a comment; .rampart-lint in the folder allows it for files, "PATTERN REASON" a
line, where ** in the pattern stands for any folders.`,
		Example: "  rampart secret lint\n  rampart secret lint --sarif src > secrets.sarif",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			r, err := lint.Scan(cmd.Context(), args...)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := printLint(cmd, r, f.json, sarif, all); err != nil {
				return err
			}
			if len(r.Findings) > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&sarif, "sarif", false, "print SARIF 2.1.0, for code hosts")
	cmd.Flags().BoolVar(&all, "all", false, "show what is allowed, too, and why")
	return cmd
}

func printLint(cmd *cobra.Command, r lint.Report, asJSON, sarif, all bool) error {
	out := cmd.OutOrStdout()
	switch {
	case sarif:
		return json.NewEncoder(out).Encode(r.SARIF(version()))
	case asJSON:
		return json.NewEncoder(out).Encode(r)
	}
	for _, x := range r.Findings {
		fmt.Fprintf(out, "%s:%d:%d: %s (%s); store it with rampart secret put, and replace it everywhere: whoever read this file has it\n", x.File, x.Line, x.Column, x.Title, x.Rule)
	}
	if all {
		for _, x := range r.Allowed {
			fmt.Fprintf(out, "%s:%d:%d: %s (%s), allowed: %s\n", x.File, x.Line, x.Column, x.Title, x.Rule, x.Reason)
		}
	}
	for _, name := range r.Skipped {
		fmt.Fprintf(out, "%s: too large, not read\n", name)
	}
	_, err := fmt.Fprintf(out, "%s read, %s found, %d allowed\n", plural(r.Files-len(r.Skipped), "file"), plural(len(r.Findings), "secret"), len(r.Allowed))
	return err
}
