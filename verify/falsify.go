package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// FalsifyOptions say what to take apart.
type FalsifyOptions struct {
	File     string   // rampart.yaml; required. Copies of it stand beside it while the run lasts
	Controls []string // to remove; nil: every control with a probe that must turn red
	Parallel int      // systems at once; 0 is 1
	Binary   string   // names the program under test in the matrix: another build is another system
	// Up returns the command that starts a throw-away system; required.
	Up       func(ctx context.Context, file, state string) []string
	Progress func(Removal) // called after each control; nil tells nobody
}

// Removal is what happened when one control was removed.
type Removal struct {
	Control   string   `json:"control"`
	State     string   `json:"state"`               // killed | survived | broken | error
	Red       []string `json:"red"`                 // its probes that turned red, as they must
	Green     []string `json:"green,omitempty"`     // its probes that did not
	Unrelated []string `json:"unrelated,omitempty"` // other probes that turned red, as they must not
	Signal    string   `json:"signal"`
}

// States of a removal. A survivor is a dead control or a blind probe; a broken
// run turned probes red that have nothing to do with the control.
const (
	Killed   = "killed"
	Survived = "survived"
	Broken   = "broken"
	Errored  = "error"
)

// Matrix is a whole falsification.
type Matrix struct {
	System   string    `json:"system"`
	Digest   string    `json:"digest"` // of the complete configuration
	Binary   string    `json:"binary"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Removals []Removal `json:"removals"`
}

// Killed names the controls that were missed when they were gone.
func (m Matrix) Killed() map[string]bool {
	out := map[string]bool{}
	for _, r := range m.Removals {
		if r.State == Killed {
			out[r.Control] = true
		}
	}
	return out
}

// Of returns the matrix if it is about this configuration and program, else
// the empty one: what another system missed says nothing of this one.
func (m Matrix) Of(digest, binary string) Matrix {
	if m.Digest != digest || m.Binary != binary {
		return Matrix{}
	}
	return m
}

// With returns the newer results, and of the same system the older ones for
// controls that were not removed again.
func (m Matrix) With(newer Matrix) Matrix {
	out := newer
	m = m.Of(newer.Digest, newer.Binary)
	for _, r := range m.Removals {
		if !slices.ContainsFunc(newer.Removals, func(n Removal) bool { return n.Control == r.Control }) {
			out.Removals = append(slices.Clip(out.Removals), r)
		}
	}
	return out
}

// ExitCode is 1 when a control survived or broke the run, 3 when one could not
// be judged.
func (m Matrix) ExitCode() int {
	code := ExitProven
	for _, r := range m.Removals {
		switch r.State {
		case Killed:
		case Errored:
			code = max(code, ExitInconclusive)
		default:
			return ExitFailed
		}
	}
	if len(m.Removals) == 0 {
		return ExitInconclusive
	}
	return code
}

// WriteJSON writes one object per control, one a line.
func (m Matrix) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, r := range m.Removals {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// Table writes the matrix for people.
func (m Matrix) Table(w io.Writer, opt TableOptions) error {
	var b strings.Builder
	colors := map[string]string{Killed: "\x1b[32m", Survived: "\x1b[31m", Broken: "\x1b[31m", Errored: "\x1b[33m"}
	for _, r := range m.Removals {
		word := fmt.Sprintf("%-9s", strings.ToUpper(r.State))
		if opt.Color {
			word = colors[r.State] + word + "\x1b[0m"
		}
		fmt.Fprintf(&b, "  %s without %-28s red: %s\n", word, r.Control, orNone(r.Red))
		if r.State != Killed {
			fmt.Fprintf(&b, "            still green: %s; unrelated red: %s; %s\n", orNone(r.Green), orNone(r.Unrelated), r.Signal)
		}
	}
	fmt.Fprintf(&b, "\nscore %d of %d controls were missed when they were gone, in %s\n", len(m.Killed()), len(m.Removals), m.Finished.Sub(m.Started).Round(time.Second))
	_, err := io.WriteString(w, b.String())
	return err
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

// mustTurnRed lists the probes that have to notice when a control is gone.
func mustTurnRed(control string) []string {
	var out []string
	for _, p := range Probes() {
		if p.Controls[0] == control && p.Blind == "" {
			out = append(out, p.ID)
		}
	}
	return out
}

// Removable lists the controls that a falsification removes: each has a probe
// that must turn red without it. Of the others, the probes say why not.
func Removable() []string {
	var out []string
	for _, p := range Probes() {
		if p.Blind == "" && !slices.Contains(out, p.Controls[0]) {
			out = append(out, p.Controls[0])
		}
	}
	return out
}

// Falsify starts throw-away copies of a system, one with every control and
// then one for each control without it, and compares. The error is for a run
// that could not start, or whose complete system does not pass its own probes.
func Falsify(ctx context.Context, opt FalsifyOptions) (Matrix, error) {
	if opt.File == "" || opt.Up == nil {
		return Matrix{}, errors.New("verify: falsify needs a file and a command that starts it")
	}
	sys, err := spec.Load(opt.File)
	if err != nil {
		return Matrix{}, err
	}
	m := Matrix{System: sys.Info.Name, Digest: sys.Bundle().Digest, Binary: opt.Binary, Started: time.Now().UTC()}
	base, err := opt.system(ctx, "")
	if err != nil {
		return m, fmt.Errorf("verify: the complete copy: %w", err)
	}
	if red := withVerdict(base, Fail); len(red) > 0 {
		return m, fmt.Errorf("verify: the complete system fails %s; there is nothing to falsify before that is mended", strings.Join(red, ", "))
	}
	controls, err := opt.choose(base)
	if err != nil {
		return m, err
	}
	m.Removals = make([]Removal, len(controls))
	slots := make(chan struct{}, max(1, opt.Parallel))
	var wg sync.WaitGroup
	var mu sync.Mutex // one line of progress at a time
	for i, c := range controls {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m.Removals[i] = opt.remove(ctx, base, c)
			mu.Lock()
			defer mu.Unlock()
			if opt.Progress != nil && ctx.Err() == nil {
				opt.Progress(m.Removals[i])
			}
		})
	}
	wg.Wait()
	m.Finished = time.Now().UTC()
	return m, ctx.Err()
}

// choose keeps the controls that this system has: those with a probe that
// applies to it.
func (o FalsifyOptions) choose(base Report) ([]string, error) {
	for _, c := range o.Controls {
		if !slices.Contains(Removable(), c) {
			return nil, fmt.Errorf("verify: %s is not among the controls that can be removed: %s", c, strings.Join(Removable(), ", "))
		}
	}
	absent := withVerdict(base, NotApplicable)
	return slices.DeleteFunc(Removable(), func(c string) bool {
		wanted := len(o.Controls) == 0 || slices.Contains(o.Controls, c)
		return !wanted || !slices.ContainsFunc(mustTurnRed(c), func(id string) bool { return !slices.Contains(absent, id) })
	}), nil
}

func withVerdict(r Report, v Verdict) []string {
	var out []string
	for _, o := range r.Probes {
		if o.Verdict == v {
			out = append(out, o.ID)
		}
	}
	return out
}

// remove runs the system without one control and compares it with the
// complete one.
func (o FalsifyOptions) remove(ctx context.Context, base Report, control string) Removal {
	if err := ctx.Err(); err != nil {
		return Removal{Control: control, State: Errored, Signal: err.Error()}
	}
	if why := blindOn(base, control); why != "" {
		return Removal{Control: control, State: Errored, Signal: why}
	}
	rep, err := o.system(ctx, control)
	if err != nil {
		return Removal{Control: control, State: Errored, Signal: err.Error()}
	}
	return compare(base, rep, control)
}

// blindOn says why a control's probes cannot show anything: they did not pass
// on the complete system either.
func blindOn(base Report, control string) string {
	for _, p := range base.Probes {
		if p.Verdict == Inconclusive && slices.Contains(mustTurnRed(control), p.ID) {
			return "on the complete system " + p.ID + " could not judge: " + p.Signal
		}
	}
	return ""
}

// compare says what the removal of a control changed.
func compare(base, rep Report, control string) Removal {
	r := Removal{Control: control, State: Killed}
	expected, passed := mustTurnRed(control), withVerdict(base, Pass)
	var why []string
	for _, p := range rep.Probes {
		own := slices.Contains(expected, p.ID)
		switch {
		case !slices.Contains(passed, p.ID):
		case own && p.Verdict == Fail:
			r.Red = append(r.Red, p.ID)
			r.Signal = cmp.Or(r.Signal, p.Signal)
		case own:
			r.Green = append(r.Green, p.ID)
			why = append(why, p.ID+": "+p.Signal)
		case p.Verdict == Fail && !slices.Contains(p.Controls, control):
			r.Unrelated = append(r.Unrelated, p.ID)
			why = append(why, p.ID+": "+p.Signal)
		}
	}
	switch {
	case len(r.Green) > 0 || len(r.Red) == 0:
		r.State = Survived
	case len(r.Unrelated) > 0:
		r.State = Broken
	}
	if r.State != Killed {
		r.Signal = strings.Join(why, "; ")
	}
	return r
}

// Bounds of one throw-away system.
const (
	upTimeout = 90 * time.Second
	downGrace = 12 * time.Second
)

// system starts a throw-away copy without a control ("" removes none), attacks
// it and takes everything away again, also when ctx ends.
func (o FalsifyOptions) system(ctx context.Context, control string) (rep Report, err error) {
	file, err := o.copyWithout(control)
	if err != nil {
		return Report{}, err
	}
	defer os.Remove(file)
	state, err := os.MkdirTemp("", "rampart-falsify-")
	if err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(state)
	stop, err := start(ctx, o.Up(ctx, file, state), state)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	sys, err := spec.Load(file)
	if err != nil {
		return Report{}, err
	}
	return Run(ctx, Options{System: sys, StateDir: state})
}

// start runs a system until it says that it is up. stop ends it.
func start(ctx context.Context, args []string, state string) (stop func() error, err error) {
	log, err := os.Create(filepath.Join(filepath.Dir(state), filepath.Base(state)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C reaches us alone, and we stop it in order
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() error {
		defer os.Remove(log.Name())
		return end(cmd, ended)
	}
	deadline := time.Now().Add(upTimeout)
	for {
		if _, err := os.Stat(filepath.Join(state, "run", "system.json")); err == nil {
			return stop, nil
		}
		select {
		case err := <-ended:
			defer os.Remove(log.Name())
			return nil, fmt.Errorf("the copy did not start (%v): %s", err, tail(log.Name()))
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), stop())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the copy did not come up in %s: %s", upTimeout, tail(log.Name())), stop())
		}
	}
}

// end stops a system as Ctrl-C does, and what does not stop, by force.
func end(cmd *exec.Cmd, ended <-chan error) error {
	cmd.Process.Signal(os.Interrupt)
	select {
	case <-ended:
		return nil
	case <-time.After(downGrace):
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("a throw-away system (process %d) does not end: %w", cmd.Process.Pid, err)
	}
	<-ended
	return nil
}

// tail is the end of a log, for an explanation.
func tail(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b[max(0, len(b)-600):]))
}
