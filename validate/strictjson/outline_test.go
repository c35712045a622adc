package strictjson

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// value makes of an outline what Decode makes of its text.
func (o *Outline) value(i int) any {
	switch o.Kind(i) {
	case False, True:
		return o.Kind(i) == True
	case Number:
		return json.Number(o.Text(i))
	case String:
		return o.Text(i)
	case Array:
		out := make([]any, 0, o.Len(i))
		for m := i + 1; m < o.Next(i); m = o.Next(m) {
			out = append(out, o.value(m))
		}
		return out
	case Object:
		out := make(map[string]any, o.Len(i))
		for m := i + 1; m < o.Next(i); m = o.Next(m) {
			out[o.Name(m)] = o.value(m)
		}
		return out
	}
	return nil
}

// hold demands that an outline of data is what Decode has, and writes what Encode does.
func hold(t *testing.T, o *Outline, data string) (taken bool) {
	t.Helper()
	if !o.Read([]byte(data)) {
		return false
	}
	v, err := Decode([]byte(data))
	if err != nil {
		t.Fatalf("%q has an outline: %v", data, err)
	}
	if got := o.value(0); !reflect.DeepEqual(got, v) {
		t.Fatalf("%q: got %v, want %v", data, got, v)
	}
	want, err := Encode(v)
	if got := o.AppendTo(nil); err != nil || string(got) != string(want) {
		t.Fatalf("%q: got %s, want %s, %v", data, got, want, err)
	}
	if len(want) > len(data) && !o.IsLonger() {
		t.Fatalf("%q is longer as %s", data, want)
	}
	return true
}

// TestOutline: common texts have one, and it says what Decode says; what Decode refuses
// has none, nor what is beyond the bounds.
func TestOutline(t *testing.T) {
	wide := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`,"n` + strconv.Itoa(n-i) + `":1`)
		}
		return "{" + b.String()[1:] + "}"
	}
	var o Outline // one for all: nothing of the text before may be left
	for text, want := range map[string]bool{
		`{"b":1,"a":[true,false,null],"c":{"z":"x","y":-1.5e3}}`: true,
		` { "item" : "mug" , "count" : 2 } `:                     true,
		`{"camelCase":1,"CamelCased":2,"b":{"A":1,"B":2}}`:       true,
		`"Grüße 你"`:                true,
		`"a\nb\u00e9\ud83d\ude00"`: true,
		`{"a":"\n\n\n\n\n\n"}`:     true,
		`[]`:                       true,
		`{}`:                       true,
		`[[],{}]`:                  true,
		`null`:                     true,
		`-0.50`:                    true,
		wide(maxMembers):           true,
		strings.Repeat("[", 32) + strings.Repeat("]", 32): true,
		strings.Repeat("[", 33) + strings.Repeat("]", 33): false,
		wide(maxMembers + 1):                              false,
		`{"a":1,"a":2}`:                                   false,
		`{"b":1,"c":1,"a":2,"b":2}`:                       false,
		`{"a":1,"b":2,"A":3}`:                             false,
		`{"userId":1,"userID":2}`:                         false,
		`{"\u0061":1}`:                                    false,
		`{"é":1}`:                                         false,
		`{"a":1,}`:                                        false,
		`[1,]`:                                            false,
		`[1 2]`:                                           false,
		`{"a" 1}`:                                         false,
		`{"a":1]`:                                         false,
		`[1}`:                                             false,
		`01`:                                              false,
		`1e999`:                                           false,
		`"\ud800"`:                                        false,
		"\"\xff\"":                                        false,
		"\"a\tb\"":                                        false,
		"\ufeff{}":                                        false,
		`{} {}`:                                           false,
		``:                                                false,
		`{"a":`:                                           false,
		`"a`:                                              false,
		`tru`:                                             false,
		`"` + strings.Repeat("a", maxOutline) + `"`:    false,
		"[" + strings.Repeat("1,", maxNodes) + "1]":    false,
		"[" + strings.Repeat("1,", maxNodes-2) + "1]":  true,
		`{"` + strings.Repeat("a", 300) + `":1,"a":2}`: true,
	} {
		if got := hold(t, &o, text); got != want {
			t.Errorf("%.60s: has an outline: %t, want %t", text, got, want)
		}
	}
}

// TestOutlineAllocate: all that it costs is a copy of the text.
func TestOutlineAllocate(t *testing.T) {
	var o Outline
	data, to := []byte(`{"b":1,"a":[true,{"c":"d","Camel":"e"}]}`), make([]byte, 0, 128)
	n := testing.AllocsPerRun(100, func() {
		if !o.Read(data) || len(o.AppendTo(to)) == 0 {
			t.Fatal("no outline")
		}
	})
	if n > 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

func FuzzOutline(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":[true,null]}`, `{"a":{"B":1,"b":2}}`, `["\u00e9\n","é"]`, `{"z":{},"y":[],"x":""}`, ` [1e3,-0.1] `} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		var o Outline
		hold(t, &o, data)
	})
}
