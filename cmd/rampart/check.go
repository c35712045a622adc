package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/spec"
)

func checkCmd() *cobra.Command {
	var file string
	var effective, asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Lint the file, without starting anything",
		Long: `check reads the file and everything it names, strictly. Each problem is one line:
file:line:column: key: rule; fix. Exit code 2 when there is any. Warnings name what
is allowed and worth a look; up and apply print them too, no other command does.`,
		Example: `  rampart check
  rampart check --json                                          # errors and warnings for a program
  rampart check -f examples/payments/rampart.yaml --effective   # with every default shown`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && effective {
				return usageError("--effective prints rampart.yaml, which is no JSON; leave out one of the two")
			}
			sys, err := loadCompiled(file)
			if asJSON {
				return checkAsJSON(cmd.OutOrStdout(), file, sys, err)
			}
			if err != nil {
				return err
			}
			if err := warn(cmd.ErrOrStderr(), sys); err != nil {
				return err
			}
			if effective {
				b, err := sys.Effective()
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(b)
				return err
			}
			if err := sys.AdmitUnsafe(false); err != nil {
				return err
			}
			told := checkedSystemOf(sys)
			if len(told.SignedBy) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "policies are signed by key %s\n", strings.Join(told.SignedBy, ", or "))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %s, %d services, %d flows, %d controls, digest %s\n", told.Name, told.Services, told.Flows, told.Controls, told.Digest[:12])
			return nil
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&effective, "effective", false, "print the file with every default filled in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print errors and warnings as JSON")
	return cmd
}

// warn prints what is worth a look in a file that is not refused. check, up and
// apply say the same; no other command does.
func warn(w io.Writer, sys *spec.System) error {
	list, err := warnings(sys, time.Now())
	for _, p := range list {
		fmt.Fprintln(w, "warning:", p)
	}
	return err
}

func warnings(sys *spec.System, now time.Time) ([]spec.Problem, error) {
	out := slices.Clone(sys.Warnings())
	for _, look := range []func(*spec.System) ([]spec.Problem, error){
		unreachable,
		idleScopes,
		func(sys *spec.System) ([]spec.Problem, error) { return idleExclusions(sys, now) },
		documentNotes,
	} {
		list, err := look(sys)
		if err != nil {
			return out, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func initCmd() *cobra.Command {
	var opt spec.InitOptions
	var file, run string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a ten-line file for your own service",
		Long:  "init asks three questions, or takes the answers as flags, and writes rampart.yaml. It never overwrites a file.",
		Example: `  rampart init
  rampart init --name shop --service catalog --upstream http://127.0.0.1:9000 --run "python3 -m http.server 9000 --bind 127.0.0.1 --directory site"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				return usageError("%s exists already; choose another name with -f, or remove it first", file)
			}
			if err := askFor(cmd, &opt); err != nil {
				return err
			}
			opt.Run = strings.Fields(run)
			b, err := spec.Init(opt)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := os.WriteFile(file, b, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; now: rampart check -f %s && rampart up -f %s\n", file, file, file)
			return nil
		},
	}
	fileFlag(cmd, &file)
	fl := cmd.Flags()
	fl.StringVar(&opt.Name, "name", "", "name of the system")
	fl.StringVar(&opt.Service, "service", "", "name of your service")
	fl.StringVar(&opt.Upstream, "upstream", "", "where it listens, http://127.0.0.1:PORT")
	fl.StringVar(&opt.OpenAPI, "openapi", "", "its OpenAPI 3.1 document, beside the file")
	fl.StringVar(&opt.Role, "role", "", "role that may use it (default member)")
	fl.StringVar(&run, "run", "", "command that starts it; without one, start it yourself")
	return cmd
}

// askFor asks what no flag answered. Without a terminal it says which flags
// are missing instead of waiting for ever.
func askFor(cmd *cobra.Command, opt *spec.InitOptions) error {
	questions := []struct {
		flag, question, fallback string
		answer                   *string
	}{
		{"name", "Name of the system", "shop", &opt.Name},
		{"service", "Name of your service", "catalog", &opt.Service},
		{"upstream", "Where it listens", "http://127.0.0.1:9000", &opt.Upstream},
	}
	in := bufio.NewReader(cmd.InOrStdin())
	for _, q := range questions {
		if *q.answer != "" {
			continue
		}
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return usageError("--%s is missing, and there is no terminal to ask on", q.flag)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s [%s]: ", q.question, q.fallback)
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		*q.answer = q.fallback
		if line = strings.TrimSpace(line); line != "" {
			*q.answer = line
		}
	}
	return nil
}

func sinceRounded(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
