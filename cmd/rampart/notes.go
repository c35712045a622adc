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

// maxLoud bounds what check says of one document's unknown keywords, and of its
// objects that nothing passes.
const maxLoud = 20

// documentNotes lists what the documents of services leave open, and what got a
// default bound because they say none.
func documentNotes(sys *spec.System) ([]spec.Problem, error) {
	var out []spec.Problem
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

func notesOf(file string, notes []openapi.Note) []spec.Problem {
	var out []spec.Problem
	count := map[openapi.Note]int{}
	for _, n := range notes {
		kind := openapi.Note{Open: n.Open, Unknown: n.Unknown, Closed: n.Closed}
		if count[kind]++; n.Open || count[kind] <= notesShown(n) {
			out = append(out, spec.Problem{File: file, Line: n.Line, Key: n.Pointer, Msg: n.Text, Fix: n.Fix})
		}
	}
	for _, rest := range []struct {
		of       openapi.Note
		msg, fix string
	}{
		{openapi.Note{Unknown: true}, "%d more unknown keywords in schemas", ""},
		{openapi.Note{Closed: true}, "%d more objects without properties", ""},
		{openapi.Note{}, "%d more values have default bounds", "write maxLength, maxItems, minimum and maximum, so that the WAF and the service know them"},
	} {
		if more := count[rest.of] - notesShown(rest.of); more > 0 {
			out = append(out, spec.Problem{File: file, Msg: fmt.Sprintf(rest.msg, more), Fix: rest.fix})
		}
	}
	return out
}

// notesShown is how many notes like n are listed.
func notesShown(n openapi.Note) int {
	if n.Unknown || n.Closed {
		return maxLoud
	}
	return maxNotes
}
