// Command rampart runs and proves the security of a system that is described
// once, in rampart.yaml. One binary holds every role; this package alone wires
// them together, one file per command.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/data/redact"
	"github.com/rampart-security/rampart/spec"
)

// Exit codes, the same for every command.
const (
	exitOK           = 0
	exitFailed       = 1 // the command ran and the answer is bad: a probe failed, a log was edited
	exitUsage        = 2 // wrong flags, or a file that is refused
	exitInconclusive = 3 // nothing was proven either way
)

// exitError carries an exit code up to main. A nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() { os.Exit(run()) }

// run is main but for the exit, so that test scripts can call it.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage
	var exit *exitError
	if errors.As(err, &exit) {
		code, err = exit.code, exit.err
	}
	printError(err)
	return code
}

// printError writes one line per problem of a file, else one line.
func printError(err error) {
	var problems spec.Problems
	switch {
	case err == nil:
	case errors.As(err, &problems):
		fmt.Fprintln(os.Stderr, problems.Error())
	default:
		fmt.Fprintln(os.Stderr, "rampart:", err)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rampart",
		Short: "Describe your system once; Rampart enforces it and proves it",
		Long: `Rampart reads one file, rampart.yaml, and from it runs an edge gateway, a control
plane and a sidecar per service, prints the system's STRIDE threat model, and
attacks the running system to prove each claim.`,
		Example: `  rampart init --name shop --service catalog --upstream http://127.0.0.1:9000
  rampart check
  rampart up
  rampart threats
  rampart verify`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddGroup(&cobra.Group{ID: "use", Title: "Describe, run and prove:"}, &cobra.Group{ID: "admin", Title: "Look after a running system:"}, &cobra.Group{ID: "role", Title: "Single planes (rampart up starts these):"})
	for _, c := range []*cobra.Command{initCmd(), checkCmd(), upCmd(), routesCmd(), threatsCmd(), policyCmd(), wafCmd(), renderCmd(), verifyCmd()} {
		c.GroupID = "use"
		cmd.AddCommand(c)
	}
	for _, c := range []*cobra.Command{statusCmd(), applyCmd(), canCmd(), whoCanCmd(), whatCanCmd(), auditCmd(), caCmd(), secretCmd(), kekCmd(), userCmd(), clientCmd(), keyCmd(), dekCmd(), sessionCmd(), banCmd(), tokenCmd(), serviceCmd()} {
		c.GroupID = "admin"
		cmd.AddCommand(c)
	}
	for _, c := range []*cobra.Command{controlCmd(), gatewayCmd(), sidecarCmd(), queueCmd(), execCmd()} {
		c.GroupID = "role"
		cmd.AddCommand(c)
	}
	return cmd
}

// version is the module's version, or the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, changed := "unknown commit", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = ", changed"
		}
	}
	return "development (" + commit + changed + ")"
}

// group is a command that only holds others: without one it shows its help,
// and a word that it does not know is an error.
func group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
}

// namedArgs takes the arguments that the command's own line of use names, those
// in brackets if they are given, and says which one is missing.
func namedArgs(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	form := cmd.CommandPath() + " " + strings.Join(names, " ")
	if len(args) > len(names) {
		return usageError("%q is one argument too many; write: %s", args[len(names)], form)
	}
	if len(args) < len(names) && !strings.HasPrefix(names[len(args)], "[") {
		return usageError("%s is missing; write: %s", names[len(args)], form)
	}
	return nil
}

// fileFlag adds -f; every command that reads rampart.yaml has it.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "rampart.yaml", "the system's file")
}

// stateFlag adds --state.
func stateFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "state", ".rampart", "folder of keys, data, audit log and sockets")
}

// newLogger writes JSON lines to stderr, with secrets blanked.
func newLogger(role string) *slog.Logger {
	level := slog.LevelInfo
	h := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	return slog.New(redact.New(h)).With(slog.String("role", role))
}
