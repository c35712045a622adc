package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/validate/openapi"
)

// What is opened is always told; missing bounds, unknown keywords and what takes nothing are counted after the first few.
func TestNotesOf(t *testing.T) {
	var notes []openapi.Note
	for range maxNotes + 2 {
		notes = append(notes, openapi.Note{Line: 7, Pointer: "/a", Text: "has no maxLength"})
	}
	notes = append(notes, openapi.Note{Line: 9, Pointer: "/b", Text: "is open", Open: true})
	for range maxLoud + 1 {
		notes = append(notes, openapi.Note{Line: 3, Pointer: "/c", Text: "is no keyword", Fix: "remove it", Unknown: true}, openapi.Note{Pointer: "/d", Text: "is shut", Closed: true})
	}
	var got []string
	for _, p := range notesOf("api.yaml", notes) {
		got = append(got, p.String())
	}
	want := append(slicesOf("api.yaml:7: /a: has no maxLength", maxNotes), "api.yaml:9: /b: is open")
	for range maxLoud {
		want = append(want, "api.yaml:3: /c: is no keyword; remove it", "api.yaml: /d: is shut")
	}
	want = append(want, "api.yaml: 1 more unknown keywords in schemas", "api.yaml: 1 more objects without properties",
		"api.yaml: 2 more values have default bounds; write maxLength, maxItems, minimum and maximum, so that the WAF and the service know them")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func slicesOf(s string, n int) (out []string) {
	for range n {
		out = append(out, s)
	}
	return out
}
