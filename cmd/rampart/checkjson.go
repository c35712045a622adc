package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/rampart-security/rampart/authz/bundle"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// checked is what check --json prints.
type checked struct {
	System   *checkedSystem `json:"system,omitempty"` // nil: the file is refused
	Errors   []finding      `json:"errors"`
	Warnings []finding      `json:"warnings"`
}

type checkedSystem struct {
	Name     string   `json:"name"`
	Services int      `json:"services"`
	Flows    int      `json:"flows"`
	Controls int      `json:"controls"`
	Digest   string   `json:"digest"`
	SignedBy []string `json:"signed_by,omitempty"` // ids of the keys of policy bundles
}

// finding is an error or a warning. What is not known of it is left out.
type finding struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`   // 1-based
	Column int    `json:"column,omitempty"` // 1-based, in characters
	Key    string `json:"key,omitempty"`    // path in rampart.yaml, or JSON pointer in a document
	Rule   string `json:"rule"`
	Fix    string `json:"fix,omitempty"`
}

func checkedSystemOf(sys *spec.System) *checkedSystem {
	out := &checkedSystem{Name: sys.Info.Name, Services: len(sys.Services), Flows: len(sys.Flows), Controls: len(sys.Controls()), Digest: sys.Bundle().Digest}
	if keys, err := bundle.ParseKeys(sys.Authz.Bundle.Keys); err == nil {
		out.SignedBy = slices.Sorted(maps.Keys(keys))
	}
	return out
}

// checkAsJSON prints what check has to say of sys, or of the error that it did
// not load with. The exit code is the one without --json.
func checkAsJSON(w io.Writer, file string, sys *spec.System, err error) error {
	out := checked{Errors: []finding{}, Warnings: []finding{}}
	if err == nil {
		var list []spec.Problem
		list, err = warnings(sys, time.Now())
		out.Warnings = append(out.Warnings, findingsOf(list)...)
	}
	if err == nil {
		err = sys.AdmitUnsafe(false)
	}
	if err != nil {
		out.Errors = append(out.Errors, faultsOf(file, err)...)
	} else {
		out.System = checkedSystemOf(sys)
	}
	if bad := json.NewEncoder(w).Encode(out); bad != nil {
		return bad
	}
	if err == nil {
		return nil
	}
	code := exitUsage
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	}
	return &exitError{code, nil}
}

func findingsOf(list []spec.Problem) []finding {
	var out []finding
	for _, p := range list {
		out = append(out, finding{p.File, p.Line, p.Col, p.Key, p.Msg, p.Fix})
	}
	return out
}

// faultsOf takes an error apart as far as it says where it comes from.
func faultsOf(file string, err error) []finding {
	if list, ok := errors.AsType[spec.Problems](err); ok {
		return findingsOf(list)
	}
	bad, ok := errors.AsType[*documentError](err)
	if !ok {
		return []finding{{File: file, Rule: err.Error()}}
	}
	if at, ok := errors.AsType[*openapi.Fault](bad); ok {
		return []finding{{File: bad.file, Line: at.Line, Key: at.Pointer, Rule: at.Msg}}
	}
	return []finding{{File: bad.file, Rule: bad.err.Error()}}
}
