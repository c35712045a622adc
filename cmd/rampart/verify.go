package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/verify"
)

// Where verify leaves its results in a state folder; proofsFile is the third.
const (
	reportFile    = "verify/report.json"
	falsifiedFile = "verify/falsified.json"
)

// verifyFlags are the flags of one run.
type verifyFlags struct {
	file, stateDir string
	only, controls []string
	asJSON         bool
	falsify        bool
}

func verifyCmd() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Attack the running system, and say for each attack which control refused it",
		Long: `verify attacks a system that rampart up started: as an outsider, as another
tenant, as a compromised service, as somebody who got at the database. A probe
passes when the legitimate request got through, the attack did not, and the
audit log names the control that refused it.

What probes must know of your system beyond flows and schemas, such as one valid
request that must not be repeated, is verify.scenario of rampart.yaml:

  verify:
    scenario:
      prepare:                                        # done first; each takes from its answer
        - { call: "POST /items", body: { name: tea }, take: { item: /id } }
      call: "POST /orders"                            # what must not be forged, changed or repeated
      body: { item: "${item}", count: 2, words: for tomorrow }
      amount: /count                                  # a number of the body, which attacks change
      ledger: "GET /orders?item=${item}"              # a JSON array: a row for each time it was done

With object: "GET /orders/${order}" and list: "GET /orders" it also asks for one
user's object as another. The probes' user has every role, or what user says.

With --falsify it starts throw-away copies of the system, each without one
control, and demands that exactly the probes of that control turn red.

Exit codes: 0 proven, 1 an attack got through (or a control was not missed),
2 usage, 3 something could not be judged.`,
		Example: `  rampart verify
  rampart verify --only P-101,P-121
  rampart verify --json > verify.jsonl
  rampart verify --falsify --controls limit.ip,db.row_mac`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.falsify {
				return f.runFalsify(cmd)
			}
			return f.run(cmd)
		},
	}
	fileFlag(cmd, &f.file)
	stateFlag(cmd, &f.stateDir)
	fl := cmd.Flags()
	fl.BoolVar(&f.asJSON, "json", false, "one JSON object per probe (with --falsify: per control), one a line")
	fl.StringSliceVar(&f.only, "only", nil, "ids of the probes to run (default all)")
	fl.BoolVar(&f.falsify, "falsify", false, "remove one control at a time from a throw-away copy, and demand that its probes turn red")
	fl.StringSliceVar(&f.controls, "controls", nil, "with --falsify: the controls to remove (default all that can be)")
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command) error {
	if len(f.controls) > 0 {
		return usageError("--controls goes with --falsify; to choose probes use --only")
	}
	sys, err := spec.Load(f.file)
	if err != nil {
		return err
	}
	state, err := statedir.Open(f.stateDir, statedir.Options{})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	rep, err := verify.Run(cmd.Context(), verify.Options{System: sys, StateDir: state.Path(), Only: f.only, Progress: probeProgress(cmd.ErrOrStderr())})
	if errors.Is(err, verify.ErrNotRunning) || errors.Is(err, context.Canceled) {
		return &exitError{exitInconclusive, err}
	}
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if err := saveReport(state, rep, len(f.only) == 0); err != nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), rep.WriteJSON, rep.Table); err != nil {
		return err
	}
	return exitWith(rep.ExitCode())
}

func (f *verifyFlags) print(w io.Writer, asJSON func(io.Writer) error, table func(io.Writer, verify.TableOptions) error) error {
	if f.asJSON {
		return asJSON(w)
	}
	opt := verify.TableOptions{}
	if out, ok := w.(*os.File); ok && term.IsTerminal(int(out.Fd())) {
		opt.Color = os.Getenv("NO_COLOR") == ""
		if n, _, err := term.GetSize(int(out.Fd())); err == nil {
			opt.Width = n
		}
	}
	return table(w, opt)
}

// exitWith ends the command with a code; the table has said why.
func exitWith(code int) error {
	if code == exitOK {
		return nil
	}
	return &exitError{code, nil}
}

// probeProgress shows on a terminal how far a run is; elsewhere nothing.
func probeProgress(w io.Writer) func(done, all int, o verify.Outcome) {
	out, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) {
		return nil
	}
	return func(done, all int, o verify.Outcome) {
		fmt.Fprintf(out, "\r\x1b[K%d of %d probes  %s %s", done, all, o.ID, o.Verdict)
		if done == all {
			fmt.Fprint(out, "\r\x1b[K")
		}
	}
}

// saveReport leaves report and proofs for rampart threats. A run of a few
// probes is no proof of the rest, so it replaces neither.
func saveReport(state *statedir.Dir, rep verify.Report, whole bool) error {
	if !whole {
		return nil
	}
	falsified, err := readFalsified(state)
	if err != nil {
		return err
	}
	binary, err := ownDigest()
	if err != nil {
		return err
	}
	killed := falsified.Of(rep.Digest, binary).Killed()
	for name, v := range map[string]any{reportFile: rep, proofsFile: rep.Proofs(killed)} {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if err := state.WriteFile(name, append(b, '\n'), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ownDigest names this program by its bytes.
func ownDigest() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readFalsified returns the last matrix of this state folder; none is empty.
func readFalsified(state *statedir.Dir) (verify.Matrix, error) {
	var m verify.Matrix
	b, err := os.ReadFile(state.Path(falsifiedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", state.Path(falsifiedFile), err)
	}
	return m, nil
}

// runFalsify needs no running system: it starts its own. What it finds is kept
// in the state folder, if there is one, for the proofs of later runs.
func (f *verifyFlags) runFalsify(cmd *cobra.Command) error {
	if len(f.only) > 0 {
		return usageError("--falsify runs every probe; to choose controls use --controls")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	binary, err := ownDigest()
	if err != nil {
		return err
	}
	m, err := verify.Falsify(cmd.Context(), verify.FalsifyOptions{
		File: f.file, Controls: f.controls, Parallel: 2, Binary: binary, Progress: controlProgress(cmd.ErrOrStderr()),
		Up: func(_ context.Context, file, state string) []string {
			return []string{self, "up", "--throwaway", "--free-ports", "-f", file, "--state", state}
		},
	})
	if errors.Is(err, context.Canceled) {
		return &exitError{exitInconclusive, err}
	}
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if err := f.keepMatrix(m); err != nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), m.WriteJSON, m.Table); err != nil {
		return err
	}
	return exitWith(m.ExitCode())
}

func (f *verifyFlags) keepMatrix(m verify.Matrix) error {
	if _, err := os.Stat(filepath.Join(f.stateDir, "state.json")); err != nil {
		return nil
	}
	state, err := statedir.Open(f.stateDir, statedir.Options{})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	before, err := readFalsified(state)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(before.With(m), "", "  ")
	if err != nil {
		return err
	}
	if err := state.WriteFile(falsifiedFile, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return renewProofs(state)
}

// renewProofs joins the last report with a new matrix. Without a report there
// is nothing to prove yet.
func renewProofs(state *statedir.Dir) error {
	b, err := os.ReadFile(state.Path(reportFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var rep verify.Report
	if err == nil {
		err = json.Unmarshal(b, &rep)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", state.Path(reportFile), err)
	}
	return saveReport(state, rep, true)
}

// controlProgress says one line per control: a run takes minutes.
func controlProgress(w io.Writer) func(verify.Removal) {
	return func(r verify.Removal) {
		fmt.Fprintf(w, "  %-28s %-10s %s\n", r.Control, r.State, strings.Join(r.Red, " "))
	}
}
