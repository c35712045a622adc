package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/db/relations"
	"github.com/rampart-security/rampart/sdk/sdktest"
	"github.com/rampart-security/rampart/test/pgtest"
)

// people are the demo's users.
var people = map[string]rampart.Principal{
	"alice": {Kind: rampart.KindHuman, Subject: "user:alice", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "red"},
	"bob":   {Kind: rampart.KindHuman, Subject: "user:bob", Organizations: []string{"acme"}, Roles: []string{"customer"}, Team: "blue"},
	"carol": {Kind: rampart.KindHuman, Subject: "user:carol", Organizations: []string{"acme"}, Roles: []string{"manager"}, Team: "red"},
	"dave":  {Kind: rampart.KindHuman, Subject: "user:dave", Organizations: []string{"acme", "globex"}, Roles: []string{"admin"}},
	"erin":  {Kind: rampart.KindHuman, Subject: "user:erin", Organizations: []string{"globex"}, Roles: []string{"customer"}, Team: "green"},
	"frank": {Kind: rampart.KindHuman, Subject: "user:frank", Organizations: []string{"globex"}, Roles: []string{"admin"}},
}

type world struct {
	agent   *sdktest.Agent
	decider *decider
	svc     *sdk.Service
	store   *db.DB
	viewers *relations.Store
	api     http.Handler
}

func start(t *testing.T) *world {
	t.Helper()
	return startWith(t, map[string]sdktest.Store{"orders_db": {Kind: "sqlite", Path: filepath.Join(t.TempDir(), "orders.db"), Pool: 4}})
}

func startWith(t *testing.T, stores map[string]sdktest.Store) *world {
	t.Helper()
	w := &world{}
	w.agent = &sdktest.Agent{Info: sdktest.Info{
		Name:      "orders",
		Relations: map[string][]string{"order": {"viewer"}},
		Stores:    stores,
	}, Secrets: map[string][]byte{"store:orders_db": []byte(pgtest.Password)}}
	w.decider = policies(t, w.agent)
	w.agent.Check, w.agent.Filter = w.decider.check, w.decider.filter
	sdktest.Start(t, w.agent)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.svc, w.store = svc, openWhenUp(t, svc, "orders_db")
	if w.viewers, err = relations.Open(t.Context(), svc, w.store, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.viewers.Close() })
	if w.api, err = newService(t.Context(), svc, w.store, w.viewers, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return w
}

// openWhenUp opens a database; PostgreSQL may be starting.
func openWhenUp(t *testing.T, svc *sdk.Service, name string) *db.DB {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		d, err := db.Open(t.Context(), svc, name)
		if err == nil {
			t.Cleanup(func() { d.Close() })
			return d
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// as makes a request as one of people; answers are decoded into out.
func (w *world) as(t *testing.T, who, method, target, body string, out any) int {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(sdktest.HeaderIdentity, w.agent.Identity(people[who], "10"))
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, r)
	if out != nil && rec.Code/100 == 2 {
		if err := json.Unmarshal(rec.Body.Bytes(), out); err != nil {
			t.Fatal(err)
		}
	}
	return rec.Code
}

func TestTheServerPricesOrders(t *testing.T) {
	w := start(t)
	for name, tc := range map[string]struct {
		body   string
		status int
		total  int64
	}{
		"two mugs":                {`{"org":"acme","items":[{"sku":"MUG","quantity":2}]}`, 201, 2580},
		"a mug and a bag":         {`{"org":"acme","items":[{"sku":"MUG","quantity":1},{"sku":"BAG","quantity":1}]}`, 201, 6280},
		"with a price":            {`{"org":"acme","items":[{"sku":"MUG","quantity":2,"price":1}]}`, 400, 0},
		"with a total":            {`{"org":"acme","total":1,"items":[{"sku":"MUG","quantity":2}]}`, 400, 0},
		"something we don't sell": {`{"org":"acme","items":[{"sku":"GUN","quantity":1}]}`, 422, 0},
		"minus one":               {`{"org":"acme","items":[{"sku":"MUG","quantity":-1}]}`, 422, 0},
		"half a mug":              {`{"org":"acme","items":[{"sku":"MUG","quantity":0.5}]}`, 400, 0},
		"nothing":                 {`{"org":"acme","items":[]}`, 422, 0},
		"for another company":     {`{"org":"globex","items":[{"sku":"MUG","quantity":2}]}`, 403, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var o order
			if got := w.as(t, "alice", "POST", "/orders", tc.body, &o); got != tc.status || o.Total != tc.total {
				t.Errorf("status %d total %d, want %d and %d", got, o.Total, tc.status, tc.total)
			}
			if tc.status == 201 && (o.Owner != "user:alice" || o.Team != "red") {
				t.Errorf("owner %q of team %q", o.Owner, o.Team)
			}
		})
	}
}

// listed returns the orders that somebody's list has.
func (w *world) listed(t *testing.T, who, target string) (out []order) {
	t.Helper()
	if got := w.as(t, who, "GET", target, "", &out); got != 200 {
		t.Fatalf("%s lists %s: status %d", who, target, got)
	}
	return out
}

// A list says of many orders what the policy says of one.
func TestListsAgreeWithThePolicy(t *testing.T) {
	w := start(t)
	all := w.listed(t, "dave", "/orders")
	if len(all) != 4 {
		t.Fatalf("%d demo orders, want 4", len(all))
	}
	bobs := all[slices.IndexFunc(all, func(o order) bool { return o.Owner == "user:bob" })].ID
	for _, round := range []struct {
		viewer string // of bob's order
		want   map[string]int
	}{
		{"", map[string]int{"alice": 2, "bob": 1, "carol": 2, "dave": 4, "erin": 1, "frank": 1}},
		{"user:alice", map[string]int{"alice": 3, "bob": 1, "carol": 2, "dave": 4, "erin": 1, "frank": 1}},
		{"team:red", map[string]int{"alice": 3, "bob": 1, "carol": 3, "dave": 4, "erin": 1, "frank": 1}},
		{"user:erin", map[string]int{"alice": 3, "bob": 1, "carol": 3, "dave": 4, "erin": 1, "frank": 1}}, // of another organization
	} {
		if round.viewer != "" {
			if got := w.as(t, "bob", "PUT", "/orders/"+bobs+"/viewers/"+round.viewer, "", nil); got != 204 {
				t.Fatalf("sharing with %s: status %d", round.viewer, got)
			}
		}
		for who, want := range round.want {
			listed := w.listed(t, who, "/orders")
			if len(listed) != want {
				t.Errorf("shared with %q: %s lists %d orders, want %d", round.viewer, who, len(listed), want)
			}
			for _, o := range all {
				status := w.as(t, who, "GET", "/orders/"+o.ID, "", nil)
				inList := slices.ContainsFunc(listed, func(l order) bool { return l.ID == o.ID })
				if (status == 200) != inList {
					t.Errorf("shared with %q: %s and the order of %s: status %d, in the list: %v", round.viewer, who, o.Owner, status, inList)
				}
			}
		}
	}
}

// Only the owner shares, and what is shared can be taken back.
func TestSharing(t *testing.T) {
	w := start(t)
	mine := w.listed(t, "alice", "/orders")[0].ID
	for _, step := range []struct {
		who, method, viewer string
		status              int
		bob                 int // status of bob's reading afterwards
	}{
		{"bob", "PUT", "user:bob", 403, 403},
		{"carol", "PUT", "user:bob", 403, 403}, // who may read it all the same
		{"dave", "PUT", "user:bob", 403, 403},
		{"alice", "PUT", "user:*", 422, 403},
		{"alice", "PUT", "order:1", 422, 403},
		{"alice", "PUT", "user:bob", 204, 200},
		{"alice", "PUT", "user:bob", 204, 200},
		{"bob", "PUT", "user:erin", 403, 200}, // a viewer passes nothing on
		{"bob", "DELETE", "user:bob", 403, 200},
		{"alice", "DELETE", "user:bob", 204, 403},
		{"alice", "DELETE", "user:bob", 204, 403},
		{"alice", "PUT", "team:blue", 204, 200},
		{"alice", "DELETE", "team:blue", 204, 403},
	} {
		if got := w.as(t, step.who, step.method, "/orders/"+mine+"/viewers/"+step.viewer, "", nil); got != step.status {
			t.Errorf("%s by %s for %s: status %d, want %d", step.method, step.who, step.viewer, got, step.status)
		}
		if got := w.as(t, "bob", "GET", "/orders/"+mine, "", nil); got != step.bob {
			t.Errorf("after %s by %s for %s bob reads with %d, want %d", step.method, step.who, step.viewer, got, step.bob)
		}
	}
}

func TestOrdersOfAnOrganization(t *testing.T) {
	w := start(t)
	var some []order
	if got := w.as(t, "dave", "GET", "/orgs/globex/orders", "", &some); got != 200 || len(some) != 1 || some[0].Owner != "user:erin" {
		t.Errorf("status %d: %+v", got, some)
	}
}

func TestUnknownOrder(t *testing.T) {
	if got := start(t).as(t, "alice", "GET", "/orders/ord_00", "", nil); got != 404 {
		t.Errorf("status %d, want 404", got)
	}
}

func TestTheSecondStartKeepsTheOrders(t *testing.T) {
	w := start(t)
	before := w.listed(t, "dave", "/orders")
	if err := (ledger{w.store, w.viewers}).prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := w.listed(t, "dave", "/orders")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}
