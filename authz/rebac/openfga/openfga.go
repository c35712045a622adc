// Package openfga asks an OpenFGA server about relations, behind the same
// interface as the index in the process (authz/rebac).
//
// What a server cannot give, this package does not pretend to give:
//
//   - It has no consistency token. A revision here is one of our own outbox, and
//     counts as reached once it was relayed (Apply). Only a question that names
//     a revision gets one back, because only then is the server asked not to
//     answer from its caches (HIGHER_CONSISTENCY). Tuples that others write carry
//     no revision.
//   - It may cut lists off in silence, at 1,000 results or after 3 seconds by its
//     defaults. A list of that length is an error, and ours ends after 2 seconds.
//     A server with lower bounds than its defaults cannot be told from a short
//     list: leave them as they are.
//   - It cannot change a tuple's condition in one step. While Apply takes the old
//     tuple out and puts the new one in, whoever asks through the same Graph gets
//     authz.ErrStale; others may see neither for that moment.
//   - It gives no reason, so that an answer has no path but the question itself.
//
// Each question is a call over the network.
package openfga

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	api "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

// The bounds of a server by its defaults, and ours.
const (
	DefaultTimeout = 200 * time.Millisecond // of one check
	listTimeout    = 2 * time.Second        // of one list: below the 3 s at which a server cuts off
	listMost       = 1000                   // results at which a server cuts off
	alsoMost       = 100                    // tuples that one question may bring
	writeMost      = 100                    // tuples of one write
	writeTimeout   = 2 * time.Second        // of one write
	catchUp        = 50 * time.Millisecond  // that a question waits for a revision
)

// Graph implements authz.Graph over one store of a server. It is safe for
// concurrent use.
type Graph struct {
	client   api.OpenFGAServiceClient
	store    string
	model    string
	timeout  time.Duration
	revision atomic.Uint64 // of our outbox, relayed
	swaps    atomic.Uint64 // how often Apply replaced tuples
	torn     atomic.Bool   // while it does, and until a relay has succeeded
}

var _ authz.Graph = (*Graph)(nil)

// New returns the graph of a store. model is the id of an authorization model;
// "" takes the store's newest. timeout bounds one check; 0 is DefaultTimeout.
// It panics when conn is nil.
func New(conn grpc.ClientConnInterface, store, model string, timeout time.Duration) *Graph {
	if conn == nil {
		panic("openfga: a connection is required")
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return &Graph{client: api.NewOpenFGAServiceClient(conn), store: store, model: model, timeout: timeout}
}

// Revision returns how far our outbox was relayed; 0 before the first Reset or
// Apply.
func (g *Graph) Revision() uint64 { return g.revision.Load() }

// Related implements authz.Graph. Errors of the question itself are those of
// rebac; whatever else the server says, and a server that says nothing, is an
// error too.
func (g *Graph) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	a, err := g.begin(ctx, q, true)
	if err != nil {
		return authz.Relationship{}, err
	}
	object := q.Type + ":" + q.ID
	res, err := g.client.Check(ctx, &api.CheckRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: a.about, Consistency: a.consistency,
		TupleKey:         &api.CheckRequestTupleKey{Object: object, Relation: q.Relation, User: q.Subject},
		ContextualTuples: a.contextual(),
	})
	if err = g.end(a, err); err != nil {
		return authz.Relationship{}, err
	}
	r := authz.Relationship{Holds: res.GetAllowed(), Revision: a.revision}
	if explain {
		r.Path = []string{fmt.Sprintf("%s#%s@%s, says the OpenFGA server", object, q.Relation, q.Subject)}
	}
	return r, nil
}

// Objects implements authz.Graph.
func (g *Graph) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	a, err := g.begin(ctx, q, false)
	if err != nil {
		return nil, 0, err
	}
	res, err := g.client.ListObjects(ctx, &api.ListObjectsRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: a.about, Consistency: a.consistency,
		Type: q.Type, Relation: q.Relation, User: q.Subject, ContextualTuples: a.contextual(),
	})
	if err = g.end(a, err); err != nil {
		return nil, 0, err
	}
	ids := make([]string, len(res.GetObjects()))
	for i, o := range res.GetObjects() {
		ids[i] = strings.TrimPrefix(o, q.Type+":")
	}
	return whole(ids, a.revision)
}

// Subjects implements authz.Graph.
func (g *Graph) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	a, err := g.begin(ctx, q, true)
	if err != nil {
		return nil, 0, err
	}
	kind, relation, _ := strings.Cut(q.Subject, "#")
	res, err := g.client.ListUsers(ctx, &api.ListUsersRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: a.about, Consistency: a.consistency,
		Object: &api.Object{Type: q.Type, Id: q.ID}, Relation: q.Relation,
		UserFilters:      []*api.UserTypeFilter{{Type: kind, Relation: relation}},
		ContextualTuples: a.also,
	})
	if err = g.end(a, err); err != nil {
		return nil, 0, err
	}
	names := make([]string, len(res.GetUsers()))
	for i, u := range res.GetUsers() {
		names[i] = subject(u)
	}
	return whole(names, a.revision)
}

func subject(u *api.User) string {
	switch u := u.GetUser().(type) {
	case *api.User_Object:
		return u.Object.GetType() + ":" + u.Object.GetId()
	case *api.User_Userset:
		return u.Userset.GetType() + ":" + u.Userset.GetId() + "#" + u.Userset.GetRelation()
	case *api.User_Wildcard:
		return u.Wildcard.GetType() + ":*"
	}
	return ""
}

// whole sorts a list that cannot have been cut off.
func whole(list []string, rev uint64) ([]string, uint64, error) {
	if len(list) >= listMost {
		return nil, 0, fmt.Errorf("openfga: a list of %d may have been cut off: %w", len(list), authz.ErrTooComplex)
	}
	slices.Sort(list)
	return list, rev, nil
}

// asked is a question on its way.
type asked struct {
	about       *structpb.Struct
	also        []*api.TupleKey
	consistency api.ConsistencyPreference
	revision    uint64 // that the answer has at least; 0: nobody knows
	swaps       uint64
	torn        bool
}

func (a asked) contextual() *api.ContextualTupleKeys {
	return &api.ContextualTupleKeys{TupleKeys: a.also}
}

// begin refuses what the server might take for another question, waits for the
// revision that is asked for, and turns the rest into the server's form. Whoever
// names a revision wants no cached answer, and gets a revision back.
func (g *Graph) begin(ctx context.Context, q authz.RelationQuery, object bool) (asked, error) {
	if err := valid(q, object); err != nil {
		return asked{}, fmt.Errorf("openfga: %w", err)
	}
	if err := g.reached(ctx, q.AtLeast); err != nil {
		return asked{}, fmt.Errorf("openfga: %w", err)
	}
	about, err := structpb.NewStruct(plain(q.Context))
	if err != nil {
		return asked{}, fmt.Errorf("openfga: context: %w: %w", rebac.ErrInvalid, err)
	}
	a := asked{about: about, consistency: api.ConsistencyPreference_MINIMIZE_LATENCY, swaps: g.swaps.Load()}
	a.torn = g.torn.Load() // after swaps: what begins in between changes them
	if a.also, err = keys(q.Also); err != nil {
		return asked{}, fmt.Errorf("openfga: %w", err)
	}
	if q.AtLeast > 0 {
		a.consistency, a.revision = api.ConsistencyPreference_HIGHER_CONSISTENCY, g.revision.Load()
	}
	return a, nil
}

// end judges an answer: one that was given while tuples were replaced may have
// missed the old and the new.
func (g *Graph) end(a asked, err error) error {
	if err != nil {
		return fmt.Errorf("openfga: %w", failure(err))
	}
	if a.torn || g.torn.Load() || g.swaps.Load() != a.swaps {
		return fmt.Errorf("openfga: tuples are just being replaced: %w", authz.ErrStale)
	}
	return nil
}

// valid refuses names with other syntax in them. Whether the model knows them,
// the server says.
func valid(q authz.RelationQuery, object bool) error {
	switch {
	case !name(q.Type) || !name(q.Relation):
		return fmt.Errorf("%w: type %.64q, relation %.64q", rebac.ErrInvalid, q.Type, q.Relation)
	case object && (q.ID == "" || q.ID == "*" || strings.ContainsFunc(q.ID, syntax)):
		return fmt.Errorf("%w: the object's id %.64q", rebac.ErrInvalid, q.ID)
	case q.Subject == "":
		return fmt.Errorf("%w: it names no subject", rebac.ErrInvalid)
	case len(q.Also) > alsoMost:
		return fmt.Errorf("%w: a question brings at most %d tuples", rebac.ErrInvalid, alsoMost)
	}
	return nil
}

func name(s string) bool {
	return s != "" && !strings.ContainsFunc(s, syntax) && !strings.ContainsAny(s, "@*")
}

func syntax(r rune) bool { return r == ':' || r == '#' || r <= ' ' || r == 0x7f }

// reached waits for a revision to be relayed.
func (g *Graph) reached(ctx context.Context, rev uint64) error {
	if g.revision.Load() >= rev {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	return g.WaitFor(ctx, rev)
}

// WaitFor waits until the outbox was relayed up to rev, or until ctx is over:
// then the error is authz.ErrStale.
func (g *Graph) WaitFor(ctx context.Context, rev uint64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.revision.Load() < rev {
		select {
		case <-ctx.Done():
			return fmt.Errorf("relayed up to revision %d, not %d: %w", g.revision.Load(), rev, authz.ErrStale)
		case <-tick.C:
		}
	}
	return nil
}

func keys(tuples []authz.Tuple) ([]*api.TupleKey, error) {
	out := make([]*api.TupleKey, len(tuples))
	for i, t := range tuples {
		var err error
		if out[i], err = key(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func key(t authz.Tuple) (*api.TupleKey, error) {
	k := &api.TupleKey{Object: t.Object, Relation: t.Relation, User: t.Subject}
	if t.Condition == "" {
		return k, nil
	}
	about, err := structpb.NewStruct(plain(t.Context))
	if err != nil {
		return nil, fmt.Errorf("%w: the context of a tuple of %.64q: %w", rebac.ErrInvalidTuple, t.Object, err)
	}
	k.Condition = &api.RelationshipCondition{Name: t.Condition, Context: about}
	return k, nil
}

// plain turns values that only Go knows into those of JSON. A server knows
// numbers as float64: whole ones beyond 2^53 are not what they were, and become
// strings, which conditions take for whole numbers as well.
func plain(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = plainValue(v)
	}
	return out
}

func plainValue(v any) any {
	switch v := v.(type) {
	case int:
		return whole64(int64(v))
	case int64:
		return whole64(v)
	case []string:
		return plainList(v)
	case []any:
		return plainList(v)
	case map[string]any:
		return plain(v)
	}
	return v
}

func whole64(n int64) any {
	if n > 1<<53 || n < -1<<53 {
		return strconv.FormatInt(n, 10)
	}
	return float64(n)
}

func plainList[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = plainValue(v)
	}
	return out
}

// failure maps what a server answers to the errors of the graph. Its codes are
// numbers beyond gRPC's own.
func failure(err error) error {
	s := status.Convert(err)
	if kind := kindOf(s.Code()); kind != nil {
		return fmt.Errorf("%.200s: %w", s.Message(), kind)
	}
	return fmt.Errorf("the server does not answer as it should: %w", err)
}

func kindOf(c codes.Code) error {
	switch c {
	case codes.DeadlineExceeded, codes.Code(api.InternalErrorCode_deadline_exceeded), codes.Code(api.UnprocessableContentErrorCode_throttled_timeout_error):
		return context.DeadlineExceeded
	case codes.Canceled, codes.Code(api.ErrorCode_cancelled):
		return context.Canceled
	case codes.Aborted:
		return errConflict
	}
	switch api.ErrorCode(c) {
	case api.ErrorCode_validation_error, api.ErrorCode_invalid_check_input, api.ErrorCode_invalid_object_format, api.ErrorCode_invalid_user:
		return rebac.ErrInvalid
	case api.ErrorCode_invalid_tuple, api.ErrorCode_invalid_contextual_tuple, api.ErrorCode_duplicate_contextual_tuple:
		return rebac.ErrInvalidTuple
	case api.ErrorCode_type_not_found:
		return rebac.ErrUnknownType
	case api.ErrorCode_relation_not_found, api.ErrorCode_unknown_relation:
		return rebac.ErrUnknownRelation
	case api.ErrorCode_authorization_model_resolution_too_complex:
		return authz.ErrTooComplex
	}
	return nil
}
