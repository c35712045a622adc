package rego

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// TestDuties: obligations, masks and fields come with the permit of their
// package.
func TestDuties(t *testing.T) {
	stepUp := []rampart.Obligation{{ID: "orders.obligations", Type: "step-up", Properties: map[string]string{"acr": "aal2"}}}
	for name, row := range map[string]struct {
		src  string
		want authz.Ruling
	}{
		"none":                   {`allow if true`, authz.Ruling{}},
		"an obligation":          {"allow if true\nobligations contains {\"type\": \"step-up\", \"acr\": \"aal2\"}", authz.Ruling{Obligations: stepUp}},
		"one not called for":     {"allow if true\nobligations contains {\"type\": \"x\"} if input.action == \"delete\"", authz.Ruling{}},
		"the old dialect":        {"allow { true }\nobligations[{\"type\": \"step-up\", \"acr\": \"aal2\"}] { input.action == \"read\" }", authz.Ruling{Obligations: stepUp}},
		"a mask":                 {"allow if true\nmask contains \"card_last4\"", authz.Ruling{Fields: &rampart.Fields{Mask: []string{"card_last4"}}}},
		"a mask, not called for": {"allow if true\nmask contains \"card_last4\" if input.user.id == \"x\"", authz.Ruling{}},
		"fields":                 {"allow if true\nfields contains \"total\"\nfields contains \"id\"", authz.Ruling{Fields: &rampart.Fields{Only: []string{"id", "total"}}}},
		"fields that are none":   {"allow if true\nfields contains \"total\" if false", authz.Ruling{Fields: &rampart.Fields{Only: []string{}}}},
		"not another package's":  {"allow if true\nx if data.lib.mask", authz.Ruling{}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := New(map[string][]byte{
				"orders.rego": []byte("package orders\n" + row.src + "\n"),
				"lib.rego":    []byte("package lib\nmask contains \"owner\"\n"),
				"other.rego":  []byte("package other\nallow if false\nmask contains \"owner\"\n"),
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			v := e.Evaluate(t.Context(), order(nil))
			if len(v.Permits) != 1 || len(v.Failures) > 0 {
				t.Fatalf("permits %v, failures %s", v.Permits, failures(v))
			}
			v.Permits[0].Policy = rampart.PolicyRef{}
			if diff := cmp.Diff(row.want, v.Permits[0]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBadDuties: a duty that cannot be read denies.
func TestBadDuties(t *testing.T) {
	for name, row := range map[string]struct{ src, load, eval string }{
		"no type":          {`obligations contains {"acr": "aal2"}`, "", `an obligation is an object with a text named "type"`},
		"a text":           {`obligations contains "step-up"`, "", `an obligation is an object with a text named "type"`},
		"a number in it":   {`obligations contains {"type": "x", "n": 1}`, "", "the members of an obligation are texts: n is none"},
		"a mask of 1":      {`mask contains 1`, "", "mask holds names of members"},
		"a list":           {`mask := ["a"]`, "mask is a set: write mask contains", ""},
		"a function":       {`fields(x) := x`, "fields is a set", ""},
		"an import":        {"import input.resource as r\nmask contains r.x", "may not import input.resource", ""},
		"absent":           {`mask contains "card" if input.resource.secret`, "", "input.resource.secret is absent"},
		"absent in itself": {`mask contains input.resource.secret`, "", "input.resource.secret is absent"},
	} {
		t.Run(name, func(t *testing.T) {
			src := strings.TrimPrefix(row.src, "import input.resource as r\n")
			text := "package orders\n" + strings.TrimSuffix(row.src, src) + "allow if true\n" + src + "\n"
			e, err := New(map[string][]byte{"orders.rego": []byte(text)}, nil)
			if (err == nil) != (row.load == "") || err != nil && !strings.Contains(err.Error(), row.load) {
				t.Fatalf("got %v, want %q", err, row.load)
			}
			if err != nil {
				return
			}
			v := e.Evaluate(t.Context(), order(nil))
			if len(v.Failures) == 0 || !strings.Contains(failures(v), row.eval) || v.Failures[0].Policy.Effect != rampart.Deny {
				t.Errorf("got %s, want %q", failures(v), row.eval)
			}
		})
	}
}

// TestDenyDetail: what a forbid says reaches operators, and the user only when
// it says so.
func TestDenyDetail(t *testing.T) {
	for name, row := range map[string]struct{ deny, detail, reason string }{
		"a boolean":       {`deny if true`, "", ""},
		"a text":          {`deny contains "frozen"`, "frozen", ""},
		"code and msg":    {`deny contains {"code": "frozen", "msg": "by audit"} if true`, "frozen: by audit", ""},
		"for the user":    {`deny contains {"msg": "by audit", "reason": "not today"} if true`, "by audit", "not today"},
		"a value":         {`deny := "frozen"`, "frozen", ""},
		"undefined":       {`deny contains {"msg": input.resource.note} if true`, "", ""},
		"twice":           {`deny contains m if some m in ["a", "b"]`, "a", ""},
		"made of the row": {`deny contains sprintf("is %s", [s]) if s := input.resource.state`, "is lost", ""},
		"the old dialect": {`deny[{"msg": m}] { m := input.resource.state }`, "lost", ""},
	} {
		t.Run(name, func(t *testing.T) {
			src := "package orders\n" + row.deny + "\nobligations contains {\"type\": \"notification\"}\n"
			if strings.Contains(row.deny, "[{\"msg\": m}]") {
				src = "package orders\n" + row.deny + "\nobligations[{\"type\": \"notification\"}] { true }\n"
			}
			e, err := New(map[string][]byte{"orders.rego": []byte(src)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			v := e.Evaluate(t.Context(), order(map[string]any{"state": "lost"}))
			if len(v.Forbids) != 1 {
				t.Fatalf("forbids %v, failures %s", v.Forbids, failures(v))
			}
			f := v.Forbids[0]
			if f.Detail != row.detail || f.Reason != row.reason || len(f.Obligations) != 1 {
				t.Errorf("got %+v", f)
			}
		})
	}
}
