// Package payments_test holds the example's documents together.
package payments_test

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/validate/openapi"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// Every route asks for a permission, and those that name an organization say
// where.
func TestRoutesAskForPermission(t *testing.T) {
	want := map[string][]string{
		"orders": {
			"GET /orders orders:read ", "POST /orders orders:create body.org",
			"GET /orders/{id} orders:read ", "GET /orgs/{org}/orders orders:read path.org",
			"PUT /orders/{id}/viewers/{viewer} orders:share ", "DELETE /orders/{id}/viewers/{viewer} orders:share ",
		},
		"payments": {"GET /payments payments:read ", "POST /payments payments:create ", "GET /payments/{id} payments:read ", "GET /payments/{id}/card payments:reveal ", "POST /payments/find payments:find body.org"},
		"web": {
			"GET / web:read ", "GET /app.js web:read ", "GET /icon.svg web:read ",
			"GET /me web:read ", "GET /receipt web:read ", "GET /style.css web:read ",
		},
	}
	for service, routes := range want {
		var got []string
		for _, op := range compile(t, service).Operations() {
			got = append(got, strings.Join([]string{op.Method, op.Path, op.Permission, op.Tenant}, " "))
		}
		slices.Sort(got)
		slices.Sort(routes)
		if diff := cmp.Diff(routes, got); diff != "" {
			t.Errorf("%s: %s", service, diff)
		}
	}
}

func compile(t *testing.T, service string) *openapi.API {
	t.Helper()
	text, err := os.ReadFile("openapi/" + service + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	api, err := openapi.Compile(service, text)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// The examples in the documents are accepted, and the seed's attacks on them
// are not.
func TestBodies(t *testing.T) {
	for name, tc := range map[string]struct {
		service, path string
		from, to      string // one replacement in the example
		ok            bool
	}{
		"an order":                     {"orders", "/orders", "", "", true},
		"an order with a price":        {"orders", "/orders", `"sku"`, `"price":1,"sku"`, false},
		"an order of a hundred":        {"orders", "/orders", `:2`, `:100`, false},
		"an organization with a slash": {"orders", "/orders", `acme`, `acme/../globex`, false},
		"a payment":                    {"payments", "/payments", "", "", true},
		"no amount":                    {"payments", "/payments", `"amount":2580,`, ``, false},
		"nothing to pay":               {"payments", "/payments", `2580`, `0`, false},
		"more than there is":           {"payments", "/payments", `2580`, `100000000`, false},
		"half a cent":                  {"payments", "/payments", `2580`, `2580.5`, false},
		"an amount as text":            {"payments", "/payments", `2580`, `"2580"`, false},
		"an address without @":         {"payments", "/payments", `alice@`, `alice.`, false},
		"an address that is too long":  {"payments", "/payments", `alice@`, strings.Repeat("a", 250) + `@`, false},
		"a note that is too long":      {"payments", "/payments", `Two mugs`, strings.Repeat("a", 501), false},
		"a card number":                {"payments", "/payments", `tok_visa`, `4242424242424242`, false},
		"a role on top":                {"payments", "/payments", `{`, `{"role":"admin",`, false},
	} {
		t.Run(name, func(t *testing.T) {
			op, params, err := compile(t, tc.service).Route("POST", tc.path)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(example(t, tc.service, tc.path), tc.from, tc.to, 1)
			body, err := strictjson.Decode([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := op.Check(params, nil, http.Header{"Content-Type": {"application/json"}}, body); (err == nil) != tc.ok {
				t.Errorf("%s: %v, want accepted %v", text, err, tc.ok)
			}
		})
	}
}

// example returns the example of a POST's body as JSON.
func example(t *testing.T, service, path string) string {
	t.Helper()
	text, err := os.ReadFile("openapi/" + service + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]struct {
			Post struct {
				RequestBody struct {
					Content map[string]struct {
						Example map[string]any `yaml:"example"`
					} `yaml:"content"`
				} `yaml:"requestBody"`
			} `yaml:"post"`
		} `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc.Paths[path].Post.RequestBody.Content["application/json"].Example)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The message that the payment service publishes is what the schema says.
func TestPaidMessage(t *testing.T) {
	text, err := os.ReadFile("schemas/paid.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := openapi.CompileSchema("schemas/paid.json", text)
	if err != nil {
		t.Fatal(err)
	}
	const good = `{"payment_id":"pay_0199a1b2c3d4e5f60718293a4b5c6d7e","order_id":"ord_0199a1b2c3d4e5f60718293a4b5c6d7e","amount":2580,"currency":"EUR","recipient":"user:alice"}`
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"as published":       {good, true},
		"with a copy to bob": {strings.Replace(good, "{", `{"cc":"user:bob",`, 1), false},
		"for nobody":         {strings.Replace(good, "user:alice", "", 1), false},
		"a path for an id":   {strings.Replace(good, "pay_0199", "../../", 1), false},
		"minus":              {strings.Replace(good, "2580", "-2580", 1), false},
	} {
		v, err := strictjson.Decode([]byte(tc.text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
