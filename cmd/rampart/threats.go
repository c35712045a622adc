package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/threat"
)

// proofsFile is where verify leaves what it proved.
const proofsFile = "verify/proofs.json"

func threatsCmd() *cobra.Command {
	var file, stateDir string
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "threats [explain ID | why-control CONTROL | diff BEFORE AFTER | graph]",
		Short: "Print the STRIDE threat model of the file, with the state of each threat",
		Long: `threats derives the threat model from the file alone: nobody can write "mitigated".
A threat is open, declared (the file has the controls), enforced (the running
planes report this very file) or proven (a fresh probe was refused, and got
through with the control removed). Exit code 1 when any is open.`,
		Example: `  rampart threats
  rampart threats explain PAY-3
  rampart threats why-control limit.api_key
  rampart threats diff main.yaml rampart.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := analyze(cmd, file, stateDir)
			if err != nil {
				return err
			}
			if err := printModel(cmd.OutOrStdout(), m, asJSON, all); err != nil {
				return err
			}
			if open := m.Open(); len(open) > 0 {
				return &exitError{exitFailed, fmt.Errorf("%d threats are open", len(open))}
			}
			return nil
		},
	}
	cmd.PersistentFlags().StringVarP(&file, "file", "f", "rampart.yaml", "the system's file")
	cmd.PersistentFlags().StringVar(&stateDir, "state", ".rampart", "state folder of the running system, for what is enforced and proven")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the whole model as JSON")
	cmd.Flags().BoolVar(&all, "all", false, "show what does not apply, too")
	cmd.AddCommand(explainCmd(&file, &stateDir), whyControlCmd(&file, &stateDir), threatDiffCmd(), graphCmd(&file, &stateDir))
	return cmd
}

func explainCmd(file, stateDir *string) *cobra.Command {
	return &cobra.Command{Use: "explain ID", Short: "Say everything about one threat", Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := analyze(cmd, *file, *stateDir)
			if err != nil {
				return err
			}
			return m.Explain(cmd.OutOrStdout(), args[0])
		}}
}

func whyControlCmd(file, stateDir *string) *cobra.Command {
	return &cobra.Command{Use: "why-control CONTROL", Short: "Say which threats would open without a control", Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := analyze(cmd, *file, *stateDir)
			if err != nil {
				return err
			}
			return m.WhyControl(cmd.OutOrStdout(), args[0])
		}}
}

func threatDiffCmd() *cobra.Command {
	return &cobra.Command{Use: "diff BEFORE AFTER", Short: "Say what opens and closes between two files; exit code 1 when something opens", Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var models [2]threat.Model
			for i, name := range args {
				sys, err := spec.Load(name)
				if err != nil {
					return err
				}
				if models[i], err = threat.Analyze(sys, threat.Evidence{}); err != nil {
					return err
				}
			}
			d := threat.Diff(models[0], models[1])
			if err := d.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if len(d.Opened)+len(d.Worse) > 0 {
				return &exitError{exitFailed, nil}
			}
			return nil
		}}
}

func graphCmd(file, stateDir *string) *cobra.Command {
	return &cobra.Command{Use: "graph", Short: "Print the data-flow graph with its trust boundaries, as Mermaid", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := analyze(cmd, *file, *stateDir)
			if err != nil {
				return err
			}
			return m.Graph(cmd.OutOrStdout())
		}}
}

// analyze joins the file with what a running system and the last verify say.
func analyze(cmd *cobra.Command, file, stateDir string) (threat.Model, error) {
	sys, err := spec.Load(file)
	if err != nil {
		return threat.Model{}, err
	}
	ev, err := evidence(cmd, stateDir)
	if err != nil {
		return threat.Model{}, err
	}
	return threat.Analyze(sys, ev)
}

// evidence is empty without a state folder: then nothing is more than declared.
func evidence(cmd *cobra.Command, stateDir string) (threat.Evidence, error) {
	var ev threat.Evidence
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return ev, nil
	}
	state, err := statedir.Open(stateDir, statedir.Options{})
	if err != nil {
		return ev, &exitError{exitUsage, err}
	}
	b, err := os.ReadFile(state.Path(proofsFile))
	if err == nil {
		err = json.Unmarshal(b, &ev.Proofs)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ev, fmt.Errorf("%s: %w", state.Path(proofsFile), err)
	}
	ev.EnforcedDigest = enforcedDigest(cmd, stateDir)
	if ev.EnforcedDigest == "" {
		// Nothing runs: a probe that passed yesterday shows what a plane enforced
		// then. Only what was also seen to fail without its control is a proof.
		maps.DeleteFunc(ev.Proofs, func(_ string, p threat.Proof) bool { return !p.Falsified })
	}
	return ev, nil
}

// enforcedDigest is the digest that every running plane reports, or "".
func enforcedDigest(cmd *cobra.Command, stateDir string) string {
	admin, _, err := openAdmin(stateDir)
	if err != nil {
		return ""
	}
	st, err := admin.status(cmd.Context())
	if err != nil || len(st.Planes) == 0 {
		return ""
	}
	for _, p := range st.Planes {
		if p.Digest != st.Digest || p.SeenSeconds > 10 {
			return ""
		}
	}
	return st.Digest
}

func printModel(w io.Writer, m threat.Model, asJSON, all bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(m)
	}
	width, color := 120, false
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		color = os.Getenv("NO_COLOR") == ""
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = n
		}
	}
	return m.Table(w, threat.TableOptions{Width: width, Color: color, All: all})
}
