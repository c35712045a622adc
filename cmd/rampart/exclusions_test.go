package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

const notesDoc = `
openapi: 3.1.0
info: { title: Notes, version: 1.0.0 }
paths:
  /notes/{id}:
    post:
      parameters:
        - { name: id, in: path, required: true, schema: { type: string } }
        - { name: q, in: query, schema: { type: string } }
      requestBody:
        content:
          application/json: { schema: { type: object, properties: { text: { type: string }, lines: { type: array, items: { type: object, properties: { text: { type: string } } } } } } }
      responses: { "200": { description: done } }
`

// What does nothing is told, with the key that is at fault; what does is not.
func TestIdleExclusion(t *testing.T) {
	api, err := openapi.Compile("notes", []byte(notesDoc))
	if err != nil {
		t.Fatal(err)
	}
	const route = "POST /notes/{id}"
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.AddDate(0, 1, 0)
	for name, tc := range map[string]struct {
		route, field string
		until        time.Time
		want         string
	}{
		"a member":                      {route, "body:/text", later, ""},
		"a member of each item":         {route, "body:/lines/*/text", later, ""},
		"a member of one item":          {route, "body:/lines/0/text", later, ""},
		"a whole list":                  {route, "body:/lines", later, ""},
		"the whole body":                {route, "body:", later, ""},
		"a parameter":                   {route, "query:q", later, ""},
		"a part of the path":            {route, "path:id", later, ""},
		"a header that nobody declares": {route, "header:Referer", later, ""},
		"a member with a slip":          {route, "body:/txt", later, "field"},
		"a parameter with a slip":       {route, "query:text", later, "field"},
		"another method":                {"PUT /notes/{id}", "body:/text", later, "route"},
		"an address for a route":        {"POST /notes/7", "body:/text", later, "route"},
		"the day itself":                {route, "body:/text", now, "until"},
	} {
		t.Run(name, func(t *testing.T) {
			x := spec.WAFExclude{Route: tc.route, Field: tc.field, Until: tc.until}
			if key, msg, _ := idleExclusion(x, api.Operations(), now); key != tc.want {
				t.Errorf("%q (%s), want %q", key, msg, tc.want)
			}
		})
	}
	if key, _, _ := idleExclusion(spec.WAFExclude{Route: route, Field: "body:/text", Until: later}, nil, now); key != "" {
		t.Errorf("a service without a document: %q", key)
	}
}

// TestStartWithUnknownRule: a control plane does not start with a file that check
// refuses. What was applied it takes as it is.
func TestStartWithUnknownRule(t *testing.T) {
	const text = `rampart: v1
system: { name: notes }
services:
  edge: { role: gateway }
  notes: { upstream: "http://127.0.0.1:9000" }
flows:
  - { from: users, to: edge, authn: session }
  - { from: edge, to: notes, allow: any, waf: { exclude: [{ route: "GET /x", field: "query:q", rules: [942999], reason: prose, until: 2099-06-30 }] } }
`
	file := filepath.Join(t.TempDir(), "rampart.yaml")
	for rule, refused := range map[string]bool{"942999": true, "942190": false} {
		if err := os.WriteFile(file, []byte(strings.Replace(text, "942999", rule, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := startWith(nil, file, false); refused != (err != nil) || refused && !strings.Contains(err.Error(), "no rule 942999") {
			t.Errorf("rule %s: %v, want it refused: %v", rule, err, refused)
		}
	}
}
