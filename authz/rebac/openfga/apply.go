package openfga

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	api "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

// errConflict is a write that found a tuple with another condition.
var errConflict = errors.New("a tuple is there with another condition")

// Reset relays all tuples of our outbox and notes the revision. What the store
// holds besides stays: others may have written it, and nobody can tell.
func (g *Graph) Reset(ctx context.Context, to uint64, tuples iter.Seq[authz.Tuple]) error {
	var changes []rebac.Change
	for t := range tuples {
		changes = append(changes, rebac.Change{Tuple: t})
	}
	if err := g.Part(ctx, changes); err != nil {
		return err
	}
	g.Reached(to)
	return nil
}

// Apply relays changes of our outbox to the server and notes how far it has
// come. It is idempotent: whoever is unsure repeats it. from must be the
// revision reached, else the error is rebac.ErrGap. Reset, Apply, Part and
// Reached have one caller at a time.
func (g *Graph) Apply(ctx context.Context, from, to uint64, changes []rebac.Change) error {
	if at := g.revision.Load(); at != from || to < from {
		return fmt.Errorf("openfga: %w: from %d to %d, at %d", rebac.ErrGap, from, to, at)
	}
	if err := g.Part(ctx, changes); err != nil {
		return err
	}
	g.Reached(to)
	return nil
}

// Part relays a part of what Reached then completes.
func (g *Graph) Part(ctx context.Context, changes []rebac.Change) error {
	for part := range slices.Chunk(squash(changes), writeMost) {
		if err := g.write(ctx, part); err != nil {
			return fmt.Errorf("openfga: relay: %w", err)
		}
	}
	return nil
}

// Reached notes that everything up to this revision was relayed.
func (g *Graph) Reached(to uint64) {
	g.revision.Store(to)
	g.torn.Store(false)
}

// squash keeps the last change of each tuple: a server takes each tuple once in
// a write.
func squash(changes []rebac.Change) []rebac.Change {
	last := map[ends]int{}
	for i, c := range changes {
		last[endsOf(c.Tuple)] = i
	}
	out := make([]rebac.Change, 0, len(last))
	for i, c := range changes {
		if last[endsOf(c.Tuple)] == i {
			out = append(out, c)
		}
	}
	return out
}

// ends are what a tuple is known by.
type ends struct{ object, relation, subject string }

func endsOf(t authz.Tuple) ends { return ends{t.Object, t.Relation, t.Subject} }

// write sends one part. A server refuses it whole if a tuple is there with
// another condition.
func (g *Graph) write(ctx context.Context, part []rebac.Change) error {
	writes, deletes, err := split(part)
	if err != nil {
		return err
	}
	err = g.send(ctx, writes, deletes)
	if errors.Is(err, errConflict) {
		return g.replace(ctx, writes, deletes)
	}
	return err
}

// replace takes the tuples with another condition out before it writes. The
// server cannot do both at once, so that questions in between must not be
// answered, and none until a repetition has succeeded if this fails: see
// Graph.end.
func (g *Graph) replace(ctx context.Context, writes []*api.TupleKey, deletes []*api.TupleKeyWithoutCondition) error {
	old, err := g.changed(ctx, writes)
	if err != nil {
		return err
	}
	g.torn.Store(true)
	g.swaps.Add(1)
	if err := g.send(ctx, nil, old); err != nil {
		return err
	}
	return g.send(ctx, writes, deletes)
}

// changed reads which of the tuples are there with another condition.
func (g *Graph) changed(ctx context.Context, writes []*api.TupleKey) ([]*api.TupleKeyWithoutCondition, error) {
	var out []*api.TupleKeyWithoutCondition
	for _, k := range writes {
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		res, err := g.client.Read(ctx, &api.ReadRequest{StoreId: g.store, Consistency: api.ConsistencyPreference_HIGHER_CONSISTENCY,
			TupleKey: &api.ReadRequestTupleKey{Object: k.Object, Relation: k.Relation, User: k.User}})
		cancel()
		if err != nil {
			return nil, failure(err)
		}
		for _, t := range res.GetTuples() {
			if !proto.Equal(t.GetKey().GetCondition(), k.GetCondition()) {
				out = append(out, &api.TupleKeyWithoutCondition{Object: k.Object, Relation: k.Relation, User: k.User})
			}
		}
	}
	return out, nil
}

func split(part []rebac.Change) (writes []*api.TupleKey, deletes []*api.TupleKeyWithoutCondition, err error) {
	for _, c := range part {
		if c.Delete {
			deletes = append(deletes, &api.TupleKeyWithoutCondition{Object: c.Tuple.Object, Relation: c.Tuple.Relation, User: c.Tuple.Subject})
			continue
		}
		k, err := key(c.Tuple)
		if err != nil {
			return nil, nil, err
		}
		writes = append(writes, k)
	}
	return writes, deletes, nil
}

// send writes and deletes in one transaction of the server.
func (g *Graph) send(ctx context.Context, writes []*api.TupleKey, deletes []*api.TupleKeyWithoutCondition) error {
	if len(writes)+len(deletes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	q := &api.WriteRequest{StoreId: g.store, AuthorizationModelId: g.model}
	if len(writes) > 0 {
		q.Writes = &api.WriteRequestWrites{TupleKeys: writes, OnDuplicate: "ignore"}
	}
	if len(deletes) > 0 {
		q.Deletes = &api.WriteRequestDeletes{TupleKeys: deletes, OnMissing: "ignore"}
	}
	if _, err := g.client.Write(ctx, q); err != nil {
		return failure(err)
	}
	return nil
}
