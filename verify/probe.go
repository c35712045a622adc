package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/rampart-security/rampart/spec"
)

// Vantage points: where the attacker stands.
const (
	fromOutside   = "outside"
	asUser        = "user"
	asOtherTenant = "other_tenant"
	asService     = "compromised_service"
	asQueue       = "compromised_queue"
	asDBReader    = "database_reader"
	asAdmin       = "administrator"
	onHost        = "host"
)

// How much a probe disturbs.
const (
	safe      = "safe"
	intrusive = "intrusive" // creates records of its own identities, or spends their limits
)

// Probe is one attack. Run makes the legitimate request first, then attacks,
// then looks; its error means that nothing could be judged.
type Probe struct {
	ID       string
	Title    string
	SeedRow  string   // of the mission: "checklist: ...", "owasp: A..", "payment: N ..."
	Controls []string // what it is about; the first is what it proves
	Proves   []string // "PAY-1", "owasp2021:A01", ...
	Vantage  string
	Safety   string
	// Blind says why removing the first control cannot turn this probe red;
	// "" if it must.
	Blind string
	// SelfTest says how the probe shows in each run that it can fail, where
	// removing a control cannot; "" if it does not.
	SelfTest string
	// Alone keeps other probes away while it runs.
	Alone bool
	// Needs says whether a system has what is attacked; nil: every system.
	Needs func(*spec.System) (ok bool, reason string)
	Run   func(context.Context, *Env) (Result, error)
}

func (p Probe) applies(sys *spec.System) (bool, string) {
	if p.Needs == nil {
		return true, ""
	}
	return p.Needs(sys)
}

// Result is what a probe found, with the signal that it was found by.
type Result struct {
	Verdict Verdict
	Signal  string
}

func passed(format string, args ...any) Result {
	return Result{Pass, fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) Result {
	return Result{Fail, fmt.Sprintf(format, args...)}
}

func unsure(format string, args ...any) Result {
	return Result{Inconclusive, fmt.Sprintf(format, args...)}
}

func absent(format string, args ...any) Result {
	return Result{NotApplicable, fmt.Sprintf(format, args...)}
}

// Probes returns every probe, in the order of the mission's sections. The
// slice is the caller's own.
func Probes() []Probe {
	return slices.Concat(edgeProbes(), framingProbes(), scanProbes(), authnProbes(), strengthProbes(), authzProbes(), inputProbes(), limitProbes(), insideProbes(), revocationProbes(),
		outsideProbes(), dataProbes(), replayProbes(), messageProbes())
}

// all joins conditions: the first that does not hold is the reason.
func all(needs ...func(*spec.System) (bool, string)) func(*spec.System) (bool, string) {
	return func(sys *spec.System) (bool, string) {
		for _, n := range needs {
			if ok, why := n(sys); !ok {
				return false, why
			}
		}
		return true, ""
	}
}

// sayHow leads from what is not judged to what would have it judged.
const sayHow = "; rampart verify --help shows one"

func needScenario(sys *spec.System) (bool, string) {
	return sys.Verify.Scenario != nil && sys.Verify.Scenario.Call != "", "the file has no verify.scenario, so no consequential request is known" + sayHow
}

func needLedger(sys *spec.System) (bool, string) {
	if ok, why := needScenario(sys); !ok {
		return false, why
	}
	return sys.Verify.Scenario.Ledger != "", "verify.scenario names no ledger to count bookings in" + sayHow
}

func needObject(sys *spec.System) (bool, string) {
	return sys.Verify.Scenario != nil && sys.Verify.Scenario.Object != "", "verify.scenario names no object of one subject" + sayHow
}

func needList(sys *spec.System) (bool, string) {
	return sys.Verify.Scenario != nil && sys.Verify.Scenario.List != "", "verify.scenario names no list of objects" + sayHow
}

// needMethod asks for an entry flow whose credentials are exactly these.
func needMethod(methods ...string) func(*spec.System) (bool, string) {
	return func(sys *spec.System) (bool, string) {
		_, ok := entryWith(sys, methods...)
		return ok, fmt.Sprintf("no flow lets anybody in by %v", methods)
	}
}

func entryWith(sys *spec.System, methods ...string) (spec.Flow, bool) {
	for _, f := range sys.FlowsTo(sys.Gateway()) {
		if len(f.Authn.All) == len(methods) && !slices.ContainsFunc(methods, func(m string) bool { return !slices.Contains(f.Authn.All, m) }) {
			return f, true
		}
	}
	return spec.Flow{}, false
}

// needJWT asks for a flow that takes access tokens, alone or with a key.
func needJWT(sys *spec.System) (bool, string) {
	_, ok := jwtEntry(sys)
	return ok, "no flow lets anybody in by an access token"
}

func jwtEntry(sys *spec.System) (spec.Flow, bool) {
	if f, ok := entryWith(sys, "jwt"); ok {
		return f, true
	}
	return entryWith(sys, "api_key", "jwt")
}
