// Package authzen speaks the OpenID AuthZEN Authorization API 1.0 for a policy
// decision point: evaluation, evaluations, the three searches and metadata.
// Obligations follow draft 1 of the AuthZEN obligations profile.
//
// Three rules of this implementation where the standard leaves a choice:
//
//   - A decision point trusts what enforcement points assert (section 11.4), so
//     they may assert little: facts of a subject come from the directory, and
//     subject.properties are ignored. Attributes of a resource are the asker's
//     to give, within the schema.
//   - Search and batch tell more than a single answer does, so that each needs
//     a right of its own (Rights).
//   - An administrator's reason is given to callers with that right only.
package authzen

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// Paths of the endpoints below the base URL (sections 5 to 9).
const (
	PathEvaluation     = "/access/v1/evaluation"
	PathEvaluations    = "/access/v1/evaluations"
	PathSearchSubject  = "/access/v1/search/subject"
	PathSearchResource = "/access/v1/search/resource"
	PathSearchAction   = "/access/v1/search/action"
	PathMetadata       = "/.well-known/authzen-configuration"
)

// Bounds of one request. Attributes and contexts are bounded by
// authz.Request.Validate besides.
const (
	MaxBody        = 256 << 10 // bytes
	MaxEvaluations = 1000      // of one batch
	MaxPage        = 1000      // results of one page
	DefaultPage    = 100
	maxRequestID   = 128
	tokenLife      = 10 * time.Minute
)

// Rights are what one caller may ask. The zero Rights may ask nothing.
type Rights struct {
	Caller   string   // names the caller; page tokens are bound to it
	Evaluate []string // resource types that it may ask decisions about
	Batch    bool     // many of them in one request
	Search   []string // resource types that it may search
	Reasons  bool     // sees the reason for administrators
}

// Options of New. Every function is required, unless it says otherwise, and must
// be safe for concurrent use.
type Options struct {
	// Rights says who calls. An error of kind Unauthenticated is a 401.
	Rights func(*http.Request) (Rights, error)
	// Base is the URL of the decision point as callers know it, without a
	// trailing slash.
	Base string
	// Schema returns the types that may be asked about.
	Schema func() *authz.Schema
	// Subject returns what the directory knows of a subject by its type ("user",
	// "client", "service") and id. NotFound makes the answer a denial.
	Subject func(ctx context.Context, kind, id string) (rampart.Principal, error)
	// Decide decides at the domain layer.
	Decide func(context.Context, authz.Request) rampart.Decision
	// Subjects returns ids of all subjects of a type that may come into question.
	Subjects func(ctx context.Context, kind string) ([]string, error)
	// Objects returns the resources of r's type that r's principal may come into
	// question for, with the attributes to decide by, sorted by id.
	Objects func(ctx context.Context, r authz.Request) ([]rampart.Resource, error)
	// Spend is called before decisions are made for the caller in ctx, with their
	// number. An error refuses them; one of kind Limited is a 429. If nil, nobody
	// counts.
	Spend func(ctx context.Context, decisions int) error
	// Refused is told of a question that the caller had no right to ask. If nil,
	// nobody is.
	Refused func(ctx context.Context, r Rights, path string, err error)
	Now     func() time.Time // if nil, time.Now
}

// Server answers AuthZEN requests. It is safe for concurrent use.
type Server struct {
	opt Options
	key [32]byte // of page tokens: they end with the process
	mux *http.ServeMux
}

// New returns a Server. It panics when a function of o is nil: a decision point
// that cannot decide must not start.
func New(o Options) *Server {
	if o.Rights == nil || o.Schema == nil || o.Subject == nil || o.Decide == nil || o.Subjects == nil || o.Objects == nil {
		panic("authzen: every function of Options but Spend and Now is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Spend == nil {
		o.Spend = func(context.Context, int) error { return nil }
	}
	s := &Server{opt: o, mux: http.NewServeMux()}
	rand.Read(s.key[:]) // never fails
	s.mux.HandleFunc("POST "+PathEvaluation, s.endpoint(s.evaluation))
	s.mux.HandleFunc("POST "+PathEvaluations, s.endpoint(s.evaluations))
	s.mux.HandleFunc("POST "+PathSearchSubject, s.endpoint(s.searchSubject))
	s.mux.HandleFunc("POST "+PathSearchResource, s.endpoint(s.searchResource))
	s.mux.HandleFunc("POST "+PathSearchAction, s.endpoint(s.searchAction))
	s.mux.HandleFunc("GET "+PathMetadata, s.metadata)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// call is one request with its caller.
type call struct {
	ctx    context.Context
	rights Rights
}

// alive fails when nobody waits for the answer any more.
func (c call) alive() error {
	if c.ctx.Err() == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Unavailable, Msg: "the answer took too long", Err: c.ctx.Err()}
}

// endpoint frames one operation: who asks, what, and the answer. A denial is an
// answer like any other (section 10.1.2); errors concern the request itself.
func (s *Server) endpoint(op func(call, *question) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		echo(w, r)
		rights, err := s.opt.Rights(r)
		if err != nil {
			fail(w, err)
			return
		}
		q, err := read(w, r)
		if err != nil {
			fail(w, err)
			return
		}
		answer, err := op(call{r.Context(), rights}, q)
		if err != nil {
			s.refused(r, rights, err)
			fail(w, err)
			return
		}
		write(w, http.StatusOK, answer)
	}
}

func (s *Server) refused(r *http.Request, rights Rights, err error) {
	if s.opt.Refused != nil && rampart.KindOf(err) == rampart.Denied {
		s.opt.Refused(r.Context(), rights, r.URL.Path, err)
	}
}

// echo returns the request's id unchanged (section 10.1.3), when it is one: a
// header that is long or holds control characters is somebody's attempt.
func echo(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Request-ID")
	for i := range len(id) {
		if id[i] < 0x20 || id[i] > 0x7e {
			return
		}
	}
	if id != "" && len(id) <= maxRequestID {
		w.Header().Set("X-Request-ID", id)
	}
}

// metadata is section 9.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, map[string]any{
		"policy_decision_point":       s.opt.Base,
		"access_evaluation_endpoint":  s.opt.Base + PathEvaluation,
		"access_evaluations_endpoint": s.opt.Base + PathEvaluations,
		"search_subject_endpoint":     s.opt.Base + PathSearchSubject,
		"search_resource_endpoint":    s.opt.Base + PathSearchResource,
		"search_action_endpoint":      s.opt.Base + PathSearchAction,
		"supported_obligations":       []string{"step-up", "notification", "session_termination", "custom"},
	})
}

// statusOf maps an error to the status of the request (section 10.1.2).
func statusOf(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return http.StatusUnauthorized
	case rampart.Denied:
		return http.StatusForbidden
	case rampart.Invalid, rampart.NotFound, rampart.Conflict:
		return http.StatusBadRequest
	case rampart.Limited:
		return http.StatusTooManyRequests
	case rampart.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
