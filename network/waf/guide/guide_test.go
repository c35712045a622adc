package guide

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/corazawaf/libinjection-go"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/network/waf"
)

// TestRules pins which rules are decided from the shape of a request and which
// are left to set things up, and demands that none is unknown: a new release of
// the rules is read before it is trusted.
func TestRules(t *testing.T) {
	_, g := fixture()
	got := g.Report()
	for id, why := range got.Unknown {
		t.Errorf("rule %d is unknown: %s", id, why)
	}
	for kind, want := range map[string][]int{
		"structural": {913100, 920100, 920160, 920170, 920171, 920180, 920181, 920190, 920210, 920280, 920290, 920310, 920311,
			920330, 920340, 920430, 920440, 920450, 920470, 920480, 920520, 920530, 920600, 920620, 920640, 920660, 921421, 922110},
		"setup":    {200000, 200001, 901340, 920539, 941010},
		"absent":   {920120, 922120, 922130, 922150},
		"response": nil,
	} {
		if d := cmp.Diff(want, got.Rules[kind]); d != "" {
			t.Errorf("%s (-want +got):\n%s", kind, d)
		}
	}
	if n := len(got.Rules["value"]); n != 117 {
		t.Errorf("%d rules look at values, want 117", n)
	}
	if got.Version != "4.25.0" || len(got.Digest) != 64 {
		t.Errorf("version %q, digest %q", got.Version, got.Digest)
	}
}

// TestUnknownRule: with a rule that the guide does not understand, nothing is
// clean; what it cannot read at all is an error.
func TestUnknownRule(t *testing.T) {
	e, _ := fixture()
	for name, row := range map[string]struct {
		text  string
		fails bool
	}{
		"an operator":             {`SecRule ARGS "@fuzzyHash x" "id:1,phase:2,deny"`, false},
		"a variable":              {`SecRule SESSION:x "@rx x" "id:1,phase:2,deny"`, false},
		"a transformation":        {`SecRule ARGS "@rx x" "id:1,phase:2,deny,t:sqlHexDecode"`, false},
		"an action":               {`SecRule ARGS "@rx x" "id:1,phase:2,deny,exec:/x"`, false},
		"a text of the request":   {`SecRule ARGS "@contains %{REQUEST_URI}" "id:1,phase:2,deny"`, false},
		"what always matches":     {`SecAction "id:1,phase:2,log,deny"`, false},
		"a count of values":       {`SecRule &ARGS "@gt 2" "id:1,phase:2,deny"`, false},
		"a variable it may set":   {`SecRule TX:EXTENSION "@rx ." "id:1,phase:2,deny"`, false},
		"another body processor":  {`SecRule REQUEST_METHOD "@streq POST" "id:1,phase:1,pass,nolog,ctl:requestBodyProcessor=RAW"`, false},
		"a control in a chain":    {"SecRule REQUEST_METHOD \"@streq POST\" \"id:1,phase:1,deny,chain,ctl:requestBodyProcessor=RAW\"\nSecRule REQUEST_METHOD \"@streq GET\" \"t:none\"", false},
		"a directive":             {`SecUnicodeMapFile x`, true},
		"targets that are added":  {`SecRuleUpdateTargetById 942100 "REQUEST_URI"`, true},
		"a chain without its end": {`SecRule ARGS "@rx x" "id:1,phase:2,deny,chain"`, true},
	} {
		t.Run(name, func(t *testing.T) {
			set := e.Rules()
			set.Sources = append(slices.Clone(set.Sources), waf.Source{Name: "more", Text: row.text})
			g, err := New(set)
			if (err != nil) != row.fails {
				t.Fatalf("error %v", err)
			}
			if err == nil && g.Clean(typed()) {
				t.Error("a request is clean")
			}
		})
	}
}

// TestClean: what must go to the engine, and what the schema's types and
// ordinary words spare it. The complaints are published false positives.
func TestClean(t *testing.T) {
	_, g := fixture()
	for name, row := range map[string]struct {
		change func(r *waf.Request)
		clean  bool
	}{
		"typed values":                  {func(r *waf.Request) {}, true},
		"ordinary text":                 {func(r *waf.Request) { r.Body = text().Body }, true},
		"text beyond ASCII":             {note("Grüße aus Köln, 東京 und Łódź"), true},
		"an attack beyond ASCII":        {note("＜script＞alert(1)＜/script＞"), false},
		"beginning with select":         {note("selected seats for two"), true},
		"an ampersand":                  {note("Research & Development"), true},
		"a per cent sign":               {note("50% off today"), true},
		"an injection":                  {note("1' or '1'='1' -- "), false},
		"a script":                      {note("<script>alert(1)</script>"), false},
		"a path":                        {note("../../etc/passwd"), false},
		"an attack in a name":           {func(r *waf.Request) { r.Body = []byte(`{"<script>alert(1)</script>":1}`) }, false},
		"an attack in the query":        {func(r *waf.Request) { r.Target += "?q=%3Cscript%3Ealert(1)%3C/script%3E" }, false},
		"an attack in a header":         {func(r *waf.Request) { r.Header["User-Agent"] = []string{"${jndi:ldap://x}"} }, false},
		"an attack in a cookie":         {func(r *waf.Request) { r.Header["Cookie"] = []string{"a=1; b=<script>alert(1)</script>"} }, false},
		"an attack in a path parameter": {func(r *waf.Request) { r.Path = []waf.Arg{{Name: "id", Value: "' or 1=1 -- "}} }, false},
		"no user agent":                 {func(r *waf.Request) { delete(r.Header, "User-Agent") }, true},
		"an empty user agent":           {func(r *waf.Request) { r.Header["User-Agent"] = []string{""} }, false},
		"no host":                       {func(r *waf.Request) { r.Host = "" }, false},
		"a body without its type":       {func(r *waf.Request) { delete(r.Header, "Content-Type") }, false},
		"two media types":               {func(r *waf.Request) { r.Header["Content-Type"] = []string{"application/json", "text/xml"} }, false},
		"a header in another spelling":  {func(r *waf.Request) { r.Header["content-type"] = []string{"text/xml"} }, false},
		"a body of another kind":        {func(r *waf.Request) { r.BodyKind = waf.OpaqueBody }, false},
		"a body that is no JSON":        {func(r *waf.Request) { r.Body = []byte(`{"a":1`) }, false},
		"a deep body":                   {func(r *waf.Request) { r.Body = []byte(strings.Repeat("[", 70) + strings.Repeat("]", 70)) }, false},
		"many arguments":                {func(r *waf.Request) { r.Body = []byte("[1" + strings.Repeat(",1", 600) + "]") }, false},
		"a long body":                   {note(strings.Repeat("a ", maxBody)), false},
		"a range of ranges":             {func(r *waf.Request) { r.Header["Range"] = []string{"bytes=9-1"} }, false},
		"a restricted extension":        {func(r *waf.Request) { r.Target = "/v1/dump.sql" }, false},
		"a harmless extension":          {func(r *waf.Request) { r.Target = "/v1/invoice.pdf" }, true},
		"another charset":               {func(r *waf.Request) { r.Header["Content-Type"] = []string{"application/json; charset=ibm037"} }, false},
		"the charset":                   {func(r *waf.Request) { r.Header["Content-Type"] = []string{"application/json; charset=utf-8"} }, true},
		"a header for something else":   {func(r *waf.Request) { r.Header["X-Http-Method-Override"] = []string{"PUT"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := typed()
			row.change(r)
			for range 2 { // the second time from memory
				if got := g.Clean(r); got != row.clean {
					t.Errorf("clean: %t, want %t", got, row.clean)
				}
			}
		})
	}
}

func note(s string) func(*waf.Request) {
	return func(r *waf.Request) { r.Body = object(map[string]any{"amount": 1250, "note": s}) }
}

// TestProof: what the alphabets of schemas leave of the rules. More characters
// never leave fewer.
func TestProof(t *testing.T) {
	_, g := fixture()
	left := map[string][]int{}
	for name, sigma := range schemaAlphabets {
		a := runes(sigma)
		p, err := g.Prove("body", "/x", [4]uint64{a.ascii[0], a.ascii[1]})
		if err != nil {
			t.Fatal(err)
		}
		left[name] = p.Left
		t.Logf("%s: %d proved, %d left", name, p.Proved, len(p.Left))
	}
	for small, large := range map[string]string{"digits": "number", "uuid": "slug", "slug": "email"} {
		for _, id := range left[small] {
			if !slices.Contains(left[large], id) {
				t.Errorf("rule %d is left over %s and not over %s", id, small, large)
			}
		}
	}
	if n := len(left["digits"]); n > 8 {
		t.Errorf("%d rules are left over digits", n)
	}
}

// TestSqliPossible: the alphabets that are said to hold no injection hold none.
func TestSqliPossible(t *testing.T) {
	if sqliPossible(runes("0123456789")) || !sqliPossible(runes("0123456789-")) || !sqliPossible(runes("1x")) || !sqliPossible(everything()) {
		t.Error("digits alone prove it")
	}
	for n := range 200_000 {
		s := strconv.Itoa(n)
		for _, s := range []string{s, "0" + s, "00" + s, s + strings.Repeat("0", n%70)} {
			if hit, kind := libinjection.IsSQLi(s); hit {
				t.Fatalf("%s is an injection of kind %s", s, kind)
			}
		}
	}
}

// TestTypedIsNeverBlocked: the published complaints on fields that a schema
// keeps to a type.
func TestTypedIsNeverBlocked(t *testing.T) {
	e, g := fixture()
	for _, s := range []string{"select-all", "selection", "7c9e6679-7425-40de-944b-e07fc1f90ae7", "2024-05-01T10:00:00Z", "-12.50e3", "union", "order-by-mail"} {
		r := typed()
		note(s)(r)
		v, err := e.Inspect(context.Background(), r)
		if err != nil || v.Refuse {
			t.Errorf("%q is refused: %s %v", s, summary(v), err)
		}
		if !g.Clean(r) {
			t.Errorf("%q goes to the engine", s)
		}
	}
}

// TestReadsAlike: header names are looked up as Coraza does.
func TestReadsAlike(t *testing.T) {
	if tt := splitTargets(`REQUEST_HEADERS:x-filename|!ARGS:/a|b/|&TX:c`); tt[0].canonical != http.CanonicalHeaderKey("X-Filename") || !tt[1].Regex || !tt[1].Not || !tt[2].Count {
		t.Errorf("targets %+v", tt)
	}
}
