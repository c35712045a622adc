package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// execCmd runs a service's own command in a process group that dies with the
// runner, however the runner dies: a service left behind would keep its port
// and its database.
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

func runGroup(ctx context.Context, args []string) error {
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return &exitError{exitUsage, err}
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // what it left behind
		return exitOf(err)
	case <-ctx.Done():
	}
	syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
	syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	return nil
}

// exitOf passes a command's exit code on.
func exitOf(err error) error {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{max(e.ExitCode(), 1), err}
	}
	return err
}
