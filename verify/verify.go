// Package verify answers "Does it hold?" It attacks a running system the way
// an outsider, another tenant, a compromised service or a reader of the
// database would, and says for each attack which control refused it.
//
// A verdict needs three things: the legitimate request got through (else the
// probe could not have failed), the attack did not, and the audit log names
// the control that refused it. A refusal by another control that comes earlier
// hides the one under test and proves nothing. Falsify removes one control at
// a time from a throw-away copy of the system and demands that exactly its
// probes turn red.
//
// The judge shares no code with the judged: TLS clients, tokens, messages and
// the reader of the audit log are this package's own.
package verify

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// Verdict is the outcome of one probe.
type Verdict string

// The verdicts. Inconclusive is never a pass: the probe crashed, timed out,
// found its target down, or another control hid the one under test.
const (
	Pass          Verdict = "pass"
	Fail          Verdict = "fail"
	Inconclusive  Verdict = "inconclusive"
	NotApplicable Verdict = "not_applicable"
	Accepted      Verdict = "accepted"
)

// Exit codes of a report.
const (
	ExitProven       = 0 // everything required is proven
	ExitFailed       = 1 // an attack got through
	ExitInconclusive = 3 // nothing got through, but something could not be judged
)

// Options say what to attack.
type Options struct {
	System   *spec.System                   // the file that the running system enforces; required
	StateDir string                         // its state folder; required
	Only     []string                       // probe ids; nil runs all
	Progress func(done, all int, o Outcome) // called after each probe, one at a time; nil tells nobody
	Now      func() time.Time               // nil: time.Now
}

// Outcome is one probe's verdict with its evidence.
type Outcome struct {
	ID         string   `json:"id"`
	Title      string   `json:"title"`
	SeedRow    string   `json:"seed_row"`
	Verdict    Verdict  `json:"verdict"`
	Control    string   `json:"control"` // the control that the probe is about
	Controls   []string `json:"controls,omitempty"`
	Proves     []string `json:"proves,omitempty"`
	Signal     string   `json:"signal"` // what was seen, in one line
	Evidence   string   `json:"evidence"`
	Vantage    string   `json:"vantage"`
	Safety     string   `json:"safety"`
	SelfTest   string   `json:"self_test,omitempty"` // how the probe showed that it can fail
	DurationMS int64    `json:"duration_ms"`
}

// Report is one run.
type Report struct {
	System   string    `json:"system"`
	Digest   string    `json:"digest"` // of the configuration that was attacked
	Run      string    `json:"run"`    // in the names of all identities of this run
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Probes   []Outcome `json:"probes"`
}

// ExitCode folds the verdicts: one failure outweighs everything, one
// inconclusive verdict outweighs all passes, and a run that proved nothing at
// all is inconclusive.
func (r Report) ExitCode() int {
	passed, unsure := 0, false
	for _, o := range r.Probes {
		switch o.Verdict {
		case Fail:
			return ExitFailed
		case Pass, Accepted:
			passed++
		case NotApplicable:
		default:
			unsure = true
		}
	}
	if unsure || passed == 0 {
		return ExitInconclusive
	}
	return ExitProven
}

// Bounds of a run.
const (
	maxParallel  = 6
	probeTimeout = 40 * time.Second
)

// Run attacks the system and reports. The error is for a run that could not
// start; what goes wrong later is a verdict. Accounts and
// clients that it made, tagged "verify", are removed at the end.
func Run(ctx context.Context, opt Options) (Report, error) {
	if opt.System == nil || opt.StateDir == "" {
		return Report{}, errors.New("verify: a system and its state folder are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	probes, err := choose(opt.Only)
	if err != nil {
		return Report{}, err
	}
	t, err := openTarget(ctx, opt)
	if err != nil {
		return Report{}, err
	}
	rep := Report{System: opt.System.Info.Name, Digest: opt.System.Bundle().Digest, Run: t.run, Started: opt.Now().UTC()}
	rep.Probes = t.attack(ctx, probes, opt.Progress)
	t.close()
	rep.Finished = opt.Now().UTC()
	return rep, ctx.Err()
}

// choose keeps the probes that are asked for, in the order of the list.
func choose(only []string) ([]Probe, error) {
	all := Probes()
	if len(only) == 0 {
		return all, nil
	}
	for _, id := range only {
		if !slices.ContainsFunc(all, func(p Probe) bool { return p.ID == id }) {
			return nil, fmt.Errorf("verify: no probe has the id %q", id)
		}
	}
	return slices.DeleteFunc(all, func(p Probe) bool { return !slices.Contains(only, p.ID) }), nil
}

// attack runs the probes, a few at a time: those that disturb others come
// last and alone.
func (t *target) attack(ctx context.Context, probes []Probe, progress func(int, int, Outcome)) []Outcome {
	out := make([]Outcome, len(probes))
	var mu sync.Mutex // guards done and progress
	done := 0
	one := func(i int) {
		out[i] = t.judge(ctx, probes[i])
		mu.Lock()
		defer mu.Unlock()
		done++
		if progress != nil {
			progress(done, len(probes), out[i])
		}
	}
	slots := make(chan struct{}, t.parallel)
	var wg sync.WaitGroup
	for i, p := range probes {
		if p.Alone {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() { defer func() { <-slots }(); one(i) })
	}
	wg.Wait()
	for i, p := range probes {
		if p.Alone {
			one(i)
		}
	}
	return out
}

// judge runs one probe. A probe that panics, runs out of time or meets an
// error has judged nothing.
func (t *target) judge(ctx context.Context, p Probe) Outcome {
	started := t.now()
	o := Outcome{ID: p.ID, Title: p.Title, SeedRow: p.SeedRow, Control: p.Controls[0], Controls: p.Controls, Proves: p.Proves, Vantage: p.Vantage, Safety: p.Safety, SelfTest: p.SelfTest}
	if ok, reason := p.applies(t.sys); !ok {
		o.Verdict, o.Signal = NotApplicable, reason
		return o
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	e := t.env()
	defer e.close()
	res, err := guarded(ctx, p, e)
	if err != nil {
		res = Result{Verdict: Inconclusive, Signal: err.Error()}
	}
	if ctx.Err() != nil && res.Verdict != Fail {
		res = Result{Verdict: Inconclusive, Signal: "the probe was stopped or ran out of time: " + res.Signal}
	}
	if res.Verdict == Fail {
		res = accept(t.sys, p, res, t.now())
	}
	o.Verdict, o.Signal, o.Evidence = res.Verdict, res.Signal, e.evidence()
	o.DurationMS = t.now().Sub(started).Milliseconds()
	return o
}

// accept turns a failure into an accepted one where the file accepts a threat
// that the probe is about, by the team's name for it, until a date in the
// future.
func accept(sys *spec.System, p Probe, res Result, now time.Time) Result {
	for _, a := range sys.Accept {
		named := slices.ContainsFunc(p.Proves, func(name string) bool {
			return a.Threat == name || sys.Threats[name].Is != "" && a.Threat == sys.Threats[name].Is
		})
		if named && now.Before(a.Until) {
			return Result{Accepted, fmt.Sprintf("accepted by %s until %s: %s", a.Owner, a.Until.Format(time.DateOnly), res.Signal)}
		}
	}
	return res
}

func guarded(ctx context.Context, p Probe, e *Env) (res Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the probe itself failed: %v", v)
		}
	}()
	return p.Run(ctx, e)
}

// randomID names a run or an identity: lower-case hex.
func randomID(bytes int) string { return hex.EncodeToString(randomBytes(bytes)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
