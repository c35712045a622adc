package sidecar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rebac/openfga"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/profile"
)

// index keeps the tuples here.
type index struct {
	*rebac.Index
	staged map[tupleKey]authz.Tuple // of a reset that is not whole
}

var _ keeper = (*index)(nil)

type tupleKey struct{ object, relation, subject string }

func (x *index) begin() { x.staged = map[tupleKey]authz.Tuple{} }

func (x *index) part(_ context.Context, changes []rebac.Change) error {
	for _, c := range changes {
		key := tupleKey{c.Tuple.Object, c.Tuple.Relation, c.Tuple.Subject}
		if c.Delete {
			delete(x.staged, key)
			continue
		}
		x.staged[key] = c.Tuple
	}
	if len(x.staged) > maxTuples {
		x.staged = nil
		return rampart.Errorf(rampart.Invalid, "", "more than %d relations", maxTuples)
	}
	return nil
}

func (x *index) end(to uint64) error {
	all := x.staged
	x.staged = nil
	return refusedTuples(x.Reset(to, maps.Values(all)))
}

func (x *index) apply(_ context.Context, from, to uint64, changes []rebac.Change) error {
	return refusedTuples(x.Apply(from, to, changes))
}

func (x *index) close() {}

func refusedTuples(err error) error {
	if err == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Invalid, Msg: "the relations are not ones that the graph can hold", Err: err}
}

// server relays the tuples to an OpenFGA server, which answers the questions. A
// service that tells nothing may still ask about what others told; one that has
// begun to tell must go on, or else the server knows less than it says.
type server struct {
	*openfga.Graph
	conn  *grpc.ClientConn
	now   func() time.Time
	heard atomic.Int64 // Unix nanoseconds; 0: never
}

var _ keeper = (*server)(nil)

// dial prepares the connection to the server of the file.
func (g *relations) dial(o origin) (keeper, error) {
	r := openfga.Remote{Address: o.server.Address}
	if o.server.Token != "" {
		r.Token = func(ctx context.Context) (string, error) { return g.secret(ctx, wire.SecretOpenFGA) }
	}
	if o.ca != "" {
		host, _, err := net.SplitHostPort(r.Address)
		if err != nil || host == "" {
			return nil, fmt.Errorf("authz.openfga.address: %q names no host", r.Address)
		}
		if r.TLS, err = profile.Database([]byte(o.ca), host); err != nil {
			return nil, fmt.Errorf("authz.openfga.ca: %w", err)
		}
	}
	conn, err := openfga.Dial(r)
	if err != nil {
		return nil, fmt.Errorf("authz.openfga: %w", err)
	}
	return &server{Graph: openfga.New(conn, o.server.Store, "", 0), conn: conn, now: g.now}, nil
}

// secretText is a secret as a header needs it.
func (s *Sidecar) secretText(ctx context.Context, name string) (string, error) {
	sec, err := s.held(ctx, name)
	if err != nil {
		return "", err
	}
	text := ""
	err = sec.Use(func(b []byte) error { text = string(b); return nil })
	return text, err
}

func (x *server) begin() {}

// part relays at once: a reset takes nothing out of the server, so that there is
// nothing to wait for.
func (x *server) part(ctx context.Context, changes []rebac.Change) error {
	return notRelayed(x.Part(ctx, changes))
}

func (x *server) end(to uint64) error {
	x.Reached(to)
	return nil
}

func (x *server) apply(ctx context.Context, from, to uint64, changes []rebac.Change) error {
	return notRelayed(x.Apply(ctx, from, to, changes))
}

func (x *server) close() { x.conn.Close() }

func notRelayed(err error) error {
	if err == nil {
		return nil
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: "authz.domain", Msg: "the OpenFGA server does not take the relations", Err: err}
}

// Fresh notes that the service was heard.
func (x *server) Fresh(at time.Time) { x.heard.Store(at.UnixNano()) }

var errSilent = errors.New("the service has not told its relations lately")

func (x *server) current() error {
	heard := x.heard.Load()
	if heard == 0 {
		return nil
	}
	if age := x.now().Sub(time.Unix(0, heard)); age > agent.TuplesStale || age < -agent.TuplesStale {
		return fmt.Errorf("sidecar: %w: %w", errSilent, authz.ErrStale)
	}
	return nil
}

// Related implements authz.Graph, as the others below.
func (x *server) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	if err := x.current(); err != nil {
		return authz.Relationship{}, err
	}
	return x.Graph.Related(ctx, q, explain)
}

func (x *server) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	if err := x.current(); err != nil {
		return nil, 0, err
	}
	return x.Graph.Objects(ctx, q)
}

func (x *server) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	if err := x.current(); err != nil {
		return nil, 0, err
	}
	return x.Graph.Subjects(ctx, q)
}
