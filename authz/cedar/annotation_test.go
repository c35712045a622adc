package cedar

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

func TestRuling(t *testing.T) {
	schema := orders()
	for _, name := range []string{"total", "card", "owner", "note"} {
		schema.Types["card"].Attrs[name] = authz.Attr{Kind: authz.KindString, Optional: true, Class: rampart.ClassPublic}
	}
	schema.Types["card"].Attrs["holder"] = authz.Attr{Kind: authz.KindString, Class: rampart.ClassConfidential}
	e, err := New(map[string][]byte{"p.cedar": []byte(`@id("x")
@obligation("step-up; acr=aal2; max_age=300")
@obligation_mail("notification;to=owner")
@fields("total, card.last4 ,owner")
@mask("pii, confidential, note")
@reason("Ask the owner.")
@doc("whatever helps")
@team("billing")
permit (principal, action, resource is Card);`)}, schema)
	if err != nil {
		t.Fatal(err)
	}
	v := e.Evaluate(t.Context(), authz.Request{Action: "cards:read", Resource: rampart.Resource{Type: "card"}})
	want := []authz.Ruling{{
		Policy: rampart.PolicyRef{Engine: "cedar", ID: "x", File: "p.cedar", Line: 1, Effect: rampart.Allow},
		Obligations: []rampart.Obligation{
			{ID: "x", Type: "step-up", Properties: map[string]string{"acr": "aal2", "max_age": "300"}},
			{ID: "x", Type: "notification", Properties: map[string]string{"to": "owner"}},
		},
		Fields: &rampart.Fields{Only: []string{"card.last4", "owner", "total"}, Mask: []string{"holder", "last4", "note", "pin"}},
		Reason: "Ask the owner.",
		Detail: "whatever helps",
	}}
	if diff := cmp.Diff(want, v.Permits); diff != "" {
		t.Error(diff)
	}
}

func TestAnnotationsRefused(t *testing.T) {
	const all = "(principal, action, resource is Order);"
	for name, row := range map[string]struct{ src, want string }{
		"misspelt":                {`@id("a") @obligaton("step-up") permit` + all, `p.cedar:1: @obligaton("step-up"): is unknown; did you mean @obligation?`},
		"misspelt mask":           {`@id("a") @Mask("pii") permit` + all, "did you mean @mask?"},
		"no type of obligation":   {`@id("a") @obligation("; acr=aal2") permit` + all, `write "type; name=value"`},
		"a property without name": {`@id("a") @obligation("step-up; aal2") permit` + all, `"aal2" is no property`},
		"a property twice":        {`@id("a") @obligation("step-up; a=1; a=2") permit` + all, `"a" stands twice`},
		"an empty property":       {`@id("a") @obligation("step-up; a=") permit` + all, `"a=" is no property`},
		"no field":                {`@id("a") @fields("") permit` + all, `"" is no name of a member`},
		"half a field":            {`@id("a") @fields("a, b.") permit` + all, `"b." is no name of a member`},
		"a field of a forbid":     {`@id("a") @fields("a") forbid` + all, "a forbid shows nothing"},
		"an empty reason":         {`@id("a") @reason permit` + all, "1 to 300 bytes"},
		"nothing to mask":         {`@id("a") @mask("pii") permit` + all, "no attribute here is pii"},
		"a misspelt member":       {"@id(\"a\")\n@mask(\"ownr\") permit" + all, `p.cedar:2: @mask("ownr"): authz.types declares no attribute "ownr"; did you mean "owner"?`},
		"a misspelt class":        {`@id("a") @mask("confidental") permit` + all, `did you mean "confidential"?`},
		"a misspelt field":        {`@id("a") @fields("id, tenant, owner.name, totl.x") permit` + all, `no attribute "totl"; did you mean "total"?`},
		"a class is no field":     {`@id("a") @fields("pii") permit` + all, `no attribute "pii"; declare it`},
	} {
		if err := strict(row.src); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
	_, err := New(map[string][]byte{"p.cedar": []byte(`@id("a") @mask("secret") permit` + all)}, nil)
	if err == nil || !strings.Contains(err.Error(), "authz.types") {
		t.Errorf("a class without a schema: %v", err)
	}
}

func TestIdle(t *testing.T) {
	e := load(t, "@id(\"a\")\n@only(\"total\")\n@x_team(\"billing\") @obligation_2(\"audit\") @doc(\"why\")\npermit (principal, action, resource);")
	got := e.Idle()
	if len(got) != 1 || got[0].Name != "only" || got[0].Line != 2 || got[0].Policy.ID != "a" {
		t.Errorf("%+v", got)
	}
}
