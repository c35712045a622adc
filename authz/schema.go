package authz

import "github.com/rampart-security/rampart"

// Schema is what rampart.yaml declares of the types that policies speak of. The
// input of each decision is checked against it before an engine runs, and each
// language's own schema is made from it, so that a misspelt name does not load.
// A nil Schema declares nothing and checks nothing.
type Schema struct {
	Types map[string]Type // by resource type, for example "order"
}

// Type is one type of resource.
type Type struct {
	Actions   []rampart.Action          // that apply to it
	Attrs     map[string]Attr           // beside id and tenant, which every type has
	Relations []string                  // relations that policies may read as relation.NAME
	Grants    map[rampart.Action]string // action -> the relation that permits it, without any policy text
	Table     string                    // of its rows; "" when it has none
	Columns   map[string]string         // attribute, "id" or "tenant" -> column, where the names differ
}

// Attr is one attribute of a type.
type Attr struct {
	Kind     AttrKind
	Optional bool          // may be absent; absent is not null and equals nothing
	Class    rampart.Class // "" means internal
	PII      bool
	Provider string // name of the Provider that supplies it; "" when the asker does
}

// AttrKind is the type of an attribute's values.
type AttrKind string

// The kinds, and the values of rampart.Resource.Attrs that belong to them.
const (
	KindString  AttrKind = "string"
	KindBool    AttrKind = "bool"
	KindLong    AttrKind = "long"    // int64
	KindDecimal AttrKind = "decimal" // float64 or int64 with at most four decimals
	KindStrings AttrKind = "strings" // []any of strings, read as a set
)
