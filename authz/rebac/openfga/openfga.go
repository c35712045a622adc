// Package openfga asks an OpenFGA server about relations, behind the same
// interface as the index in the process (authz/rebac).
//
// What a server cannot give, this package does not pretend to give:
//
//   - It has no consistency token. A revision here is one of our own outbox, and
//     counts as reached once it was relayed (Apply) and the server is asked with
//     HIGHER_CONSISTENCY; tuples that others write carry no revision.
//   - It may cut lists off in silence, at 1,000 results or after 3 seconds by its
//     defaults. A list of that length, or one that took that long, is an error.
//   - It gives no reason, so that an answer has no path but the question itself.
//
// Each question is a call over the network.
package openfga

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	api "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
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
	writeMost      = 100                    // tuples of one write
	catchUp        = 50 * time.Millisecond  // that a question waits for a revision
)

// Remote is where a server listens.
type Remote struct {
	Address string      // host:port of its gRPC listener
	TLS     *tls.Config // from tls/profile; nil, without TLS, for a server on loopback only
	// Token returns the pre-shared key at each call; nil sends none. It must be
	// safe for concurrent use.
	Token func(context.Context) (string, error)
}

// Dial prepares a connection; the first question opens it. A server without TLS
// must be on loopback.
func Dial(r Remote) (*grpc.ClientConn, error) {
	creds, err := r.credentials()
	if err != nil {
		return nil, fmt.Errorf("openfga: %w", err)
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8 << 20))}
	if r.Token != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{r.Token, r.TLS != nil}))
	}
	conn, err := grpc.NewClient(r.Address, opts...)
	if err != nil {
		return nil, fmt.Errorf("openfga: %w", err)
	}
	return conn, nil
}

func (r Remote) credentials() (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q is not host:port", r.Address)
	}
	if r.TLS != nil {
		return credentials.NewTLS(r.TLS), nil
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not on loopback: name the CA that vouches for it", r.Address)
	}
	return insecure.NewCredentials(), nil
}

// bearer sends the pre-shared key.
type bearer struct {
	token  func(context.Context) (string, error)
	secure bool
}

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	t, err := b.token(ctx)
	return map[string]string{"authorization": "Bearer " + t}, err
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// Graph implements authz.Graph over one store of a server. It is safe for
// concurrent use.
type Graph struct {
	client   api.OpenFGAServiceClient
	store    string
	model    string
	timeout  time.Duration
	revision atomic.Uint64 // of our outbox, relayed
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

// Related implements authz.Graph.
func (g *Graph) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	about, rev, err := g.begin(ctx, q)
	if err != nil {
		return authz.Relationship{}, err
	}
	object := q.Type + ":" + q.ID
	res, err := g.client.Check(ctx, &api.CheckRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: about, Consistency: consistency(q),
		TupleKey:         &api.CheckRequestTupleKey{Object: object, Relation: q.Relation, User: q.Subject},
		ContextualTuples: &api.ContextualTupleKeys{TupleKeys: keys(q.Also)},
	})
	if err != nil {
		return authz.Relationship{}, failure(err)
	}
	r := authz.Relationship{Holds: res.GetAllowed(), Revision: rev}
	if explain {
		r.Path = []string{fmt.Sprintf("%s#%s@%s, says the OpenFGA server", object, q.Relation, q.Subject)}
	}
	return r, nil
}

// Objects implements authz.Graph.
func (g *Graph) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	about, rev, err := g.begin(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	res, err := g.client.ListObjects(ctx, &api.ListObjectsRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: about, Consistency: consistency(q),
		Type: q.Type, Relation: q.Relation, User: q.Subject,
		ContextualTuples: &api.ContextualTupleKeys{TupleKeys: keys(q.Also)},
	})
	if err != nil {
		return nil, 0, failure(err)
	}
	if len(res.GetObjects()) >= listMost {
		return nil, 0, fmt.Errorf("openfga: a list of %d may have been cut off: %w", listMost, authz.ErrTooComplex)
	}
	ids := make([]string, len(res.GetObjects()))
	for i, o := range res.GetObjects() {
		ids[i] = strings.TrimPrefix(o, q.Type+":")
	}
	slices.Sort(ids)
	return ids, rev, nil
}

// Subjects implements authz.Graph.
func (g *Graph) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	about, rev, err := g.begin(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	kind, relation, _ := strings.Cut(q.Subject, "#")
	res, err := g.client.ListUsers(ctx, &api.ListUsersRequest{
		StoreId: g.store, AuthorizationModelId: g.model, Context: about, Consistency: consistency(q),
		Object: &api.Object{Type: q.Type, Id: q.ID}, Relation: q.Relation,
		UserFilters:      []*api.UserTypeFilter{{Type: kind, Relation: relation}},
		ContextualTuples: keys(q.Also),
	})
	if err != nil {
		return nil, 0, failure(err)
	}
	if len(res.GetUsers()) >= listMost {
		return nil, 0, fmt.Errorf("openfga: a list of %d may have been cut off: %w", listMost, authz.ErrTooComplex)
	}
	out := make([]string, len(res.GetUsers()))
	for i, u := range res.GetUsers() {
		out[i] = subject(u)
	}
	slices.Sort(out)
	return out, rev, nil
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

// begin waits for the revision that a question asks for, and turns its context
// into the server's form.
func (g *Graph) begin(ctx context.Context, q authz.RelationQuery) (*structpb.Struct, uint64, error) {
	if err := g.reached(ctx, q.AtLeast); err != nil {
		return nil, 0, err
	}
	about, err := structpb.NewStruct(q.Context)
	if err != nil {
		return nil, 0, fmt.Errorf("openfga: context: %w", err)
	}
	return about, g.revision.Load(), nil
}

func (g *Graph) reached(ctx context.Context, rev uint64) error {
	if g.revision.Load() >= rev {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.revision.Load() < rev {
		select {
		case <-ctx.Done():
			return authz.ErrStale
		case <-tick.C:
		}
	}
	return nil
}

// consistency: whoever names a revision wants no cached answer.
func consistency(q authz.RelationQuery) api.ConsistencyPreference {
	if q.AtLeast > 0 {
		return api.ConsistencyPreference_HIGHER_CONSISTENCY
	}
	return api.ConsistencyPreference_MINIMIZE_LATENCY
}

func keys(tuples []authz.Tuple) []*api.TupleKey {
	out := make([]*api.TupleKey, len(tuples))
	for i, t := range tuples {
		out[i] = key(t)
	}
	return out
}

func key(t authz.Tuple) *api.TupleKey {
	k := &api.TupleKey{Object: t.Object, Relation: t.Relation, User: t.Subject}
	if t.Condition == "" {
		return k
	}
	k.Condition = &api.RelationshipCondition{Name: t.Condition}
	if about, err := structpb.NewStruct(t.Context); err == nil {
		k.Condition.Context = about // what does not fit is missing, and a missing parameter is an error there
	}
	return k
}

// Apply relays changes of our outbox to the server and notes how far it has
// come. It is idempotent: whoever is unsure repeats it. from must be the
// revision reached, else rebac.ErrGap. One caller at a time.
func (g *Graph) Apply(ctx context.Context, from, to uint64, changes []rebac.Change) error {
	if g.revision.Load() != from {
		return rebac.ErrGap
	}
	for part := range slices.Chunk(squash(changes), writeMost) {
		if err := g.write(ctx, part); err != nil {
			return err
		}
	}
	g.revision.Store(to)
	return nil
}

// squash keeps the last change of each tuple: a server takes each tuple once in
// a write.
func squash(changes []rebac.Change) []rebac.Change {
	type id struct{ object, relation, subject string }
	last := map[id]int{}
	for i, c := range changes {
		last[id{c.Tuple.Object, c.Tuple.Relation, c.Tuple.Subject}] = i
	}
	var out []rebac.Change
	for i, c := range changes {
		if last[id{c.Tuple.Object, c.Tuple.Relation, c.Tuple.Subject}] == i {
			out = append(out, c)
		}
	}
	return out
}

func (g *Graph) write(ctx context.Context, part []rebac.Change) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	q := &api.WriteRequest{StoreId: g.store, AuthorizationModelId: g.model}
	for _, c := range part {
		k := key(c.Tuple)
		if c.Delete {
			if q.Deletes == nil {
				q.Deletes = &api.WriteRequestDeletes{OnMissing: "ignore"}
			}
			q.Deletes.TupleKeys = append(q.Deletes.TupleKeys, &api.TupleKeyWithoutCondition{Object: k.Object, Relation: k.Relation, User: k.User})
			continue
		}
		if q.Writes == nil {
			q.Writes = &api.WriteRequestWrites{OnDuplicate: "ignore"}
		}
		q.Writes.TupleKeys = append(q.Writes.TupleKeys, k)
	}
	if q.Writes == nil && q.Deletes == nil {
		return nil
	}
	if _, err := g.client.Write(ctx, q); err != nil {
		return failure(err)
	}
	return nil
}

// failure maps what a server answers to the errors of the graph. Its codes are
// numbers beyond gRPC's own.
func failure(err error) error {
	s := status.Convert(err)
	switch code := api.ErrorCode(s.Code()); code {
	case api.ErrorCode_validation_error:
		return fmt.Errorf("openfga: %s: %w", s.Message(), rebac.ErrInvalid)
	case api.ErrorCode_invalid_tuple:
		return fmt.Errorf("openfga: %s: %w", s.Message(), rebac.ErrInvalidTuple)
	case api.ErrorCode_type_not_found:
		return fmt.Errorf("openfga: %s: %w", s.Message(), rebac.ErrUnknownType)
	case api.ErrorCode_relation_not_found:
		return fmt.Errorf("openfga: %s: %w", s.Message(), rebac.ErrUnknownRelation)
	case api.ErrorCode_authorization_model_resolution_too_complex:
		return fmt.Errorf("openfga: %s: %w", s.Message(), authz.ErrTooComplex)
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return fmt.Errorf("openfga: %w", context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("openfga: %w", context.Canceled)
	}
	return fmt.Errorf("openfga: the server does not answer as it should: %w", err)
}
