package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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

func sinceRounded(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
