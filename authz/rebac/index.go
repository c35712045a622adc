package rebac

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart/authz"
)

// Errors of questions and tuples that do not fit the model, and of changes that
// do not fit the index. Beside them a question may fail with authz.ErrStale,
// authz.ErrTooComplex, or the error of its context.
var (
	ErrUnknownType     = errors.New("the model has no such type")
	ErrUnknownRelation = errors.New("the type has no such relation")
	ErrInvalidTuple    = errors.New("the model does not allow this tuple")
	ErrInvalid         = errors.New("not a valid question about relations")
	ErrCondition       = errors.New("a condition cannot be evaluated")
	ErrGap             = errors.New("the changes do not follow the revision of the index")
)

// Bounds of one question. Beyond MaxDepth, MaxSteps and MaxResults the answer
// is authz.ErrTooComplex, never a shorter one.
const (
	MaxDepth   = 25        // relations in a row
	MaxSteps   = 200_000   // tuples looked at by Related
	MaxWalk    = 2_000_000 // tuples looked at by Objects and Subjects
	MaxResults = 10_000    // of Objects and Subjects
	MaxAlso    = 1_000     // tuples of one question
	MaxWait    = 50 * time.Millisecond
)

// Options of NewIndex. The zero value never grows stale.
type Options struct {
	Now          func() time.Time // if nil, time.Now
	MaxStaleness time.Duration    // since the source was last heard, see Fresh; 0: no limit
}

// Change adds a tuple, or replaces the one with the same object, relation and
// subject, or removes it.
type Change struct {
	Delete bool        `json:"delete,omitzero"`
	Tuple  authz.Tuple `json:"tuple"`
}

// Index is an authz.Graph in memory. It is safe for concurrent use: questions
// take no lock and see one revision each; changes come one after the other.
type Index struct {
	model *Model
	now   func() time.Time
	limit time.Duration

	current atomic.Pointer[snapshot]
	heard   atomic.Int64 // Unix nanoseconds
	pool    sync.Pool    // of *question

	mu   sync.Mutex // of writers
	free []uint32
}

var _ authz.Graph = (*Index)(nil)

// NewIndex returns an index without tuples, which answers authz.ErrStale until
// Reset. A nil model is a mistake of the caller and panics.
func NewIndex(m *Model, o Options) *Index {
	if m == nil {
		panic("rebac: an index needs a model")
	}
	x := &Index{model: m, now: o.Now, limit: o.MaxStaleness}
	if x.now == nil {
		x.now = time.Now
	}
	x.pool.New = func() any { return &question{} }
	x.current.Store(emptySnapshot(m))
	return x
}

// Model returns the model that the index answers by.
func (x *Index) Model() *Model { return x.model }

// Revision returns the revision of the tuples; 0 before Reset.
func (x *Index) Revision() uint64 { return x.current.Load().revision }

// Stats counts what an index holds.
type Stats struct {
	Tuples   int // that take part
	Misfits  int // that the model does not allow: kept, but related to nothing
	Entities int // objects and subjects
}

// Stats returns the counts of the current revision.
func (x *Index) Stats() Stats {
	s := x.current.Load()
	x.mu.Lock()
	defer x.mu.Unlock()
	return Stats{Tuples: s.tuples, Misfits: len(s.misfits), Entities: int(s.top) - len(x.free)}
}

// Reset replaces all tuples. Those that the model does not allow are kept aside
// and counted, because the source may serve another model too. On an error the
// index is as before.
func (x *Index) Reset(to uint64, tuples iter.Seq[authz.Tuple]) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var free []uint32
	e := emptySnapshot(x.model).edit(x.model, &free)
	e.fresh = true
	for t := range tuples {
		if err := e.load(t); err != nil {
			return fmt.Errorf("rebac: %w", err)
		}
	}
	e.finish()
	x.free = free
	x.publish(e.snapshot, to)
	return nil
}

// Apply takes the changes that lead from one revision to another, all at once
// for whoever asks. If from is not the current revision the error is ErrGap,
// and the caller must Reset. On an error the index is as before.
func (x *Index) Apply(from, to uint64, changes []Change) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.current.Load()
	if !s.loaded || from != s.revision || to < from {
		return fmt.Errorf("rebac: %w: from %d to %d, at %d", ErrGap, from, to, s.revision)
	}
	e := s.edit(x.model, &x.free)
	for _, c := range changes {
		if err := e.change(c); err != nil {
			return fmt.Errorf("rebac: %w", err)
		}
	}
	e.commit()
	x.publish(e.snapshot, to)
	return nil
}

func (x *Index) publish(s *snapshot, revision uint64) {
	s.revision, s.loaded = revision, true
	old := x.current.Swap(s)
	x.Fresh(x.now())
	close(old.next)
}

// Fresh notes that the source of tuples was heard at that time, changed or not.
// Reset and Apply note it themselves.
func (x *Index) Fresh(at time.Time) {
	for {
		old := x.heard.Load()
		if at.UnixNano() <= old || x.heard.CompareAndSwap(old, at.UnixNano()) {
			return
		}
	}
}

// WaitFor waits until the index has reached rev, or until ctx is over: then the
// error is authz.ErrStale.
func (x *Index) WaitFor(ctx context.Context, rev uint64) error {
	for {
		s := x.current.Load()
		if s.loaded && s.revision >= rev {
			return nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return fmt.Errorf("rebac: %w: at revision %d, not %d", authz.ErrStale, s.revision, rev)
		}
	}
}

// at returns a snapshot that may answer.
func (x *Index) at(ctx context.Context, atLeast uint64) (*snapshot, error) {
	s := x.current.Load()
	if s.loaded && s.revision < atLeast {
		wait, cancel := context.WithTimeout(ctx, MaxWait)
		defer cancel()
		if err := x.WaitFor(wait, atLeast); err != nil {
			return nil, err
		}
		s = x.current.Load()
	}
	if !s.loaded {
		return nil, fmt.Errorf("rebac: %w: nothing is loaded yet", authz.ErrStale)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("rebac: %w", ctx.Err())
	}
	return s, x.fresh()
}

// fresh also refuses a source that was heard in the future: then the clock has
// jumped, and nothing can be said of its age.
func (x *Index) fresh() error {
	if x.limit <= 0 {
		return nil
	}
	age := x.now().Sub(time.Unix(0, x.heard.Load()))
	if age > x.limit || age < -x.limit {
		return fmt.Errorf("rebac: %w: its source was last heard %v ago", authz.ErrStale, age.Round(time.Millisecond))
	}
	return nil
}

// Tuples returns every tuple of the current revision, in no particular order,
// misfits included: what Reset needs to make an index for another model.
func (x *Index) Tuples() iter.Seq[authz.Tuple] {
	s := x.current.Load()
	return func(yield func(authz.Tuple) bool) {
		for _, t := range s.misfits {
			if !yield(t) {
				return
			}
		}
		for id := uint32(1); id <= s.top; id++ {
			if !s.tuplesOf(x.model, s.entity(id), yield) {
				return
			}
		}
	}
}

func (s *snapshot) tuplesOf(m *Model, o *entity, yield func(authz.Tuple) bool) bool {
	if o == nil {
		return true
	}
	for _, k := range o.forward {
		t := authz.Tuple{Object: o.name, Relation: m.relations[keyA(k)].name, Subject: s.entity(keyID(k)).name}
		if via := keyB(k); via != 0 {
			t.Subject += "#" + m.relations[via].name
		}
		if c := o.conditions[k]; c != nil {
			t.Condition, t.Context = c.name, c.given
		}
		if !yield(t) {
			return false
		}
	}
	return true
}

// Related implements authz.Graph. Errors of the question itself are
// ErrUnknownType, ErrUnknownRelation, ErrInvalidTuple (of q.Also), ErrInvalid.
func (x *Index) Related(ctx context.Context, q authz.RelationQuery, explain bool) (authz.Relationship, error) {
	s, err := x.at(ctx, q.AtLeast)
	if err != nil {
		return authz.Relationship{}, err
	}
	a := x.pool.Get().(*question)
	defer x.put(a)
	a.start(ctx, x.model, s, q, MaxSteps)
	rel := authz.Relationship{Revision: s.revision}
	if err := a.resolve(q); err != nil {
		return rel, fmt.Errorf("rebac: %w", err)
	}
	a.explain = explain
	v := a.answer()
	if v.err != nil {
		return rel, fmt.Errorf("rebac: %w", v.err)
	}
	rel.Holds = v.yes
	rel.Path = a.pathText(v.yes)
	return rel, nil
}

// Objects implements authz.Graph.
func (x *Index) Objects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	return x.list(ctx, q, (*question).objects)
}

// Subjects implements authz.Graph. Whoever is related only because everyone is
// ("user:*") is not listed besides.
func (x *Index) Subjects(ctx context.Context, q authz.RelationQuery) ([]string, uint64, error) {
	return x.list(ctx, q, (*question).subjects)
}

func (x *Index) list(ctx context.Context, q authz.RelationQuery, of func(*question, authz.RelationQuery) ([]string, error)) ([]string, uint64, error) {
	s, err := x.at(ctx, q.AtLeast)
	if err != nil {
		return nil, 0, err
	}
	a := x.pool.Get().(*question)
	defer x.put(a)
	a.start(ctx, x.model, s, q, MaxWalk)
	out, err := of(a, q)
	if err != nil {
		return nil, s.revision, fmt.Errorf("rebac: %w", err)
	}
	return out, s.revision, nil
}

func (x *Index) put(a *question) {
	if a.release() {
		x.pool.Put(a)
	}
}
