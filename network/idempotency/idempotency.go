// Package idempotency lets a client repeat an unsafe request without its being
// carried out twice. The client names the request by a key; the first request of
// a key runs, and every later one gets the first one's answer.
package idempotency

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

const control = "idempotency.key"

// The bounds of a key.
const (
	Lease       = 30 * time.Second // how long a request in flight holds its key, if it does not say
	DefaultKeep = 24 * time.Hour
	MaxResponse = 256 << 10 // bytes of a body that is kept
	maxKey      = 255
)

// HeaderReplayed is "true" on an answer that repeats an earlier one.
const HeaderReplayed = "Idempotency-Replayed"

// State of a key as a request finds it. The zero value lets nothing run.
type State uint8

// The states.
const (
	InFlight State = iota // another request with this key is running
	Mismatch              // the key was used for another query or body
	Done                  // the request was carried out; its answer is known
	New                   // the caller holds the key and may run
)

// ID is a key within its scope.
type ID [sha256.Size]byte

// Owner is whose key it is. Two who share one share a bound, and nothing else.
type Owner [8]byte

// Request names what is about to run.
type Request struct {
	ID    ID
	Hash  [sha256.Size]byte // of query and body
	Owner Owner             // whose keys are counted together
	Keep  time.Duration     // how long the answer is kept
	Lease time.Duration     // how long it holds its key in flight; 0: Lease
}

// Response is an answer to repeat.
type Response struct {
	Status   int         `json:"status"`
	Header   http.Header `json:"header"`
	Body     []byte      `json:"body"`
	TooLarge bool        `json:"too_large,omitzero"` // the body was not kept
}

// Claim is what Begin found. Lease tells two holders of one key apart, for when
// the first outlives its lease.
type Claim struct {
	State    State
	ID       ID
	Lease    uint64
	Response Response // when Done
}

// Store remembers keys. Every change is durable when the method returns: an
// answer must not leave before a crash can no longer undo it. A key in flight is
// free again after its lease, in case whoever held it died. One owner holds a
// bounded part of a store. Errors are of kind Unavailable, or Limited for an owner
// with too many keys; then nothing may run. Stores are safe for concurrent use.
type Store interface {
	// Begin claims the key, or says why it cannot be had.
	Begin(ctx context.Context, r Request, now time.Time) (Claim, error)
	// Finish stores the answer to a claim that was New. If the claim is no longer
	// held, the answer of the new holder counts, and Finish does nothing.
	Finish(ctx context.Context, c Claim, r Response) error
	// Abandon frees the key of a claim that was New, as if it had never been used.
	Abandon(ctx context.Context, c Claim) error
}

// Call is one request with its key.
type Call struct {
	Owner    string // whose keys are counted together: the principal
	Scope    string // whose key it is and for what: principal, method and path
	Key      string // the client's; "" if it sent none
	Required bool
	Query    string        // raw, as forwarded
	Body     []byte        // as forwarded
	Keep     time.Duration // if 0, DefaultKeep
	Lease    time.Duration // must exceed the time that run may take; if 0, Lease
}

// Guard runs calls at most once per key.
type Guard struct {
	store Store
	now   func() time.Time
}

// NewGuard returns a Guard over store. now nil means time.Now. It panics if store
// is nil.
func NewGuard(store Store, now func() time.Time) *Guard {
	if store == nil {
		panic("idempotency: store must be given")
	}
	if now == nil {
		now = time.Now
	}
	return &Guard{store: store, now: now}
}

// Do answers a call on w: by run, or by repeating what run answered before. When
// it returns an error nothing was written to w. The refusals carry control
// idempotency.key: Invalid (no key, a malformed one, or, with status 422, a key
// of another query or body), Conflict (in flight), Limited (too many keys of one owner) or
// Unavailable (the store).
//
// run must either return an error, having written nothing and changed nothing,
// or write a whole answer and return nil. Answers 429 and 5xx, and errors, are
// not kept: the client may try again. If run panics, or its error has status 504,
// the outcome is unknown, and the key stays taken until its lease ends: the first
// request may still be at work. A body above MaxResponse reaches the
// first caller only.
func (g *Guard) Do(ctx context.Context, w http.ResponseWriter, call Call, run func(http.ResponseWriter) error) error {
	if call.Key == "" && !call.Required {
		return run(w)
	}
	if err := checkKey(call.Key); err != nil {
		return err
	}
	keep := call.Keep
	if keep <= 0 {
		keep = DefaultKeep
	}
	claim, err := g.store.Begin(ctx, call.request(keep), g.now())
	if err != nil {
		return err
	}
	switch claim.State {
	case New:
		// The outcome must be recorded even if the client has gone.
		return g.run(context.WithoutCancel(ctx), w, call, claim, run)
	case Done:
		return replay(w, call, claim)
	case Mismatch:
		return problem.With(rampart.Errorf(rampart.Invalid, control, "idempotency key was used for another request"),
			problem.Details{Status: http.StatusUnprocessableEntity})
	}
	return problem.With(rampart.Errorf(rampart.Conflict, control, "a request with this idempotency key is in flight"),
		problem.Details{RetryAfter: time.Second})
}

func (g *Guard) run(ctx context.Context, w http.ResponseWriter, call Call, claim Claim, run func(http.ResponseWriter) error) error {
	rec := &recorder{to: w, header: http.Header{}}
	rec.settle = func(r Response) error {
		if r.Status >= 500 || r.Status == http.StatusTooManyRequests {
			return g.store.Abandon(ctx, claim)
		}
		sealed, err := seal(call, claim.ID, r)
		if err != nil {
			return err
		}
		return g.store.Finish(ctx, claim, sealed)
	}
	if err := run(rec); err != nil {
		if _, ok := errors.AsType[carriedOut](err); ok {
			return errors.Join(err, g.store.Finish(ctx, claim, Response{Status: problem.Status(err), TooLarge: true}))
		}
		if problem.Status(err) == http.StatusGatewayTimeout {
			return err
		}
		if abandonErr := g.store.Abandon(ctx, claim); abandonErr != nil {
			return abandonErr
		}
		return err
	}
	return rec.finish()
}

// CarriedOut marks an error with which run says that the request was carried out,
// and that its answer can be given to nobody. A retry is told so and does not run.
func CarriedOut(err error) error { return carriedOut{err} }

type carriedOut struct{ error }

func (c carriedOut) Unwrap() error { return c.error }

func replay(w http.ResponseWriter, call Call, claim Claim) error {
	r := claim.Response
	if r.TooLarge {
		return rampart.Errorf(rampart.Conflict, control, "the request was carried out before; its answer cannot be repeated")
	}
	r, err := unseal(call, claim.ID, r)
	if err != nil {
		return err
	}
	copyHeader(w.Header(), r.Header)
	w.Header().Set(HeaderReplayed, "true")
	w.WriteHeader(r.Status)
	_, _ = w.Write(r.Body) // the client may have gone; it can ask again
	return nil
}

// checkKey accepts visible ASCII: what other parsers could trim or fold is no
// name.
func checkKey(key string) error {
	if key == "" {
		return rampart.Errorf(rampart.Invalid, control, "idempotency key is required")
	}
	if len(key) > maxKey {
		return rampart.Errorf(rampart.Invalid, control, "idempotency key must have at most %d characters", maxKey)
	}
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return rampart.Errorf(rampart.Invalid, control, "idempotency key must be visible ASCII")
		}
	}
	return nil
}

func (c Call) request(keep time.Duration) Request {
	owner := sha256.Sum256([]byte(c.Owner))
	return Request{ID: idOf(c.Scope, c.Key), Hash: idOf(c.Query, string(c.Body)), Owner: Owner(owner[:8]), Keep: keep, Lease: c.Lease}
}

// idOf binds a key to its scope. The length keeps ("a", "bc") and ("ab", "c")
// apart; the hash keeps clients' text off the disk.
func idOf(scope, key string) ID {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(scope)))
	b = append(append(b, scope...), key...)
	return sha256.Sum256(b)
}
