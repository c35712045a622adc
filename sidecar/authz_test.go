package sidecar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// related is the shop with a model of relations.
var related = []string{"authz:\n", `authz:
  model: shop.fga
  from_token: { "team#member": team }
  types:
    order:
      actions: ["shop:read", "shop:write"]
      attrs: { owner: string }
      grants: { "shop:read": viewer }
      table: orders
      columns: { tenant: org }
`}

// provided is the shop with an attribute that the stock knows.
var provided = []string{
	"authz:\n", `authz:
  providers: { stock: { service: stock, cache: 1m, timeout: 5s } }
  types:
    order:
      actions: ["shop:read", "shop:write"]
      attrs: { owner: string, vip: { type: bool, optional: true, provider: stock } }
`,
	"policy: shop.cedar", "policy: [shop.cedar, shop_vip.cedar]",
}

// post asks a sidecar's socket.
func (h *house) post(service, path string, in, out any) int {
	h.t.Helper()
	b, err := json.Marshal(in)
	must(h.t, err)
	res, err := h.of[service].sock.Post("http://sidecar"+path, "application/json", bytes.NewReader(b))
	must(h.t, err)
	defer res.Body.Close()
	if out != nil && res.StatusCode == http.StatusOK {
		must(h.t, json.NewDecoder(res.Body).Decode(out))
	}
	return res.StatusCode
}

func shares(order, subject string) agent.TupleWrite {
	return agent.TupleWrite{Object: "order:" + order, Relation: "viewer", Subject: subject}
}

func orderOf(id, owner string) rampart.Resource {
	return rampart.Resource{Type: "order", ID: id, Tenant: "acme", Attrs: map[string]any{"owner": owner}}
}

// TestRelations is what a sidecar believes of relations, and for how long.
func TestRelations(t *testing.T) {
	h := open(t, []string{"shop"}, related...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	push := func(p agent.TuplesPush) int {
		p.Source = "db1"
		return h.post("shop", agent.PathTuples, p, nil)
	}
	ask := func(id string, atLeast uint64) rampart.Decision {
		var d rampart.Decision
		if status := h.post("shop", agent.PathCheck, agent.CheckRequest{Identity: ann, Action: "shop:read", Resource: orderOf(id, "user:bob"), AtLeast: atLeast}, &d); status != 200 {
			t.Fatalf("status %d", status)
		}
		return d
	}
	want := func(name string, d rampart.Decision, effect rampart.Effect, code rampart.Code) {
		t.Helper()
		if d.Effect != effect || d.Code != code || d.Reason != "" || d.Policies != nil || d.Path != nil {
			t.Errorf("%s: %+v, want %v %s and no reasons", name, d, effect, code)
		}
	}
	want("nothing was told", ask("o1", 0), rampart.Deny, rampart.CodeStale)
	for _, step := range []struct {
		name   string
		push   agent.TuplesPush
		status int
	}{
		{"changes of what is not known", agent.TuplesPush{From: 1, To: 2, Changes: []agent.TupleWrite{shares("o1", "user:ann")}}, 409},
		{"the second part of a reset", agent.TuplesPush{Reset: true, From: 1, To: 7}, 409},
		{"the first", agent.TuplesPush{Reset: true, More: true, Changes: []agent.TupleWrite{shares("o1", "user:ann"), shares("o2", "team:red#member"), shares("o4", "user:ann")}}, 200},
		{"the last", agent.TuplesPush{Reset: true, From: 1, To: 7, Changes: []agent.TupleWrite{
			shares("o3", "team:blue#member"), {Object: "team:blue", Relation: "member", Subject: "user:ann"},
			{Object: "nothing:1", Relation: "of", Subject: "user:ann"}, {Delete: true, Object: "order:o4", Relation: "viewer", Subject: "user:ann"},
		}}, 200},
	} {
		if got := push(step.push); got != step.status {
			t.Fatalf("%s: status %d, want %d", step.name, got, step.status)
		}
	}
	var info agent.ServiceInfo
	res, err := h.of["shop"].sock.Get("http://sidecar" + agent.PathService)
	must(t, err)
	must(t, json.NewDecoder(res.Body).Decode(&info))
	res.Body.Close()
	if diff := cmp.Diff(map[string][]string{"order": {"viewer"}}, info.Relations); diff != "" {
		t.Errorf("the service may write: %s", diff)
	}
	want("by name", ask("o1", 0), rampart.Allow, "")
	want("by the team that the token names", ask("o2", 7), rampart.Allow, "")
	want("by a team that the service names", ask("o3", 0), rampart.Deny, rampart.CodeNoPermit)
	want("what was deleted within the reset", ask("o4", 0), rampart.Deny, rampart.CodeNoPermit)
	want("what is not known yet", ask("o1", 8), rampart.Deny, rampart.CodeStale)
	if e := h.newest("shop"); e.Code != string(rampart.CodeStale) || e.Detail["reason"] == "" {
		t.Errorf("on record: %+v", e)
	}
	if push(agent.TuplesPush{From: 7, To: 8, Changes: []agent.TupleWrite{{Delete: true, Object: "order:o1", Relation: "viewer", Subject: "user:ann"}}}) != 200 || push(agent.TuplesPush{From: 7, To: 9}) != 409 {
		t.Error("changes in order, and out of it")
	}
	want("not any more", ask("o1", 8), rampart.Deny, rampart.CodeNoPermit)
	if got := h.post("shop", agent.PathTuples, agent.TuplesPush{Source: "db2", Reset: true}, nil); got != 400 {
		t.Errorf("another database: %d", got)
	}
	h.pass(agent.TuplesStale + time.Second)
	want("after silence", ask("o2", 0), rampart.Deny, rampart.CodeStale)
	if push(agent.TuplesPush{From: 8, To: 8}) != 200 {
		t.Error("nothing new is no news")
	}
	want("after a word", ask("o2", 0), rampart.Allow, "")
	if push(agent.TuplesPush{From: 8, To: 8, Changes: []agent.TupleWrite{shares("o1", "user:ann")}}) == 200 {
		t.Error("a change without a revision")
	}
}

func TestManyAndLists(t *testing.T) {
	h := open(t, []string{"shop"}, related...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	reset := agent.TuplesPush{Source: "db1", Reset: true, To: 1, Changes: []agent.TupleWrite{shares("o2", "user:ann")}}
	if h.post("shop", agent.PathTuples, reset, nil) != 200 {
		t.Fatal("reset")
	}
	rows := []rampart.Resource{orderOf("o1", "user:ann"), orderOf("o2", "user:bob"), orderOf("o3", "user:bob"), {Type: "order", ID: "o4", Tenant: "globex", Attrs: map[string]any{"owner": "user:ann"}}}
	q := agent.ManyRequest{Identity: ann}
	for _, r := range rows {
		q.Checks = append(q.Checks, agent.CheckRequest{Action: "shop:read", Resource: r})
	}
	before := len(h.Events("sidecar_shop"))
	var many agent.ManyAnswer
	if status := h.post("shop", agent.PathMany, q, &many); status != 200 || len(many.Decisions) != len(rows) {
		t.Fatalf("status %d with %d decisions", status, len(many.Decisions))
	}
	var list agent.FilterAnswer
	if status := h.post("shop", agent.PathFilter, agent.FilterRequest{Identity: ann, Action: "shop:read", Type: "order"}, &list); status != 200 || !list.Decision.Allowed() {
		t.Fatalf("status %d: %+v", status, list.Decision)
	}
	var f filter.Filter
	must(t, json.Unmarshal(list.Filter, &f))
	for i, r := range rows {
		row := map[string]any{"id": r.ID, "tenant": r.Tenant, "owner": r.Attrs["owner"]}
		if want := i < 2; many.Decisions[i].Allowed() != want || f.Match(row, nil) != want {
			t.Errorf("%s: decided %v, listed %v, want %v", r.ID, many.Decisions[i].Allowed(), f.Match(row, nil), want)
		}
	}
	h.Until("all are on record", func() bool { return len(h.Events("sidecar_shop")) == before+3 })
	events := h.Events("sidecar_shop")[before:]
	if yes, no := events[0], events[1]; yes.Class != audit.ClassAuthzAllow || yes.Resource != "order/o1" || yes.Detail["asked"] != "4" ||
		no.Class != audit.ClassAuthzDeny || no.Resource != "order/o3" || no.Detail["refused"] != "2" || no.Detail["resource.01"] != "order/o3" || no.Detail["resource.02"] != "order/o4" {
		t.Errorf("on record: %+v", events)
	}
	if list := events[2]; list.Detail["list"] != "some" || list.Resource != "order/*" {
		t.Errorf("the list, on record: %+v", list)
	}
	if h.post("shop", agent.PathMany, agent.ManyRequest{Identity: ann}, nil) != 400 || h.post("shop", agent.PathFilter, agent.FilterRequest{Action: "shop:read", Type: "order"}, nil) != 401 {
		t.Error("nothing asked, or nobody")
	}
}

// TestRefusedAreNamed: what was refused of many is countable, and named up to a
// number; what was allowed takes no refusal with it.
func TestRefusedAreNamed(t *testing.T) {
	var checks []agent.CheckRequest
	for i := range 30 {
		checks = append(checks, agent.CheckRequest{Action: "shop:read", Resource: orderOf(fmt.Sprint("o", i)+strings.Repeat("x", 200*(i%2)), "user:bob")})
	}
	yes, no := rampart.Decision{Effect: rampart.Allow}, rampart.Decision{Reason: "no permit"}
	for name, row := range map[string]struct {
		all  []rampart.Decision
		want string // class, resource, asked, refused, named, more
	}{
		"all allowed":      {[]rampart.Decision{yes, yes}, "authz_allow order/o0 2 0 0 "},
		"one refused":      {[]rampart.Decision{no, yes, yes}, "authz_allow order/o1 3 1 0 ; authz_deny order/o0 3 1 1 "},
		"all refused":      {[]rampart.Decision{no, no}, "authz_deny order/o0 2 2 2 "},
		"many refused":     {append([]rampart.Decision{yes}, slices.Repeat([]rampart.Decision{no}, 29)...), "authz_allow order/o0 30 29 0 ; authz_deny order/o1 30 29 20 and 9 more"},
		"none was decided": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, e := range manyDecided(agent.Identified{}, checks, row.all) {
				named := 0
				for key, value := range e.Detail {
					if strings.HasPrefix(key, "resource.0") || strings.HasPrefix(key, "resource.1") || key == "resource.20" {
						named++
					}
					if len(value) > 100 {
						t.Errorf("%s has %d bytes", key, len(value))
					}
				}
				got = append(got, fmt.Sprintf("%s %s %s %s %d %s", e.Class, strings.TrimRight(e.Resource, "x"), e.Detail["asked"], e.Detail["refused"], named, e.Detail["resource.more"]))
			}
			if text := strings.Join(got, "; "); text != row.want {
				t.Errorf("got  %s\nwant %s", text, row.want)
			}
		})
	}
}

// TestManyHaveAnEnd: a service gets so many decisions a second, of many at once and
// of lists; single checks it makes as it likes.
func TestManyHaveAnEnd(t *testing.T) {
	h := open(t, []string{"shop"}, related...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	now := time.Now()
	h.of["shop"].asks = newAsks(5, func() time.Time { return now })
	many := agent.ManyRequest{Identity: ann, Checks: slices.Repeat([]agent.CheckRequest{{Action: "shop:read", Resource: orderOf("o1", "user:ann")}}, 3)}
	list := agent.FilterRequest{Identity: ann, Action: "shop:read", Type: "order"}
	for _, step := range []struct {
		name, path string
		q          any
		status     int
	}{
		{"three", agent.PathMany, many, 200},
		{"three more", agent.PathMany, many, 429},
		{"a list", agent.PathFilter, list, 200},
		{"another list", agent.PathFilter, list, 200},
		{"one too many", agent.PathFilter, list, 429},
		{"a single check", agent.PathCheck, agent.CheckRequest{Identity: ann, Action: "shop:read", Resource: orderOf("o1", "user:ann")}, 200},
	} {
		if got := h.post("shop", step.path, step.q, nil); got != step.status {
			t.Errorf("%s: status %d, want %d", step.name, got, step.status)
		}
	}
	if !slices.ContainsFunc(h.Events("sidecar_shop"), func(e audit.Event) bool {
		return e.Class == audit.ClassLimit && e.Subject == h.System.ServiceID("shop")
	}) {
		t.Error("who asked too much is not on record")
	}
	now = now.Add(2 * time.Second)
	if got := h.post("shop", agent.PathMany, many, nil); got != 200 {
		t.Errorf("afterwards: status %d", got)
	}
}

// TestProvider: what another service says of an object counts, and that it says
// nothing denies.
func TestProvider(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, provided...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	h.Until("the stock is known", func() bool { _, _, err := h.of["shop"].opt.Link.Now().Service("stock"); return err == nil })
	ask := func(id string) rampart.Decision {
		var d rampart.Decision
		h.post("shop", agent.PathCheck, agent.CheckRequest{Identity: ann, Action: "shop:write", Resource: orderOf(id, "user:bob")}, &d)
		return d
	}
	for name, tc := range map[string]struct {
		answer string
		status int
		effect rampart.Effect
		code   rampart.Code
	}{
		"yes":                    {`{"vip":true,"owner":"user:ann"}`, 200, rampart.Allow, ""},
		"no":                     {`{"vip":false}`, 200, rampart.Deny, rampart.CodeNoPermit},
		"nothing of it":          {`{}`, 200, rampart.Deny, rampart.CodeNoPermit},
		"yes and no":             {`{"vip":true,"vip":false}`, 200, rampart.Deny, rampart.CodeSource},
		"another kind":           {`{"vip":"true"}`, 200, rampart.Deny, ""},
		"a list":                 {`[{"vip":true}]`, 200, rampart.Deny, rampart.CodeSource},
		"down":                   {``, 503, rampart.Deny, rampart.CodeSource},
		"unknown":                {``, 404, rampart.Deny, rampart.CodeSource},
		"more than one may read": {`{"vip":true,"x":"` + strings.Repeat("x", maxAttributes) + `"}`, 200, rampart.Deny, rampart.CodeSource},
	} {
		var path, caller string
		h.serve(func(w http.ResponseWriter, r *http.Request) {
			path = r.URL.Path
			caller = r.Header.Get(agent.HeaderIdentity)
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.answer)
		})
		id := "o-" + strings.ReplaceAll(name, " ", "-")
		d := ask(id)
		if d.Effect != tc.effect || tc.code != "" && d.Code != tc.code {
			t.Errorf("%s: %+v, want %v %s", name, d, tc.effect, tc.code)
		}
		if path != "/attributes/order/"+id || caller == "" {
			t.Errorf("%s: the stock was asked %q", name, path)
		}
	}
	h.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	if d := ask("o-yes"); !d.Allowed() {
		t.Errorf("within the cache's time: %+v", d)
	}
	h.pass(61 * time.Second)
	if d := ask("o-yes"); d.Code != rampart.CodeSource {
		t.Errorf("after it: %+v", d)
	}
	principal := encoded(rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"customer"}})
	if res := h.call(edge, "stock", "GET", "/attributes/order/o1", "", wire.HeaderPrinc, principal); res.StatusCode != 403 {
		t.Errorf("a person reads attributes: %d", res.StatusCode)
	}
	if d := ask(".."); d.Code != rampart.CodeSource {
		t.Errorf("a path for an id: %+v", d)
	}
}

// TestContext: what this sidecar knows nobody says otherwise.
func TestContext(t *testing.T) {
	id := agent.Identified{Caller: "spiffe://shop.example/gateway/edge", Flow: "4"}
	got := contextOf(id, map[string]any{"caller": "me", "flow": "9", "relation": map[string]any{"viewer": true}, "amount": json.Number("17"), "rate": []any{json.Number("1.5")}})
	want := map[string]any{"caller": id.Caller, "flow": "4", "amount": int64(17), "rate": []any{1.5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
