package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// execCmd runs a service's own command in a process group that dies with the
// runner, however the runner dies, and with this process, however that dies: a
// service left behind would keep its port and its database.
func execCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "exec -- COMMAND [ARG...]",
		Short:  "Run a command that ends when standard input closes",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runGroup(lifeline(cmd.Context()), args)
		},
	}
}

// runGroup runs the command in this process's own group. Whatever the command
// leaves there when it ends is for the runner to clear; when this process is
// told to stop, it is the last of the group to go.
func runGroup(ctx context.Context, args []string) error {
	if err := syscall.Setpgid(0, 0); err != nil {
		return fmt.Errorf("own process group: %w", err)
	}
	if err := noCore(); err != nil { // a service may hold a password
		return err
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Start(); err != nil {
		return &exitError{exitUsage, err}
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		return exitOf(err)
	case <-ctx.Done():
	}
	syscall.Kill(0, syscall.SIGTERM) // main listens for it, so this process lives on
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
	return syscall.Kill(0, syscall.SIGKILL)
}

// exitOf passes a command's exit code on, without a word: the command has said
// what there is to say.
func exitOf(err error) error {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{max(e.ExitCode(), 1), nil}
	}
	return err
}
