package cedar

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// question is one request in Cedar's terms. It is the entity getter of its own
// evaluation: the principal's attributes are built when a policy first asks for
// them. It serves one goroutine.
type question struct {
	request   cedar.Request
	from      rampart.Principal
	kind      object
	reads     func(name string) bool // what policies may read
	principal *cedar.Entity          // nil until asked for
	resource  cedar.Entity
}

func (e *Engine) question(r authz.Request) (*question, error) {
	q := e.subjectOf(r)
	return q, q.fill(r, func(string) bool { return true })
}

// subjectOf names who, what and which, without saying anything of them.
func (e *Engine) subjectOf(r authz.Request) *question {
	kind := e.object(r.Resource.Type)
	return &question{from: r.Principal, kind: kind, request: cedar.Request{
		Principal: cedar.NewEntityUID(principalType(r.Principal.Kind), cedar.String(r.Principal.Subject)),
		Action:    cedar.NewEntityUID(actionType, cedar.String(r.Action)),
		Resource:  cedar.NewEntityUID(kind.name, cedar.String(r.Resource.ID)),
	}}
}

// fill says what policies read of the resource and the context, and later of
// the principal. Building the values costs most of a decision.
func (q *question) fill(r authz.Request, reads func(name string) bool) error {
	attrs, err := q.kind.record(r.Resource.Attrs, reads)
	if err != nil {
		return err
	}
	// What the request itself says wins over an attribute of the same name.
	setString(attrs, "id", r.Resource.ID, reads)
	setString(attrs, "tenant", r.Resource.Tenant, reads)
	about, err := record("context", r.Context, reads)
	if err != nil {
		return err
	}
	setRelations(about, r.Relations)
	q.reads = reads
	if len(about) > 0 {
		q.request.Context = cedar.NewRecord(about)
	}
	q.resource = cedar.Entity{UID: q.request.Resource, Attributes: cedar.NewRecord(attrs)}
	return nil
}

// env is the question for those who evaluate parts of policies.
func (q *question) env() eval.Env {
	return eval.Env{Entities: q, Principal: q.request.Principal, Action: q.request.Action, Resource: q.request.Resource, Context: q.request.Context}
}

// Get implements types.EntityGetter. Everything but the principal and the
// resource is unknown, so nothing has parents. The principal comes first: were
// it asked about itself, what an asker says of it must not hide who it is.
func (q *question) Get(uid types.EntityUID) (types.Entity, bool) {
	switch uid {
	case q.request.Principal:
		if q.principal == nil {
			q.principal = &cedar.Entity{UID: uid, Attributes: principalAttrs(q.from, q.reads)}
		}
		return *q.principal, true
	case q.request.Resource:
		return q.resource, true
	}
	return types.Entity{}, false
}

// object is a type of resource as Cedar sees it.
type object struct {
	name  cedar.EntityType
	attrs map[string]authz.Attr // nil: whatever the request has
}

// object returns the type that a request names. Those of the schema are known
// beforehand; a policy sees only what its type declares.
func (e *Engine) object(typ string) object {
	if o, ok := e.objects[typ]; ok {
		return o
	}
	return object{name: resourceType(typ)}
}

func objects(s *authz.Schema) map[string]object {
	if s == nil {
		return nil
	}
	out := map[string]object{}
	for name, t := range s.Types {
		o := object{name: resourceType(name), attrs: t.Attrs}
		if o.attrs == nil {
			o.attrs = map[string]authz.Attr{}
		}
		out[name] = o
	}
	return out
}

// record converts attributes by their declared kinds, so that a whole number
// in a decimal is a decimal.
func (o object) record(m map[string]any, reads func(string) bool) (cedar.RecordMap, error) {
	if o.attrs == nil {
		return record("resource", m, reads)
	}
	out := cedar.RecordMap{}
	for name, v := range m {
		a, declared := o.attrs[name]
		if !declared || v == nil || !reads(name) {
			continue
		}
		converted, err := typed(a.Kind, v)
		if err != nil {
			return nil, fmt.Errorf("resource.%s: %v", name, err)
		}
		out[cedar.String(name)] = converted
	}
	return out, nil
}

func typed(kind authz.AttrKind, v any) (cedar.Value, error) {
	if kind == authz.KindDecimal {
		return decimal(v)
	}
	c, err := value(v)
	if err != nil {
		return nil, err
	}
	if !isKind(kind, c) {
		return nil, fmt.Errorf("a %T is no %s", v, kind)
	}
	return c, nil
}

func isKind(kind authz.AttrKind, v cedar.Value) bool {
	switch v := v.(type) {
	case cedar.String:
		return kind == authz.KindString
	case cedar.Boolean:
		return kind == authz.KindBool
	case cedar.Long:
		return kind == authz.KindLong
	case cedar.Set:
		for e := range v.All() {
			if _, ok := e.(cedar.String); !ok {
				return false
			}
		}
		return kind == authz.KindStrings
	}
	return false
}

// decimal keeps four digits after the point, or refuses.
func decimal(v any) (cedar.Value, error) {
	var text string
	switch v := v.(type) {
	case int64:
		text = strconv.FormatInt(v, 10) + ".0"
	case float64:
		if text = strconv.FormatFloat(v, 'f', -1, 64); !strings.Contains(text, ".") {
			text += ".0"
		}
	default:
		return nil, fmt.Errorf("a %T is no %s", v, authz.KindDecimal)
	}
	d, err := types.ParseDecimal(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no decimal: at most four digits after the point, below 922337203685477.5808", text)
	}
	return d, nil
}

// setRelations puts the known facts where policies read them. An asker's own
// word on relations never counts.
func setRelations(about cedar.RecordMap, facts map[string]bool) {
	delete(about, relation)
	if len(facts) == 0 {
		return
	}
	m := make(cedar.RecordMap, len(facts))
	for name, holds := range facts {
		m[cedar.String(name)] = cedar.Boolean(holds)
	}
	about[relation] = cedar.NewRecord(m)
}

func principalType(k rampart.PrincipalKind) cedar.EntityType {
	switch k {
	case rampart.KindHuman:
		return "User"
	case rampart.KindClient:
		return "Client"
	case rampart.KindService:
		return "Service"
	}
	return "Nobody"
}

// resourceType turns "order" into "Order". The request was validated, so the
// first byte is a lower-case letter; anything else fits no policy.
func resourceType(t string) cedar.EntityType {
	if t == "" {
		return "Nothing"
	}
	return cedar.EntityType(strings.ToUpper(t[:1]) + t[1:])
}

// principalAttrs leaves unknown facts absent: two empty teams must not be equal.
func principalAttrs(p rampart.Principal, reads func(string) bool) cedar.Record {
	attrs := cedar.RecordMap{"id": cedar.String(p.Subject)}
	setString(attrs, "client", p.Client, reads)
	setString(attrs, "org", p.Tenant, reads)
	setString(attrs, "team", p.Team, reads)
	setStrings(attrs, "roles", p.Roles, reads)
	setStrings(attrs, "organizations", p.Organizations, reads)
	setStrings(attrs, "managedTeams", p.ManagedTeams, reads)
	return cedar.NewRecord(attrs)
}

func setString(attrs cedar.RecordMap, name, value string, reads func(string) bool) {
	if value == "" || !reads(name) {
		return
	}
	attrs[cedar.String(name)] = cedar.String(value)
}

func setStrings(attrs cedar.RecordMap, name string, list []string, reads func(string) bool) {
	if reads(name) {
		attrs[cedar.String(name)] = stringSet(list)
	}
}

func stringSet(list []string) cedar.Set {
	values := make([]cedar.Value, len(list))
	for i, s := range list {
		values[i] = cedar.String(s)
	}
	return cedar.NewSet(values...)
}

// record converts a map; a nil member is absent. Depth is bounded by
// authz.Request.Validate.
func record(path string, m map[string]any, reads func(string) bool) (cedar.RecordMap, error) {
	out := cedar.RecordMap{}
	for name, v := range m {
		if v == nil || !reads(name) {
			continue
		}
		converted, err := value(v)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %v", path, name, err)
		}
		out[cedar.String(name)] = converted
	}
	return out, nil
}

func value(v any) (cedar.Value, error) {
	switch v := v.(type) {
	case bool:
		return cedar.Boolean(v), nil
	case string:
		return cedar.String(v), nil
	case int64:
		return cedar.Long(v), nil
	case float64:
		return number(v)
	case []any:
		return set(v)
	case map[string]any:
		m, err := record("member", v, func(string) bool { return true })
		if err != nil {
			return nil, err
		}
		return cedar.NewRecord(m), nil
	}
	return nil, fmt.Errorf("a %T is not JSON-like", v)
}

func set(list []any) (cedar.Value, error) {
	values := make([]cedar.Value, len(list))
	for i, e := range list {
		v, err := value(e)
		if err != nil {
			return nil, err
		}
		values[i] = v
	}
	return cedar.NewSet(values...), nil
}

// maxExact is the magnitude up to which float64 holds every whole number.
const maxExact = 1 << 53

// number keeps a float exact or refuses it: Cedar has whole numbers and
// decimals of four digits.
func number(f float64) (cedar.Value, error) {
	if f == math.Trunc(f) && math.Abs(f) <= maxExact {
		return cedar.Long(int64(f)), nil
	}
	d, err := types.ParseDecimal(strconv.FormatFloat(f, 'f', -1, 64))
	if err != nil {
		return nil, errors.New("a number is a whole one below 2^53 or has at most four decimals")
	}
	return d, nil
}
