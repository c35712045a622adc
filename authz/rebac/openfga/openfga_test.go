package openfga_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	api "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rebac/openfga"
)

// faulty is a server that does what a real one does only on a bad day. The real
// one is asked in test/conformance.
type faulty struct {
	api.UnimplementedOpenFGAServiceServer
	err   error
	delay time.Duration
	list  int

	mu     sync.Mutex // guards below
	asked  []string   // consistency of each question
	tokens []string
	writes []*api.WriteRequest
	torn   int // the write that fails, from 1; 0: none
	stored map[string]*api.TupleKey
}

func (f *faulty) note(ctx context.Context, c api.ConsistencyPreference) error {
	md, _ := metadata.FromIncomingContext(ctx)
	f.mu.Lock()
	f.asked = append(f.asked, c.String())
	f.tokens = append(f.tokens, md.Get("authorization")...)
	f.mu.Unlock()
	select {
	case <-time.After(f.delay):
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *faulty) Check(ctx context.Context, q *api.CheckRequest) (*api.CheckResponse, error) {
	return &api.CheckResponse{Allowed: true}, f.note(ctx, q.GetConsistency())
}

func (f *faulty) ListObjects(ctx context.Context, q *api.ListObjectsRequest) (*api.ListObjectsResponse, error) {
	out := &api.ListObjectsResponse{}
	for i := range f.list {
		out.Objects = append(out.Objects, fmt.Sprintf("order:%d", f.list-i))
	}
	return out, f.note(ctx, q.GetConsistency())
}

func (f *faulty) ListUsers(ctx context.Context, q *api.ListUsersRequest) (*api.ListUsersResponse, error) {
	out := &api.ListUsersResponse{}
	for i := range f.list {
		out.Users = append(out.Users, &api.User{User: &api.User_Object{Object: &api.Object{Type: "user", Id: fmt.Sprint(i)}}})
	}
	return out, f.note(ctx, q.GetConsistency())
}

func id(object, relation, user string) string { return object + " " + relation + " " + user }

// Write does as OpenFGA does: it ignores what is there, and refuses another
// condition.
func (f *faulty) Write(_ context.Context, q *api.WriteRequest) (*api.WriteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, q)
	if len(f.writes) == f.torn {
		return nil, status.Error(codes.Unavailable, "out of order")
	}
	for _, k := range q.GetWrites().GetTupleKeys() {
		if old := f.stored[id(k.Object, k.Relation, k.User)]; old != nil && !proto.Equal(old.Condition, k.Condition) {
			return nil, status.Error(codes.Aborted, "conflict")
		}
	}
	for _, k := range q.GetDeletes().GetTupleKeys() {
		delete(f.stored, id(k.Object, k.Relation, k.User))
	}
	for _, k := range q.GetWrites().GetTupleKeys() {
		f.stored[id(k.Object, k.Relation, k.User)] = k
	}
	return &api.WriteResponse{}, nil
}

func (f *faulty) Read(_ context.Context, q *api.ReadRequest) (*api.ReadResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &api.ReadResponse{}
	if k := f.stored[id(q.TupleKey.Object, q.TupleKey.Relation, q.TupleKey.User)]; k != nil {
		out.Tuples = append(out.Tuples, &api.Tuple{Key: k})
	}
	return out, nil
}

func (f *faulty) start(t *testing.T, opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	f.stored = map[string]*api.TupleKey{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(opts...)
	api.RegisterOpenFGAServiceServer(srv, f)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return l.Addr().String()
}

func dial(t *testing.T, r openfga.Remote) *grpc.ClientConn {
	t.Helper()
	conn, err := openfga.Dial(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (f *faulty) graph(t *testing.T, timeout time.Duration) *openfga.Graph {
	t.Helper()
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	return openfga.New(dial(t, openfga.Remote{Address: f.start(t)}), "01", "", timeout)
}

func question() authz.RelationQuery {
	return authz.RelationQuery{Subject: "user:alice", Relation: "viewer", Type: "order", ID: "1"}
}

func TestEachFaultHasItsOwnError(t *testing.T) {
	code := func(c int32) error { return status.Error(codes.Code(c), "said the server") }
	for name, c := range map[string]struct {
		server *faulty
		want   error
	}{
		"validation":         {&faulty{err: code(2000)}, rebac.ErrInvalid},
		"invalid tuple":      {&faulty{err: code(2027)}, rebac.ErrInvalidTuple},
		"unknown type":       {&faulty{err: code(2021)}, rebac.ErrUnknownType},
		"unknown relation":   {&faulty{err: code(2022)}, rebac.ErrUnknownRelation},
		"too complex":        {&faulty{err: code(2002)}, authz.ErrTooComplex},
		"cancelled there":    {&faulty{err: code(2058)}, context.Canceled},
		"its own deadline":   {&faulty{err: code(4004)}, context.DeadlineExceeded},
		"throttled":          {&faulty{err: code(3500)}, context.DeadlineExceeded},
		"slow":               {&faulty{delay: 5 * time.Second}, context.DeadlineExceeded},
		"an answer too late": {&faulty{delay: 5 * time.Second, err: code(2000)}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := 10 * time.Second
			if c.server.delay > 0 {
				limit = 100 * time.Millisecond
			}
			if r, err := c.server.graph(t, limit).Related(t.Context(), question(), false); !errors.Is(err, c.want) || r.Holds {
				t.Errorf("got %v %v, want %v", r.Holds, err, c.want)
			}
		})
	}
	gone := openfga.New(dial(t, openfga.Remote{Address: "127.0.0.1:1"}), "01", "", time.Second)
	if r, err := gone.Related(t.Context(), question(), false); err == nil || r.Holds {
		t.Errorf("a server that is gone says %v %v", r.Holds, err)
	}
}

func TestListsAreWholeOrAnError(t *testing.T) {
	for n, whole := range map[int]bool{0: true, 999: true, 1000: false, 1500: false} {
		g := (&faulty{list: n}).graph(t, 0)
		ids, _, err := g.Objects(t.Context(), authz.RelationQuery{Subject: "user:alice", Relation: "viewer", Type: "order"})
		if (err == nil) != whole || whole && (len(ids) != n || !slices.IsSorted(ids)) || !whole && !errors.Is(err, authz.ErrTooComplex) {
			t.Errorf("%d objects: got %d, %v", n, len(ids), err)
		}
		q := question()
		q.Subject = "user"
		if who, _, err := g.Subjects(t.Context(), q); (err == nil) != whole || whole && len(who) != n {
			t.Errorf("%d subjects: got %d, %v", n, len(who), err)
		}
	}
}

func TestBadQuestionsStayHere(t *testing.T) {
	f := &faulty{}
	g := f.graph(t, 0)
	for name, change := range map[string]func(q *authz.RelationQuery){
		"no type":             func(q *authz.RelationQuery) { q.Type = "" },
		"a type with an id":   func(q *authz.RelationQuery) { q.Type = "order:1" },
		"a userset as object": func(q *authz.RelationQuery) { q.ID = "1#viewer" },
		"everything":          func(q *authz.RelationQuery) { q.ID = "*" },
		"no id":               func(q *authz.RelationQuery) { q.ID = "" },
		"a line break":        func(q *authz.RelationQuery) { q.ID = "1\n" },
		"no relation":         func(q *authz.RelationQuery) { q.Relation = "" },
		"nobody":              func(q *authz.RelationQuery) { q.Subject = "" },
		"too many tuples":     func(q *authz.RelationQuery) { q.Also = make([]authz.Tuple, 101) },
		"an odd context":      func(q *authz.RelationQuery) { q.Context = map[string]any{"x": struct{}{}} },
	} {
		q := question()
		change(&q)
		if _, err := g.Related(t.Context(), q, false); !errors.Is(err, rebac.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("the server was asked %v", f.asked)
	}
}

func TestRevisions(t *testing.T) {
	f := &faulty{}
	g := f.graph(t, 0)
	q := question()
	q.AtLeast = 7
	if _, err := g.Related(t.Context(), q, false); !errors.Is(err, authz.ErrStale) {
		t.Errorf("what was not relayed yet: %v", err)
	}
	if err := g.Reset(t.Context(), 7, slices.Values([]authz.Tuple{{Object: "order:1", Relation: "viewer", Subject: "user:alice"}})); err != nil {
		t.Fatal(err)
	}
	if r, err := g.Related(t.Context(), q, true); err != nil || r.Revision != 7 || len(r.Path) != 1 {
		t.Errorf("got %+v %v", r, err)
	}
	if r, err := g.Related(t.Context(), question(), false); err != nil || r.Revision != 0 {
		t.Errorf("an answer that may come from a cache claims revision %d, %v", r.Revision, err)
	}
	if want := []string{"HIGHER_CONSISTENCY", "MINIMIZE_LATENCY"}; !slices.Equal(f.asked, want) {
		t.Errorf("asked %v, want %v", f.asked, want)
	}
	if err := g.Apply(t.Context(), 6, 8, nil); !errors.Is(err, rebac.ErrGap) {
		t.Errorf("a gap: %v", err)
	}
}

func tuple(i int, condition string) authz.Tuple {
	return authz.Tuple{Object: fmt.Sprintf("order:%d", i), Relation: "viewer", Subject: "user:alice", Condition: condition}
}

func TestApply(t *testing.T) {
	f := &faulty{}
	g := f.graph(t, 0)
	var changes []rebac.Change
	for i := range 250 {
		changes = append(changes, rebac.Change{Tuple: tuple(i, "")})
	}
	changes = append(changes, rebac.Change{Tuple: tuple(3, ""), Delete: true}, rebac.Change{Tuple: tuple(900, ""), Delete: true}, rebac.Change{Tuple: tuple(4, "office_hours")})
	for range 2 { // whoever is unsure repeats it
		if err := g.Apply(t.Context(), g.Revision(), g.Revision()+1, changes); err != nil {
			t.Fatal(err)
		}
		if n := len(f.stored); n != 249 || f.stored["order:4 viewer user:alice"].GetCondition().GetName() != "office_hours" {
			t.Fatalf("%d tuples, %v", n, f.stored["order:4 viewer user:alice"])
		}
	}
	for _, w := range f.writes {
		if n := len(w.GetWrites().GetTupleKeys()) + len(w.GetDeletes().GetTupleKeys()); n > 100 {
			t.Errorf("%d tuples in one write", n)
		}
	}
}

// A condition cannot be changed in one step: between the steps nobody gets an
// answer, and after a failure none until a repetition succeeds.
func TestReplacingTuples(t *testing.T) {
	f := &faulty{}
	g := f.graph(t, 0)
	old, now := []rebac.Change{{Tuple: tuple(1, "")}}, []rebac.Change{{Tuple: tuple(1, "office_hours")}, {Tuple: tuple(2, "")}}
	if err := g.Apply(t.Context(), 0, 1, old); err != nil {
		t.Fatal(err)
	}
	f.torn = 4 // after the refusal and the removal
	if err := g.Apply(t.Context(), 1, 2, now); err == nil || g.Revision() != 1 {
		t.Fatalf("revision %d, %v", g.Revision(), err)
	}
	if r, err := g.Related(t.Context(), question(), false); !errors.Is(err, authz.ErrStale) || r.Holds {
		t.Errorf("between the steps: %v %v", r, err)
	}
	if err := g.Apply(t.Context(), 1, 2, now); err != nil {
		t.Fatal(err)
	}
	if r, err := g.Related(t.Context(), question(), false); err != nil || f.stored["order:1 viewer user:alice"].GetCondition().GetName() != "office_hours" {
		t.Errorf("afterwards: %v %v, %v", r, err, f.stored)
	}
}

func TestDial(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "fga.example:8081": false, "10.0.0.1:1": false, "127.0.0.1": false} {
		if conn, err := openfga.Dial(openfga.Remote{Address: address}); (err == nil) != ok {
			t.Errorf("%s without TLS: %v", address, err)
		} else if err == nil {
			conn.Close()
		}
	}
}

func TestTLSAndToken(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	f := &faulty{}
	addr := f.start(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS13})))
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	n := 0
	token := func(context.Context) (string, error) { n++; return fmt.Sprint("key", n), nil }
	ask := func(pool *x509.CertPool, token func(context.Context) (string, error)) error {
		conn := dial(t, openfga.Remote{Address: addr, Token: token, TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "127.0.0.1"}})
		_, err := openfga.New(conn, "01", "", time.Second).Related(t.Context(), question(), false)
		return err
	}
	for range 2 {
		if err := ask(roots, token); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"Bearer key1", "Bearer key2"}; !slices.Equal(f.tokens, want) {
		t.Errorf("the token is fetched for each call: %v, want %v", f.tokens, want)
	}
	if ask(x509.NewCertPool(), token) == nil {
		t.Error("another CA vouches for the server, and it was asked")
	}
	if ask(roots, func(context.Context) (string, error) { return "", errors.New("no key") }) == nil || len(f.asked) != 2 {
		t.Error("it was asked without the key")
	}
}
