package rebac

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	openfga "github.com/openfga/api/proto/openfga/v1"
)

// Bounds of conditions. The costs are those of CEL's own estimate.
const (
	maxConditions    = 200
	maxConditionCost = 10_000
)

// condition is a compiled expression with typed parameters.
type condition struct {
	name    string
	params  map[string]paramType
	program cel.Program
}

// bound is a condition with the parameters that its tuple fixes, converted.
type bound struct {
	*condition
	given map[string]any // as in the tuple
	fixed map[string]any // converted
}

// paramType converts a JSON-like value to what the expression expects.
type paramType struct {
	cel     *cel.Type
	convert func(any) (any, error)
}

func compileCondition(c *openfga.Condition) (*condition, error) {
	out := &condition{name: c.GetName(), params: map[string]paramType{}}
	options := []cel.EnvOption{ipFunctions()}
	for _, name := range slices.Sorted(maps.Keys(c.GetParameters())) {
		p, err := paramOf(c.GetParameters()[name])
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %v", name, err)
		}
		out.params[name] = p
		options = append(options, cel.Variable(name, p.cel))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("parameters: %v", clipText(err.Error(), 200))
	}
	tree, issues := env.Compile(c.GetExpression())
	if issues.Err() != nil {
		return nil, fmt.Errorf("%s", clipText(strings.Join(strings.Fields(issues.Err().Error()), " "), 200))
	}
	if !tree.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression is a %s, not a bool", tree.OutputType())
	}
	out.program, err = env.Program(tree, cel.CostLimit(maxConditionCost), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, fmt.Errorf("%v", clipText(err.Error(), 200))
	}
	return out, nil
}

// bind converts the parameters that a tuple fixes. Others are left to the
// question; one that the condition does not have is a mistake.
func (c *condition) bind(given map[string]any) (*bound, error) {
	b := &bound{condition: c, given: given}
	for name := range given {
		if _, ok := c.params[name]; !ok {
			return nil, fmt.Errorf("the condition %s has no parameter %s", c.name, clip(name))
		}
	}
	fixed, err := c.convert(given)
	b.fixed = fixed
	return b, err
}

func (c *condition) convert(given map[string]any) (map[string]any, error) {
	out := make(map[string]any, len(given))
	for name, p := range c.params {
		v, ok := given[name]
		if !ok {
			continue
		}
		var err error
		if out[name], err = p.convert(v); err != nil {
			return nil, fmt.Errorf("parameter %s of %s: %v", name, c.name, err)
		}
	}
	return out, nil
}

// holds evaluates. What the tuple fixes wins over what the question says, or
// whoever asks could widen a grant. A parameter that neither gives is an error.
func (b *bound) holds(ctx context.Context, question map[string]any) (bool, error) {
	params, err := b.convert(question)
	if err != nil {
		return false, fmt.Errorf("%w: %v", ErrCondition, err)
	}
	maps.Copy(params, b.fixed)
	for name := range b.params {
		if _, ok := params[name]; !ok {
			return false, fmt.Errorf("%w: parameter %s of %s is missing", ErrCondition, name, b.name)
		}
	}
	v, _, err := b.program.ContextEval(ctx, params)
	if err != nil {
		return false, fmt.Errorf("%w: %s: %v", ErrCondition, b.name, clipText(err.Error(), 200))
	}
	yes, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("%w: %s is no bool", ErrCondition, b.name)
	}
	return yes, nil
}

// paramOf maps the parameter types of the language.
func paramOf(p *openfga.ConditionParamTypeRef) (paramType, error) {
	switch p.GetTypeName() {
	case openfga.ConditionParamTypeRef_TYPE_NAME_BOOL:
		return paramType{cel.BoolType, exactly[bool]}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_STRING:
		return paramType{cel.StringType, exactly[string]}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_INT:
		return paramType{cel.IntType, toInt}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_UINT:
		return paramType{cel.UintType, toUint}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_DOUBLE:
		return paramType{cel.DoubleType, toDouble}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_DURATION:
		return paramType{cel.DurationType, parsed(time.ParseDuration)}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_TIMESTAMP:
		return paramType{cel.TimestampType, parsed(func(s string) (time.Time, error) { return time.Parse(time.RFC3339, s) })}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_IPADDRESS:
		return paramType{ipType, parsed(parseIP)}, nil
	case openfga.ConditionParamTypeRef_TYPE_NAME_LIST, openfga.ConditionParamTypeRef_TYPE_NAME_MAP:
		return containerOf(p)
	}
	return paramType{}, fmt.Errorf("unknown type %s", p.GetTypeName())
}

func containerOf(p *openfga.ConditionParamTypeRef) (paramType, error) {
	if len(p.GetGenericTypes()) != 1 {
		return paramType{}, fmt.Errorf("of what? As in list<string>")
	}
	elem, err := paramOf(p.GetGenericTypes()[0])
	if err != nil {
		return elem, err
	}
	if p.GetTypeName() == openfga.ConditionParamTypeRef_TYPE_NAME_LIST {
		return paramType{cel.ListType(elem.cel), listOf(elem)}, nil
	}
	return paramType{cel.MapType(cel.StringType, elem.cel), mapOf(elem)}, nil
}

func listOf(elem paramType) func(any) (any, error) {
	return func(v any) (any, error) {
		in, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("a list is expected, not %T", v)
		}
		out := make([]any, len(in))
		for i := range in {
			var err error
			if out[i], err = elem.convert(in[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

func mapOf(elem paramType) func(any) (any, error) {
	return func(v any) (any, error) {
		in, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("a map is expected, not %T", v)
		}
		out := make(map[string]any, len(in))
		for k := range in {
			var err error
			if out[k], err = elem.convert(in[k]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

func exactly[T any](v any) (any, error) {
	if _, ok := v.(T); !ok {
		return nil, fmt.Errorf("%T is expected, not %T", *new(T), v)
	}
	return v, nil
}

func parsed[T any](parse func(string) (T, error)) func(any) (any, error) {
	return func(v any) (any, error) {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("text is expected, not %T", v)
		}
		t, err := parse(s)
		if err != nil {
			return nil, fmt.Errorf("%s is not a %T", clip(s), t)
		}
		return t, nil
	}
}

// number reads what JSON may have made of a number; a string keeps integers
// that a float64 cannot hold.
func number(v any) (*big.Float, error) {
	switch v := v.(type) {
	case int64:
		return new(big.Float).SetInt64(v), nil
	case uint64:
		return new(big.Float).SetUint64(v), nil
	case int:
		return new(big.Float).SetInt64(int64(v)), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("a number is expected")
		}
		return big.NewFloat(v), nil
	case string:
		if len(v) > 64 || strings.ContainsAny(v, "eEpPxX") {
			return nil, fmt.Errorf("%s is not a plain number", clip(v))
		}
		f, _, err := big.ParseFloat(v, 10, 64, big.ToNearestEven)
		if err != nil || f.IsInf() {
			return nil, fmt.Errorf("%s is not a number", clip(v))
		}
		return f, nil
	}
	return nil, fmt.Errorf("a number is expected, not %T", v)
}

func toInt(v any) (any, error) {
	f, err := number(v)
	if err != nil {
		return nil, err
	}
	n, exact := f.Int64()
	if exact != big.Exact {
		return nil, fmt.Errorf("%v is not an int", v)
	}
	return n, nil
}

func toUint(v any) (any, error) {
	f, err := number(v)
	if err != nil {
		return nil, err
	}
	n, exact := f.Uint64()
	if exact != big.Exact {
		return nil, fmt.Errorf("%v is not a uint", v)
	}
	return n, nil
}

func toDouble(v any) (any, error) {
	f, err := number(v)
	if err != nil {
		return nil, err
	}
	n, _ := f.Float64()
	return n, nil
}

// ipValue is the value of a parameter of type ipaddress.
type ipValue struct{ addr netip.Addr }

var ipType = cel.ObjectType("rampart.ipaddress")

func parseIP(s string) (ipValue, error) {
	a, err := netip.ParseAddr(s)
	return ipValue{a.Unmap()}, err // an IPv4 address in IPv6 clothing is that address
}

// ConvertToNative implements ref.Val.
func (v ipValue) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("an ipaddress is no %s", t)
}

// ConvertToType implements ref.Val.
func (v ipValue) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.StringType:
		return types.String(v.addr.String())
	case types.TypeType:
		return ipType
	}
	return types.NewErr("an ipaddress is no %s", t.TypeName())
}

// Equal implements ref.Val.
func (v ipValue) Equal(other ref.Val) ref.Val {
	o, ok := other.(ipValue)
	return types.Bool(ok && o == v)
}

// Type implements ref.Val.
func (v ipValue) Type() ref.Type { return ipType }

// Value implements ref.Val.
func (v ipValue) Value() any { return v.addr }

// ipFunctions are ipaddress("...") and IP.in_cidr("...").
func ipFunctions() cel.EnvOption {
	return cel.Lib(ipLibrary{})
}

type ipLibrary struct{}

// CompileOptions implements cel.Library.
func (ipLibrary) CompileOptions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Function("ipaddress", cel.Overload("string_to_ipaddress", []*cel.Type{cel.StringType}, ipType,
			cel.UnaryBinding(ipOf))),
		cel.Function("in_cidr", cel.MemberOverload("ipaddress_in_cidr", []*cel.Type{ipType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(inCIDR))),
	}
}

// ProgramOptions implements cel.Library.
func (ipLibrary) ProgramOptions() []cel.ProgramOption { return nil }

func ipOf(v ref.Val) ref.Val {
	s, _ := v.Value().(string)
	ip, err := parseIP(s)
	if err != nil {
		return types.NewErr("%s is not an IP address", clip(s))
	}
	return ip
}

func inCIDR(ip, cidr ref.Val) ref.Val {
	a, ok := ip.(ipValue)
	s, _ := cidr.Value().(string)
	p, err := netip.ParsePrefix(s)
	if !ok || err != nil {
		return types.NewErr("%s is not a range of IP addresses", clip(s))
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return types.Bool(p.Contains(a.addr))
}
