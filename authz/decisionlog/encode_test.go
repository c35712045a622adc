package decisionlog

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
)

// exact is what text.value is compared with: v for encoding/json, with floats
// that are read as such.
func exact(v any) any {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return json.RawMessage(text)
	case map[string]any:
		out := map[string]any{}
		for name, e := range v {
			out[name] = exact(e)
		}
		return out
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, exact(e))
		}
		return out
	}
	return v
}

// exactly is the question that encoding/json must be given.
func exactly(q pdp.Question) pdp.Question {
	if q.Request == nil {
		return q
	}
	r := *q.Request
	if r.Resource.Attrs != nil {
		r.Resource.Attrs = exact(r.Resource.Attrs).(map[string]any)
	}
	if r.Context != nil {
		r.Context = exact(r.Context).(map[string]any)
	}
	q.Request = &r
	return q
}

// chance fills values of any type, nil and empty and strange ones included.
type chance struct{ *rand.Rand }

func (c chance) string() string {
	words := []string{"", "orders:read", "user:ann", "<a href=\"&\">", "\x00\x1f\x7f\t\n\r\b\f", `back\slash`, "\xff\xfe", "caf\xc3", "größe", "\u2028\u2029", "😀", "'"}
	return words[c.IntN(len(words))] + words[c.IntN(len(words))]
}

func (c chance) any(depth int) any {
	kinds := []any{nil, true, false, c.string(), int64(c.Uint64()), int64(3), 3.0, c.NormFloat64(), math.Float64frombits(c.Uint64()), 1e21, 1e-7, -0.0, math.Copysign(0, -1), math.MaxFloat64, math.Inf(1), math.NaN(), int(7), []any(nil), map[string]any(nil)}
	if depth == 0 {
		return kinds[c.IntN(len(kinds))]
	}
	list, m := []any{}, map[string]any{}
	for range c.IntN(4) {
		list, m[c.string()] = append(list, c.any(depth-1)), c.any(depth-1)
	}
	return append(kinds, list, m, list, m)[c.IntN(len(kinds)+4)]
}

func (c chance) fill(v reflect.Value) {
	if c.IntN(3) == 0 && v.Type() != reflect.TypeFor[pdp.Question]() {
		v.SetZero()
		return
	}
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		zone := time.FixedZone("", 60*(c.IntN(2880)-1440+1)%(23*3600))
		v.Set(reflect.ValueOf(time.Unix(c.Int64N(1<<35), c.Int64N(3)*1000*c.Int64N(1e6)/2).In(zone)))
		return
	case reflect.TypeFor[map[string]any]():
		m, _ := c.any(3).(map[string]any)
		v.Set(reflect.ValueOf(m))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(c.string())
	case reflect.Bool:
		v.SetBool(c.IntN(2) == 0)
	case reflect.Int:
		v.SetInt(c.Int64N(20) - 10)
	case reflect.Uint8:
		v.SetUint(c.Uint64N(3))
	case reflect.Uint64:
		v.SetUint(c.Uint64())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		c.fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			c.fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), c.IntN(3), 3))
		for i := range v.Len() {
			c.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range c.IntN(4) {
			e := reflect.New(v.Type().Elem()).Elem()
			c.fill(e)
			v.SetMapIndex(reflect.ValueOf(c.string()), e)
		}
	default:
		panic("the test knows no " + v.Kind().String())
	}
}

func sameJSON(t *testing.T, what string, want any, got *text) {
	t.Helper()
	b, err := json.Marshal(want)
	if (err == nil) != (got.err == nil) {
		t.Fatalf("%s: encoding/json %v, here %v", what, err, got.err)
	}
	if err == nil && !bytes.Equal(b, got.buf) {
		t.Fatalf("%s\nwant %s\ngot  %s", what, b, got.buf)
	}
}

func compared(t *testing.T, seed uint64) {
	c := chance{rand.New(rand.NewPCG(seed, 4))}
	var q pdp.Question
	var d rampart.Decision
	c.fill(reflect.ValueOf(&q).Elem())
	c.fill(reflect.ValueOf(&d).Elem())
	all := func(string, string) bool { return true }
	var got text
	got.question(&q, all)
	sameJSON(t, "question", exactly(q), &got)
	got = text{}
	got.decision(&d)
	sameJSON(t, "decision", d, &got)
	sealedApart(t, q, d)
}

// sealedApart: a whole record is what encoding/json makes of one, and what is
// sealed is the rest of the question.
func sealedApart(t *testing.T, q pdp.Question, d rampart.Decision) {
	schema := &authz.Schema{Types: map[string]authz.Type{}}
	if q.Request != nil {
		attrs := map[string]authz.Attr{"orders:read": {}, "": {PII: true}, "😀": {Class: rampart.ClassInternal}}
		schema.Types[q.Request.Resource.Type] = authz.Type{Attrs: attrs}
	}
	e := newEncoder(bytes.Repeat([]byte("k"), keySize))
	if err := e.record(&q, &d, schema); err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(e.buf[hexSize+1:], &r); err != nil {
		t.Fatal(err)
	}
	shown := exactly(q)
	var rest hidden
	if shown.Request != nil {
		split := func(member string, all map[string]any) (out map[string]any) {
			for name, v := range all {
				if !open(schema, &q, member, name) {
					if out == nil {
						out = map[string]any{}
					}
					out[name] = v
					delete(all, name)
				}
			}
			return out
		}
		rest = hidden{Attrs: split(inAttrs, shown.Request.Resource.Attrs), Context: split(inContext, shown.Request.Context)}
	}
	sameJSON(t, "record", record{Question: shown, Decision: d, Hidden: e.hidden[:len(e.hidden):len(e.hidden)], Sealed: r.Sealed}, &text{buf: e.buf[hexSize+1 : len(e.buf)-1]})
	if r.Sealed == nil {
		e.plain.buf = []byte("{}")
	}
	sameJSON(t, "sealed", rest, &e.plain)
}

// TestSameAsJSON: records are what encoding/json writes, byte for byte.
func TestSameAsJSON(t *testing.T) {
	for seed := range uint64(3000) {
		compared(t, seed)
	}
}

func FuzzSameAsJSON(f *testing.F) {
	f.Add(uint64(1), "<\xff\u2028\x00>")
	f.Fuzz(func(t *testing.T, seed uint64, s string) {
		compared(t, seed)
		var got text
		got.string(s)
		sameJSON(t, "string", s, &got)
	})
}
