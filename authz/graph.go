package authz

import (
	"context"
	"errors"
)

// Tuple says that Subject stands in Relation to Object, in the forms of the
// OpenFGA modelling language.
type Tuple struct {
	Object    string         `json:"object"`   // "order:17"
	Relation  string         `json:"relation"` // "viewer"
	Subject   string         `json:"subject"`  // "user:alice", "team:red#member" or "user:*"
	Condition string         `json:"condition,omitzero"`
	Context   map[string]any `json:"context,omitzero"` // parameters of the condition that the tuple itself fixes
}

// RelationQuery asks about relations.
type RelationQuery struct {
	Subject  string         // "user:alice", "team:red#member"; for Subjects the type wanted: "user" or "team#member"
	Relation string         // "viewer"
	Type, ID string         // of the object; Objects ignores ID
	Context  map[string]any // parameters of conditions
	Also     []Tuple        // hold for this question only, for example what a token says
	AtLeast  uint64         // oldest revision that may answer; 0 takes any
}

// Relationship answers a RelationQuery.
type Relationship struct {
	Holds    bool
	Path     []string // when asked to explain: the chain of tuples, or the frontier that was reached
	Revision uint64
}

// Errors of a Graph beside those of bad questions. Each denies.
var (
	ErrStale      = errors.New("the relation graph is older than what was asked for")
	ErrTooComplex = errors.New("the relation is too deep or too broad to follow")
)

// Graph answers questions about relations. It is safe for concurrent use and
// honours ctx. An error is never a "no": whoever asks must deny.
type Graph interface {
	// Related reports whether q.Subject stands in q.Relation to the object.
	// The path is filled in only when explain is set.
	Related(ctx context.Context, q RelationQuery, explain bool) (Relationship, error)
	// Objects returns the ids of objects of q.Type to which q.Subject stands in
	// q.Relation, sorted. A list that would be cut off is an error.
	Objects(ctx context.Context, q RelationQuery) ([]string, uint64, error)
	// Subjects returns who stands in q.Relation to the object, sorted, in the
	// forms of Tuple.Subject; "user:*" is returned as such.
	Subjects(ctx context.Context, q RelationQuery) ([]string, uint64, error)
}

// Provider supplies attributes that neither the asker nor a token knows (a
// policy information point). It is safe for concurrent use and honours ctx. An
// error denies; an attribute that is absent from the answer is absent.
type Provider interface {
	Attributes(ctx context.Context, resourceType, id string, names []string) (map[string]any, error)
}
