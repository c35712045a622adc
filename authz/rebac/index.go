package rebac

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/rampart-security/rampart/authz"
)

// Errors of questions and tuples that do not fit the model, and of changes that
// do not fit the index.
var (
	ErrUnknownType     = errors.New("the model has no such type")
	ErrUnknownRelation = errors.New("the type has no such relation")
	ErrInvalidTuple    = errors.New("the model does not allow this tuple")
	ErrInvalid         = errors.New("not a valid question about relations")
	ErrGap             = errors.New("changes do not follow the index's revision")
)

// Options of NewIndex. The zero value never grows stale.
type Options struct {
	Now          func() time.Time // if nil, time.Now
	MaxStaleness time.Duration    // since the source was last heard; 0: no limit
}

// Change adds or removes one tuple.
type Change struct {
	Delete bool        `json:"delete,omitzero"`
	Tuple  authz.Tuple `json:"tuple"`
}

// Index is an authz.Graph in memory.
type Index struct{ model *Model }

var _ authz.Graph = (*Index)(nil)

// NewIndex returns an index without tuples, which answers ErrStale until Reset.
func NewIndex(m *Model, o Options) *Index { return &Index{model: m} }

// Model returns the model that the index answers by.
func (x *Index) Model() *Model { return x.model }

// Revision returns the revision of the tuples.
func (x *Index) Revision() uint64 { return 0 }

// Reset replaces all tuples.
func (x *Index) Reset(to uint64, tuples iter.Seq[authz.Tuple]) error { return errors.ErrUnsupported }

// Apply takes the changes that lead from one revision to another, all at once.
func (x *Index) Apply(from, to uint64, changes []Change) error { return errors.ErrUnsupported }

// WaitFor waits until the index has reached rev.
func (x *Index) WaitFor(ctx context.Context, rev uint64) error { return errors.ErrUnsupported }

// Fresh notes that the source of tuples was heard at that time.
func (x *Index) Fresh(at time.Time) {}

// Tuples returns every tuple of the current revision.
func (x *Index) Tuples() iter.Seq[authz.Tuple] { return func(func(authz.Tuple) bool) {} }

// Related implements authz.Graph.
func (x *Index) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	return authz.Relationship{}, authz.ErrStale
}

// Objects implements authz.Graph.
func (x *Index) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	return nil, 0, authz.ErrStale
}

// Subjects implements authz.Graph.
func (x *Index) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	return nil, 0, authz.ErrStale
}
