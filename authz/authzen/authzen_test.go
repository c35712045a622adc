package authzen

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
)

const policy = `
@id("owner")
permit (principal is User, action in [Action::"orders:read", Action::"orders:delete"], resource is Order)
when { resource.owner == principal.id };

@id("cheap")
permit (principal is User, action == Action::"orders:read", resource is Order)
when { resource has total && resource.total < 100 };
`

// people is the directory.
var people = map[string]rampart.Principal{
	"user/alice": {Kind: rampart.KindHuman, Subject: "user:alice", Organizations: []string{"acme"}},
	"user/bob":   {Kind: rampart.KindHuman, Subject: "user:bob", Organizations: []string{"acme"}},
	"user/carol": {Kind: rampart.KindHuman, Subject: "user:carol", Organizations: []string{"acme"}},
}

// service is a decision point over live HTTP. The bearer token names the caller.
type service struct {
	*httptest.Server
	server *Server
	now    time.Time
	left   int                   // decisions that may still be asked for; -1: any number
	asked  func(context.Context) // before each decision
}

func start(t *testing.T) *service {
	t.Helper()
	d, err := pdp.New(pdp.Options{Timeout: 5 * time.Second, Policies: map[string][]byte{"p.cedar": []byte(policy)}})
	if err != nil {
		t.Fatal(err)
	}
	svc := &service{now: time.Unix(1_000_000, 0), left: -1, asked: func(context.Context) {}}
	s := New(Options{
		Base:   "https://pdp.example",
		Rights: rightsOf,
		Schema: func() *authz.Schema {
			return &authz.Schema{Types: map[string]authz.Type{"order": {Actions: []rampart.Action{"orders:delete", "orders:read"}}}}
		},
		Subject: func(_ context.Context, kind, id string) (rampart.Principal, error) {
			if id == "broken" {
				return rampart.Principal{}, rampart.Errorf(rampart.Unavailable, "", "the directory does not answer")
			}
			p, ok := people[kind+"/"+id]
			if !ok {
				return p, rampart.Errorf(rampart.NotFound, "", "unknown")
			}
			return p, nil
		},
		Decide: func(ctx context.Context, r authz.Request) rampart.Decision {
			svc.asked(ctx)
			return d.Decide(ctx, r)
		},
		Spend:    svc.spend,
		Subjects: func(context.Context, string) ([]string, error) { return []string{"carol", "bob", "alice"}, nil },
		Objects: func(context.Context, authz.Request) ([]rampart.Resource, error) {
			var out []rampart.Resource
			for i, owner := range []string{"user:alice", "user:bob", "user:alice", "user:alice"} {
				out = append(out, rampart.Resource{Type: "order", ID: fmt.Sprint(i), Attrs: map[string]any{"owner": owner}})
			}
			return out, nil
		},
		Now: func() time.Time { return svc.now },
	})
	svc.Server, svc.server = httptest.NewServer(s), s
	t.Cleanup(svc.Close)
	return svc
}

func (s *service) spend(_ context.Context, n int) error {
	if s.left < 0 {
		return nil
	}
	if n > s.left {
		return rampart.Errorf(rampart.Limited, "", "too many decisions")
	}
	s.left -= n
	return nil
}

func rightsOf(r *http.Request) (Rights, error) {
	all := []string{"order"}
	switch caller := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); caller {
	case "gateway", "other":
		return Rights{Caller: caller, Evaluate: all, Batch: true, Search: all}, nil
	case "operator":
		return Rights{Caller: caller, Evaluate: all, Reasons: true}, nil
	case "meek":
		return Rights{Caller: caller, Evaluate: all}, nil
	}
	return Rights{}, rampart.Errorf(rampart.Unauthenticated, "", "who are you?")
}

// ask posts body as caller and returns the status and the compact answer.
func (s *service) ask(t *testing.T, caller, path, body string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-ID", "req-17")
	r.Header.Set("Authorization", "Bearer "+caller)
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(text)), res.Header
}

const (
	alice = `"subject":{"type":"user","id":"alice"}`
	reads = `"action":{"name":"orders:read"}`
	mine  = `"resource":{"type":"order","id":"1","properties":{"owner":"user:alice"}}`
	bobs  = `"resource":{"type":"order","id":"2","properties":{"owner":"user:bob"}}`
)

func body(members ...string) string { return "{" + strings.Join(members, ",") + "}" }

// decisions are the "decision" members of an answer, in order.
func decisions(text string) string {
	var out []string
	for part := range strings.SplitSeq(text, `"decision":`) {
		if strings.HasPrefix(part, "true") || strings.HasPrefix(part, "false") {
			out = append(out, strings.TrimRight(part[:5], ",}"))
		}
	}
	return strings.Join(out, " ")
}

func TestEvaluation(t *testing.T) {
	s := start(t)
	for name, row := range map[string]struct {
		caller, body string
		status       int
		want         string // decision, or a part of the message
	}{
		"6.2 a permit": {"meek", body(alice, reads, mine), 200, "true"},
		"10.1.2 a denial is an answer, not an error": {"meek", body(alice, reads, bobs), 200, "false"},
		"a short verb":                   {"meek", body(alice, `"action":{"name":"read"}`, mine), 200, "true"},
		"an action that no policy knows": {"meek", body(alice, `"action":{"name":"orders:burn"}`, mine), 200, "false"},
		"an action of no form":           {"meek", body(alice, `"action":{"name":"burn!"}`, mine), 200, "false"},
		"a stranger to the directory":    {"meek", body(`"subject":{"type":"user","id":"zoe"}`, reads, mine), 200, "false"},
		"11.4 the asker asserts no facts of subjects": {"meek",
			body(`"subject":{"type":"user","id":"bob","properties":{"id":"user:alice"}}`, reads, mine), 200, "false"},
		"the directory is down":              {"meek", body(`"subject":{"type":"user","id":"broken"}`, reads, mine), 503, "directory"},
		"10.1.1 unknown members are ignored": {"meek", body(alice, reads, mine, `"extra":{"a":1}`), 200, "true"},
		"a whole number stays one":           {"meek", body(alice, reads, `"resource":{"type":"order","id":"3","properties":{"owner":"x","total":99}}`), 200, "true"},
		"5.1 no subject":                     {"meek", body(reads, mine), 400, "subject.type is required"},
		"5.1 no subject.id":                  {"meek", body(`"subject":{"type":"user"}`, reads, mine), 400, "subject.id is required"},
		"5.3 no action":                      {"meek", body(alice, mine), 400, "action.name is required"},
		"5.2 no resource.type":               {"meek", body(alice, reads, `"resource":{"id":"1"}`), 400, "resource.type is required"},
		"5.2 no resource.id":                 {"meek", body(alice, reads, `"resource":{"type":"order"}`), 400, "resource.id is required"},
		"a type of no right":                 {"meek", body(alice, reads, `"resource":{"type":"payment","id":"1"}`), 403, "may not ask about"},
		"11.3 nobody asks":                   {"", body(alice, reads, mine), 401, "who are you"},
		"11.5 a name twice":                  {"meek", body(alice, reads, mine, bobs), 400, "I-JSON"},
		"11.5 no UTF-8":                      {"meek", body(alice, reads, mine, "\"x\":\"\xff\""), 400, "I-JSON"},
		"11.5 a lone surrogate":              {"meek", body(alice, reads, mine, `"x":"\ud800"`), 400, "I-JSON"},
		"a number that would be rounded":     {"meek", body(alice, reads, `"resource":{"type":"order","id":"1","properties":{"n":92233720368547758070}}`), 400, "I-JSON"},
		"text behind":                        {"meek", body(alice, reads, mine) + "{}", 400, "I-JSON"},
		"no object":                          {"meek", `[]`, 400, "I-JSON"},
		"11.7 too deep":                      {"meek", body(alice, reads, mine, `"x":`+strings.Repeat("[", 99)+strings.Repeat("]", 99)), 400, "nested"},
		"11.7 too large":                     {"meek", body(alice, reads, mine, `"x":"`+strings.Repeat("x", MaxBody)+`"`), 413, "Too Large"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text, _ := s.ask(t, row.caller, PathEvaluation, row.body)
			if status != row.status || (status == 200 && decisions(text) != row.want) || !strings.Contains(text, row.want) {
				t.Errorf("got %d %s, want %d %s", status, text, row.status, row.want)
			}
		})
	}
}

// TestNobodyLearnsWhoExists: a stranger to the directory and a subject without a
// permit get the same answer.
func TestNobodyLearnsWhoExists(t *testing.T) {
	s := start(t)
	_, known, _ := s.ask(t, "meek", PathEvaluation, body(alice, reads, bobs))
	_, unknown, _ := s.ask(t, "meek", PathEvaluation, body(`"subject":{"type":"user","id":"zoe"}`, reads, bobs))
	if !sameJSON(t, unknown, known) {
		t.Errorf("known: %s\nunknown: %s", known, unknown)
	}
}

// TestReasons: what only an administrator may read needs a right of its own.
func TestReasons(t *testing.T) {
	s := start(t)
	_, meek, _ := s.ask(t, "meek", PathEvaluation, body(alice, reads, bobs))
	_, operator, _ := s.ask(t, "operator", PathEvaluation, body(alice, reads, bobs))
	if strings.Contains(meek, "reason_admin") || strings.Contains(meek, "p.cedar") {
		t.Errorf("a caller without the right reads %s", meek)
	}
	if !strings.Contains(operator, `"reason_admin":{"en":"none of 2 permits matched`) {
		t.Errorf("an operator reads %s", operator)
	}
}

func TestHeaders(t *testing.T) {
	s := start(t)
	for caller, want := range map[string]string{"meek": "", "": "Bearer"} {
		_, _, h := s.ask(t, caller, PathEvaluation, body(alice, reads, mine))
		if h.Get("X-Request-ID") != "req-17" {
			t.Errorf("10.1.3: X-Request-ID came back as %q", h.Get("X-Request-ID"))
		}
		if h.Get("WWW-Authenticate") != want || h.Get("Content-Type") != "application/json" {
			t.Errorf("%q: headers %v", caller, h)
		}
	}
}

func TestEvaluations(t *testing.T) {
	s := start(t)
	items := func(list ...string) string { return `"evaluations":[` + strings.Join(list, ",") + `]` }
	option := func(semantic string) string { return `"options":{"evaluations_semantic":"` + semantic + `"}` }
	yes, nope, faulty := body(mine), body(bobs), body(`"resource":{"type":"order"}`)
	for name, row := range map[string]struct {
		caller, body string
		status       int
		want         string
	}{
		"7.1 defaults, in order":              {"gateway", body(alice, reads, items(yes, nope, yes)), 200, "true false true"},
		"7.1.1 an item's own member wins":     {"gateway", body(alice, reads, mine, items(body(), body(bobs))), 200, "true false"},
		"7.1.2 deny_on_first_deny":            {"gateway", body(alice, reads, option(firstDeny), items(yes, nope, yes)), 200, "true false"},
		"7.1.2 permit_on_first_permit":        {"gateway", body(alice, reads, option(firstPermit), items(nope, yes, nope)), 200, "false true"},
		"7.1.2 an unknown way":                {"gateway", body(alice, reads, option("any"), items(yes)), 400, "execute_all"},
		"7.1 no items is a single evaluation": {"meek", body(alice, reads, mine, items()), 200, "true"},
		"7.1 no list is a single evaluation":  {"meek", body(alice, reads, mine), 200, "true"},
		"7.2.1 an item that fails is denied":  {"gateway", body(alice, reads, items(yes, faulty, yes)), 200, "true false true"},
		"a batch is a right of its own":       {"meek", body(alice, reads, items(yes, yes)), 403, "many questions"},
		"more than anybody may ask":           {"gateway", body(alice, reads, items(strings.Split(strings.Repeat("{},", MaxEvaluations)+"{}", ",")...)), 400, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text, _ := s.ask(t, row.caller, PathEvaluations, row.body)
			if status != row.status || (status == 200 && decisions(text) != row.want) || (status != 200 && !strings.Contains(text, row.want)) {
				t.Errorf("got %d %s, want %d %s", status, text, row.status, row.want)
			}
		})
	}
	_, text, _ := s.ask(t, "gateway", PathEvaluations, body(alice, reads, items(faulty)))
	if want := `{"evaluations":[{"decision":false,"context":{"error":{"message":"resource.id is required","status":400}}}]}`; !sameJSON(t, text, want) {
		t.Errorf("7.2.1: got %s", text)
	}
}

func sameJSON(t *testing.T, got, want string) bool {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	return cmp.Equal(a, b)
}

// names are the ids or names of results, in order.
func names(t *testing.T, text string) (list []string, next string) {
	t.Helper()
	var r results
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for _, f := range r.Results {
		list = append(list, f.ID+f.Name)
	}
	if r.Page != nil {
		next = r.Page.NextToken
	}
	return list, next
}

func TestSearch(t *testing.T) {
	s := start(t)
	for name, row := range map[string]struct {
		path, body string
		want       []string
	}{
		"8.3 who may read it":                      {PathSearchSubject, body(`"subject":{"type":"user"}`, reads, mine), []string{"alice"}},
		"8.3 the subject's id is ignored":          {PathSearchSubject, body(`"subject":{"type":"user","id":"bob"}`, reads, mine), []string{"alice"}},
		"8.3 everybody":                            {PathSearchSubject, body(`"subject":{"type":"user"}`, reads, `"resource":{"type":"order","id":"9","properties":{"owner":"x","total":1}}`), []string{"alice", "bob", "carol"}},
		"8.4 what may alice read":                  {PathSearchResource, body(alice, reads, `"resource":{"type":"order"}`), []string{"0", "2", "3"}},
		"8.4 the resource's id is ignored":         {PathSearchResource, body(alice, reads, `"resource":{"type":"order","id":"1"}`), []string{"0", "2", "3"}},
		"8.4 a stranger":                           {PathSearchResource, body(`"subject":{"type":"user","id":"zoe"}`, reads, `"resource":{"type":"order"}`), nil},
		"8.5 what may the owner do":                {PathSearchAction, body(alice, mine), []string{"orders:delete", "orders:read"}},
		"8.5 what may anybody do with a cheap one": {PathSearchAction, body(alice, `"resource":{"type":"order","id":"9","properties":{"owner":"x","total":1}}`), []string{"orders:read"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text, _ := s.ask(t, "gateway", row.path, row.body)
			if status != 200 {
				t.Fatalf("status %d: %s", status, text)
			}
			got, next := names(t, text)
			if diff := cmp.Diff(row.want, got); diff != "" || next != "" {
				t.Errorf("next %q: %s", next, diff)
			}
		})
	}
	if status, text, _ := s.ask(t, "meek", PathSearchSubject, body(`"subject":{"type":"user"}`, reads, mine)); status != 403 {
		t.Errorf("a search without the right: %d %s", status, text)
	}
}

func TestPages(t *testing.T) {
	s := start(t)
	ask := func(caller, members string) (int, string) {
		status, text, _ := s.ask(t, caller, PathSearchResource, body(alice, reads, `"resource":{"type":"order"}`, members))
		return status, text
	}
	_, text := ask("gateway", `"page":{"limit":2}`)
	got, next := names(t, text)
	if !cmp.Equal(got, []string{"0", "2"}) || next == "" {
		t.Fatalf("the first page: %s", text)
	}
	second := `"page":{"limit":2,"token":"` + next + `"}`
	_, text = ask("gateway", second)
	if got, end := names(t, text); !cmp.Equal(got, []string{"3"}) || end != "" {
		t.Errorf("the second page: %s", text)
	}
	for name, row := range map[string]struct{ caller, members string }{
		"another caller's token":        {"other", second},
		"8.2 another question's token":  {"gateway", second + `,"context":{"x":1}`},
		"a token that nobody gave out":  {"gateway", `"page":{"token":"AAAA"}`},
		"a token of the wrong alphabet": {"gateway", `"page":{"token":"%%%"}`},
		"8.2 a limit below nothing":     {"gateway", `"page":{"limit":-1}`},
	} {
		if status, text := ask(row.caller, row.members); status != 400 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	s.now = s.now.Add(tokenLife)
	if status, text := ask("gateway", second); status != 400 {
		t.Errorf("an old token: %d %s", status, text)
	}
}

// TestWeight: what a batch holds once every evaluation has its defaults is
// bounded, whatever it holds as it arrives.
func TestWeight(t *testing.T) {
	s := start(t)
	text := func(n int) string { return `{"note":"` + strings.Repeat("x", n) + `"}` }
	items := func(n int, item string) string {
		return `"evaluations":[` + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + `]`
	}
	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"a large context, asked once":            {body(alice, reads, mine, `"context":`+text(200<<10), items(1, "{}")), 200},
		"the same, copied 1000 times":            {body(alice, reads, mine, `"context":`+text(200<<10), items(1000, "{}")), 400},
		"a small one, copied 1000 times":         {body(alice, reads, mine, `"context":`+text(500), items(1000, "{}")), 200},
		"defaults that no evaluation takes over": {body(alice, reads, mine, `"context":`+text(200<<10), items(1000, `{"context":{}}`)), 200},
		"properties, copied 1000 times":          {body(alice, reads, `"resource":{"type":"order","id":"1","properties":`+text(2000)+`}`, items(1000, "{}")), 400},
	} {
		t.Run(name, func(t *testing.T) {
			status, text, _ := s.ask(t, "gateway", PathEvaluations, row.body)
			if status != row.status || status == 400 && !strings.Contains(text, "ask fewer at once") {
				t.Errorf("got %d %.300s, want %d", status, text, row.status)
			}
		})
	}
	for n, want := range map[int]int{0: MaxWeight / 2, 1000: 1035, 200 << 10: 5} {
		q := question{member: member{Context: map[string]any{"note": strings.Repeat("x", n)}}}
		if n == 0 {
			q.Context = map[string]any{}
		}
		if got := scanned(&q); got != want {
			t.Errorf("a page of a search with %d bytes looks at %d candidates, want %d", n, got, want)
		}
	}
}

// TestSpend: every decision counts, those of a batch and of a search too, and a
// search goes on where it had to stop.
func TestSpend(t *testing.T) {
	s := start(t)
	batch := body(alice, reads, mine, `"evaluations":[{},{},{}]`)
	search := body(alice, reads, `"resource":{"type":"order"}`)
	for name, row := range map[string]struct {
		path, body         string
		left, status, rest int
	}{
		"one":                         {PathEvaluation, body(alice, reads, mine), 1, 200, 0},
		"one too many":                {PathEvaluation, body(alice, reads, mine), 0, 429, 0},
		"a batch":                     {PathEvaluations, batch, 4, 200, 1},
		"a batch too large":           {PathEvaluations, batch, 2, 429, 2},
		"a batch without a list":      {PathEvaluations, body(alice, reads, mine), 1, 200, 0},
		"a search":                    {PathSearchResource, search, 5, 200, 1},
		"a search cut short":          {PathSearchResource, search, 3, 200, 0},
		"a search that may not begin": {PathSearchResource, search, 0, 429, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s.left = row.left
			status, text, h := s.ask(t, "gateway", row.path, row.body)
			if status != row.status || s.left != row.rest || (status == 429) != (h.Get("Retry-After") != "") {
				t.Errorf("got %d %s, %d left", status, text, s.left)
			}
		})
	}
	s.left = 3
	_, text, _ := s.ask(t, "gateway", PathSearchResource, search)
	got, next := names(t, text)
	s.left = 1
	_, text, _ = s.ask(t, "gateway", PathSearchResource, body(alice, reads, `"resource":{"type":"order"}`, `"page":{"token":"`+next+`"}`))
	more, end := names(t, text)
	if want := []string{"0", "2", "3"}; !cmp.Equal(append(got, more...), want) || next == "" || end != "" {
		t.Errorf("in two pages: %v, %v", got, more)
	}
}

// TestNobodyWaits: a batch ends when its caller has gone.
func TestNobodyWaits(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	s.asked = func(context.Context) { n++; cancel() }
	q, err := parse([]byte(body(alice, reads, mine, `"evaluations":[{},{},{}]`)))
	if err != nil {
		t.Fatal(err)
	}
	rights := Rights{Evaluate: []string{"order"}, Batch: true}
	if _, err := s.server.evaluations(call{ctx, rights}, q); rampart.KindOf(err) != rampart.Unavailable || n != 1 {
		t.Errorf("%d decisions, %v", n, err)
	}
}

func TestMetadata(t *testing.T) {
	s := start(t)
	res, err := s.Client().Get(s.URL + PathMetadata)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var m map[string]any
	if err := json.UnmarshalRead(res.Body, &m); err != nil {
		t.Fatal(err)
	}
	if m["policy_decision_point"] != "https://pdp.example" || m["access_evaluation_endpoint"] != "https://pdp.example/access/v1/evaluation" {
		t.Errorf("section 9: got %v", m)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{body(alice, reads, mine), `{"evaluations":[{}]}`, `{"page":{"limit":1e9}}`, `{"context":{"a":[1,2.5,"x",null,true,{"b":-0}]}}`, `[`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := parse(text)
		if err != nil {
			return
		}
		if !jsontext.Value(text).IsValid() {
			t.Errorf("took %q, which is no I-JSON", text)
		}
		if same(q) == nil {
			t.Errorf("%q has no canonical form", text)
		}
	})
}
