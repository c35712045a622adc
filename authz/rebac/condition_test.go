package rebac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
)

// Each row is a condition: its parameters, its text, what the question gives,
// and the answer: "yes", "no", or a part of the error.
func TestConditionTypes(t *testing.T) {
	list, obj := []any{"a", "b"}, map[string]any{"k": 2.0}
	for name, row := range map[string]struct {
		params, text string
		given        any
		want         string
	}{
		"bool":                {"x: bool", "x", true, "yes"},
		"bool of text":        {"x: bool", "x", "true", "bool is expected"},
		"string":              {"x: string", "x == 'a'", "a", "yes"},
		"int":                 {"x: int", "x == 3", 3.0, "yes"},
		"int of an int":       {"x: int", "x == 3", int64(3), "yes"},
		"int beyond floats":   {"x: int", "x == 9007199254740993", "9007199254740993", "yes"},
		"int of a fraction":   {"x: int", "x == 3", 3.5, "not an int"},
		"int of text":         {"x: int", "x == 3", "three", "plain number"},
		"int of a word":       {"x: int", "x == 3", "two", "not a number"},
		"int of an exponent":  {"x: int", "x == 3", "1e999999999", "plain number"},
		"int of a list":       {"x: int", "x == 3", list, "number is expected"},
		"int overflow":        {"x: int", "x + 9223372036854775807 > 0", 1.0, "overflow"},
		"uint":                {"x: uint", "x == 3u", 3.0, "yes"},
		"uint below zero":     {"x: uint", "x == 3u", -3.0, "not a uint"},
		"double":              {"x: double", "x > 1.5", 1.75, "yes"},
		"duration":            {"x: duration", "x < duration('1h')", "59m", "yes"},
		"duration of text":    {"x: duration", "x < duration('1h')", "soon", "is not a"},
		"timestamp":           {"x: timestamp", "x < timestamp('2030-01-01T00:00:00Z')", "2029-01-01T00:00:00+02:00", "yes"},
		"timestamp of number": {"x: timestamp", "x < timestamp('2030-01-01T00:00:00Z')", 5.0, "text is expected"},
		"list":                {"x: list<string>", "'b' in x", list, "yes"},
		"list of others":      {"x: list<int>", "2 in x", list, "not a number"},
		"list of text":        {"x: list<string>", "'b' in x", "b", "list is expected"},
		"map":                 {"x: map<int>", "x.k == 2", obj, "yes"},
		"map without the key": {"x: map<int>", "x.j == 2", obj, "no such key"},
		"map of a list":       {"x: map<int>", "x.k == 2", list, "map is expected"},
		"address":             {"x: ipaddress", "x.in_cidr('10.0.0.0/8')", "10.1.2.3", "yes"},
		"address outside":     {"x: ipaddress", "x.in_cidr('10.0.0.0/8')", "11.1.2.3", "no"},
		"address in disguise": {"x: ipaddress", "x.in_cidr('10.0.0.0/8')", "::ffff:10.1.2.3", "yes"},
		"range in disguise":   {"x: ipaddress", "x.in_cidr('::ffff:10.0.0.0/104')", "10.1.2.3", "yes"},
		"address compared":    {"x: ipaddress", "x == ipaddress('10.1.2.3') && x != ipaddress('::1') && type(x) == type(ipaddress('::1'))", "10.1.2.3", "yes"},
		"no address":          {"x: ipaddress", "x.in_cidr('10.0.0.0/8')", "10.1", "is not a"},
		"no range":            {"x: ipaddress", "x.in_cidr('10')", "10.1.2.3", "not a range"},
		"address from text":   {"x: string", "ipaddress(x).in_cidr('10.0.0.0/8')", "x", "not an IP address"},
		"runaway":             {"x: list<string>", "x.all(a, x.all(b, x.all(c, x.all(d, a + b + c + d != ''))))", many(40), "cost"},
	} {
		src := header + fmt.Sprintf("type doc\n  relations\n    define a: [user with c]\ncondition c(%s) {\n  %s\n}\n", row.params, row.text)
		m, err := ParseModel("m", []byte(src))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		x := NewIndex(m, Options{})
		must(t, x.Reset(1, slices.Values([]authz.Tuple{{Object: "doc:1", Relation: "a", Subject: "user:a", Condition: "c"}})))
		got, err := x.Related(context.Background(), authz.RelationQuery{Subject: "user:a", Relation: "a", Type: "doc", ID: "1", Context: map[string]any{"x": row.given}}, false)
		switch {
		case err != nil && (!errors.Is(err, ErrCondition) || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v", name, err)
		case err == nil && got.Holds != (row.want == "yes"), err == nil && row.want != "yes" && row.want != "no":
			t.Errorf("%s: got %v, want %s", name, got.Holds, row.want)
		}
	}
}

func many(n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = "x"
	}
	return out
}

// A question does not take longer than its bound, nor longer than its context.
func TestSteps(t *testing.T) {
	src := header + "type team\n  relations\n    define out: [user]\n    define member: [user, team#member] but not out\n"
	var all []authz.Tuple
	for i := range 600 { // everyone is a member of everyone: without bounds a search of factorial size
		for j := range 600 {
			all = append(all, authz.Tuple{Object: fmt.Sprintf("team:%d", i), Relation: "member", Subject: fmt.Sprintf("team:%d#member", j)})
		}
	}
	x := NewIndex(model(t, src), Options{})
	must(t, x.Reset(1, slices.Values(all)))
	q := authz.RelationQuery{Subject: "user:a", Relation: "member", Type: "team", ID: "1"}
	if _, err := x.Related(context.Background(), q, false); !errors.Is(err, authz.ErrTooComplex) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := x.Related(ctx, q, false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	late := &expiring{Context: context.Background(), after: 2}
	if _, err := x.Related(late, q, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// expiring is a context that is over after it was asked a few times.
type expiring struct {
	context.Context
	after int
}

func (e *expiring) Err() error {
	if e.after--; e.after < 0 {
		return context.DeadlineExceeded
	}
	return nil
}
