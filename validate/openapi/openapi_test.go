package openapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/validate"
	"github.com/rampart-security/rampart/validate/strictjson"
)

var _ validate.Validator = (*Schema)(nil)

func shop(t testing.TB) *API {
	t.Helper()
	text, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	api, err := Compile("shop", text)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func TestRoute(t *testing.T) {
	api := shop(t)
	const id = "0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11"
	for _, tc := range []struct {
		method, path string
		operation    string
		params       Params
		permission   string
		tenant       string
	}{
		{"GET", "/", "home", nil, "shop:read", ""},
		{"HEAD", "/", "home", nil, "shop:read", ""},
		{"GET", "/items", "listItems", nil, "catalog:read", ""},
		{"POST", "/items", "createItem", nil, "shop:create", ""},
		{"GET", "/items/featured", "featured", nil, "shop:read", ""}, // fixed before variable
		{"GET", "/items/" + id, "getItem", Params{"id": id}, "shop:read", ""},
		{"PUT", "/items/x y", "replaceItem", Params{"id": "x y"}, "shop:update", ""},
		{"PATCH", "/items/7", "patchItem", Params{"id": "7"}, "shop:update", ""},
		{"DELETE", "/items/7", "deleteItem", Params{"id": "7"}, "admin:purge", ""},
		{"POST", "/orgs/acme/orders", "createOrder", Params{"org": "acme"}, "orders:create", "path.org"},
		{"POST", "/payments", "pay", nil, "payments:create", "body.org"},
		{"POST", "/nodes/3/a", "tree", Params{"depth": "3", "part": "a"}, "shop:create", ""},
	} {
		op, params, err := api.Route(tc.method, tc.path)
		if err != nil {
			t.Errorf("%s %s: %v", tc.method, tc.path, err)
			continue
		}
		if op.ID != tc.operation || op.Permission != tc.permission || op.Tenant != tc.tenant {
			t.Errorf("%s %s: got %s asking %s for %q", tc.method, tc.path, op.ID, op.Permission, op.Tenant)
		}
		if diff := cmp.Diff(tc.params, params); diff != "" {
			t.Errorf("%s %s: %s", tc.method, tc.path, diff)
		}
	}
}

func TestRouteRefuses(t *testing.T) {
	api := shop(t)
	for path, allow := range map[string][]string{
		"":                                  nil,
		"items":                             nil,
		"/nothing":                          nil,
		"/items/":                           nil, // a variable matches no empty segment
		"/items/7/more":                     nil,
		"/Items":                            nil,
		"/orgs/acme":                        nil,
		"/orgs//orders":                     nil,
		"/nodes/3/":                         nil,
		"/payments":                         {"POST"},
		"/items":                            {"GET", "HEAD", "POST"},
		"/items/7":                          {"DELETE", "GET", "HEAD", "PATCH", "PUT"},
		"/items/featured":                   {"GET", "HEAD"}, // not the methods of /items/{id}
		"/" + strings.Repeat("a/", 100_000): nil,
	} {
		_, _, err := api.Route("TRACE", path)
		e, ok := errors.AsType[*rampart.Error](err)
		if !ok || e.Control != "edge.route" {
			t.Errorf("%.40s: got %v, want a refusal by edge.route", path, err)
			continue
		}
		if allow == nil {
			if e.Kind != rampart.NotFound {
				t.Errorf("%.40s: kind %v, want not_found", path, e.Kind)
			}
			continue
		}
		d, _ := errors.AsType[*problem.Details](err)
		if d == nil || d.Status != 405 {
			t.Errorf("%s: got %v, want status 405", path, err)
			continue
		}
		if diff := cmp.Diff(allow, d.Allow); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

const item = `"name":"Mug","price":12.50,"email":"a@example.com"`

// TestCheck reads as policy: a request, and what is wrong with it.
func TestCheck(t *testing.T) {
	api := shop(t)
	long := strings.Repeat("x", 4097)
	for name, tc := range map[string]struct {
		request string // METHOD TARGET
		body    string
		want    []string // "pointer: rule"
	}{
		"a page":                     {"GET /", "", nil},
		"every query parameter":      {"GET /items?limit=5&price=1.5&tag=a&tag=b&id=1,2&sold=true&since=2026-01-02T03:04:05Z", "", nil},
		"text for an integer":        {"GET /items?limit=five", "", []string{"/query/limit: must be of type integer"}},
		"a hexadecimal integer":      {"GET /items?limit=0x5", "", []string{"/query/limit: must be of type integer"}},
		"a padded integer":           {"GET /items?limit=05", "", []string{"/query/limit: must be of type integer"}},
		"white space":                {"GET /items?limit=+5", "", []string{"/query/limit: must be of type integer"}},
		"an integer out of range":    {"GET /items?limit=101", "", []string{"/query/limit: must be at most 100"}},
		"a parameter given twice":    {"GET /items?limit=1&limit=2", "", []string{"/query/limit: must be given once"}},
		"an empty value":             {"GET /items?limit=", "", []string{"/query/limit: must be of type integer"}},
		"an undeclared parameter":    {"GET /items?debug=1&admin~=1", "", []string{"/query/admin~0: is not allowed", "/query/debug: is not allowed"}},
		"another case":               {"GET /items?Limit=1", "", []string{"/query/Limit: is not allowed"}},
		"a list that is too long":    {"GET /items?tag=a&tag=b&tag=c&tag=d", "", []string{"/query/tag: must have at most 3 items"}},
		"an element that is wrong":   {"GET /items?id=1,x", "", []string{"/query/id/1: must be of type integer"}},
		"a list in pairs":            {"GET /items?id=1&id=2", "", []string{"/query/id: must be given once"}},
		"a date without zone":        {"GET /items?since=2026-01-02", "", []string{"/query/since: must be a valid date-time"}},
		"a body that is not allowed": {"GET /items", `{}`, []string{"/body: is not allowed"}},
		"an id":                      {"GET /items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", "", nil},
		"an id that is none":         {"GET /items/1%20OR%201", "", []string{"/path/id: must be a valid uuid"}},
		"a path integer":             {"POST /nodes/10/x", "", []string{"/path/depth: must be at most 9"}},
		"an item":                    {"POST /items", `{` + item + `,"stock":1,"size":{"w":1},"tags":["a"],"kind":"mug","released":"2026-01-02"}`, nil},
		"no body":                    {"POST /items", "", []string{"/body: is required"}},
		"null for a body":            {"POST /items", "null", []string{"/body: is required"}},
		"a list for an object":       {"POST /items", "[]", []string{"/body: must be of type object"}},
		"missing properties":         {"POST /items", `{"name":"Mug"}`, []string{"/body/email: is required", "/body/price: is required"}},
		"an undeclared property":     {"POST /items", `{` + item + `,"is_admin":true}`, []string{"/body/is_admin: is not allowed"}},
		"an undeclared inner one":    {"POST /items", `{` + item + `,"size":{"d":1}}`, []string{"/body/size/d: is not allowed"}},
		"a read-only property":       {"POST /items", `{` + item + `,"id":"0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11"}`, []string{"/body/id: is not allowed"}},
		"read-only by reference":     {"POST /items", `{` + item + `,"created":"2026-01-02T03:04:05Z"}`, []string{"/body/created: is not allowed"}},
		"a string without bound":     {"POST /items", `{"name":"` + long + `","price":1,"email":"a@b.example"}`, []string{"/body/name: must have at most 4096 characters"}},
		"a list without bound":       {"POST /items", `{` + item + `,"tags":[` + strings.Repeat(`"a",`, 1000) + `"a"]}`, []string{"/body/tags: must have at most 1000 items"}},
		"an int32 that is none":      {"POST /items", `{` + item + `,"stock":2147483648}`, []string{"/body/stock: must be a valid int32"}},
		"an int32 with a fraction":   {"POST /items", `{` + item + `,"stock":1.0}`, []string{"/body/stock: must be a valid int32"}},
		"a third of a cent":          {"POST /items", `{"name":"Mug","price":0.333,"email":"a@b.example"}`, []string{"/body/price: must be a multiple of 0.01"}},
		"an exact cent":              {"POST /items", `{"name":"Mug","price":0.29,"email":"a@b.example"}`, nil},
		"too little":                 {"POST /items", `{"name":"Mug","price":0,"email":"a@b.example"}`, []string{"/body/price: must be at least 0.01"}},
		"an address that is none":    {"POST /items", `{"name":"Mug","price":1,"email":"secret"}`, []string{"/body/email: must be a valid email"}},
		"a value beside the enum":    {"POST /items", `{` + item + `,"kind":"secret"}`, []string{"/body/kind: is not an allowed value"}},
		"a referenced body":          {"PUT /items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", `{` + item + `,"x":1}`, []string{"/body/x: is not allowed"}},
		"an optional body":           {"PATCH /items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", "", nil},
		"an empty patch":             {"PATCH /items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", "{}", []string{"/body: must have at least 1 properties"}},
		"an order":                   {"POST /orgs/acme/orders", `{"items":[{"sku":"MUG","quantity":2}],"note":null,"meta":{"any":{"thing":[1]}}}`, nil},
		"an order with extras":       {"POST /orgs/acme/orders", `{"items":[{"sku":"MUG","quantity":2,"price":0}]}`, []string{"/body/items/0/price: is not allowed"}},
		"a line twice":               {"POST /orgs/acme/orders", `{"items":[{"sku":"MUG","quantity":2},{"quantity":2,"sku":"MUG"}]}`, []string{"/body/items: must not repeat an item"}},
		"nothing ordered":            {"POST /orgs/acme/orders", `{"items":[]}`, []string{"/body/items: must have at least 1 items"}},
		"an organization":            {"POST /orgs/ACME/orders", `{"items":[{"sku":"MUG","quantity":2}]}`, []string{"/path/org: must match its pattern"}},
		"a payment by card":          {"POST /payments", `{"amount":1,"currency":"EUR","org":"acme","method":{"card_token":"t"}}`, nil},
		"a payment with extras":      {"POST /payments", `{"amount":1,"org":"acme","method":{"iban":"x"},"paid":true}`, []string{"/body/paid: is not allowed"}},
		"neither card nor invoice":   {"POST /payments", `{"amount":1,"org":"acme","method":{"cash":1}}`, []string{"/body/method: must match one of the allowed forms"}},
		"card with extras":           {"POST /payments", `{"amount":1,"org":"acme","method":{"card_token":"t","x":1}}`, []string{"/body/method/x: is not allowed"}},
		"an amount of nothing":       {"POST /payments", `{"amount":0,"org":"acme","method":{"iban":"x"}}`, []string{"/body/amount: must be more than 0"}},
		"a tree":                     {"POST /nodes/1/x", `{"children":[{"children":[{"name":"leaf"}]}]}`, nil},
		"a tree with a foreign leaf": {"POST /nodes/1/x", `{"children":[{"children":[{"leaf":1}]}]}`, []string{"/body/children/0/children/0/leaf: is not allowed"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkRequest(t, api, tc.request, tc.body, nil)
			if diff := cmp.Diff(tc.want, told(t, err)); diff != "" {
				t.Errorf("%s %s: %s", tc.request, tc.body, diff)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(fmt.Sprint(told(t, err)), "secret")) {
				t.Errorf("a value is repeated: %v", err)
			}
		})
	}
}

// checkRequest routes and checks a request.
func checkRequest(t testing.TB, api *API, request, text string, header http.Header) error {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	op, params, err := api.Route(method, u.Path)
	if err != nil {
		t.Fatal(err)
	}
	var body any
	if text != "" {
		if body, err = strictjson.Decode([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if header == nil {
		header = http.Header{"Content-Type": {"application/json"}}
	}
	return op.Check(params, u.Query(), header, body)
}

// told lists what a refusal tells, and demands that it is one.
func told(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	e, _ := errors.AsType[*rampart.Error](err)
	d, _ := errors.AsType[*problem.Details](err)
	if e == nil || d == nil || e.Kind != rampart.Invalid || e.Control != "validate.openapi" {
		t.Fatalf("got %v, want a refusal by validate.openapi", err)
	}
	var out []string
	for _, f := range d.Errors {
		out = append(out, f.Pointer+": "+f.Detail)
	}
	return out
}

func TestHeaders(t *testing.T) {
	api := shop(t)
	for name, tc := range map[string]struct {
		request, body string
		header        http.Header
		status        int
	}{
		"a declared header":         {"GET /items", "", http.Header{"X-Request-Source": {"web"}}, 0},
		"a wrong one":               {"GET /items", "", http.Header{"X-Request-Source": {"fax"}}, 400},
		"one given twice":           {"GET /items", "", http.Header{"X-Request-Source": {"web", "web"}}, 400},
		"one that is not for us":    {"GET /items", "", http.Header{"Authorization": {"Bearer x"}}, 0},
		"JSON in UTF-8":             {"POST /items", "{" + item + "}", http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, 0},
		"JSON in another encoding":  {"POST /items", "{" + item + "}", http.Header{"Content-Type": {"application/json; charset=utf-7"}}, 415},
		"a form":                    {"POST /items", "{" + item + "}", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 415},
		"a body without a type":     {"POST /items", "{" + item + "}", http.Header{}, 415},
		"a type that only looks so": {"POST /items", "{" + item + "}", http.Header{"Content-Type": {"application/json, text/html"}}, 415},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkRequest(t, api, tc.request, tc.body, tc.header)
			if (err != nil) != (tc.status != 0) || err != nil && problem.Status(err) != tc.status {
				t.Errorf("got %v, want status %d", err, tc.status)
			}
		})
	}
}

func TestTenantOf(t *testing.T) {
	api := shop(t)
	op, params, _ := api.Route("POST", "/orgs/acme/orders")
	if got := op.TenantOf(params, nil); got != "acme" {
		t.Errorf("path: %q", got)
	}
	op, params, _ = api.Route("POST", "/payments")
	if got := op.TenantOf(params, map[string]any{"org": "globex"}); got != "globex" {
		t.Errorf("body: %q", got)
	}
	for _, body := range []any{nil, "text", map[string]any{"org": json.Number("1")}} {
		if got := op.TenantOf(params, body); got != "" {
			t.Errorf("%v: %q", body, got)
		}
	}
}

func TestFindingsAreBounded(t *testing.T) {
	body := map[string]any{}
	for i := range 100 {
		body[strings.Repeat("k", 1000)+fmt.Sprint(i)] = true
	}
	op, _, _ := shop(t).Route("POST", "/items")
	list := told(t, op.Check(nil, nil, http.Header{"Content-Type": {"application/json"}}, body))
	if len(list) == 0 || len(list) > maxFindings {
		t.Errorf("%d findings, want 1 to %d", len(list), maxFindings)
	}
	for _, f := range list {
		if len(f) > 300 {
			t.Errorf("a finding of %d bytes", len(f))
		}
	}
}

func TestOperations(t *testing.T) {
	var got []string
	for _, op := range shop(t).Operations() {
		got = append(got, op.Method+" "+op.Path)
	}
	want := []string{"GET /", "GET /items", "POST /items", "GET /items/featured", "GET /items/{id}", "PUT /items/{id}", "DELETE /items/{id}",
		"PATCH /items/{id}", "POST /nodes/{depth}/{part}", "POST /orgs/{org}/orders", "POST /payments"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// with wraps one operation into a document.
func with(path, op string) string {
	return "openapi: 3.1.0\npaths:\n  " + path + ":\n    post: " + op + "\n"
}

func body(schema string) string {
	return `{ requestBody: { content: { application/json: { schema: ` + schema + ` } } } }`
}

// TestCompileRefuses: each broken document is told where and what to write.
func TestCompileRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ doc, want string }{
		"nothing":                 {"", "not YAML: EOF"},
		"a list":                  {"- a", "document is not an object"},
		"two documents":           {"openapi: 3.1.0\n---\na: b", "more than one YAML document in the file"},
		"another version":         {"openapi: 2.0.0\npaths: {}", `line 1, /openapi: only OpenAPI 3.0 and 3.1 are supported; write openapi: "3.1.0"`},
		"no paths":                {"openapi: 3.1.0", "line 1, /paths: paths are missing; declare what the service answers to"},
		"a key twice":             {"openapi: 3.1.0\nopenapi: 3.1.0\n", "line 2, /openapi: key given twice"},
		"a JSON key twice":        {`{"openapi":"3.1.0","openapi":"3.1.0"}`, "json: member name twice at byte 19"},
		"a merge key":             {"a: &a {b: c}\nd: {<<: *a}", "line 2, /d: key must be a plain text; write merged keys out"},
		"an octal number":         {"a: 0o17", "line 1, /a: write numbers as JSON does, or quote the text"},
		"a path without slash":    {with("a", "{}"), "line 3, /paths/a: path must begin with a slash"},
		"part of a segment":       {with("/a/{b}.json", "{}"), "line 3, /paths/~1a~1{b}.json: a parameter must be a whole segment; write /{name}/"},
		"an undeclared parameter": {with("/a/{b}", "{}"), "line 4, /paths/~1a~1{b}/post: path parameter b is not declared; add it to parameters"},
		"a parameter not in it":   {with("/a", `{ parameters: [{ name: b, in: path, required: true, schema: {} }] }`), "line 4, /paths/~1a/post: parameter b is not in the path /a"},
		"an optional path part":   {with("/{b}", `{ parameters: [{ name: b, in: path, schema: {} }] }`), "line 4, /paths/~1{b}/post/parameters/0: path parameter must be required; write required: true"},
		"a header of the planes":  {with("/a", `{ parameters: [{ name: x-forwarded-for, in: header, schema: {} }] }`), "line 4, /paths/~1a/post/parameters/0: no service gets the header X-Forwarded-For from its callers; remove the parameter"},
		"a cookie of ours":        {with("/a", `{ parameters: [{ name: __Host-rampart_sid, in: cookie, schema: {} }] }`), "line 4, /paths/~1a/post/parameters/0: the cookie __Host-rampart_sid is not one that a service may read; rename it"},
		"a list of cookies":       {with("/a", `{ parameters: [{ name: b, in: cookie, schema: { type: array } }] }`), "line 4, /paths/~1a/post/parameters/0/schema: a list in a cookie needs explode: false; one cookie has one value"},
		"a place of nowhere":      {with("/a", `{ parameters: [{ name: b, in: body, schema: {} }] }`), "line 4, /paths/~1a/post/parameters/0: parameter must have a name and be in path, query, header or cookie"},
		"a parameter twice":       {with("/a", `{ parameters: [{ name: b, in: query, schema: {} }, { name: b, in: query, schema: {} }] }`), "line 4, /paths/~1a/post/parameters/1: parameter b is declared twice"},
		"deep text":               {with("/a", `{ parameters: [{ name: b, in: query, style: deepObject, schema: {} }] }`), "line 4, /paths/~1a/post/parameters/0/style: style deepObject is for objects"},
		"a label":                 {with("/{b}", `{ parameters: [{ name: b, in: path, required: true, style: label, schema: {} }] }`), "line 4, /paths/~1{b}/post/parameters/0/style: only style simple is supported in path"},
		"a matrix":                {with("/{b}", `{ parameters: [{ name: b, in: path, required: true, style: matrix, schema: {} }] }`), "line 4, /paths/~1{b}/post/parameters/0/style: only style simple is supported in path"},
		"an object with pipes":    {with("/a", `{ parameters: [{ name: b, in: query, style: pipeDelimited, schema: { type: object, properties: { c: {} } } }] }`), "line 4, /paths/~1a/post/parameters/0/schema: an object has no one spelling here; use style deepObject in the query, or a body"},
		"a list of objects":       {with("/a", `{ parameters: [{ name: b, in: query, schema: { type: array, items: { type: object } } }] }`), "line 4, /paths/~1a/post/parameters/0/schema: a list of lists or objects has no spelling in a parameter; use a body"},
		"two spellings of a name": {with("/a", `{ parameters: [{ name: c, in: query, schema: {} }, { name: b, in: query, schema: { type: object, properties: { c: { type: string } } } }] }`), "line 4, /paths/~1a/post/parameters/1: parameter c stands in the query twice"},
		"an open object":          {with("/a", `{ parameters: [{ name: b, in: query, schema: { type: object } }] }`), "line 4, /paths/~1a/post/parameters/0/schema: an object in a parameter must declare all its properties"},
		"no parameter schema":     {with("/a", `{ parameters: [{ name: b, in: query }] }`), "line 4, /paths/~1a/post/parameters/0: schema is missing; a parameter without one cannot be checked"},
		"a lost parameter":        {with("/a", `{ parameters: [{ $ref: "#/components/parameters/X" }] }`), "line 4, /paths/~1a/post/parameters/0: parameter is missing; the reference leads nowhere"},
		"a form without fields":   {with("/a", `{ requestBody: { content: { multipart/form-data: { schema: {} } } } }`), "line 4, /paths/~1a/post/requestBody/content/multipart~1form-data/schema: a form must have a schema of type object with properties, and no combination; each property is a field"},
		"an object in a form":     {with("/a", `{ requestBody: { content: { application/x-www-form-urlencoded: { schema: { type: object, properties: { a: { type: object } } } } } } }`), "line 4, /paths/~1a/post/requestBody/content/application~1x-www-form-urlencoded/schema/properties/a: objects and lists of lists are not supported in this kind of form; use JSON or multipart/form-data"},
		"a file in a plain form":  {with("/a", `{ requestBody: { content: { application/x-www-form-urlencoded: { schema: { type: object, properties: { a: { type: string, format: binary } } } } } } }`), "line 4, /paths/~1a/post/requestBody/content/application~1x-www-form-urlencoded/schema/properties/a: a file needs multipart/form-data"},
		"any media type":          {with("/a", `{ requestBody: { content: { "*/*": { schema: {} } } } }`), "line 4, /paths/~1a/post/requestBody/content/*~1*: write one media type, in UTF-8, without wildcards"},
		"no media type":           {with("/a", `{ requestBody: {} }`), "line 4, /paths/~1a/post/requestBody: content is missing; declare which media type the body has"},
		"opaque for nobody":       {with("/a", `{ x-rampart: { opaque: all } }`), "line 4, /paths/~1a/post/x-rampart/opaque: write graphql, grpc or upload"},
		"a foreign compression":   {with("/a", `{ x-rampart-encoding: [br] }`), "line 4, /paths/~1a/post/x-rampart-encoding: write [gzip], or nothing for bodies that are not compressed"},
		"half open":               {with("/a", body(`{ x-rampart-open: everything }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/x-rampart-open: write true, or a list of properties, length, items and range"},
		"a status of no answer":   {with("/a", `{ responses: { ok: { description: x } } }`), "line 4, /paths/~1a/post/responses/ok: write a status as"},
		"an answer's lost schema": {with("/a", `{ responses: { 200: { content: { application/json: { schema: { $ref: "#/x" } } } } } }`), "line 4, /paths/~1a/post/responses/200/content/application~1json/schema/$ref: reference leads nowhere"},
		"a body without schema":   {with("/a", `{ requestBody: { content: { application/json: {} } } }`), "line 4, /paths/~1a/post/requestBody/content/application~1json: schema is missing; declare what the body holds"},
		"a lost reference":        {with("/a", body(`{ $ref: "#/components/schemas/X" }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/$ref: reference leads nowhere; write #/components/schemas/NAME of this document"},
		"another file":            {with("/a", body(`{ $ref: "common.yaml#/X" }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/$ref: reference leads nowhere; write #/components/schemas/NAME of this document"},
		"a web page":              {with("/a", body(`{ $ref: "https://evil.example/x.json" }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/$ref: reference leads nowhere; write #/components/schemas/NAME of this document"},
		"3.0's nullable":          {with("/a", body(`{ type: string, nullable: true }`)), `line 4, /paths/~1a/post/requestBody/content/application~1json/schema/nullable: nullable is not supported; write type: [string, "null"]`},
		"an unknown format":       {with("/a", body(`{ type: string, format: iban }`)), `line 4, /paths/~1a/post/requestBody/content/application~1json/schema/format: format "iban" would not be checked; use a pattern`},
		"an unknown type":         {with("/a", body(`{ properties: { x: { type: int } } }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/properties/x/type: not a JSON Schema: must match one of the allowed forms"},
		"a look-ahead":            {with("/a", body(`{ pattern: "(?=x)" }`)), "not a JSON Schema"},
		"a reference in a not":    {with("/a", body(`{ not: { items: { $ref: "#/paths" } } }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/not: a reference inside not is not supported; write the schema out"},
		"a base of its own":       {with("/a", body(`{ $id: "https://a.example/" }`)), "line 4, /paths/~1a/post/requestBody/content/application~1json/schema/$id: $id is not supported; use $ref to #/components/schemas/NAME"},
		"a misspelt extension":    {with("/a", `{ x-rampart: { permision: "a:b" } }`), "line 4, /paths/~1a/post/x-rampart/permision: unknown key; write permission, tenant or opaque"},
		"a permission that fails": {with("/a", `{ x-rampart: { permission: all } }`), `line 4, /paths/~1a/post/x-rampart/permission: permission must be "type:verb", for example svc:create`},
		"a tenant from nowhere":   {with("/a", `{ x-rampart: { tenant: body.org } }`), "line 4, /paths/~1a/post/x-rampart/tenant: tenant must be path.NAME of a path parameter or body.NAME of a declared property of the body"},
		"a body on GET":           {"openapi: 3.1.0\npaths: { /a: { get: { requestBody: {} } } }", "line 2, /paths/~1a/get/requestBody: GET takes no body; remove it or use POST"},
		"TRACE":                   {"openapi: 3.1.0\npaths: { /a: { trace: {} } }", "line 2, /paths/~1a/trace: TRACE is never served; remove it"},
		"the same path twice": {"openapi: 3.1.0\npaths:\n  /a/{b}: { get: &g { parameters: [{ name: b, in: path, required: true, schema: {} }] } }\n  /a/{c}: { get: { parameters: [{ name: c, in: path, required: true, schema: {} }] } }",
			"line 4, /paths/~1a~1{c}/get: path /a/{c} is the same as /a/{b}; name the parameters alike"},
		"two readings of a path": {"openapi: 3.1.0\npaths:\n  /a/b/{y}: { get: { parameters: [{ name: y, in: path, required: true, schema: {} }] } }\n  /a/{x}/c: { get: { parameters: [{ name: x, in: path, required: true, schema: {} }] } }",
			"line 4, /paths/~1a~1{x}~1c: /a/b/{y} and /a/{x}/c match the same path; make one of them differ in a fixed segment"},
		"an operationId twice": {"openapi: 3.1.0\npaths: { /a: { get: { operationId: x }, post: { operationId: x } } }", `line 2, /paths/~1a/post/operationId: operationId "x" is used twice; give each operation its own`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile("svc", []byte(tc.doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func TestAliasBomb(t *testing.T) {
	doc := "openapi: 3.1.0\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		doc += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	if _, err := Compile("svc", []byte(doc)); err == nil {
		t.Error("a document of ten billion values was accepted")
	}
}

func TestJSONDocument(t *testing.T) {
	api, err := Compile("svc", []byte(`{"openapi":"3.1.0","paths":{"/a":{"get":{"responses":{"200":{"description":"ok"}}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if op, _, err := api.Route("GET", "/a"); err != nil || op.ID != "GET /a" {
		t.Errorf("got %v, %v", op, err)
	}
}

func TestCompileSchema(t *testing.T) {
	s, err := CompileSchema("paid.json", []byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","$id":"https://a.example/paid",
		"type":"object","required":["id"],"properties":{"id":{"type":"string"},"note":{"$ref":"#/$defs/note"}},"$defs":{"note":{"type":"string","maxLength":3}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(map[string]any{"id": "x", "note": "abc"}); err != nil {
		t.Error(err)
	}
	want := []string{"/extra: is not allowed", "/id: is required", "/note: must have at most 3 characters"}
	if diff := cmp.Diff(want, told(t, s.Validate(map[string]any{"note": "abcd", "extra": true}))); diff != "" {
		t.Error(diff)
	}
	if _, err := CompileSchema("paid.json", []byte("type: nothing")); err == nil || !strings.HasPrefix(err.Error(), "paid.json: line 1, ") {
		t.Errorf("got %v, want an error that names file and line", err)
	}
}

func FuzzCompile(f *testing.F) {
	text, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(with("/a", body(`{ allOf: [{ $ref: "#/paths" }], type: [string], readOnly: true }`))))
	f.Add([]byte(`{"openapi":"3.1.0","paths":{"/a":{"get":null}}}`))
	f.Add([]byte("openapi: 3.1.0\npaths: { /: { get: { x-rampart: [] } } }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		api, err := Compile("svc", text)
		if err != nil {
			return
		}
		for _, op := range api.Operations() {
			if op.Permission == "" {
				t.Fatalf("%s asks for no permission", op.ID)
			}
			_ = op.Check(nil, url.Values{"a": {"1"}}, http.Header{"Content-Type": {"application/json"}}, map[string]any{"a": []any{"b"}})
		}
	})
}

func FuzzCheck(f *testing.F) {
	api := shop(f)
	f.Add("GET", "/items", "limit=5&tag=a&id=1,2", "")
	f.Add("POST", "/items", "", "{"+item+"}")
	f.Add("POST", "/payments", "", `{"amount":1,"org":"acme","method":{"iban":"x"}}`)
	f.Add("POST", "/nodes/1/x", "", `{"children":[{"children":[{"name":"leaf"}]}]}`)
	f.Fuzz(func(t *testing.T, method, path, query, text string) {
		op, params, err := api.Route(method, path)
		if err != nil {
			return
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		v, _ := strictjson.Decode([]byte(text))
		if err := op.Check(params, q, http.Header{"Content-Type": {"application/json"}}, v); err != nil {
			if list := told(t, err); len(list) == 0 || len(list) > maxFindings {
				t.Fatalf("%d findings", len(list))
			}
		}
	})
}

func BenchmarkOpenAPIRoute(b *testing.B) {
	api := shop(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := api.Route("GET", "/items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenAPICheck(b *testing.B) {
	api := shop(b)
	header := http.Header{"Content-Type": {"application/json"}}
	for name, tc := range map[string]struct{ request, body string }{
		"GET":     {"GET /items/0b8a2f8e-7d53-4c61-9d0c-0c4f7b8f1f11", ""},
		"POST":    {"POST /items", "{" + item + "}"},
		"refused": {"POST /items", `{"name":1,"x":2}`},
	} {
		b.Run(name, func(b *testing.B) {
			method, target, _ := strings.Cut(tc.request, " ")
			op, params, err := api.Route(method, target)
			if err != nil {
				b.Fatal(err)
			}
			var v any
			if tc.body != "" {
				if v, err = strictjson.Decode([]byte(tc.body)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := op.Check(params, nil, header, v); (err != nil) != (name == "refused") {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestHardening: what a document leaves open is closed, however it is composed,
// and what its author opened stays open.
func TestHardening(t *testing.T) {
	const doc = `
openapi: 3.1.0
paths:
  /direct: { post: { requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Base" } } } } } }
  /alias: { post: { requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Alias", description: x } } } } } }
  /both:
    post:
      requestBody:
        content:
          application/json:
            schema: { allOf: [{ $ref: "#/components/schemas/Base" }], properties: { b: { type: integer } } }
  /beside: { post: { requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Base", properties: { b: {} } } } } } } }
  /any: { post: { requestBody: { content: { application/json: { schema: { anyOf: [{ $ref: "#/components/schemas/Base" }, { type: array }] } } } } } }
  /open: { post: { requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Open" } } } } } }
  /untyped: { post: { requestBody: { content: { application/json: { schema: {} } } } } }
  /map: { post: { requestBody: { content: { application/json: { schema: { additionalProperties: { properties: { a: {} } } } } } } } }
  /not: { post: { requestBody: { content: { application/json: { schema: { type: string, not: { minLength: 5 } } } } } } }
  /if:
    post:
      requestBody:
        content:
          application/json:
            schema: { type: object, properties: { a: {} }, if: { required: [a] }, then: { required: [b], properties: { b: {} } } }
components:
  schemas:
    Base: { type: object, properties: { a: { type: integer } } }
    Alias: { $ref: "#/components/schemas/Base" }
    Open: { type: object, additionalProperties: true }
`
	api, err := Compile("svc", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 4097)
	for _, tc := range []struct {
		path, body string
		ok         bool
	}{
		{"/direct", `{"a":1}`, true}, {"/direct", `{"a":1,"x":1}`, false},
		{"/alias", `{"a":1}`, true}, {"/alias", `{"a":1,"x":1}`, false},
		{"/both", `{"a":1,"b":1}`, true}, {"/both", `{"a":1,"x":1}`, false},
		{"/beside", `{"a":1,"b":1}`, true}, {"/beside", `{"a":1,"x":1}`, false},
		{"/any", `{"a":1}`, true}, {"/any", `{"x":1}`, false}, {"/any", `[1]`, true}, {"/any", `[` + strings.Repeat("1,", 1000) + `1]`, false},
		{"/open", `{"x":{"y":[1]}}`, true},
		{"/untyped", `{"x":1}`, false}, {"/untyped", `"` + long + `"`, false}, {"/untyped", `1`, true},
		{"/map", `{"x":{"a":1}}`, true}, {"/map", `{"x":{"b":1}}`, false},
		{"/not", `"abcd"`, true}, {"/not", `"abcde"`, false}, {"/not", `"` + long + `"`, false},
		{"/if", `{"a":1,"b":1}`, true}, {"/if", `{"a":1}`, false}, {"/if", `{"b":1}`, false}, {"/if", `{"a":1,"b":1,"x":1}`, false},
	} {
		if err := checkRequest(t, api, "POST "+tc.path, tc.body, nil); (err == nil) != tc.ok {
			t.Errorf("%s %.60s: got %v, want ok %v", tc.path, tc.body, told(t, err), tc.ok)
		}
	}
}
