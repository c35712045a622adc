// Package idempotency lets a client repeat an unsafe request without its being
// carried out twice. The client names the request by a key; the first request of
// a key runs, and every later one gets the first one's answer.
package idempotency

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
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

// The bounds of a store. How much of it one owner may hold says package fairshare.
const (
	MaxKeys  = 400_000
	MaxBytes = 1 << 30   // of answers, as they are kept
	FewKeys  = 64        // that an owner may hold although others have filled most of it
	FewBytes = 256 << 10 // the same of bytes; one answer may be longer
)

// HeaderReplayed is "true" on an answer that repeats an earlier one.
const HeaderReplayed = "Idempotency-Replayed"

// State of a key as a request finds it. The zero value lets nothing run.
type State uint8

// The states.
const (
	InFlight State = iota // another request with this key is running
	Mismatch              // the key was used for another request
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
	Hash  [sha256.Size]byte // of query, body and headers that count
	Owner Owner             // whose keys are counted together
	Keep  time.Duration     // how long the answer is kept
	Lease time.Duration     // how long it holds its key in flight; 0: Lease
}

// Outcome is what became of a request. The zero value lets it run no second time.
type Outcome uint8

// The outcomes.
const (
	Unknown  Outcome = iota // it may have been carried out
	NotDone                 // it was not: nothing has changed
	Answered                // it was, and the answer says how; that it was withheld is an answer, too
)

// Response is an answer to repeat. One with status 504 that was not kept says that
// the outcome is not known.
type Response struct {
	Status   int         `json:"status"`
	Header   http.Header `json:"header"`
	Body     []byte      `json:"body"`
	TooLarge bool        `json:"too_large,omitzero"` // the body was not kept
}

// Forgotten is r without its answer: that it ran is kept, and no more.
func (r Response) Forgotten() Response { return Response{Status: r.Status, TooLarge: true} }

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
// free again after its lease, in case whoever held it died. One owner holds a part of
// a store that shrinks as the store fills; what has expired counts for nobody. Errors
// are of kind Unavailable, or Limited for an owner with too many keys; then nothing may
// run. Stores are safe for concurrent use.
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
	Rights   string        // what the caller may do: an answer is repeated to the same only
	Meant    string        // what else changes what is asked: headers, in a form that a retry has again
	Keep     time.Duration // if 0, DefaultKeep
	Lease    time.Duration // must exceed the time that run may take; if 0, Lease. A holder that dies leaves the key taken until then

	// Outcome says what became of the request, once run has ended or its answer is
	// about to leave. If nil, an answer is Answered and an error Unknown.
	Outcome func() Outcome
	// Render writes an error that is kept as the answer. If nil, as package problem
	// does, without a trace.
	Render func(http.ResponseWriter, error)
	// Repeats says that who carries the request out knows its key again: what may have
	// been carried out, or failed, may run once more.
	Repeats bool
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
// of another query, body or header that counts), Conflict (in flight, or an answer that is not to be had again), Limited (too many keys of one owner) or
// Unavailable (the store).
//
// run must either return an error, having written nothing, or write a whole answer
// and return nil. What is kept and repeated is every answer but 429 and 503, with
// which a service says that it did nothing, and the error of an answer that was
// withheld. What was not done leaves the key free. Where the outcome is unknown, the
// caller is told so with 502, or 504 if that is what run ended with, and a retry with
// 409 as long as an answer would be kept. A call that Repeats
// frees its key then, and after 5xx, but after 504 not before its lease ends: the
// first request may still be at work. So it is when run panics, unless with
// http.ErrAbortHandler before anything was passed on: that is an answer which broke
// off. A body above MaxResponse reaches the first caller only.
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
	return problem.With(rampart.Errorf(rampart.Conflict, control, "a request with this idempotency key is in flight, or ended without a word"),
		problem.Details{RetryAfter: time.Second})
}

func (g *Guard) run(ctx context.Context, w http.ResponseWriter, call Call, claim Claim, run func(http.ResponseWriter) error) error {
	rec := &recorder{to: w, header: http.Header{}, settle: func(r Response) error { return g.answered(ctx, call, claim, r) }}
	err := attempt(rec, run)
	switch {
	case err == nil:
		return rec.finish()
	case rec.passing || rec.failed != nil:
		return err
	}
	if lost := g.failed(ctx, call, claim, err); lost != nil {
		return lost
	}
	return err
}

// attempt has an answer that breaks off before any of it left be an error.
func attempt(rec *recorder, run func(http.ResponseWriter) error) (err error) {
	defer func() {
		switch v := recover(); {
		case v == nil:
		case v == http.ErrAbortHandler && !rec.passing:
			err = rampart.Errorf(rampart.Unavailable, "", "the answer broke off")
		default:
			panic(v)
		}
	}()
	return run(rec)
}

// answered settles the claim of a call whose answer is r.
func (g *Guard) answered(ctx context.Context, call Call, claim Claim, r Response) error {
	switch call.outcome(Answered) {
	case NotDone:
		return g.store.Abandon(ctx, claim)
	case Unknown:
		return g.lost(ctx, call, claim, r.Status, nil)
	}
	if r.Status == http.StatusTooManyRequests || r.Status == http.StatusServiceUnavailable || r.Status >= 500 && call.Repeats {
		return g.store.Abandon(ctx, claim)
	}
	return g.keep(ctx, call, claim, r)
}

// failed settles the claim of a call that has no answer but err.
func (g *Guard) failed(ctx context.Context, call Call, claim Claim, err error) error {
	switch call.outcome(Unknown) {
	case NotDone:
		return g.store.Abandon(ctx, claim)
	case Unknown:
		return g.lost(ctx, call, claim, problem.Status(err), err)
	}
	said := &recorder{header: http.Header{}}
	if call.Render != nil {
		call.Render(said, err)
	} else {
		problem.Write(said, err, "")
	}
	return g.keep(ctx, call, claim, Response{Status: said.status, Header: kept(said.header), Body: said.body})
}

// lost settles the claim of a call whose outcome is unknown. The error, if any,
// stands in the place of the answer.
func (g *Guard) lost(ctx context.Context, call Call, claim Claim, status int, cause error) error {
	switch {
	case !call.Repeats:
		if err := g.store.Finish(ctx, claim, Response{Status: http.StatusGatewayTimeout, TooLarge: true}); err != nil {
			return err
		}
		return unknown(status, cause)
	case status == http.StatusGatewayTimeout:
		return nil
	}
	return g.store.Abandon(ctx, claim)
}

const unknownText = "it is not known whether the request with this idempotency key was carried out: ask for what it was to do, and send it with another key if that was not done"

// unknown tells the first caller what a retry will be told. It is no 503, and says
// nothing of a retry: that one could only fail.
func unknown(status int, cause error) error {
	if status != http.StatusGatewayTimeout {
		status = http.StatusBadGateway
	}
	return problem.With(&rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: unknownText, Err: cause}, problem.Details{Status: status})
}

func (g *Guard) keep(ctx context.Context, call Call, claim Claim, r Response) error {
	sealed, err := seal(call, claim.ID, r)
	if err != nil {
		return err
	}
	return g.store.Finish(ctx, claim, sealed)
}

func (c Call) outcome(unless Outcome) Outcome {
	if c.Outcome == nil {
		return unless
	}
	return c.Outcome()
}

func replay(w http.ResponseWriter, call Call, claim Claim) error {
	r := claim.Response
	if r.TooLarge && r.Status == http.StatusGatewayTimeout {
		return rampart.Errorf(rampart.Conflict, control, unknownText)
	}
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
	return Request{ID: idOf(c.Scope, c.Key), Hash: c.hash(), Owner: Owner(owner[:8]), Keep: keep, Lease: c.Lease}
}

// hash tells requests of one key apart.
func (c Call) hash() [sha256.Size]byte {
	h := idOf(c.Query, string(c.Body))
	if c.Meant == "" {
		return h
	}
	return sha256.Sum256(append(h[:], c.Meant...))
}

// idOf binds a key to its scope. The length keeps ("a", "bc") and ("ab", "c")
// apart; the hash keeps clients' text off the disk.
func idOf(scope, key string) ID {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(scope)))
	b = append(append(b, scope...), key...)
	return sha256.Sum256(b)
}
