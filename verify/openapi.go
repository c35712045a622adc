package verify

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/spec"
)

// operation is one thing that the edge offers, as the documents declare it.
type operation struct {
	service    string
	flow       spec.Flow // from the gateway to the service
	method     string
	path       string // public, with {name} templates
	permission string
	tenant     string // "path.NAME" or "body.NAME": where the organization stands; "" nowhere
	params     []param
	body       schema // nil: takes none
	declared   bool   // by an OpenAPI document
}

type param struct {
	in, name string
	required bool
	schema   schema
	example  any
}

// schema is a JSON Schema with its references followed.
type schema map[string]any

// document is an OpenAPI document as far as probes read it.
type document struct{ root map[string]any }

// operations lists what the edge offers: each operation of each document, and
// for a service without one its mount.
func operations(sys *spec.System) ([]operation, error) {
	var out []operation
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		svc := sys.Services[f.To]
		if svc.OpenAPI == "" {
			for _, m := range svc.Methods {
				out = append(out, operation{service: f.To, flow: f, method: m, path: svc.Mount})
			}
			continue
		}
		text, _ := sys.Resource(svc.OpenAPI)
		var d document
		if err := yaml.Unmarshal(text, &d.root); err != nil {
			return nil, fmt.Errorf("%s: %w", svc.OpenAPI, err)
		}
		out = append(out, d.operations(f, svc)...)
	}
	slices.SortStableFunc(out, func(a, b operation) int {
		return cmp.Or(strings.Compare(a.service, b.service), strings.Compare(a.path, b.path), strings.Compare(a.method, b.method))
	})
	return out, nil
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

func (d document) operations(f spec.Flow, svc spec.Service) []operation {
	var out []operation
	paths, _ := d.root["paths"].(map[string]any)
	for path, raw := range paths {
		item := d.follow(raw)
		for _, m := range methods {
			op, ok := item[strings.ToLower(m)].(map[string]any)
			if !ok {
				continue
			}
			o := operation{service: f.To, flow: f, method: m, path: strings.TrimSuffix(svc.Mount, "/") + path, declared: true}
			ext, _ := op["x-rampart"].(map[string]any)
			o.permission, _ = ext["permission"].(string)
			o.tenant, _ = ext["tenant"].(string)
			o.params = append(d.params(item["parameters"]), d.params(op["parameters"])...)
			o.body = d.bodySchema(op["requestBody"])
			out = append(out, o)
		}
	}
	return out
}

func (d document) params(raw any) []param {
	list, _ := raw.([]any)
	var out []param
	for _, v := range list {
		m := d.follow(v)
		p := param{schema: d.resolve(m["schema"], 0), example: m["example"]}
		p.in, _ = m["in"].(string)
		p.name, _ = m["name"].(string)
		p.required, _ = m["required"].(bool)
		out = append(out, p)
	}
	return out
}

func (d document) bodySchema(raw any) schema {
	body := d.follow(raw)
	content, _ := body["content"].(map[string]any)
	media, _ := content["application/json"].(map[string]any)
	if media == nil {
		return nil
	}
	return d.resolve(media["schema"], 0)
}

// follow returns a node with its reference followed.
func (d document) follow(raw any) map[string]any {
	m, _ := raw.(map[string]any)
	for range 16 {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		m = d.at(ref)
	}
	return nil
}

// at finds "#/a/b".
func (d document) at(ref string) map[string]any {
	node := d.root
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		next, _ := node[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)].(map[string]any)
		node = next
	}
	return node
}

const maxSchemaDepth = 12

// resolve copies a schema with every reference in it followed, to a bounded
// depth.
func (d document) resolve(raw any, depth int) schema {
	m := d.follow(raw)
	if m == nil || depth > maxSchemaDepth {
		return nil
	}
	out := schema{}
	maps.Copy(out, m)
	if props, ok := m["properties"].(map[string]any); ok {
		copied := map[string]any{}
		for name, p := range props {
			copied[name] = d.resolve(p, depth+1)
		}
		out["properties"] = copied
	}
	if items, ok := m["items"]; ok {
		out["items"] = d.resolve(items, depth+1)
	}
	return out
}

// properties returns the members that an object schema declares.
func (s schema) properties() map[string]schema {
	raw, _ := s["properties"].(map[string]any)
	out := map[string]schema{}
	for name, p := range raw {
		switch v := p.(type) {
		case schema:
			out[name] = v
		case map[string]any:
			out[name] = v
		}
	}
	return out
}

func (s schema) required() []string {
	list, _ := s["required"].([]any)
	var out []string
	for _, v := range list {
		if name, ok := v.(string); ok {
			out = append(out, name)
		}
	}
	return out
}

func (s schema) typ() string {
	t, _ := s["type"].(string)
	return t
}

// url fills the path and the required query of an operation with values that
// fit, or with those given.
func (o operation) url(given map[string]string) (string, error) {
	path, query := o.path, url.Values{}
	for _, p := range o.params {
		value, ok := given[p.name]
		if !ok {
			v, err := p.sample()
			if err != nil {
				return "", fmt.Errorf("%s %s: parameter %s: %w", o.method, o.path, p.name, err)
			}
			value = fmt.Sprint(v)
		}
		switch {
		case p.in == "path":
			path = strings.ReplaceAll(path, "{"+p.name+"}", url.PathEscape(value))
		case p.in == "query" && p.required:
			query.Set(p.name, value)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path, nil
}

func (p param) sample() (any, error) {
	if p.example != nil {
		return p.example, nil
	}
	return p.schema.sample(0)
}

// find returns the operation that a call goes to.
func (t *target) find(method, path string) (operation, bool) {
	path, _, _ = strings.Cut(path, "?")
	for _, o := range t.ops {
		if o.method == method && matches(o, path) {
			return o, true
		}
	}
	return operation{}, false
}

func matches(o operation, path string) bool {
	if !o.declared {
		return strings.HasPrefix(path, o.path)
	}
	want, got := strings.Split(o.path, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}

// readable is the request that any user with the right roles may make without
// harm: a GET whose parameters can be left out or made up.
func (t *target) readable() (request, operation, error) {
	best := operation{}
	for _, o := range t.ops {
		if o.method != http.MethodGet || o.tenant != "" {
			continue
		}
		if best.method == "" || len(o.params) < len(best.params) {
			best = o
		}
	}
	if best.method == "" {
		return request{}, best, fmt.Errorf("the file has no GET without an organization in it")
	}
	path, err := best.url(nil)
	return get(path), best, err
}
