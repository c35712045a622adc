package openapi

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rampart-security/rampart/validate/strictjson"
)

// edgeDoc is what the benchmark of the whole edge asks (package test/system).
const edgeDoc = `openapi: 3.1.0
info: { title: orders, version: "1" }
paths:
  /orders:
    post:
      operationId: create
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              additionalProperties: false
              required: [order_id, amount]
              properties:
                order_id: { type: string, format: uuid }
                amount: { type: integer, minimum: 1, maximum: 100000000 }
                currency: { type: string, enum: [EUR, USD] }
                method: { type: string, enum: [card, transfer] }
                due: { type: string, format: date-time }
                express: { type: boolean }
                note: { type: string, maxLength: 500 }
                items:
                  type: array
                  maxItems: 50
                  items:
                    type: object
                    additionalProperties: false
                    required: [sku, quantity]
                    properties:
                      sku: { type: string, pattern: "^[A-Z0-9-]{1,20}$" }
                      quantity: { type: integer, minimum: 1, maximum: 1000 }
      responses:
        "200":
          description: done
          content:
            application/json:
              schema:
                type: object
                additionalProperties: false
                properties: { id: { type: string }, state: { type: string } }
`

const edgeBody = `{"order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11","amount":1299,"currency":"EUR","method":"card","items":[{"sku":"MUG-1","quantity":2},{"sku":"TEE-4","quantity":1}],"due":"2026-11-29T12:00:00Z","express":true}`

// BenchmarkTyped is the judgement of a request whose fields all have a type, and
// of its answer.
func BenchmarkTyped(b *testing.B) {
	op, params, err := compile(b, edgeDoc).Route("POST", "/orders")
	if err != nil {
		b.Fatal(err)
	}
	doc, err := strictjson.Decode([]byte(edgeBody))
	if err != nil {
		b.Fatal(err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	b.Run("request", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := op.Check(params, nil, header, doc); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, judge := range map[string]bool{"read and checked": false, "judged where read": true} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(edgeBody)
			b.ReportAllocs()
			for b.Loop() {
				copy(raw, edgeBody)
				body, err := op.Read("application/json", raw, ReadOptions{Judge: judge})
				if err == nil {
					err = op.Check(params, nil, header, body.Doc)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	answer := []byte(`{"id":"o1","state":"accepted"}`)
	b.Run("answer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a, err := op.Answer(200, "application/json", true)
			if err == nil {
				err = a.Check(answer)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestEdgeIsRecognized: what is common never reaches the library. Without this the
// tests below could pass with a recognizer that knows nothing.
func TestEdgeIsRecognized(t *testing.T) {
	op, _, err := compile(t, edgeDoc).Route("POST", "/orders")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		schema *Schema
		body   string
		want   bool
	}{
		"request":             {op.media[0].schema, edgeBody, true},
		"answer":              {op.answers.byStatus["200"]["application/json"].either[0], `{"id":"o1","state":"accepted"}`, true},
		"one field more":      {op.media[0].schema, strings.Replace(edgeBody, `"amount"`, `"x":1,"amount"`, 1), false},
		"a field less":        {op.media[0].schema, strings.Replace(edgeBody, `"amount":1299,`, "", 1), false},
		"not a whole number":  {op.media[0].schema, strings.Replace(edgeBody, "1299", "12.99", 1), false},
		"below the minimum":   {op.media[0].schema, strings.Replace(edgeBody, "1299", "0", 1), false},
		"one beyond the sku":  {op.media[0].schema, strings.Replace(edgeBody, "MUG-1", strings.Repeat("A", 21), 1), false},
		"answer with a field": {op.answers.byStatus["200"]["application/json"].either[0], `{"id":"o1","card":"4111"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := strictjson.Decode([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if got := tc.schema.known.knows(v); got != tc.want {
				t.Errorf("known = %t, want %t", got, tc.want)
			}
		})
	}
}

// TestNoKeywordIsOverlooked: each field of the library's schema is read by the
// recognizer, left to the library, or judges nothing. A release with another one
// fails here.
func TestNoKeywordIsOverlooked(t *testing.T) {
	read := strings.Fields(`DraftVersion Bool Ref Types Enum Const AllOf Format MaxProperties MinProperties Required Properties AdditionalProperties
		MinItems MaxItems UniqueItems Items2020 MinLength MaxLength Pattern Maximum Minimum ExclusiveMaximum ExclusiveMinimum MultipleOf`)
	silent := strings.Fields(`Location ID Anchor RecursiveAnchor DynamicAnchor Title Description Default Comment ReadOnly WriteOnly Examples Deprecated`)
	for f := range reflect.TypeFor[jsonschema.Schema]().Fields() {
		if !f.IsExported() || slices.Contains(read, f.Name) || slices.Contains(silent, f.Name) {
			continue
		}
		s := &jsonschema.Schema{DraftVersion: 2020}
		fill(t, reflect.ValueOf(s).Elem().FieldByName(f.Name))
		if !(recognizers{}).of(s).never {
			t.Errorf("%s is overlooked", f.Name)
		}
	}
}

// fill makes v something that is not its zero value.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.Zero(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	case reflect.Interface:
		v.Set(reflect.ValueOf(true))
	default:
		t.Fatalf("no value of %s", v.Type())
	}
}

// chooser makes schemas and values of a few words each, so that they often meet.
type chooser struct{ *rand.Rand }

func (c chooser) of(list string) string {
	words := strings.Fields(list)
	return words[c.IntN(len(words))]
}

func (c chooser) schema(depth int) string {
	var parts []string
	for range c.IntN(4) {
		parts = append(parts, c.keyword(depth))
	}
	slices.Sort(parts)
	parts = slices.CompactFunc(parts, func(a, b string) bool { return strings.SplitN(a, ":", 2)[0] == strings.SplitN(b, ":", 2)[0] })
	return "{" + strings.Join(parts, ",") + "}"
}

func (c chooser) keyword(depth int) string {
	if depth > 0 {
		switch c.IntN(9) {
		case 0:
			return `"properties":{"a":` + c.schema(depth-1) + `,"b":` + c.schema(depth-1) + "}"
		case 1:
			return `"additionalProperties":` + c.schema(depth-1)
		case 2:
			return `"items":` + c.schema(depth-1)
		case 3:
			return `"allOf":[` + c.schema(depth-1) + "," + c.schema(depth-1) + "]"
		case 4:
			return `"` + c.of("anyOf oneOf prefixItems") + `":[` + c.schema(depth-1) + "," + c.schema(depth-1) + "]"
		case 5:
			return `"` + c.of("not contains unevaluatedProperties propertyNames unevaluatedItems") + `":` + c.schema(depth-1)
		}
	}
	return c.of(`"type":"object" "type":"array" "type":"string" "type":"integer" "type":"number" "type":"boolean" "type":"null" "type":["string","null"] "type":["integer","array"]
		"required":["a"] "required":["a","b"] "additionalProperties":false "minProperties":1 "maxProperties":1 "dependentRequired":{"a":["b"]}
		"minItems":1 "maxItems":1 "uniqueItems":true "minLength":2 "maxLength":2 "minLength":1
		"minimum":1 "maximum":1 "exclusiveMinimum":1 "exclusiveMaximum":1 "minimum":0.5 "maximum":-1.5 "multipleOf":0.5 "multipleOf":0.01 "minimum":0.01 "multipleOf":3 "multipleOf":1e-30 "maximum":999999999999999999 "minimum":-999999999999999999 "exclusiveMaximum":0.1 "minimum":-9007199254740993 "maximum":1e30
		"enum":["a",1,null] "enum":[1.0,true,{"a":1}] "const":"b" "const":1 "const":[1] "enum":["2026-02-29"]
		"format":"uuid" "format":"date" "format":"date-time" "format":"int32" "format":"int64" "format":"email" "format":"ipv4" "format":"time"
		"pattern":"^[a-z]{1,2}$" "pattern":"^a*a$" "pattern":"^(ab)+$" "pattern":"^[^a]b?$" "pattern":"a" "pattern":"(?i)^A\\d?$" "pattern":"(?m)^a$" "pattern":"^.$" "pattern":"^a|b$" "pattern":"^é$"
		"$ref":"#" "$ref":"#/$defs/d" "$dynamicRef":"#d"`)
}

func (c chooser) value(depth int) string {
	if depth > 0 {
		switch c.IntN(4) {
		case 0:
			return `{"a":` + c.value(depth-1) + "}"
		case 1:
			return `{"b":` + c.value(depth-1) + `,"` + c.of("a c") + `":` + c.value(depth-1) + "}"
		case 2:
			return "[" + c.value(depth-1) + "," + c.value(depth-1) + "]"
		}
	}
	return c.of(`null true false 0 1 2 -1 1.0 1.5 0.5 -0.5 -0 -1.5 1e0 10E-1 1e30 12.50 0.01 0.012 0.1 0.10 -0.3 3 0.000000000000000001 0.00000000000000001 0.9999999999999999 12345678901234567.8 123456789012345678.9 9007199254740993 -9007199254740993 999999999999999999 1000000000000000000 2147483648 0.000
		"" "a" "b" "ab" "aa" "abab" "é" "éé" "a\nb" "A1" {} [] [1]
		"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11" "3F0C1C1A-7d0e-4e0c-9d55-0f6c1c0b6a11" "3f0c1c1a7d0e4e0c9d550f6c1c0b6a11" "3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a1g"
		"2026-02-28" "2026-02-29" "2026-13-01" "2026-00-10" "2026-01-00" "2026-11-29T12:00:00Z" "2026-11-29T12:00:00.5Z" "2026-11-29T12:00:00.Z" "2026-11-29T24:00:00Z" "2026-11-29T12:60:00Z" "2026-11-29T23:59:60Z" "2026-11-29t12:00:00z" "2026-11-29T12:00:00+01:00" "12:00:00Z" "1.2.3.4" "a@b.c"`)
}

// plainSchema compiles what chooser made; nil where it is none.
func plainSchema(t *testing.T, text string) *Schema {
	t.Helper()
	v, err := strictjson.Limits{Depth: 64}.Decode([]byte(text))
	if err != nil {
		return nil
	}
	s, err := CompilePlain(v, Plain{Formats: true})
	if err != nil {
		return nil
	}
	return s
}

// disagrees reports whether the recognizer takes for valid what the library does
// not, as a value or where it reads.
func disagrees(s *Schema, v any) (known, wrong bool) {
	known = s.known.knows(v)
	if !known && !outlined(s, v) {
		return false, false
	}
	return known, s.compiled.Validate(v) != nil
}

// outlined reports whether v is recognized in its text.
func outlined(s *Schema, v any) bool {
	text, err := strictjson.Encode(v)
	return err == nil && withOutline(text, s.known.knowsOutline)
}

// TestRecognizedIsValid: of made-up schemas and values, none is recognized that the
// library refuses, and many are recognized.
func TestRecognizedIsValid(t *testing.T) {
	c, known, slower, valid := chooser{rand.New(rand.NewPCG(1, 2))}, 0, 0, 0
	for range 800 {
		text := c.schema(3)
		text = strings.TrimSuffix(strings.Replace(text, "{", `{"$defs":{"d":`+c.schema(1)+`},`, 1), ",}") // a comma too many where it is empty
		if !strings.HasSuffix(text, "}") {
			text += "}"
		}
		s := plainSchema(t, text)
		if s == nil {
			continue
		}
		for range 80 {
			doc := c.value(3)
			v, err := strictjson.Decode([]byte(doc))
			if err != nil {
				t.Fatalf("%s: %v", doc, err)
			}
			yes, wrong := disagrees(s, v)
			if wrong {
				t.Fatalf("%s is recognized by %s: %v", doc, text, s.compiled.Validate(v))
			}
			if yes {
				known++
				if !outlined(s, v) {
					slower++
				}
			}
			if s.compiled.Validate(v) == nil {
				valid++
			}
		}
	}
	t.Logf("%d valid documents, %d of them recognized, %d of these not where they are read", valid, known, slower)
	if known < 4000 || slower > known/5 {
		t.Errorf("%d documents were recognized, too few to prove anything", known)
	}
}

func FuzzRecognize(f *testing.F) {
	f.Add(`{"type":"object","required":["a"],"properties":{"a":{"type":"integer","minimum":1}},"additionalProperties":false}`, `{"a":1}`)
	f.Add(`{"pattern":"^[A-Z0-9-]{1,20}$","format":"date-time","maxLength":5}`, `"MUG-1"`)
	f.Add(`{"$ref":"#/$defs/a","$defs":{"a":{"enum":[1,"a",null]}}}`, `"a"`)
	f.Add(`{"items":{"$ref":"#"},"maxItems":2}`, `[[],[]]`)
	f.Fuzz(func(t *testing.T, schema, doc string) {
		v, err := strictjson.Decode([]byte(doc))
		if err != nil || len(schema) > 4096 {
			return
		}
		if s := plainSchema(t, schema); s != nil {
			if _, wrong := disagrees(s, v); wrong {
				t.Errorf("%s is recognized by %s", doc, schema)
			}
		}
		if s, err := CompileSchema("s", []byte(schema)); err == nil {
			if _, wrong := disagrees(s, v); wrong {
				t.Errorf("%s is recognized by %s, hardened", doc, schema)
			}
		}
	})
}

// TestNumbersNotOfJSON: values that no decoder of ours yields are the library's.
func TestNumbersNotOfJSON(t *testing.T) {
	s := plainSchema(t, `{"type":"number","minimum":0}`)
	for _, n := range []string{"", "-", "+1", "01", "1.", ".5", "0x1", "1_0", "1/2", " 1", "Inf", "1e5"} {
		if s.known.knows(json.Number(n)) {
			t.Errorf("%q is recognized", n)
		}
	}
	if !s.known.knows(json.Number("0.50")) {
		t.Error("0.50 is not recognized")
	}
}

// TestAtSight: of each format and pattern, whatever is taken at sight the library
// takes, too; and it is what is common.
func TestAtSight(t *testing.T) {
	texts := strings.Fields(`2026-02-28 2024-02-29 2026-02-29 2026-02-30 2026-04-30 2026-04-31 2026-12-31 2026-00-01 2026-13-01 2026-01-00 2026-1-01 26-01-01
		2026-02-30T00:00:00Z 2026-11-30T23:59:59Z 2026-11-30T23:59:59.123Z 2026-11-30T23:59:59.Z 2026-11-30T23:59:59,1Z 2026-11-30T24:00:00Z 2026-11-30T00:60:00Z 2026-11-30T00:00:60Z 2026-11-30T23:59:60Z 2026-11-30T00:00:00 2026-11-30Z
		3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11 3F0C1C1A-7D0E-4E0C-9D55-0F6C1C0B6A11 3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a1 3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a1g 3f0c1c1a07d0e-4e0c-9d55-0f6c1c0b6a11
		a b ab aab aabb abab abb ba A AB aé é éa ſ K k _ 0 a0 ord_0 ord_ ord_00000 xord_0 a.b`)
	texts = append(texts, "", "a\n", "\na", "a b", "\xff", "a\xff")
	for schema, want := range map[string]string{
		`{"format":"uuid"}`:                "3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11",
		`{"format":"date"}`:                "2026-04-30",
		`{"format":"date-time"}`:           "2026-11-30T23:59:59.123Z",
		`{"pattern":"^ord_[0-9]{1,4}$"}`:   "ord_0",
		`{"pattern":"^a+b*$"}`:             "aab",
		`{"pattern":"^[ab]{2,}$"}`:         "aabb",
		`{"pattern":"^(ab)+$"}`:            "abab",
		`{"pattern":"^(a)(b)?$"}`:          "ab",
		`{"pattern":"^[^b]b?$"}`:           "ab",
		`{"pattern":"^\\w\\d?$"}`:          "a0",
		`{"pattern":"(?i)^ab$"}`:           "AB",
		`{"pattern":"(?i)^k$"}`:            "k",
		`{"pattern":"^(?i:s)$"}`:           "", // nothing
		`{"pattern":"(?m)^a$"}`:            "a",
		`{"pattern":"^.$"}`:                "a",
		`{"pattern":"^a?ab$"}`:             "aab",
		`{"pattern":"ab"}`:                 "xab",
		`{"pattern":"[ab]_*[k0]"}`:         "a0",
		`{"pattern":"^a"}`:                 "ab",
		`{"pattern":"a$"}`:                 "ba",
		`{"pattern":"^a|b$"}`:              "ab",
		`{"pattern":"^(a|b)$"}`:            "b",
		`{"pattern":"^$"}`:                 "",
		`{"pattern":"^()a$"}`:              "a",
		`{"pattern":"^a{0}b$"}`:            "b",
		`{"pattern":"\\ba\\b"}`:            "a",
		`{"pattern":"^\\ba$"}`:             "a",
		`{"minLength":2,"maxLength":3}`:    "éa",
		`{"enum":["a","b"],"maxLength":1}`: "a",
	} {
		s := plainSchema(t, schema)
		if s == nil {
			t.Fatalf("%s is no schema", schema)
		}
		if want != "" && !s.known.knows(want) {
			t.Errorf("%q is not recognized by %s", want, schema)
		}
		for _, text := range texts {
			if _, wrong := disagrees(s, text); wrong {
				t.Errorf("%q is recognized by %s", text, schema)
			}
		}
	}
}

// TestOldDialects: beside $ref, older drafts read nothing; here they are left alone.
func TestOldDialects(t *testing.T) {
	s := plainSchema(t, `{"$schema":"http://json-schema.org/draft-07/schema#","type":"string"}`)
	if s == nil || s.known.knows("a") {
		t.Error("a schema of draft 7 is recognized")
	}
}
