package gateway

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/validate/strictform"
)

const shopDoc = `
openapi: 3.1.0
info: { title: Shop, version: 1.0.0 }
paths:
  /orders/{id}:
    get:
      parameters:
        - { name: id, in: path, required: true, schema: { type: string, pattern: "^[a-z0-9]{1,16}$" } }
        - { name: theme, in: cookie, schema: { enum: [dark, light] } }
      responses:
        "200":
          description: The order
          content:
            application/json: { schema: { type: object, required: [id], properties: { id: { type: string }, note: { type: string } } } }
            text/event-stream: {}
  /photos:
    post:
      x-rampart: { permission: "shop:write" }
      x-rampart-encoding: [gzip]
      requestBody:
        content:
          application/json: { schema: { type: object, properties: { name: { type: string, maxLength: 900 } } } }
          application/x-www-form-urlencoded: { schema: { type: object, properties: { name: { type: string, maxLength: 9 } } } }
          multipart/form-data: { schema: { type: object, properties: { name: { type: string, maxLength: 9 }, photo: { type: string, format: binary, maxLength: 16 } } } }
      responses: { "200": { description: done } }
  /graphql: { post: { x-rampart: { permission: "shop:write", opaque: graphql }, requestBody: { content: { application/json: {} } }, responses: { "200": { description: done } } } }
  /raw: { post: { x-rampart: { permission: "shop:write" }, requestBody: { content: { application/octet-stream: {} } }, responses: { "200": { description: done } } } }
`

const stockDoc = `
openapi: 3.0.3
info: { title: Stock, version: 1.0.0 }
paths:
  /stock/{sku}:
    get:
      parameters: [{ name: sku, in: path, required: true, schema: { type: string, maxLength: 9 } }]
      responses: { "200": { description: ok, content: { application/json: { schema: { type: object, properties: { left: { type: integer } } } } } } }
`

// openJudged opens a house whose shop checks its answers strictly and takes
// GraphQL unread, and whose stock's answers are sampled.
func openJudged(t *testing.T) *house {
	file := controltest.File(t,
		"validate: { max_body: 1KiB }\n    idempotency: { header: Idempotency-Key }\n    nonce: { header: Rampart-Nonce, window: 5m }", "validate: { max_body: 1KiB, response: strict, opaque: [graphql] }\n    waf: { mode: \"off\" }",
		"headers: [X-Kept]", "headers: [X-Kept], openapi: stock.openapi.yaml",
		`["shop:read", "shop:write", "stock:read"]`, `["shop:read", "shop:write", "stock:read"]`)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "shop.openapi.yaml"), []byte(shopDoc), 0o600))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "stock.openapi.yaml"), []byte(stockDoc), 0o600))
	return openFile(t, file)
}

func TestValidation(t *testing.T) {
	h := openJudged(t)
	ann := h.token("ann", "app")
	t.Run("bodies", func(t *testing.T) { bodies(t, h, ann) })
	t.Run("places on record", func(t *testing.T) { placesOnRecord(t, h, ann) })
	t.Run("upload", func(t *testing.T) { upload(t, h, ann) })
	t.Run("cookies", func(t *testing.T) { cookies(t, h, ann) })
	t.Run("answers", func(t *testing.T) { answers(t, h, ann) })
	t.Run("samples", func(t *testing.T) { answersSampled(t, h, ann) })
}

func zip(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, text)
	must(t, err)
	must(t, z.Close())
	return b.String()
}

func bodies(t *testing.T, h *house, ann string) {
	const js, form = "application/json", "application/x-www-form-urlencoded"
	for name, tc := range map[string]struct {
		path, kind, body string
		encoding         string
		status           int
		got              string // by the service
	}{
		"JSON with white space":  {"/photos", js, `{ "name" : "a" }`, "", 200, `{"name":"a"}`},
		"a form":                 {"/photos", form, "name=a%62", "", 200, "name=ab"},
		"a form with more in it": {"/photos", form, "name=a&role=admin", "", 400, ""},
		"another type":           {"/photos", "text/xml", "<x/>", "", 415, ""},
		"another character set":  {"/photos", js + "; charset=utf-16", "{}", "", 415, ""},
		"gzip":                   {"/photos", js, zip(t, `{"name":"a"}`), "gzip", 200, `{"name":"a"}`},
		"gzip, checked inside":   {"/photos", js, zip(t, `{"role":"a"}`), "gzip", 400, ""},
		"a bomb":                 {"/photos", js, zip(t, `{"name":"`+strings.Repeat("a", 64<<10)+`"}`), "gzip", 413, ""},
		"no gzip":                {"/photos", js, `{"name":"a"}`, "gzip", 400, ""},
		"two members":            {"/photos", js, zip(t, `{"name":"a"}`) + zip(t, "x"), "gzip", 400, ""},
		"gzip twice":             {"/photos", js, zip(t, "{}"), "gzip, gzip", 415, ""},
		"another coding":         {"/photos", js, "{}", "br", 415, ""},
		"gzip not declared":      {"/graphql", js, zip(t, "{}"), "gzip", 415, ""},
		"GraphQL, unread":        {"/graphql", js, `{ "query": "{a}" }`, "", 200, `{ "query": "{a}" }`},
		"an upload, not let in":  {"/raw", "application/octet-stream", "x", "", 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{"Authorization", ann, "Content-Type", tc.kind}
			if tc.encoding != "" {
				header = append(header, "Content-Encoding", tc.encoding)
			}
			before := h.served()
			res := h.do("POST", tc.path, tc.body, header...)
			if res.StatusCode != tc.status {
				t.Fatalf("%s %s, want %d", res.Status, res.body, tc.status)
			}
			if tc.status != 200 {
				if h.served() != before {
					t.Error("the service got it")
				}
				return
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.body != tc.got || h.last.Header.Get("Content-Encoding") != "" {
				t.Errorf("the service got %q, encoded %q", h.body, h.last.Header.Get("Content-Encoding"))
			}
		})
	}
}

// placesOnRecord: who looks after the system sees what was wrong with a request
// that was refused, as its caller does, and no value of it.
func placesOnRecord(t *testing.T, h *house, ann string) {
	send := func(body string) string {
		h.do("POST", "/photos", body, "Authorization", ann, "Content-Type", "application/json")
		return h.newest().Detail["fields"]
	}
	if got, want := send(`{"name":7,"role":"hush"}`), "/body/name must be of type string; /body/role is not allowed"; got != want {
		t.Errorf("fields %q, want %q", got, want)
	}
	if got := send(`{"` + strings.Repeat("a", 300) + `":1, "` + strings.Repeat("b", 300) + `":1}`); len(got) != 400 {
		t.Errorf("%d bytes of fields whose names the caller chose: %q", len(got), got)
	}
}

// upload: the service's parser sees what was validated, in a form that we wrote.
func upload(t *testing.T, h *house, ann string) {
	var got map[string]string
	var boundary string
	h.serve(func(_ http.ResponseWriter, r *http.Request) {
		got = map[string]string{}
		_, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		boundary = params["boundary"]
		form, err := multipart.NewReader(strings.NewReader(h.body), boundary).ReadForm(1 << 20)
		if err != nil {
			t.Errorf("the service cannot read it: %v", err)
			return
		}
		for name, v := range form.Value {
			got[name] = v[0]
		}
		for name, v := range form.File {
			f, _ := v[0].Open()
			b, _ := io.ReadAll(f)
			got[name] = fmt.Sprintf("%s %s %s", v[0].Filename, v[0].Header.Get("Content-Type"), b)
		}
	})
	defer h.serve(nil)
	photo := strictform.Part{Name: "photo", IsFile: true, Filename: "a.png", Type: "image/png", Data: []byte("1234")}
	kind, body := strictform.EncodeMultipart([]strictform.Part{{Name: "name", Data: []byte("a")}, photo})
	own := strings.TrimPrefix(kind, "multipart/form-data; boundary=")
	kind, body = strings.ReplaceAll(kind, own, "theirs"), bytes.ReplaceAll(body, []byte(own), []byte("theirs"))
	if res := h.do("POST", "/photos", string(body), "Authorization", ann, "Content-Type", kind); res.StatusCode != 200 {
		t.Fatalf("%s %s", res.Status, res.body)
	}
	if diff := cmp.Diff(map[string]string{"name": "a", "photo": "a.png image/png 1234"}, got); diff != "" {
		t.Error(diff)
	}
	if boundary == "theirs" {
		t.Error("the caller's bytes were forwarded")
	}
	photo.Data = make([]byte, 17)
	kind, body = strictform.EncodeMultipart([]strictform.Part{photo})
	if res := h.do("POST", "/photos", string(body), "Authorization", ann, "Content-Type", kind); res.StatusCode != 400 {
		t.Errorf("a file too large: %s", res.Status)
	}
}

// cookies: the declared one reaches the service, the session never.
func cookies(t *testing.T, h *house, ann string) {
	h.serve(order(`{"id":"o1"}`))
	defer h.serve(nil)
	if res := h.do("GET", "/orders/o1", "", "Authorization", ann, "Cookie", "tracker=1; theme=dark"); res.StatusCode != 200 {
		t.Fatalf("%s %s", res.Status, res.body)
	}
	h.mu.Lock()
	got := h.last.Header.Get("Cookie")
	h.mu.Unlock()
	if got != "theme=dark" {
		t.Errorf("the service got the cookies %q", got)
	}
	if res := h.do("GET", "/orders/o1", "", "Authorization", ann, "Cookie", "theme=red"); res.StatusCode != 400 {
		t.Errorf("a wrong cookie: %s", res.Status)
	}
}

// order answers with a body of type JSON.
func order(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
}

func answers(t *testing.T, h *house, ann string) {
	defer h.serve(nil)
	for name, tc := range map[string]struct {
		service http.HandlerFunc
		status  int
		reason  string
	}{
		"as declared":  {order(`{"id":"o1","note":"` + strings.Repeat("x", 9000) + `"}`), 200, ""},
		"a hash leaks": {order(`{"id":"o1","password_hash":"$argon2id$secret"}`), 502, "/body/password_hash: is not allowed"},
		"no JSON":      {order(`secret`), 502, "/body: is not JSON with one reading"},
		"too long":     {order(`{"id":"` + strings.Repeat("x", maxJudged) + `"}`), 502, "longer than can be checked"},
		"another type": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "secret")
		}, 502, "/header/Content-Type: is not declared for this status"},
		"another status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(203) }, 502, "/status: is not declared"},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, zip(t, `{"password":"secret"}`))
		}, 502, "encoded"},
		"a stream": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
		}, 200, ""},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"id":`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 503, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h.serve(tc.service)
			res := h.do("GET", "/orders/o1", "", "Authorization", ann, "Accept-Encoding", "gzip", "Range", "bytes=0-1")
			if res.StatusCode != tc.status || strings.Contains(res.body, "secret") || strings.Contains(res.body, "/body") {
				t.Fatalf("%s %.200s, want %d", res.Status, res.body, tc.status)
			}
			if tc.status != 502 {
				return
			}
			e := h.newest()
			if e.Control != "validate.response" || e.Class != "validation" || e.Outcome == audit.Allowed || !strings.Contains(e.Detail["error"], tc.reason) || strings.Contains(fmt.Sprint(e), "secret") {
				t.Errorf("on record: %+v", e)
			}
		})
	}
}

// answersSampled: of the stock's answers the first is judged, after it was sent,
// and then one in 64.
func answersSampled(t *testing.T, h *house, ann string) {
	h.serve(order(`{"left":1,"password":"secret"}`))
	defer h.serve(nil)
	findings := func() (n int) {
		for _, e := range h.Events("gateway_edge") {
			if e.Code == "sampled" && e.Control == "validate.response" && strings.Contains(e.Detail["error"], "/body/password: is not allowed") && !strings.Contains(fmt.Sprint(e), "secret") {
				n++
			}
		}
		return n
	}
	for range sampleEvery {
		if res := h.do("GET", "/stock/mug", "", "Authorization", ann); res.StatusCode != 200 || !strings.Contains(res.body, "secret") {
			t.Fatalf("%s %s", res.Status, res.body)
		}
	}
	h.Until("the sample is on record", func() bool { return findings() > 0 })
	if n := findings(); n != 1 {
		t.Errorf("%d findings in %d answers, want 1", n, sampleEvery)
	}
}

// TestSamplesAreBounded: what finds no place holds no request up.
func TestSamplesAreBounded(t *testing.T) {
	q := newSamples()
	for range maxSamples + 3 {
		q.put(sample{})
	}
	if n := q.dropped.Load(); n != 3 {
		t.Errorf("%d dropped, want 3", n)
	}
}
