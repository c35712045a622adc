// Package rebac answers "How do subject and resource stand to each other?": a
// relation graph in memory, in the modelling language of OpenFGA (schema 1.1).
//
// A Model says which relations there are and how they follow from one another;
// an Index holds the tuples and answers by the model. Reading takes no lock: a
// question works on the snapshot that it found, and changes make a new one.
//
// Answers have three values. "or": yes wins over error; "and": no wins over
// error; "but not": what is uncertain on either side is an error unless the
// other side makes the answer no. So an error never turns into a permission.
package rebac

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/openfga/language/pkg/go/transformer"

	"github.com/rampart-security/rampart/authz"
)

// Bounds of a model.
const (
	MaxModelBytes = 256 << 10 // as OpenFGA has it
	MaxRelations  = 2000      // of all types together
)

// Model is a parsed model. It is read-only and safe for concurrent use.
type Model struct {
	name       string
	types      map[string]*typeDef
	byID       []*typeDef     // by typeDef.id; 0 is no type
	relations  []*relationDef // by relationDef.id; 0 is "the object itself"
	conditions map[string]*condition
}

type typeDef struct {
	id        uint16
	name      string
	line      int
	relations map[string]*relationDef
	direct    []uint16 // relations that take an object of this type as a subject
	public    []uint16 // relations that take everyone of this type
}

// relationDef is one relation of one type. Its id stands for both.
type relationDef struct {
	id          uint16
	typ         *typeDef
	name        string
	line        int
	rewrite     *rewrite
	allowed     []restriction
	conditional bool // some of its tuples may have a condition
	tupleset    bool // used as the right side of "from"
	pure        bool // only "or" lies below it, at any depth
	down, up    steps
	below       []uint64 // bit set of the relations that it can follow from, itself included
}

// steps lead from a node of the graph to its neighbours; down towards subjects,
// up towards objects.
type steps struct {
	same    []uint16 // the same object, by "define a: b"
	userset []uint16 // up only: relations whose tuples may name this one as subject
	direct  bool     // down only: takes tuples
	from    []fromStep
}

// fromStep is "x from tupleset".
type fromStep struct {
	tupleset uint16
	up       uint16            // up: the relation that follows
	down     map[uint16]uint16 // down: by type of the object that the tupleset names
}

// restriction is one entry of "[user, team#member, user:* with cond]".
type restriction struct {
	typ       uint16
	relation  uint16 // 0: an object
	wildcard  bool
	condition string
}

type op uint8

const (
	opThis op = iota
	opComputed
	opFrom
	opOr
	opAnd
	opNot
)

// rewrite is the tree of a definition.
type rewrite struct {
	op       op
	computed uint16   // opComputed
	from     fromStep // opFrom, downwards
	args     []*rewrite
}

// ParseModel compiles a model in the OpenFGA language; name is that of its file
// and stands in messages, as in "model.fga:12: ...".
func ParseModel(name string, src []byte) (*Model, error) {
	m, err := parse(name, src)
	if err != nil {
		return nil, fmt.Errorf("rebac: %w", err)
	}
	return m, nil
}

func parse(name string, src []byte) (*Model, error) {
	if len(src) > MaxModelBytes {
		return nil, fmt.Errorf("%s: a model holds at most %d bytes", name, MaxModelBytes)
	}
	if err := authz.CheckSource(name, src); err != nil {
		return nil, err
	}
	unix := strings.ReplaceAll(string(src), "\r\n", "\n")
	if strings.ContainsRune(unix, '\r') {
		return nil, fmt.Errorf("%s: a carriage return stands alone: end lines with a newline", name)
	}
	text, lines := compact(unix)
	parsed, err := transformer.TransformDSLToProto(text)
	if err != nil {
		return nil, syntaxError(name, err, lines)
	}
	if v := parsed.GetSchemaVersion(); v != "1.1" {
		return nil, fmt.Errorf("%s: schema %q is not 1.1", name, v)
	}
	b := builder{m: &Model{name: name, types: map[string]*typeDef{}, conditions: map[string]*condition{}}, lines: scan(text, lines)}
	if err := b.build(parsed); err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	return b.m, nil
}

func clipText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// Name returns the name given to ParseModel.
func (m *Model) Name() string { return m.name }

// Types returns the names of all types, sorted.
func (m *Model) Types() []string { return slices.Sorted(maps.Keys(m.types)) }

// Relations returns the names of a type's relations, sorted; none when there
// is no such type.
func (m *Model) Relations(typ string) []string {
	t := m.types[typ]
	if t == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(t.relations))
}

// Has reports whether the type has the relation; with relation "", whether
// there is such a type.
func (m *Model) Has(typ, relation string) bool { return m.Line(typ, relation) > 0 }

// Line returns where a relation is defined or, with relation "", a type; 0 when
// there is none.
func (m *Model) Line(typ, relation string) int {
	t := m.types[typ]
	if t == nil {
		return 0
	}
	if relation == "" {
		return t.line
	}
	if r := t.relations[relation]; r != nil {
		return r.line
	}
	return 0
}

// relation finds a relation by names.
func (m *Model) relation(typ, relation string) (*relationDef, error) {
	t := m.types[typ]
	if t == nil {
		return nil, fmt.Errorf("type %s: %w", clip(typ), ErrUnknownType)
	}
	r := t.relations[relation]
	if r == nil {
		return nil, fmt.Errorf("relation %s of %s: %w", clip(relation), typ, ErrUnknownRelation)
	}
	return r, nil
}

// Validate reports why the model does not allow the tuple: an ErrInvalidTuple
// with the cause. What Validate accepts, an index keeps.
func (m *Model) Validate(t authz.Tuple) error {
	if _, err := m.resolve(t); err != nil {
		return fmt.Errorf("rebac: %w", err)
	}
	return nil
}

// edge is a tuple in the model's terms.
type edge struct {
	objectType  *typeDef
	relation    *relationDef
	subject     string // the object part
	subjectType *typeDef
	via         uint16 // relation of a userset, or 0
	condition   *bound // nil when there is none
}

func (m *Model) resolve(t authz.Tuple) (edge, error) {
	bad := func(why string) (edge, error) {
		return edge{}, fmt.Errorf("%s#%s@%s: %w: %s", clip(t.Object), clip(t.Relation), clip(t.Subject), ErrInvalidTuple, why)
	}
	typ, id, ok := object(t.Object)
	if !ok || id == "*" {
		return bad("the object is not of the form type:id")
	}
	r, err := m.relation(typ, t.Relation)
	if err != nil {
		return bad(err.Error())
	}
	obj, relation, wildcard, ok := subject(t.Subject)
	if !ok {
		return bad("the subject is not of the form type:id, type:id#relation or type:*")
	}
	sub, _, _ := strings.Cut(obj, ":")
	e := edge{objectType: r.typ, relation: r, subject: obj, subjectType: m.types[sub]}
	if e.subjectType == nil {
		return bad("the model has no type " + clip(sub))
	}
	if relation != "" {
		via := e.subjectType.relations[relation]
		if via == nil {
			return bad("the type " + sub + " has no relation " + clip(relation))
		}
		e.via = via.id
	}
	if !r.allows(restriction{typ: e.subjectType.id, relation: e.via, wildcard: wildcard}) {
		return bad(fmt.Sprintf("line %d allows no such subject", r.line))
	}
	if e.condition, err = m.bind(r, restriction{e.subjectType.id, e.via, wildcard, t.Condition}, t.Context); err != nil {
		_, err = bad(err.Error())
		return edge{}, fmt.Errorf("%w: %w", err, ErrCondition)
	}
	return e, nil
}

// allows looks for a restriction, whatever its condition.
func (r *relationDef) allows(want restriction) bool {
	return slices.ContainsFunc(r.allowed, func(x restriction) bool {
		want.condition = x.condition
		return x == want
	})
}

// bind makes the condition of a tuple, nil for none.
func (m *Model) bind(r *relationDef, want restriction, given map[string]any) (*bound, error) {
	switch {
	case !slices.Contains(r.allowed, want) && want.condition == "":
		return nil, fmt.Errorf("line %d wants a condition", r.line)
	case !slices.Contains(r.allowed, want):
		return nil, fmt.Errorf("line %d allows no such subject with the condition %s", r.line, clip(want.condition))
	case want.condition == "" && len(given) > 0:
		return nil, errors.New("a context without a condition")
	case want.condition == "":
		return nil, nil
	}
	return m.conditions[want.condition].bind(given)
}
