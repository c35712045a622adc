package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rampart-security/rampart/spec"
)

// worded makes the flag errors of a group and all below it say what is wanted.
func worded(group *cobra.Command) {
	group.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%s (see %s --help)", flagProblem(cmd, err), cmd.CommandPath())
	})
}

func flagProblem(cmd *cobra.Command, err error) string {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Sprintf("--%s takes %s, not %q", e.GetFlag().Name, kindOf(e.GetFlag()), e.GetValue())
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Sprintf("--%s lacks its value, %s", e.GetFlag().Name, kindOf(e.GetFlag()))
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return noFlag(cmd, e.GetSpecifiedName())
	}
	return err.Error()
}

func noFlag(cmd *cobra.Command, name string) string {
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if near, ok := spec.Nearest(name, known); ok {
		return fmt.Sprintf("there is no flag %q; did you mean --%s?", name, near)
	}
	return fmt.Sprintf("there is no flag %q", name)
}

func kindOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "uint64", "uint", "int", "int64":
		return "a whole number"
	case "duration":
		return "a time such as 90s or 24h"
	case "bool":
		return "true or false"
	}
	return "a text"
}

// alone refuses flags of which only one makes sense.
func alone(cmd *cobra.Command, names ...string) error {
	var given []string
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 1 {
		return usageError("%s exclude each other; give one of them", strings.Join(given, " and "))
	}
	return nil
}

// meantCommand refuses a word that a group does not know.
func meantCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	if near, ok := spec.Nearest(args[0], known); ok {
		return usageError("%s has no command %q; did you mean %q?", cmd.CommandPath(), args[0], near)
	}
	return usageError("%s has no command %q; it has: %s", cmd.CommandPath(), args[0], strings.Join(known, ", "))
}
