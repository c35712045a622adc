package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxSecret bounds what is read as a password or other secret, in bytes.
const maxSecret = 64 << 10

// newPassword reads a password to be: from a file, from standard input, or, on
// a terminal, twice without echo. Never from the command line, where every
// process could read it.
func newPassword(cmd *cobra.Command, file string) (string, error) {
	if file != "" && file != "-" {
		return secretFile(file, "password")
	}
	first, err := readSecret(cmd, "new password")
	if err != nil || file == "-" || !term.IsTerminal(int(os.Stdin.Fd())) {
		return string(first), err
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Once more: ")
	second, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	if err == nil && !bytes.Equal(first, second) {
		err = usageError("the two differ; nothing was changed")
	}
	return string(first), err
}

// secretFile reads one secret from a file, without the end of its line.
func secretFile(file, what string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", &exitError{exitUsage, err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	b = bytes.TrimRight(b, "\r\n")
	if err == nil && len(b) == 0 {
		err = usageError("%s holds no %s", file, what)
	}
	return string(b), err
}
