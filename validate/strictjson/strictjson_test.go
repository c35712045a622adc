package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

const payment = `{"order_id":"0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11","amount":4200.10,"email":"alice@example.com",
 "card_token":"tok_visa","description":"two mugs \u2013 gift","tags":["a","b"],"gift":true,"note":null}`

func TestDecode(t *testing.T) {
	got, err := Decode([]byte(`{"a":[1,2.50,-0,1e3,"x\ud83d\ude00\n\/"],"b":{"":null,"t":true,"f":false}} `))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": []any{json.Number("1"), json.Number("2.50"), json.Number("-0"), json.Number("1e3"), "x😀\n/"},
		"b": map[string]any{"": nil, "t": true, "f": false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for name, tc := range map[string]struct{ in, pointer, rule string }{
		"a duplicate member":              {`{"a":1,"a":2}`, "/a", "member name twice"},
		"an escaped duplicate":            {`{"a":1,"\u0061":2}`, "/a", "member name twice"},
		"a case variant":                  {`{"amount":1,"Amount":2}`, "/Amount", "member names that differ only by case"},
		"a case variant, other order":     {`{"AMOUNT":1,"b":2,"amount":2}`, "/amount", "member names that differ only by case"},
		"the long s":                      {`{"users":1,"u\u017fers":2}`, "/uſers", "member names that differ only by case"},
		"the Kelvin sign":                 {`{"key":1,"\u212aey":2}`, "/\u212aey", "member names that differ only by case"},
		"a duplicate inside an array":     {`{"x":[0,{"b~/":1,"b~/":2}]}`, "/x/1/b~0~1", "member name twice"},
		"invalid UTF-8":                   {"{\"a\":\"\xff\"}", "/a", "invalid UTF-8"},
		"an overlong slash":               {"\"\xc0\xaf\"", "", "invalid UTF-8"},
		"an encoded surrogate":            {"\"\xed\xa0\x80\"", "", "invalid UTF-8"},
		"a lone high surrogate":           {`"\ud83d"`, "", "lone surrogate"},
		"a lone low surrogate":            {`"\ude00x"`, "", "lone surrogate"},
		"two high surrogates":             {`"\ud83d\ud83d"`, "", "lone surrogate"},
		"a byte order mark":               {"\ufeff{}", "", "byte order mark"},
		"a second document":               {`{} {}`, "", "data after the document"},
		"a trailing NUL":                  {"{}\x00", "", "data after the document"},
		"nothing":                         {``, "", "no JSON value"},
		"depth":                           {deep, strings.Repeat("/0", MaxDepth), "nested too deeply"},
		"a control character":             {"\"a\tb\"", "", "control character in a string"},
		"an unknown escape":               {`"\x41"`, "", "unknown escape"},
		"an escape at the end":            {`"\`, "", "unknown escape"},
		"a signed hexadecimal escape":     {`"\u+041"`, "", "escape is not hexadecimal"},
		"an escape with a separator":      {`"\u0_41"`, "", "escape is not hexadecimal"},
		"a leading zero":                  {`01`, "", "data after the document"},
		"a plus sign":                     {`+1`, "", "no JSON value"},
		"a bare point":                    {`1.`, "", "digit missing"},
		"NaN":                             {`NaN`, "", "no JSON value"},
		"a number beyond float64":         {`[1e400]`, "/0", "number out of range"},
		"an exponent that costs memory":   {`1e-999999999`, "", "number out of range"},
		"a padded exponent":               {`1e-00000000000000000000000000000999999`, "", "number out of range"},
		"a number of a thousand digits":   {strings.Repeat("9", 300), "", "number out of range"},
		"a trailing comma":                {`[1,]`, "/1", "no JSON value"},
		"a comment":                       {`/**/1`, "", "no JSON value"},
		"single quotes":                   {`{'a':1}`, "", "member name missing"},
		"a form feed as space":            {"\f1", "", "no JSON value"},
		"a member without a name":         {`{:1}`, "", "member name missing"},
		"an object that does not end":     {`{"a":1`, "/a", "comma or closing brace missing"},
		"a string that does not end":      {`"abc`, "", "string not closed"},
		"more values than anybody checks": {"[" + strings.Repeat("0,", MaxValues) + "0]", "/" + strconv.Itoa(MaxValues-1), "too many values"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(tc.in))
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			if e.Rule != tc.rule || e.Pointer != tc.pointer {
				t.Errorf("got %q at %q, want %q at %q", e.Rule, e.Pointer, tc.rule, tc.pointer)
			}
			if rampart.KindOf(err) != rampart.Invalid {
				t.Errorf("kind %v, want invalid", rampart.KindOf(err))
			}
			if d, _ := errors.AsType[*problem.Details](err); len(d.Errors) != 1 || d.Errors[0].Pointer != e.Pointer {
				t.Errorf("the problem document does not point at %q", e.Pointer)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	name := strings.Repeat("k", 100_000)
	_, err := Decode([]byte(`{"` + name + `":1,"` + name + `":1}`))
	e, _ := errors.AsType[*Error](err)
	if e == nil || len(e.Pointer) > maxPointer {
		t.Fatalf("pointer not bounded: %v", err)
	}
	if e.Offset != len(name)+6 {
		t.Errorf("offset %d, want that of the second name, %d", e.Offset, len(name)+6)
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	v, err := Decode([]byte(" {\"b\":[1.10,\"<\\u0000\\\"\\\\\u2028>\"],\n\"a\":{}} "))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if want := "{\"a\":{},\"b\":[1.10,\"<\\u0000\\\"\\\\\u2028>\"]}"; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []any{1, "\xff", map[string]any{"\xff": nil}, []any{struct{}{}}} {
		if b, err := Encode(bad); err == nil {
			t.Errorf("%v encoded as %s", bad, b)
		}
	}
}

// FuzzDecode: whatever this package accepts, encoding/json accepts and reads
// the same way; and what is forwarded reads as what was checked.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{payment, `[]`, `{"a":{"b":[{}]}}`, `"\ud83d\ude00"`, `-0.0e+10`, `{"K":1,"k":2}`, "\ufeff1", `1e-400`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode(data)
		if err != nil {
			if rampart.KindOf(err) != rampart.Invalid {
				t.Fatalf("kind %v", rampart.KindOf(err))
			}
			return
		}
		if diff := cmp.Diff(std(t, data), got); diff != "" {
			t.Fatalf("encoding/json reads another document: %s", diff)
		}
		out, err := Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, std(t, out)); diff != "" {
			t.Fatalf("forwarded text reads differently: %s", diff)
		}
		again, err := Decode(out)
		if err != nil {
			t.Fatalf("own output refused: %v", err)
		}
		if twice, _ := Encode(again); !bytes.Equal(out, twice) {
			t.Fatalf("not deterministic: %s, then %s", out, twice)
		}
	})
}

func std(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("encoding/json refuses: %v", err)
	}
	if dec.More() {
		t.Fatal("encoding/json sees more data")
	}
	return v
}

// TestDecodeAllocates: names and strings are parts of one copy of the text, so what
// is left is the text, the path, and per value its place in an interface.
func TestDecodeAllocates(t *testing.T) {
	text := []byte(`{"a":"b","c":"d","e":1.5}`)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Decode(text); err != nil {
			t.Fatal(err)
		}
	}); n > 7 {
		t.Errorf("%v allocations, want 7: text, path, two of the object, three values", n)
	}
}

// TestDecodeKeepsNothing: what was decoded stays when the bytes change.
func TestDecodeKeepsNothing(t *testing.T) {
	text := []byte(`{"a":"b","c":[1,"d"]}`)
	v, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	clear(text)
	if out, err := Encode(v); err != nil || string(out) != `{"a":"b","c":[1,"d"]}` {
		t.Errorf("%s, %v", out, err)
	}
}

func BenchmarkStrictJSON(b *testing.B) {
	data := []byte(payment)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStrictJSONEncode(b *testing.B) {
	v, err := Decode([]byte(payment))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(v); err != nil {
			b.Fatal(err)
		}
	}
}
