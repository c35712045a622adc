package relay

import (
	"errors"
	"net"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/problem"
)

// HeaderOutcome is on what a plane answers in the place of a service, and says what
// became of the request. It passes one hop of mutual TLS. A service cannot set it:
// its plane takes all of Rampart- off its answers; and no client gets it.
const HeaderOutcome = "Rampart-Outcome"

// Outcome is what became of a request at its service. The zero value is the one that
// allows least.
type Outcome uint8

// The outcomes.
const (
	Unknown   Outcome = iota // it was sent and may have been carried out: no answer came, or half of one
	NotSent                  // it was refused before
	Unreached                // not sent, since no connection could be opened: whoever asks
	Answered                 // the service answered, and what it said may have been withheld
)

var outcomes = [...]string{"unknown", "not-sent", "unreached", "answered"}

// String is the value of HeaderOutcome.
func (o Outcome) String() string { return outcomes[o] }

// Told is the outcome that an answer tells. Without the header the service answered
// for itself; with one that nobody knows anything may have happened.
func Told(h http.Header) Outcome {
	v, told := h[HeaderOutcome]
	if !told {
		return Answered
	}
	for o, name := range outcomes {
		if len(v) == 1 && v[0] == name {
			return Outcome(o)
		}
	}
	return Unknown
}

// OutcomeOf is what became of a request that was handed to a transport, of which err
// came.
func OutcomeOf(err error) Outcome {
	if _, ok := errors.AsType[unreached](err); ok {
		return Unreached
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return Unreached
	}
	if errors.Is(err, hop.ErrNotSent) {
		return NotSent
	}
	if _, ok := errors.AsType[withheld](err); ok {
		return Answered
	}
	return Unknown
}

// NotReached marks an error of a dialer: no request went over that connection.
// nil stays nil.
func NotReached(err error) error {
	if err == nil {
		return nil
	}
	return unreached{err}
}

type unreached struct{ error }

func (u unreached) Unwrap() error { return u.error }

// withheld marks why an answer that came cannot be passed on.
type withheld struct{ error }

func (w withheld) Unwrap() error { return w.error }

// withhold is the refusal of an answer: status 502.
func withhold(err error) error {
	return withheld{problem.With(&rampart.Error{Kind: rampart.Unavailable, Msg: "the answer was withheld: it is not one that may be passed on", Err: err},
		problem.Details{Status: http.StatusBadGateway})}
}
