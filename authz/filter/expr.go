package filter

// Expr is one condition over a resource. Its value is true, false or
// undefined; undefined is what an engine calls an error, and it is not SQL's
// NULL, which a following OR would forget. And and Or work from left to right
// and do not look at the right side when the left decides, as Cedar does:
//
//	And{L, R}  undefined when L is, or when L is true and R is undefined
//	Or{L, R}   undefined when L is, or when L is false and R is undefined
//	Not{X}     undefined when X is
//	Total{X}   never undefined: false where X is
//
// An atom is undefined when an attribute that it reads is absent or of another
// kind. A NULL column is an absent attribute.
type Expr interface{ expr() }

// The conditions.
type (
	Const     bool
	Undefined struct{}              // cannot be evaluated
	And       struct{ L, R Expr }   //
	Or        struct{ L, R Expr }   //
	Not       struct{ X Expr }      //
	Total     struct{ X Expr }      // how Rego reads a condition: what is undefined does not hold
	Has       struct{ Attr string } // the attribute is there; always defined
	Bool      struct{ X Operand }   // a boolean operand, as it is
	Cmp       struct {
		Op   Op
		L, R Operand
	}
	In struct { // X is a member of List
		X, List Operand
	}
	Text struct { // a part of a string; case counts
		Op   TextOp
		X    Operand
		Part Operand
	}
	Rel struct{ Name string } // the subject stands in this relation to the resource
)

// Op compares. Eq and Ne are false and true for operands of two kinds; the
// others order numbers, and strings by byte, and are undefined for all else.
// Longs and decimals are one kind here: numbers, compared by value.
type Op string

// The comparisons.
const (
	Eq Op = "=="
	Ne Op = "!="
	Lt Op = "<"
	Le Op = "<="
	Gt Op = ">"
	Ge Op = ">="
)

// TextOp looks into a string.
type TextOp string

// The looks into a string.
const (
	Prefix   TextOp = "prefix"
	Suffix   TextOp = "suffix"
	Contains TextOp = "contains"
)

// Operand is a value, known or not.
type Operand interface{ operand() }

// The operands.
type (
	Attr    struct{ Name string } // of the resource, as in authz.Type.Attrs; "id" and "tenant" too
	Subject struct{ Name string } // of the principal, its "id", "kind", "org", "team" or "role" (the first), or one of the lists "roles", "organizations" and "managed_teams"; only in filters for row-level security
	Lit     struct{ Value any }   // string, bool, int64, float64 (of a decimal), []any of these
)

// subjectNames are the facts of a principal that row-level security knows, and
// whether each is a list.
var subjectNames = map[string]bool{"id": false, "kind": false, "org": false, "team": false, "role": false, "roles": true, "organizations": true, "managed_teams": true}

func (Const) expr()     {}
func (Undefined) expr() {}
func (And) expr()       {}
func (Or) expr()        {}
func (Not) expr()       {}
func (Total) expr()     {}
func (Has) expr()       {}
func (Bool) expr()      {}
func (Cmp) expr()       {}
func (In) expr()        {}
func (Text) expr()      {}
func (Rel) expr()       {}

func (Attr) operand()    {}
func (Subject) operand() {}
func (Lit) operand()     {}
