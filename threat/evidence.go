package threat

import (
	"time"

	"github.com/rampart-security/rampart/spec"
)

// Evidence is what is known beside the file.
type Evidence struct {
	EnforcedDigest string           // digest that the running planes report; "" when none was asked
	Proofs         map[string]Proof // control id -> its newest probe result; nil is none
	Now            time.Time        // the zero time is time.Now()
}

// Proof is the result of attacking one control.
type Proof struct {
	Passed    bool      // the attack was refused, and by this very control
	Falsified bool      // the same probe got through with the control removed
	Time      time.Time // of the run
	Digest    string    // of the configuration that was attacked
}

// evidence is Evidence about one system.
type evidence struct {
	enforced, digest string
	proofs           map[string]Proof
	freshness        time.Duration
	now              time.Time
}

// missing is the note of a control that the element lacks.
const missing = "missing"

const defaultFreshness = 24 * time.Hour

func (ev Evidence) of(sys *spec.System) evidence {
	out := evidence{
		enforced: ev.EnforcedDigest, digest: sys.Bundle().Digest, proofs: ev.Proofs,
		freshness: time.Duration(sys.Verify.Freshness), now: ev.Now,
	}
	if out.freshness <= 0 {
		out.freshness = defaultFreshness
	}
	if out.now.IsZero() {
		out.now = time.Now()
	}
	return out
}

// state derives the state of one control and says why it is not better.
func (ev evidence) state(control string, absent bool) (State, string) {
	if absent {
		return Open, missing
	}
	p, probed := ev.proofs[control]
	age := ev.now.Sub(p.Time)
	switch {
	case ev.enforced != "" && ev.enforced != ev.digest:
		return Declared, "the planes run another configuration"
	case probed && p.Digest != ev.digest:
		return Stale, "the proof is of another configuration"
	case probed && (age > ev.freshness || age < 0):
		return Stale, "the proof is of " + p.Time.UTC().Format(time.RFC3339)
	case probed && !p.Passed:
		return Open, "a probe got through"
	case probed && p.Falsified:
		return Proven, ""
	case ev.enforced == "" && !probed:
		return Declared, "no plane has reported"
	case probed:
		return Enforced, "the probe was never seen to fail"
	}
	return Enforced, "no probe has attacked it"
}
