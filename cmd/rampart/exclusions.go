package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// idleExclusions names exclusions of the firewall that do nothing: their date is
// past, no operation has the route or the field, or the rules are not asked at this
// level. They refuse too much and never too little, so they are no errors.
func idleExclusions(sys *spec.System, now time.Time) ([]spec.Problem, error) {
	ops, _, err := operations(sys)
	if err != nil {
		return nil, err
	}
	_, out, err := excludedRules(sys)
	if err != nil {
		return nil, err
	}
	for i, f := range sys.Flows {
		if f.WAF == nil {
			continue
		}
		for j, x := range f.WAF.Exclude {
			if key, msg, fix := idleExclusion(x, ops[f.To], now); key != "" {
				out = append(out, sys.Problem(fmt.Sprintf("flows[%d].waf.exclude[%d].%s", i, j, key), msg, fix))
			}
		}
	}
	return out, nil
}

// knownRules refuses a file that excludes a rule which does not exist. The gateway
// would enforce it, and refuse what the file seems to let in.
func knownRules(sys *spec.System) error {
	unknown, _, err := excludedRules(sys)
	if err != nil || len(unknown) == 0 {
		return err
	}
	return unknown
}

// excludedRules sorts out the rules of all exclusions as idleRules does. The rules
// are read only if there is an exclusion.
func excludedRules(sys *spec.System) (unknown, idle spec.Problems, err error) {
	var levels map[int]int
	for i, f := range sys.Flows {
		if f.WAF == nil {
			continue
		}
		for j, x := range f.WAF.Exclude {
			if levels == nil {
				if levels, err = ruleLevels(); err != nil {
					return nil, nil, err
				}
			}
			none, waits := idleRules(sys, fmt.Sprintf("flows[%d].waf.exclude[%d].rules", i, j), x.Rules, f.WAF.Paranoia, levels)
			unknown, idle = append(unknown, none...), append(idle, waits...)
		}
	}
	return unknown, idle, nil
}

var (
	ruleID    = regexp.MustCompile(`\bid:'?([0-9]{6})\b`)
	ruleLevel = regexp.MustCompile(`paranoia-level/([1-4])`)
)

// ruleLevels returns the rules that there are, each with the paranoia level from
// which on it is asked.
func ruleLevels() (map[int]int, error) {
	pool := &waf.Pool{}
	defer pool.Close()
	engine, err := pool.Engine(waf.Options{Paranoia: 4})
	if err != nil {
		return nil, err
	}
	out := map[int]int{}
	for _, source := range engine.Rules().Sources {
		for _, rule := range strings.Split(source.Text, "\nSec") {
			if id := ruleID.FindStringSubmatch(rule); id != nil {
				n, _ := strconv.Atoi(id[1]) // six digits
				out[n] = 1
				if level := ruleLevel.FindStringSubmatch(rule); level != nil {
					out[n] = int(level[1][0] - '0')
				}
			}
		}
	}
	return out, nil
}

// idleRules sorts out ids that no rule has, which are slips, and rules that are not
// asked at this level, which wait for it.
func idleRules(sys *spec.System, key string, ids []int, level int, levels map[int]int) (unknown, idle spec.Problems) {
	for k, id := range ids {
		at := fmt.Sprintf("%s[%d]", key, k)
		switch from := levels[id]; {
		case from == 0:
			unknown = append(unknown, sys.Problem(at, fmt.Sprintf("the Core Rule Set has no rule %d", id), "copy the id from rules of an event of class waf"))
		case from > level:
			idle = append(idle, sys.Problem(at, fmt.Sprintf("rule %d is asked from paranoia level %d on, and this is level %d, so this excludes nothing", id, from, level), "remove it, or raise paranoia"))
		}
	}
	return unknown, idle
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
