package guide

import (
	"net/http"
	"testing"

	"github.com/corazawaf/coraza/v3"

	"github.com/rampart-security/rampart/network/waf"
)

// TestSteps: rules by which a step of a proof would be unsound if it took less
// into account. Coraza matches each request by rule 9, so none is clean.
func TestSteps(t *testing.T) {
	const json = `SecRule REQUEST_METHOD "@streq GET" "id:8,phase:1,pass,nolog,ctl:requestBodyProcessor=JSON"` + "\n"
	for name, row := range map[string]struct{ rules, query string }{
		"bytes are spelled out, longer than they came": {
			`SecRule ARGS "@rx %ufffd%ufffd" "id:9,phase:1,pass,log,t:none,t:urlDecodeUni,t:utf8toUnicode"`, "q=%25e9%25e9"},
		"a length is longer than what has none": {
			`SecRule ARGS "@pm 0" "id:9,phase:1,pass,log,t:none,t:length"`, "q="},
		"a link captures nothing, so an earlier rule's capture stands": {
			`SecRule REQUEST_METHOD "@rx ^(GET)$" "id:1,phase:1,pass,nolog,capture"
SecRule ARGS "@rx ^hello" "id:9,phase:1,pass,log,t:none,chain,setvar:'tx.word=%{tx.1}'"
SecRule TX:word "@streq GET" "t:none"`, "q=hello"},
		"a link has no such group, so an earlier rule's capture stands": {
			`SecRule REQUEST_METHOD "@rx ^(GET)$" "id:1,phase:1,pass,nolog,capture"
SecRule ARGS "@rx ^hello" "id:9,phase:1,pass,log,t:none,capture,chain,setvar:'tx.word=%{tx.1}'"
SecRule TX:word "@streq GET" "t:none"`, "q=hello"},
		"the same, of the group itself": {
			`SecRule REQUEST_METHOD "@rx ^(GET)$" "id:1,phase:1,pass,nolog,capture"
SecRule ARGS "@rx ^hello" "id:9,phase:1,pass,log,t:none,capture,chain"
SecRule TX:1 "@streq GET" "t:none"`, "q=hello"},
		"the group itself": {
			`SecRule ARGS "@rx ^(h)" "id:9,phase:1,pass,log,t:none,capture,chain"
SecRule TX:1 "@streq h" "t:none"`, "q=hello"},
		"two groups are one": {
			`SecRule ARGS "@rx ^(.)e(.)" "id:9,phase:1,pass,log,t:none,capture,chain"
SecRule TX:1 "!@streq %{tx.2}" "t:none"`, "q=hello"},
		"a setting adds for each of its targets": {
			`SecAction "id:1,phase:1,pass,nolog,setvar:tx.n=1"
SecRule TX:n|TX:n "@eq 1" "id:2,phase:1,pass,nolog,setvar:tx.m=+1"
SecRule TX:m "@eq 2" "id:9,phase:1,pass,log,t:none"`, "q=x"},
		"two names are one": {
			`SecRule ARGS_NAMES "@rx ." "id:1,phase:1,pass,nolog,setvar:'TX.paramcounter_%{MATCHED_VAR_NAME}=+1'"
SecRule TX:/paramcounter_.*/ "@gt 1" "id:9,phase:1,pass,log"`, "Q=1&q=2"},
		"two names are one beyond ASCII": {
			`SecRule ARGS_NAMES "@rx ." "id:1,phase:1,pass,nolog,setvar:'TX.paramcounter_%{MATCHED_VAR_NAME}=+1'"
SecRule TX:/paramcounter_.*/ "@gt 1" "id:9,phase:1,pass,log"`, "%c3%84=1&%C3%A4=2"},
		"another rule sets a counter": {
			`SecRule ARGS_NAMES "@rx ." "id:1,phase:1,pass,nolog,setvar:'TX.paramcounter_%{MATCHED_VAR_NAME}=+1'"
SecRule ARGS "@rx ^(\d+)$" "id:2,phase:1,pass,nolog,capture,setvar:'tx.%{matched_var_name}=%{tx.1}'"
SecRule TX:/paramcounter_.*/ "@gt 1" "id:9,phase:1,pass,log"`, "paramcounter_x=7"},
	} {
		t.Run(name, func(t *testing.T) {
			if !matchedBy(t, json+row.rules, row.query) {
				t.Error("Coraza does not match: the row tests nothing")
			}
			g, err := New(waf.RuleSet{Sources: []waf.Source{{Name: "row", Text: json + row.rules}}})
			if err != nil {
				t.Fatal(err)
			}
			r := &waf.Request{Method: "GET", Target: "/?" + row.query, Host: "h", Header: http.Header{"Accept": {"*/*"}}}
			if g.Clean(r) {
				t.Errorf("clean, by %v", g.Report().Rules)
			}
		})
	}
}

// matchedBy reports whether rule 9 matches.
func matchedBy(t *testing.T, rules, query string) bool {
	t.Helper()
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithDirectives("SecRuleEngine DetectionOnly\n" + rules))
	if err != nil {
		t.Fatal(err)
	}
	tx := w.NewTransaction()
	defer func() { _ = tx.Close() }()
	tx.ProcessURI("/?"+query, "GET", "HTTP/1.1")
	tx.AddRequestHeader("Host", "h")
	tx.ProcessRequestHeaders()
	for _, m := range tx.MatchedRules() {
		if m.Rule().ID() == 9 {
			return true
		}
	}
	return false
}

// TestReadAlike: what the engine reads otherwise than it is called, or hands over
// twice, is no less judged for it.
func TestReadAlike(t *testing.T) {
	e, g := guides[3]()
	json := func(kind, body string) *waf.Request {
		r := typed()
		r.Header["Content-Type"], r.Body = []string{kind}, []byte(body)
		return r
	}
	query := func(q string) *waf.Request { r := typed(); r.Target += "?" + q; return r }
	cookie := typed()
	cookie.Header["Cookie"] = []string{"a=1; a=2"}
	for name, row := range map[string]struct {
		r     *waf.Request
		clean bool
	}{
		"JSON whose type begins as XML's":   {json("application/xml+json", `{"a":1}`), true},
		"a parameter":                       {query("a=1&b=2"), true},
		"a parameter twice":                 {query("a=1&a=2"), false},
		"a parameter in two cases":          {query("a=1&A=2"), false},
		"a parameter as in the body":        {query("json.amount=1"), false},
		"a parameter without a name":        {query("=1"), false},
		"members of one name":               {json("application/json", `{"a":{"b":1},"a.b":2}`), false},
		"members in two cases":              {json("application/json", `{"a":1,"A":2}`), false},
		"a list and what is in it":          {json("application/json", `{"a":[1,2,3]}`), true},
		"a cookie twice":                    {cookie, false},
		"a name as long as a request holds": {query(string(make([]byte, 9000))), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := g.Clean(row.r); got != row.clean {
				t.Errorf("clean: %t, want %t", got, row.clean)
			}
			if v, err := e.Inspect(t.Context(), row.r); err != nil || row.clean && (v.Refuse || len(v.Findings) > 0) {
				t.Errorf("the engine found %s, refused %t, %v", summary(v), v.Refuse, err)
			}
		})
	}
}
