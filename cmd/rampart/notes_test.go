package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/validate/openapi"
)

// What is opened is always told; missing bounds and unknown keywords are counted after the first few.
func TestNotesOf(t *testing.T) {
	var notes []openapi.Note
	for range maxNotes + 2 {
		notes = append(notes, openapi.Note{Line: 7, Pointer: "/a", Text: "has no maxLength"})
	}
	notes = append(notes, openapi.Note{Line: 9, Pointer: "/b", Text: "is open", Open: true})
	for range maxUnknown + 1 {
		notes = append(notes, openapi.Note{Line: 3, Pointer: "/c", Text: "is no keyword", Unknown: true})
	}
	got := notesOf("api.yaml", notes)
	want := append(slicesOf("api.yaml:7: /a has no maxLength", maxNotes), "api.yaml:9: /b is open")
	want = append(append(want, slicesOf("api.yaml:3: /c is no keyword", maxUnknown)...), "api.yaml: 1 more unknown keywords in schemas",
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
