// Package token is the token service. It trades credentials of the outside for
// short internal tokens, one hop and one audience at a time (RFC 8693), and
// serves access and refresh tokens to registered clients (RFC 6749 with PKCE).
//
// Rules that hold for every token it mints: it names whom it is for (aud) and
// through whom it came (act), it only ever narrows, and its mint is an audit
// event before anybody holds it.
package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// Controls of the service.
const (
	control         = "token.exchange"
	rotationControl = "token.rotation"
)

// Lives of what the service issues.
const (
	internalLife   = 120 * time.Second
	edgeLife       = 15 * time.Minute
	clientLife     = 5 * time.Minute // of a client acting as itself
	idLife         = 5 * time.Minute
	codeLife       = 60 * time.Second
	idleFamilyLife = 7 * 24 * time.Hour
	maxFamilyLife  = 30 * 24 * time.Hour
	healWindow     = 10 * time.Second // a spent refresh token still yields its one successor
)

const (
	maxActors = 4
	maxID     = 256  // bytes of a name from outside
	maxValue  = 8192 // bytes of a credential from outside
)

// Subject is whom a credential stands for, and since and until when.
type Subject struct {
	Principal rampart.Principal
	Issued    time.Time
	Expires   time.Time
	MayAct    string // SPIFFE ID that alone may act for the subject (RFC 8693 section 4.4); "": whom the file lets

	txn string // id of the first token of the chain; "" before there is one
}

// Directory answers whom credentials stand for. An unknown one is an error of
// kind Unauthenticated.
type Directory interface {
	Session(ctx context.Context, id string) (Subject, error)
	APIKey(ctx context.Context, key string) (Subject, error)
	// Facts returns the current facts of "user:NAME", without session or client.
	Facts(ctx context.Context, subject string) (rampart.Principal, error)
	// Live returns when the subject's session of this handle ends at the latest,
	// or the zero time if it has ended, by idling too.
	Live(ctx context.Context, subject, sid string) (time.Time, error)
	// EndSession ends the session of this handle, if it is there.
	EndSession(ctx context.Context, sid string) error
}

// Options configure a Service. All but OnRevoke and Now are required.
type Options struct {
	System    *spec.System // in force at first; see SetSystem
	Issuer    string       // https://HOST[:PORT]/ of the edge
	Rings     Rings        // those in force at first
	Key       []byte       // HMAC key of codes, refresh tokens and nonces, 32 bytes or more
	Store     Store
	Tickets   ticket.Store // remembers what counts once
	Directory Directory
	Audit     audit.Recorder
	OnRevoke  func(context.Context, wire.Revocation) error // called once a revocation is durable and in force
	Now       func() time.Time                             // nil: time.Now
}

// Service issues and revokes tokens. Safe for concurrent use.
type Service struct {
	opt        Options
	revoked    cutoffs
	following  sync.Mutex // guards followed
	followed   uint64     // newest revocation that Follow has seen
	edge       *jwt.Edge
	hints      *jwt.IDHint
	proofs     *jwt.DPoPProof
	nonces     *jwt.Nonces
	assertions *jwt.ClientAssertion
	presented  map[string]*jwt.Internal // by the presenter's SPIFFE ID
	file       atomic.Pointer[file]
	keys       atomic.Pointer[keyset]
}

// file is what the configuration in force says of tokens. It is immutable.
type file struct {
	sys      *spec.System
	flows    map[hop]flow    // declared hops
	external map[string]bool // names that may show credentials of the outside
}

// hop is a caller's and a callee's SPIFFE ID.
type hop struct{ from, to string }

// flow is what the file says of a hop: of several flows the first names it,
// and a token keeps what any of them lets it keep.
type flow struct {
	id    string
	scope []string // nil: everything
}

// New returns a Service with the revocations of the store in force.
func New(ctx context.Context, opt Options) (*Service, error) {
	if opt.System == nil || opt.Store == nil || opt.Tickets == nil || opt.Directory == nil || opt.Audit == nil {
		return nil, errors.New("token: system, stores, directory and audit log are required")
	}
	if opt.Issuer == "" || len(opt.Key) < sha256.Size {
		return nil, errors.New("token: an issuer and a 32-byte key are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	s := &Service{opt: opt, presented: map[string]*jwt.Internal{}}
	s.SetSystem(opt.System)
	past, err := opt.Store.Revocations(ctx, opt.Now())
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	for _, v := range past {
		s.revoked.add(v)
		s.followed = v.Seq
	}
	if err := s.SetRings(opt.Rings); err != nil {
		return nil, err
	}
	s.verifiers()
	if err := s.loadProofs(); err != nil {
		return nil, err
	}
	return s, nil
}

// loadProofs makes the verifiers of what clients sign.
func (s *Service) loadProofs() error {
	key := s.sum("rampart-dpop-nonce-v1") // its own key, so that a nonce is never a MAC of anything else
	var err error
	if s.nonces, err = jwt.NewNonces(key[:]); err != nil {
		return err
	}
	s.proofs = jwt.NewDPoPProof(jwt.DPoPOptions{Nonces: s.nonces, Now: s.opt.Now})
	s.assertions = jwt.NewClientAssertion(jwt.ClientAssertionOptions{Audiences: []string{s.opt.Issuer, s.opt.Issuer + "oauth2/token"}, Now: s.opt.Now})
	return nil
}

// SetSystem has the service go by another configuration: by its flows, roles and
// scopes. Services, stores and the trust domain must be those of before.
func (s *Service) SetSystem(sys *spec.System) { s.file.Store(derive(sys)) }

// system is the configuration in force.
func (s *Service) system() *spec.System { return s.file.Load().sys }

// derive reads from the file who may ask for what.
func derive(sys *spec.System) *file {
	out := &file{sys: sys, flows: map[hop]flow{}, external: map[string]bool{sys.Gateway(): true}}
	for _, f := range sys.Flows {
		_, from := sys.Services[f.From]
		_, to := sys.Services[f.To]
		if !from || !to {
			continue
		}
		h := hop{sys.ServiceID(f.From), sys.ServiceID(f.To)}
		if first, ok := out.flows[h]; ok {
			out.flows[h] = flow{first.id, join(first.scope, f.Scope)}
		} else {
			out.flows[h] = flow{f.ID, f.Scope}
		}
		if f.Authn.Pattern == "per_service" {
			out.external[f.To] = true // the file hands it the outside's credentials
		}
	}
	return out
}

// MayShowExternal reports whether the service of this name may show
// credentials of the outside: the gateway, and services that a flow reaches by
// the pattern per_service.
func (s *Service) MayShowExternal(name string) bool { return s.file.Load().external[name] }

// Sweep forgets what has expired. Nothing expired is accepted anyway.
func (s *Service) Sweep(ctx context.Context) error {
	now := s.opt.Now()
	s.revoked.sweep(now)
	if err := s.opt.Store.SweepTokens(ctx, now); err != nil {
		return unavailable(err)
	}
	return nil
}

// Refusal is an OAuth error (RFC 6749 section 5.2): Code is for the client.
type Refusal struct {
	Code string // "invalid_grant", "invalid_target", ...
	Err  error
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

// CodeOf returns the OAuth error code for err.
func CodeOf(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return "invalid_grant"
	case rampart.Invalid:
		return "invalid_request"
	case rampart.Unavailable:
		return "temporarily_unavailable"
	}
	return "server_error"
}

func refuse(code, format string, args ...any) error {
	return refuseBy(control, code, format, args...)
}

// refuseBy is refuse by another control than the exchange.
func refuseBy(control, code, format string, args ...any) error {
	kind := rampart.Invalid
	switch code {
	case "invalid_grant", "invalid_client", "invalid_dpop_proof", "use_dpop_nonce":
		kind = rampart.Unauthenticated
	case "invalid_target", "unauthorized_client":
		kind = rampart.Denied
	}
	return &Refusal{Code: code, Err: rampart.Errorf(kind, control, "token: "+format, args...)}
}

// unavailable types an error of the store; nil stays nil.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "token: store not available", Err: err}
}
