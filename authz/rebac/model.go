// Package rebac answers "How do subject and resource stand to each other?": a
// relation graph in memory, in the modelling language of OpenFGA (schema 1.1).
package rebac

import (
	"errors"

	"github.com/rampart-security/rampart/authz"
)

// Model is a parsed model. It is read-only and safe for concurrent use.
type Model struct{ name string }

// ParseModel compiles an OpenFGA model; name is used in messages.
func ParseModel(name string, src []byte) (*Model, error) { return nil, errors.ErrUnsupported }

// Name returns the name given to ParseModel.
func (m *Model) Name() string { return m.name }

// Types returns the names of all types, sorted.
func (m *Model) Types() []string { return nil }

// Relations returns the names of a type's relations, sorted.
func (m *Model) Relations(typ string) []string { return nil }

// Has reports whether the type has the relation; with relation "", whether
// there is such a type.
func (m *Model) Has(typ, relation string) bool { return false }

// Line returns where a relation is defined or, with relation "", a type; 0 when
// there is none.
func (m *Model) Line(typ, relation string) int { return 0 }

// Validate reports why the model does not allow the tuple.
func (m *Model) Validate(t authz.Tuple) error { return errors.ErrUnsupported }
