package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// maxNotes bounds what check says of one document's missing bounds. What is
// opened on purpose is listed in full.
const maxNotes = 5

// maxUnknown bounds what check says of one document's unknown keywords.
const maxUnknown = 20

// documentNotes lists what the documents of services leave open, and what got a
// default bound because they say none.
func documentNotes(sys *spec.System) ([]string, error) {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(sys.Services)) {
		doc, ok := sys.Resource(sys.Services[name].OpenAPI)
		if !ok {
			continue
		}
		api, err := openapi.Compile(name, doc)
		if err != nil {
			return nil, err
		}
		out = append(out, notesOf(sys.Services[name].OpenAPI, api.Notes())...)
	}
	return out, nil
}

func notesOf(file string, notes []openapi.Note) []string {
	var out []string
	more, unknown := 0, 0
	for _, n := range notes {
		switch {
		case n.Unknown:
			if unknown++; unknown > maxUnknown {
				continue
			}
		case !n.Open:
			if more++; more > maxNotes {
				continue
			}
		}
		out = append(out, fmt.Sprintf("%s:%d: %s %s", file, n.Line, n.Pointer, n.Text))
	}
	if unknown > maxUnknown {
		out = append(out, fmt.Sprintf("%s: %d more unknown keywords in schemas", file, unknown-maxUnknown))
	}
	if more > maxNotes {
		out = append(out, fmt.Sprintf("%s: %d more values have default bounds; write maxLength, maxItems, minimum and maximum, so that the WAF and the service know them", file, more-maxNotes))
	}
	return out
}
