package openapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/validate/strictform"
)

const mediaDoc = `
openapi: 3.1.0
paths:
  /list:
    get:
      parameters:
        - { name: pipe, in: query, style: pipeDelimited, explode: false, schema: { type: array, items: { type: integer } } }
        - { name: space, in: query, style: spaceDelimited, explode: false, schema: { type: array, items: { type: integer } } }
        - { name: filter, in: query, style: deepObject, schema: { type: object, required: [min], properties: { min: { type: integer, maximum: 9 }, name: { type: string, maxLength: 3 } } } }
        - { name: page, in: query, schema: { type: object, properties: { from: { type: integer }, size: { type: integer } } } }
        - { name: point, in: query, explode: false, schema: { type: object, properties: { x: { type: integer }, y: { type: integer } } } }
        - { name: X-Tags, in: header, schema: { type: array, items: { enum: [a, b] } } }
        - { name: theme, in: cookie, schema: { enum: [dark, light] } }
  /ids/{ids}/{map}:
    get:
      parameters:
        - { name: ids, in: path, required: true, schema: { type: array, items: { type: integer } } }
        - { name: map, in: path, required: true, explode: true, schema: { type: object, properties: { a: { type: integer } } } }
  /form:
    post:
      requestBody:
        required: true
        content:
          application/json: { schema: { type: object, properties: { name: { type: string, maxLength: 5 } } } }
          application/x-www-form-urlencoded: { schema: { $ref: "#/components/schemas/Form" } }
          multipart/form-data:
            schema:
              type: object
              required: [avatar]
              properties:
                name: { type: string, maxLength: 5 }
                age: { type: integer }
                meta: { type: object, properties: { a: { type: integer } } }
                avatar: { type: string, format: binary, maxLength: 8 }
                more: { type: array, maxItems: 2, items: { contentMediaType: application/octet-stream } }
            encoding: { avatar: { contentType: "image/png, image/jpeg" } }
  /graphql: { post: { x-rampart: { opaque: graphql }, requestBody: { content: { application/json: {} } } } }
  /upload: { put: { requestBody: { content: { image/png: {}, application/octet-stream: {} } } } }
  /svc.Do: { post: { requestBody: { content: { application/grpc+proto: {} } } } }
  /zip: { post: { x-rampart-encoding: [gzip], requestBody: { content: { application/merge-patch+json: { schema: { type: object } } } } } }
components:
  schemas:
    Form:
      type: object
      required: [name]
      properties: { name: { type: string, maxLength: 5 }, age: { type: integer, maximum: 150 }, tag: { type: array, items: { type: string }, maxItems: 2 }, vip: { type: boolean } }
`

func compile(t testing.TB, doc string) *API {
	t.Helper()
	api, err := Compile("svc", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func TestStyles(t *testing.T) {
	api := compile(t, mediaDoc)
	for name, tc := range map[string]struct {
		target string
		header http.Header
		want   []string
	}{
		"pipes":               {"/list?pipe=1|2", nil, nil},
		"a wrong one":         {"/list?pipe=1|x", nil, []string{"/query/pipe/1: must be of type integer"}},
		"commas for pipes":    {"/list?pipe=1,2", nil, []string{"/query/pipe/0: must be of type integer"}},
		"pipes twice":         {"/list?pipe=1&pipe=2", nil, []string{"/query/pipe: must be given once"}},
		"spaces":              {"/list?space=1%202", nil, nil},
		"a deep object":       {"/list?filter[min]=3&filter[name]=abc", nil, nil},
		"out of range":        {"/list?filter[min]=10", nil, []string{"/query/filter/min: must be at most 9"}},
		"a member missing":    {"/list?filter[name]=abc", nil, []string{"/query/filter/min: is required"}},
		"a foreign member":    {"/list?filter[min]=3&filter[admin]=1", nil, []string{"/query/filter[admin]: is not allowed"}},
		"too deep":            {"/list?filter[min]=3&filter[min][x]=1", nil, []string{"/query/filter[min][x]: is not allowed"}},
		"the object's name":   {"/list?filter=3", nil, []string{"/query/filter: is not allowed"}},
		"a member twice":      {"/list?filter[min]=3&filter[min]=4", nil, []string{"/query/filter: must name each member once"}},
		"a spread object":     {"/list?from=1&size=2", nil, nil},
		"a wrong member":      {"/list?from=x", nil, []string{"/query/page/from: must be of type integer"}},
		"a flat object":       {"/list?point=x,1,y,2", nil, nil},
		"one without value":   {"/list?point=x,1,y", nil, []string{"/query/point: must have a value for each name"}},
		"a name twice":        {"/list?point=x,1,x,2", nil, []string{"/query/point: must name each member once"}},
		"an unknown name":     {"/list?point=z,1", nil, []string{"/query/point/z: is not allowed"}},
		"not UTF-8":           {"/list?filter[min]=3&filter[name]=%ff", nil, []string{"/query/filter: must be text in UTF-8"}},
		"a header's list":     {"/list", http.Header{"X-Tags": {"a,b"}}, nil},
		"a wrong header":      {"/list", http.Header{"X-Tags": {"a,c"}}, []string{"/header/X-Tags/1: is not an allowed value"}},
		"a cookie":            {"/list", http.Header{"Cookie": {"other=<x>; theme=dark"}}, nil},
		"a wrong cookie":      {"/list", http.Header{"Cookie": {"theme=red"}}, []string{"/cookie/theme: is not an allowed value"}},
		"a cookie twice":      {"/list", http.Header{"Cookie": {"theme=dark; theme=light"}}, []string{"/cookie/theme: must be given once"}},
		"cookies out of form": {"/list", http.Header{"Cookie": {"theme=dark; ="}}, []string{"/cookie/theme: must be given once"}},
		"a path's list":       {"/ids/1,2/a=1", nil, nil},
		"a wrong path":        {"/ids/1,x/a=x", nil, []string{"/path/ids/1: must be of type integer", "/path/map/a: must be of type integer"}},
		"no pair":             {"/ids/1/a", nil, []string{"/path/map: must be written as name=value"}},
	} {
		t.Run(name, func(t *testing.T) {
			header := tc.header
			if header == nil {
				header = http.Header{}
			}
			if diff := cmp.Diff(tc.want, told(t, checkRequest(t, api, "GET "+tc.target, "", header))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCookie(t *testing.T) {
	op, _, _ := compile(t, mediaDoc).Route("GET", "/list")
	h := http.Header{"Cookie": {`b=1; theme="dark"; __Host-rampart_sid=secret`}}
	if got := op.Cookie(h); got != "theme=dark" {
		t.Errorf("the service gets the cookies %q", got)
	}
	if diff := cmp.Diff([]string{"__Host-rampart_sid", "b"}, op.Dropped(h)); diff != "" {
		t.Error(diff)
	}
}

// multi returns a multipart form.
func multi(parts ...strictform.Part) (string, string) {
	kind, body := strictform.EncodeMultipart(parts)
	return kind, string(body)
}

func TestRead(t *testing.T) {
	api := compile(t, mediaDoc)
	png := strictform.Part{Name: "avatar", IsFile: true, Filename: "a.png", Type: "image/png", Data: []byte("1234")}
	text := func(name, value string) strictform.Part { return strictform.Part{Name: name, Data: []byte(value)} }
	file := func(name string, n int) strictform.Part {
		return strictform.Part{Name: name, IsFile: true, Filename: "x", Type: "application/octet-stream", Data: make([]byte, n)}
	}
	many := func(p ...strictform.Part) [2]string { kind, body := multi(p...); return [2]string{kind, body} }
	form := func(s string) [2]string { return [2]string{typeForm, s} }
	for name, tc := range map[string]struct {
		request string
		body    [2]string // type, bytes
		status  int
		want    []string
	}{
		"JSON":                   {"POST /form", [2]string{"application/json; charset=utf-8", `{"name":"a"}`}, 0, nil},
		"JSON with a parameter":  {"POST /form", [2]string{"application/json; version=1", `{"name":"a"}`}, 415, nil},
		"JSON of another name":   {"POST /zip", [2]string{"application/merge-patch+json", `{}`}, 0, nil},
		"another JSON":           {"POST /zip", [2]string{"application/json", `{}`}, 415, nil},
		"a form":                 {"POST /form", form("name=a&age=3&tag=x&tag=y&vip=true"), 0, nil},
		"an unknown field":       {"POST /form", form("name=a&admin=1"), 400, []string{"/body/admin: is not allowed"}},
		"another case":           {"POST /form", form("Name=a"), 400, []string{"/body/Name: is not allowed"}},
		"a field twice":          {"POST /form", form("name=a&name=b"), 400, []string{"/body/name: must be given once"}},
		"a list too long":        {"POST /form", form("name=a&tag=1&tag=2&tag=3"), 400, []string{"/body/tag: must have at most 2 items"}},
		"wrong types":            {"POST /form", form("name=abcdef&age=x&vip=1"), 400, []string{"/body/age: must be of type integer", "/body/name: must have at most 5 characters", "/body/vip: must be of type boolean"}},
		"a field missing":        {"POST /form", form("age=3"), 400, []string{"/body/name: is required"}},
		"no form":                {"POST /form", form("name"), 400, []string{"/body: a pair without an equals sign"}},
		"a form in Latin 1":      {"POST /form", [2]string{typeForm + "; charset=iso-8859-1", "name=a"}, 415, nil},
		"an upload":              {"POST /form", many(png, text("name", "a"), text("age", "3"), strictform.Part{Name: "meta", Type: "application/json", Data: []byte(`{"a":1}`)}, file("more", 9), file("more", 9)), 0, nil},
		"a foreign part":         {"POST /form", many(png, text("admin", "1")), 400, []string{"/body/admin: is not allowed"}},
		"no file":                {"POST /form", many(text("name", "a")), 400, []string{"/body/avatar: is required"}},
		"text for a file":        {"POST /form", many(text("avatar", "a")), 400, []string{"/body/avatar: must be a file"}},
		"a file for text":        {"POST /form", many(png, file("name", 1)), 400, []string{"/body/name: must not be a file"}},
		"a file of another type": {"POST /form", many(file("avatar", 1)), 400, []string{"/body/avatar: must be a file of type image/png or image/jpeg"}},
		"a file too large":       {"POST /form", many(strictform.Part{Name: "avatar", IsFile: true, Filename: "x", Type: "image/png", Data: make([]byte, 9)}), 400, []string{"/body/avatar: is a larger file than is allowed"}},
		"too many files":         {"POST /form", many(png, file("more", 1), file("more", 1), file("more", 1)), 400, []string{"/body/more: must have at most 2 items"}},
		"a file twice":           {"POST /form", many(png, png), 400, []string{"/body/avatar: must be given once"}},
		"a number that is text":  {"POST /form", many(png, text("age", "x")), 400, []string{"/body/age: must be of type integer"}},
		"JSON without its type":  {"POST /form", many(png, text("meta", "{}")), 400, []string{"/body/meta: must be a part of type application/json"}},
		"JSON that says it twice": {"POST /form", many(png, strictform.Part{Name: "meta", Type: "application/json", Data: []byte(`{"a":1,"a":2}`)}), 400,
			[]string{"/body/meta: must be JSON with one reading"}},
		"text that is none":     {"POST /form", many(png, text("name", "\xff")), 400, []string{"/body/name: must be text in UTF-8"}},
		"GraphQL":               {"POST /graphql", [2]string{"application/json", "{"}, 415, nil},
		"gRPC":                  {"POST /svc.Do", [2]string{"application/grpc+proto", "x"}, 415, nil},
		"an image":              {"PUT /upload", [2]string{"image/png", "x"}, 415, nil},
		"what nobody declared":  {"PUT /upload", [2]string{"image/gif", "x"}, 415, nil},
		"a body for no body":    {"GET /list", [2]string{"text/plain", "x"}, 415, nil},
		"JSON for no body":      {"GET /list", [2]string{"application/json", "{}"}, 400, []string{"/body: is not allowed"}},
		"no content type":       {"POST /form", [2]string{"", "x"}, 415, nil},
		"two content types":     {"POST /form", [2]string{"application/json, text/html", "{}"}, 415, nil},
		"no boundary":           {"POST /form", [2]string{"multipart/form-data", "x"}, 400, []string{"/body: the content type must be multipart/form-data with a boundary and nothing else"}},
		"a boundary of another": {"POST /form", [2]string{"multipart/form-data; boundary=x", "--y--"}, 400, []string{"/body: the body must begin with the boundary"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := readRequest(t, api, tc.request, tc.body[0], tc.body[1], nil)
			if tc.status == 0 && err != nil || tc.status != 0 && (err == nil || problem.Status(err) != tc.status) {
				t.Fatalf("got %v, want status %d", err, tc.status)
			}
			if tc.want != nil {
				if diff := cmp.Diff(tc.want, told(t, err)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestNotJSON: a place in a body is named in one way, whether the body cannot be read
// or breaks its schema.
func TestNotJSON(t *testing.T) {
	api := compile(t, mediaDoc)
	for body, want := range map[string]string{`{"name":"a","name":"b"}`: "/body/name", `{"name":nope}`: "/body/name", `{`: "/body", `{"name":7}`: "/body/name"} {
		err := readRequest(t, api, "POST /form", "application/json", body, nil)
		d, _ := errors.AsType[*problem.Details](err)
		if d == nil || len(d.Errors) != 1 || d.Errors[0].Pointer != want {
			t.Errorf("%s: %v %+v, want %s", body, err, d, want)
		}
	}
}

// readRequest reads and checks a request; what passes must be forwarded in a
// form that reads the same again, and hold to its facts.
func readRequest(t testing.TB, api *API, request, kind, raw string, opaque []string) error {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	op, params, err := api.Route(method, target)
	if err != nil {
		t.Fatal(err)
	}
	b, err := op.Read(kind, []byte(raw), ReadOptions{Opaque: opaque})
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {b.Type}}
	if err := op.Check(params, url.Values{}, header, b.Doc); err != nil {
		return err
	}
	again, err := op.Read(b.Type, b.Raw, ReadOptions{Opaque: opaque})
	if err != nil {
		t.Fatalf("what is forwarded would be refused: %v\n%s", err, b.Raw)
	}
	if diff := cmp.Diff(b, again); diff != "" {
		t.Errorf("what is forwarded reads otherwise: %s", diff)
	}
	op.Values(params, nil, header, b.Doc, func(i int, v string) bool {
		for _, c := range []byte(v) {
			if f := op.Facts()[i]; f.Alphabet[c/64]&(1<<(c%64)) == 0 {
				t.Errorf("%s %s: byte %q is not in the alphabet", f.Where, f.Name, c)
			}
		}
		return true
	})
	return nil
}

// TestOpaque: what nobody validates passes where the flow says so, and only of
// that kind.
func TestOpaque(t *testing.T) {
	api := compile(t, mediaDoc)
	for kind, tc := range map[string][2]string{
		opaqueGraphQL: {"POST /graphql", "application/json"},
		opaqueGRPC:    {"POST /svc.Do", "application/grpc+proto"},
		opaqueUpload:  {"PUT /upload", "image/png"},
	} {
		for _, allowed := range []string{opaqueGraphQL, opaqueGRPC, opaqueUpload} {
			err := readRequest(t, api, tc[0], tc[1], "{<", []string{allowed})
			if (err == nil) != (allowed == kind) {
				t.Errorf("%s on a flow that lets %s pass: %v", kind, allowed, err)
			}
		}
	}
	op, _, _ := api.Route("POST", "/form")
	if err := op.Check(nil, nil, http.Header{"Content-Type": {"application/json"}}, Opaque(opaqueUpload)); err == nil {
		t.Error("a body that nobody read passes where it must be read")
	}
}

func FuzzRead(f *testing.F) {
	api := compile(f, mediaDoc)
	kind, body := multi(strictform.Part{Name: "avatar", IsFile: true, Filename: "a.png", Type: "image/png", Data: []byte("1")}, strictform.Part{Name: "name", Data: []byte("a")})
	f.Add(kind, body)
	f.Add(typeForm, "name=a&age=3&tag=x")
	f.Add("application/json", `{"name":"a"}`)
	f.Fuzz(func(t *testing.T, kind, body string) { _ = readRequest(t, api, "POST /form", kind, body, nil) })
}

const oldDoc = `
openapi: 3.0.3
paths:
  /a:
    post:
      requestBody: { $ref: "#/components/requestBodies/A" }
      responses: { "200": { description: ok, content: { application/json: { schema: { type: string, nullable: true } } } } }
    put:
      requestBody: { $ref: "#/components/requestBodies/A" }
components:
  requestBodies:
    A: { content: { application/json: { schema: { $ref: "#/components/schemas/A", type: string } } } }
  schemas:
    A:
      type: object
      properties:
        a: { type: string, nullable: true, maxLength: 3 }
        b: { type: integer, minimum: 1, exclusiveMinimum: true, maximum: 9, exclusiveMaximum: false }
        c: { type: array, nullable: false, items: { type: string, nullable: true } }
        nullable: { type: boolean }
        d: { not: { type: string, nullable: true } }
`

// TestOld: a document of OpenAPI 3.0 means what it meant there.
func TestOld(t *testing.T) {
	api := compile(t, oldDoc)
	for body, want := range map[string][]string{
		`{"a":"x","b":2,"c":[null],"nullable":true,"d":1}`: nil,
		`{"a":null,"b":9}`: nil,
		`{"a":"abcd"}`:     {"/body/a: must have at most 3 characters"},
		`{"b":1}`:          {"/body/b: must be more than 1"},
		`{"c":null}`:       {"/body/c: must be of type array"},
		`{"d":null}`:       {"/body/d: does not match the schema"},
		`{"x":1}`:          {"/body/x: is not allowed"},
	} {
		for _, method := range []string{"POST", "PUT"} {
			if diff := cmp.Diff(want, told(t, checkRequest(t, api, method+" /a", body, nil))); diff != "" {
				t.Errorf("%s %s: %s", method, body, diff)
			}
		}
	}
	op, _, _ := api.Route("POST", "/a")
	if a, err := op.Answer(200, "application/json", true); err != nil || a.Check([]byte("null")) != nil {
		t.Errorf("an answer of null: %v", err)
	}
}

func TestNotes(t *testing.T) {
	api := compile(t, `
openapi: 3.1.0
paths:
  /a:
    post:
      requestBody:
        content:
          application/json:
            schema:
              type: object
              properties:
                long: { type: string, x-rampart-open: [length] }
                capped: { type: string }
                short: { type: string, pattern: "^[a-z]{1,9}$" }
                id: { type: string, format: uuid }
                n: { type: integer }
                big: { type: number, x-rampart-open: true }
                free: { type: object, x-rampart-open: [properties], properties: { a: { type: integer, minimum: 0, maximum: 9 } } }
                map: { type: object, additionalProperties: true }
                bare: { type: object }
                nothing: { type: object, maxProperties: 0 }
                maybe: { type: [object, "null"], properties: {} }
                listed: { type: array, maxItems: 2, items: { type: object } }
                named: { $ref: "#/components/schemas/Bare" }
                keyed: { type: object, patternProperties: { "^[a-z]$": { type: boolean } } }
      responses:
        "200": { content: { application/json: { schema: { type: object } } } }
components:
  schemas:
    Bare: { type: object }
`)
	var got []string
	for _, n := range api.Notes() {
		got = append(got, n.Pointer[strings.LastIndexByte(n.Pointer, '/')+1:]+": "+n.Text)
	}
	const closed = ": declares no properties, so no object but {} passes"
	want := []string{
		"Bare" + closed, "bare" + closed,
		"big: is open: items, length, properties, range", "capped: has no maxLength; at most 4096 characters pass", "free: is open: properties", "items" + closed, "long: is open: length",
		"map: takes properties that are not declared", "maybe" + closed, "n: has no minimum or no maximum; 53 bits pass",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for body, ok := range map[string]bool{
		`{"long":"` + strings.Repeat("x", 5000) + `"}`: true, `{"capped":"` + strings.Repeat("x", 5000) + `"}`: false,
		`{"n":9007199254740991}`: true, `{"n":9007199254740992}`: false, `{"big":1e300}`: true, `{"free":{"a":1,"x":"<"}}`: true, `{"free":{"a":10}}`: false,
		`{"bare":{}}`: true, `{"bare":{"a":1}}`: false, `{"listed":[{"a":1}]}`: false, `{"named":{"a":1}}`: false, `{"keyed":{"a":true}}`: true,
	} {
		if err := checkRequest(t, api, "POST /a", body, nil); (err == nil) != ok {
			t.Errorf("%.60s: %v", body, err)
		}
	}
}

// TestUnknownKeywords: a word that no vocabulary has takes a rule away in silence.
// What a property is called is not one.
func TestUnknownKeywords(t *testing.T) {
	const doc = `
paths:
  /a:
    post:
      parameters:
        - { name: q, in: query, schema: { type: string, maxLenght: 9 } }
      requestBody:
        content:
          application/json:
            schema:
              type: object
              requird: [text]
              x-mine: 1
              $comment: fine
              properties:
                requird: { type: string, maxLength: 9, exampel: { foo: 1 }, example: { foo: 1 }, not: { enums: [a] } }
                free: { type: object, properties: {}, unevaluatedProperties: false, colour: red }
      responses:
        "200":
          content:
            application/json:
              schema: { type: array, itmes: { type: string }, xml: { wrapped: true } }
components:
  schemas:
    Unused: { type: object, propertys: {} }
`
	for _, version := range []string{"3.1.0", "3.0.3"} {
		var got []string
		for _, n := range compile(t, "openapi: "+version+doc).Notes() {
			if n.Unknown {
				got = append(got, fmt.Sprint(n.Line, " ", n.Pointer[strings.LastIndexByte(n.Pointer, '/')+1:], " ", n.Fix))
			}
		}
		want := []string{
			`25 propertys did you mean "properties"?`,
			`6 maxLenght did you mean "maxLength"?`,
			`17 colour remove it, or write it with x- before it`,
			`16 exampel did you mean "example"?`,
			`16 enums did you mean "enum"?`,
			`12 requird did you mean "required"?`,
			`22 itmes did you mean "items"?`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
	}
}

const answerDoc = `
openapi: 3.1.0
paths:
  /a:
    get:
      responses:
        "200":
          description: a person
          content:
            application/json: { schema: { $ref: "#/components/schemas/Person" } }
            text/html: {}
        "204": { description: nothing }
        4XX: { description: refused, content: { application/problem+json: { schema: { type: object, properties: { status: { type: integer }, why: { type: string } } } } } }
    post: { responses: { default: { $ref: "#/components/responses/People" } } }
    put: {}
components:
  responses:
    People: { description: people, content: { application/json: { schema: { type: array, items: { $ref: "#/components/schemas/Person" } } } } }
  schemas:
    Person:
      type: object
      required: [id, password]
      properties: { id: { type: string, readOnly: true }, password: { type: string, writeOnly: true }, name: { type: string, maxLength: 3 } }
`

// TestAnswer reads as policy: an answer, and what is wrong with it.
func TestAnswer(t *testing.T) {
	api := compile(t, answerDoc)
	const js, pb = "application/json", "application/problem+json"
	for name, tc := range map[string]struct {
		method string
		status int
		kind   string
		body   string
		want   string // "" is fine
	}{
		"as declared":              {"GET", 200, js + "; charset=utf-8", `{"id":"1","name":"abc"}`, ""},
		"read-only is for answers": {"POST", 200, js, `[{"id":"1"}]`, ""},
		"a hash leaks":             {"GET", 200, js, `{"id":"1","password_hash":"secret"}`, "/body/password_hash: is not allowed"},
		"write-only leaks":         {"GET", 200, js, `{"id":"1","password":"secret"}`, "/body/password: is not allowed"},
		"it leaks in a list":       {"POST", 201, js, `[{"id":"1"},{"id":"2","x":"secret"}]`, "/body/1/x: is not allowed"},
		"a field is missing":       {"GET", 200, js, `{}`, "/body/id: is required"},
		"a wrong length":           {"GET", 200, js, `{"id":"1","name":"secret"}`, "/body/name: must have at most 3 characters"},
		"no JSON":                  {"GET", 200, js, `secret`, "/body: is not JSON with one reading"},
		"two readings":             {"GET", 200, js, `{"id":"1","id":"secret"}`, "/body: is not JSON with one reading"},
		"a page":                   {"GET", 200, "text/html; charset=utf-8", "<p>secret</p>", ""},
		"another type":             {"GET", 200, "text/plain", "secret", "/header/Content-Type: is not declared for this status"},
		"no type":                  {"GET", 200, "", "secret", "/header/Content-Type: is not declared for this status"},
		"no content":               {"GET", 204, "", "", ""},
		"content for none":         {"GET", 204, js, `{"id":"1"}`, "/header/Content-Type: is not declared for this status"},
		"a foreign status":         {"GET", 201, js, `{"id":"1"}`, "/status: is not declared"},
		"not modified":             {"GET", 304, "", "", ""},
		"a problem as declared":    {"GET", 404, pb, `{"status":404,"why":"x"}`, ""},
		"a problem of ours":        {"GET", 403, pb, `{"type":"urn:x","status":403,"trace":"1"}`, ""},
		"a problem that leaks":     {"GET", 403, pb, `{"status":403,"stack":"secret"}`, "/body/stack: is not allowed"},
		"a problem nobody knows":   {"GET", 503, pb, `{"status":503,"title":"x"}`, ""},
		"success is no problem":    {"GET", 200, pb, `{"status":403}`, "/header/Content-Type: is not declared for this status"},
		"nothing is declared":      {"PUT", 200, js, `{}`, "/status: is not declared"},
	} {
		t.Run(name, func(t *testing.T) {
			op, _, err := api.Route(tc.method, "/a")
			if err != nil {
				t.Fatal(err)
			}
			a, err := op.Answer(tc.status, tc.kind, tc.body != "")
			if err == nil {
				err = a.Check([]byte(tc.body))
			}
			if (err == nil) != (tc.want == "") || err != nil && !strings.HasSuffix(err.Error(), ": "+tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
			if err == nil {
				return
			}
			if problem.Status(err) != 502 || rampart.KindOf(err) != rampart.Unavailable || strings.Contains(err.Error(), "secret") || strings.Contains(problem.Sentence(err), "/body") {
				t.Errorf("got %v", err)
			}
		})
	}
}

const paymentDoc = `
openapi: 3.1.0
paths:
  /payments:
    post:
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              required: [order_id, amount, email, card_token]
              properties:
                order_id: { type: string, pattern: "^ord_[0-9a-f]{32}$", maxLength: 36 }
                amount: { type: integer, minimum: 1, maximum: 99999999 }
                email: { type: string, format: email, minLength: 3, maxLength: 254 }
                card_token: { type: string, pattern: "^(tok|pm)_[A-Za-z0-9_]{1,64}$", maxLength: 68 }
                description: { type: string, maxLength: 500 }
`

// BenchmarkRead is all that validation costs a request: the body is decoded,
// checked and written again, and its values are walked as the WAF does.
func BenchmarkRead(b *testing.B) {
	api := compile(b, paymentDoc)
	const text = `{"order_id":"ord_0199a1b2c3d4e5f60718293a4b5c6d7e","amount":2580,"email":"alice.archer@example.com","card_token":"tok_visa_4242","description":"Two mugs, one of them blue, for the kitchen"}`
	op, params, err := api.Route("POST", "/payments")
	if err != nil {
		b.Fatal(err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := op.Read("application/json", []byte(text), ReadOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	body, err := op.Read("application/json", []byte(text), ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := op.Check(params, nil, header, body.Doc); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("values", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			op.Values(params, nil, header, body.Doc, func(int, string) bool { n++; return true })
			if n != 5 {
				b.Fatalf("%d values", n)
			}
		}
	})
	b.Run("answer", func(b *testing.B) {
		op, _, _ := compile(b, answerDoc).Route("GET", "/a")
		b.ReportAllocs()
		for b.Loop() {
			a, err := op.Answer(200, "application/json", true)
			if err == nil {
				err = a.Check([]byte(`{"id":"1","name":"abc"}`))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
