package authz

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func fields(only, mask string) *rampart.Fields {
	f := &rampart.Fields{Mask: strings.Fields(mask)}
	if only != "" {
		f.Only = strings.Fields(strings.Trim(only, "-")) // "-" is nothing
	}
	return f
}

func TestProject(t *testing.T) {
	const payment = `{"id":"1","amount":12.50,"card":{"last4":"4242","brand":"visa"},"items":[{"sku":"MUG","price":1},{"sku":"CAP","price":2}],"note":null}`
	for name, tc := range map[string]struct {
		fields *rampart.Fields
		in     string
		want   string // "" is an error
	}{
		"everything":                         {nil, payment, payment},
		"no rule is no limit":                {fields("", ""), payment, payment},
		"nothing":                            {fields("-", ""), payment, `{}`},
		"two members":                        {fields("amount id", ""), payment, `{"id":"1","amount":12.50}`},
		"a member's member":                  {fields("card.last4", ""), payment, `{"card":{"last4":"4242"}}`},
		"a member and one of its own":        {fields("card card.last4", ""), payment, `{"card":{"last4":"4242","brand":"visa"}}`},
		"of each element":                    {fields("items.sku", ""), payment, `{"items":[{"sku":"MUG"},{"sku":"CAP"}]}`},
		"of a value without members":         {fields("id.digits", ""), payment, `{}`},
		"masked":                             {fields("", "card amount"), payment, strings.Replace(strings.Replace(payment, `{"last4":"4242","brand":"visa"}`, "null", 1), "12.50", "null", 1)},
		"a member masked":                    {fields("", "card.last4"), payment, strings.Replace(payment, `"4242"`, "null", 1)},
		"masked in each element":             {fields("items", "items.price"), payment, `{"items":[{"sku":"MUG","price":null},{"sku":"CAP","price":null}]}`},
		"masked within what has no members":  {fields("id", "id.digits"), payment, `{"id":null}`},
		"masked and left out":                {fields("id", "card"), payment, `{"id":"1"}`},
		"a list":                             {fields("id", ""), `[{"id":1,"x":2},{"x":3}]`, `[{"id":1},{}]`},
		"a list of lists":                    {fields("id", ""), `[[{"id":1,"x":2}],[]]`, `[[{"id":1}],[]]`},
		"a list of values":                   {fields("id", ""), `[1,"secret",{"id":1}]`, `[{"id":1}]`},
		"values in a masked list":            {fields("", "card.last4"), `{"card":["4242",{"last4":1}]}`, `{"card":[null,{"last4":null}]}`},
		"a name with a dot is no way around": {fields("", "card.last4"), `{"card.last4":"4242"}`, `{"card.last4":null}`},
		"the same name twice":                {fields("", "a"), `{"a":1,"a":2}`, `{"a":null,"a":null}`},
		"no members at all":                  {fields("id", ""), `"secret"`, ""},
		"a masked value at the top":          {fields("", "id"), `7`, ""},
		"a huge number":                      {fields("id", ""), `{"id":123456789012345678901234567890}`, `{"id":123456789012345678901234567890}`},
		"too deep":                           {fields("", "x"), strings.Repeat("[", 100) + strings.Repeat("]", 100), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Project(tc.fields, json.RawMessage(tc.in))
			if (err == nil) != (tc.want != "") || string(got) != tc.want {
				t.Errorf("got %s, %v\nwant %s", got, err, tc.want)
			}
		})
	}
}

// FuzzProject: what comes out is JSON again, and no text of a masked member or of
// one left out is in it.
func FuzzProject(f *testing.F) {
	f.Add(`{"a":{"b":"SECRET"},"c":["SECRET"],"d":1}`, "a c d", "a.b c")
	f.Add(`[{"a.b":"SECRET"}]`, "d", "a")
	f.Add(`{"a":[[{"b":"SECRET"}]]}`, "a", "a.b")
	f.Fuzz(func(t *testing.T, doc, only, mask string) {
		rule := rampart.Fields{Only: strings.Fields(only), Mask: strings.Fields(mask)}
		var out bytes.Buffer
		if err := project(&out, strings.NewReader(doc), rule); err != nil {
			return
		}
		if !json.Valid(out.Bytes()) {
			t.Fatalf("%s is shown as %s", doc, out.Bytes())
		}
		var again bytes.Buffer
		if err := project(&again, bytes.NewReader(out.Bytes()), rule); err != nil || again.String() != out.String() {
			t.Errorf("shown again %s is %s: %v", out.Bytes(), again.Bytes(), err)
		}
		for name := range strings.FieldsSeq(mask) {
			if !strings.Contains(name, ".") && strings.Contains(out.String(), `"`+name+`":"`) {
				top := map[string]any{}
				if json.Unmarshal(out.Bytes(), &top) == nil && top[name] != nil {
					t.Errorf("%s shows %s of %s", out.Bytes(), name, doc)
				}
			}
		}
	})
}

func BenchmarkProject(b *testing.B) {
	v := json.RawMessage(`[` + strings.Repeat(`{"id":"1","amount":12.50,"card":{"last4":"4242","brand":"visa"},"items":[{"sku":"MUG","price":1}]},`, 99) + `{}]`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Project(fields("id amount card", "card.last4"), v); err != nil {
			b.Fatal(err)
		}
	}
}
