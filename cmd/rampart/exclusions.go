package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// idleExclusions names exclusions of the firewall that do nothing: their date is
// past, or no operation has the route or the field. They refuse too much and
// never too little, so they are no errors.
func idleExclusions(sys *spec.System, now time.Time) ([]string, error) {
	ops, _, err := operations(sys)
	if err != nil {
		return nil, err
	}
	var out []string
	for i, f := range sys.Flows {
		if f.WAF == nil {
			continue
		}
		for j, x := range f.WAF.Exclude {
			if key, msg, fix := idleExclusion(x, ops[f.To], now); key != "" {
				out = append(out, sys.Problem(fmt.Sprintf("flows[%d].waf.exclude[%d].%s", i, j, key), msg, fix).String())
			}
		}
	}
	return out, nil
}

// idleExclusion returns the key that is at fault, or "". What a service without
// a document takes nobody knows.
func idleExclusion(x spec.WAFExclude, ops []*openapi.Operation, now time.Time) (key, msg, fix string) {
	if !now.Before(x.Until) {
		return "until", "the date is past, and the rules are back", "remove the exclusion, or look at it again and write a later date"
	}
	if ops == nil {
		return "", "", ""
	}
	i := slices.IndexFunc(ops, func(op *openapi.Operation) bool { return op.Method+" "+op.Path == x.Route })
	if i < 0 {
		return "route", fmt.Sprintf("the service has no operation %q, so this excludes nothing", x.Route), "write a method and a path as the document does; rampart waf explain lists them"
	}
	where, name, _ := strings.Cut(x.Field, ":")
	known := func(f openapi.Fact) bool { return f.Where == where && samePlace(f.Name, name) }
	if (where == "body" || where == "query" || where == "path") && !slices.ContainsFunc(ops[i].Facts(), known) {
		return "field", fmt.Sprintf("%s has no field %q, so this excludes nothing", x.Route, x.Field), "write a field as rampart waf explain " + x.Route + " lists it"
	}
	return "", "", ""
}

// samePlace reports whether two JSON pointers may lead to the same value, or one
// to what holds the other; * is any member or item, ** any depth. Names equal
// themselves.
func samePlace(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		if as[i] == "**" {
			return true
		}
		if as[i] != bs[i] && as[i] != "*" && bs[i] != "*" {
			return false
		}
	}
	return true
}
