package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// The JSON form of a filter is {"keep":"all"}, {"keep":"none"} or
// {"keep":"where","where":C} with a condition C of one of the forms
//
//	{"and":[C,C,...]} {"or":[C,C,...]} {"not":C} {"total":C} {"has":NAME} {"rel":NAME}
//	{"const":BOOL} {"undefined":true} {"bool":O}
//	{"cmp":"==","l":O,"r":O} {"in":O,"list":O} {"text":"prefix","x":O,"part":O}
//
// and operands O of the forms {"attr":NAME}, {"subject":NAME}, {"string":TEXT},
// {"bool":BOOL}, {"long":NUMBER}, {"decimal":"12.5"}, {"strings":[TEXT,...]} and
// {"list":[O,...]}.

// MarshalJSON implements json.Marshaler. It fails for a filter beyond the
// bounds.
func (f Filter) MarshalJSON() ([]byte, error) {
	switch f.keep {
	case none:
		return []byte(`{"keep":"none"}`), nil
	case all:
		return []byte(`{"keep":"all"}`), nil
	}
	if err := checkBounds(f.cond); err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return json.Marshal(map[string]any{"keep": "where", "where": encode(f.cond)})
}

func encode(e Expr) any {
	switch e := e.(type) {
	case Const:
		return map[string]any{"const": bool(e)}
	case And:
		return map[string]any{"and": encodeAll(chain(nil, e, true))}
	case Or:
		return map[string]any{"or": encodeAll(chain(nil, e, false))}
	case Not:
		return map[string]any{"not": encode(e.X)}
	case Total:
		return map[string]any{"total": encode(e.X)}
	case Has:
		return map[string]any{"has": e.Attr}
	case Rel:
		return map[string]any{"rel": e.Name}
	case Bool:
		return map[string]any{"bool": encodeOperand(e.X)}
	case Cmp:
		return map[string]any{"cmp": e.Op, "l": encodeOperand(e.L), "r": encodeOperand(e.R)}
	case In:
		return map[string]any{"in": encodeOperand(e.X), "list": encodeOperand(e.List)}
	case Text:
		return map[string]any{"text": e.Op, "x": encodeOperand(e.X), "part": encodeOperand(e.Part)}
	}
	return map[string]any{"undefined": true}
}

func encodeAll(parts []Expr) []any {
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = encode(p)
	}
	return out
}

func encodeOperand(o Operand) any {
	switch o := o.(type) {
	case Attr:
		return map[string]any{"attr": o.Name}
	case Subject:
		return map[string]any{"subject": o.Name}
	case Lit:
		return encodeLiteral(o.Value)
	}
	return nil
}

func encodeLiteral(v any) any {
	switch v := v.(type) {
	case string:
		return map[string]any{"string": v}
	case bool:
		return map[string]any{"bool": v}
	case int64:
		return map[string]any{"long": v}
	case float64:
		return map[string]any{"decimal": formatDecimal(v)}
	case []any:
		return encodeList(v)
	}
	return nil
}

func encodeList(list []any) any {
	texts, others := []string{}, []any{}
	for _, v := range list {
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
		others = append(others, encodeLiteral(v))
	}
	if len(texts) == len(list) {
		return map[string]any{"strings": texts}
	}
	return map[string]any{"list": others}
}

// maxJSON bounds the bytes of a filter; UnmarshalJSON enforces it.
const maxJSON = 16 << 20

// UnmarshalJSON implements json.Unmarshaler. It accepts exactly the form above:
// no unknown or doubled member, and nothing beyond the bounds. A failure leaves
// a filter that keeps nothing.
func (f *Filter) UnmarshalJSON(b []byte) error {
	*f = None()
	got, err := decode(b)
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	*f = got
	return nil
}

func decode(b []byte) (Filter, error) {
	if len(b) > maxJSON {
		return None(), fmt.Errorf("a filter holds at most %d bytes", maxJSON)
	}
	v, err := parse(b)
	if err != nil {
		return None(), err
	}
	o, _ := v.(map[string]any)
	switch keep, _ := o["keep"].(string); {
	case keep == "all" && len(o) == 1:
		return All(), nil
	case keep == "none" && len(o) == 1:
		return None(), nil
	case keep == "where" && len(o) == 2:
		return decodeWhere(o["where"])
	}
	return None(), errors.New(`a filter is {"keep":"all"}, {"keep":"none"} or {"keep":"where","where":...}`)
}

func decodeWhere(v any) (Filter, error) {
	e, err := condition(v)
	if err != nil {
		return None(), err
	}
	if err := checkBounds(e); err != nil {
		return None(), err
	}
	return Where(e), nil
}

var errCondition = errors.New("a condition has none of the known forms")

// condition reads one condition; its depth is bounded by parse.
func condition(v any) (Expr, error) {
	o, _ := v.(map[string]any)
	if len(o) == 1 {
		for name, v := range o {
			return single(name, v)
		}
	}
	if op, ok := o["cmp"].(string); ok && len(o) == 3 {
		l, r, err := twoOperands(o["l"], o["r"])
		return known(Cmp{Op(op), l, r}, err, op == string(Eq) || op == string(Ne) || op == string(Lt) || op == string(Le) || op == string(Gt) || op == string(Ge))
	}
	if x, ok := o["in"]; ok && len(o) == 2 {
		l, r, err := twoOperands(x, o["list"])
		return In{l, r}, err
	}
	if op, ok := o["text"].(string); ok && len(o) == 3 {
		l, r, err := twoOperands(o["x"], o["part"])
		return known(Text{TextOp(op), l, r}, err, op == string(Prefix) || op == string(Suffix) || op == string(Contains))
	}
	return nil, errCondition
}

func known(e Expr, err error, ok bool) (Expr, error) {
	if err == nil && !ok {
		return nil, errCondition
	}
	return e, err
}

// single reads the forms with one member.
func single(name string, v any) (Expr, error) {
	text, isText := v.(string)
	flag, isFlag := v.(bool)
	switch {
	case name == "and" || name == "or":
		return several(v, name == "and")
	case name == "not":
		x, err := condition(v)
		return Not{x}, err
	case name == "total":
		x, err := condition(v)
		return Total{x}, err
	case name == "bool":
		x, err := operandOf(v)
		return Bool{x}, err
	case name == "has" && isText:
		return Has{text}, nil
	case name == "rel" && isText:
		return Rel{text}, nil
	case name == "const" && isFlag:
		return Const(flag), nil
	case name == "undefined" && flag:
		return Undefined{}, nil
	}
	return nil, errCondition
}

func several(v any, and bool) (Expr, error) {
	list, ok := v.([]any)
	if !ok || len(list) < 2 {
		return nil, errCondition
	}
	parts := make([]Expr, len(list))
	for i, v := range list {
		p, err := condition(v)
		if err != nil {
			return nil, err
		}
		parts[i] = p
	}
	return join(parts, and), nil
}

var errOperand = errors.New("an operand has none of the known forms")

func twoOperands(l, r any) (Operand, Operand, error) {
	left, err := operandOf(l)
	if err != nil {
		return nil, nil, err
	}
	right, err := operandOf(r)
	return left, right, err
}

func operandOf(v any) (Operand, error) {
	o, _ := v.(map[string]any)
	if len(o) != 1 {
		return nil, errOperand
	}
	if name, ok := o["attr"].(string); ok {
		return Attr{name}, nil
	}
	if name, ok := o["subject"].(string); ok {
		return Subject{name}, nil
	}
	if list, ok := o["list"].([]any); ok {
		return literals(list, literal)
	}
	if list, ok := o["strings"].([]any); ok {
		return literals(list, text)
	}
	lit, err := literal(v)
	return Lit{lit}, err
}

func literals(list []any, read func(any) (any, error)) (Operand, error) {
	out := make([]any, len(list))
	for i, v := range list {
		lit, err := read(v)
		if err != nil {
			return nil, err
		}
		out[i] = lit
	}
	return Lit{out}, nil
}

func text(v any) (any, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	return nil, errOperand
}

func literal(v any) (any, error) {
	o, _ := v.(map[string]any)
	if len(o) != 1 {
		return nil, errOperand
	}
	if s, ok := o["string"].(string); ok {
		return s, nil
	}
	if b, ok := o["bool"].(bool); ok {
		return b, nil
	}
	if n, ok := o["long"].(json.Number); ok {
		return strconv.ParseInt(n.String(), 10, 64)
	}
	if s, ok := o["decimal"].(string); ok {
		return decimal(s)
	}
	return nil, errOperand
}

// decimal reads the one spelling that formatDecimal writes.
func decimal(s string) (any, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || formatDecimal(f) != s {
		return nil, errOperand
	}
	return f, nil
}

// maxNesting is what the JSON form of MaxDepth conditions needs: two levels
// each, and one of operands.
const maxNesting = 2*MaxDepth + 8

// parse reads one JSON document into maps, lists and json.Numbers, and refuses
// what encoding/json lets pass: doubled members, bytes that are no UTF-8, and
// any depth.
func parse(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("a filter is UTF-8 text")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := parseValue(d, maxNesting)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the filter")
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("a filter is at most %d conditions deep", MaxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("a filter is JSON: %v", err)
	}
	switch t {
	case json.Delim('{'):
		return parseObject(d, depth)
	case json.Delim('['):
		return parseList(d, depth)
	}
	return t, nil
}

func parseObject(d *json.Decoder, depth int) (any, error) {
	o := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("a filter is JSON: %v", err)
		}
		name, _ := t.(string)
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("the member %q stands twice", clip(name))
		}
		if o[name], err = parseValue(d, depth-1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return o, err
}

func parseList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := parseValue(d, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}
