package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/sdktest"
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

// policies returns the decision of policy/orders.rego for the signed identity,
// behind the sidecar's question for the organization.
func policies(t *testing.T, a *sdktest.Agent) func(sdktest.CheckRequest) rampart.Decision {
	t.Helper()
	text, err := os.ReadFile("../policy/orders.rego")
	if err != nil {
		t.Fatal(err)
	}
	d, err := pdp.New(pdp.Options{Policies: map[string][]byte{"orders.rego": text}})
	if err != nil {
		t.Fatal(err)
	}
	return func(req sdktest.CheckRequest) rampart.Decision {
		id, signed := a.Identified(req.Identity)
		if !signed || !slices.Contains(id.Principal.Organizations, req.Resource.Tenant) {
			return rampart.Decision{}
		}
		return d.Decide(t.Context(), authz.Request{Layer: rampart.LayerDomain, Principal: id.Principal, Action: req.Action, Resource: req.Resource})
	}
}

type world struct {
	agent *sdktest.Agent
	store *db.DB
	api   http.Handler
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.agent = &sdktest.Agent{Info: sdktest.Info{
		Name:   "orders",
		Stores: map[string]sdktest.Store{"orders_db": {Kind: "sqlite", Path: filepath.Join(t.TempDir(), "orders.db"), Pool: 4}},
	}}
	w.agent.Check = policies(t, w.agent)
	sdktest.Start(t, w.agent)
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if w.store, err = db.Open(t.Context(), svc, "orders_db"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	if w.api, err = newService(t.Context(), svc, w.store, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return w
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

// A list says of many orders what the policy says of one.
func TestListsAgreeWithThePolicy(t *testing.T) {
	w := start(t)
	var all []order
	for _, org := range []string{"acme", "globex"} {
		some, err := ledger{w.store}.visible(t.Context(), people["dave"], org)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	if len(all) != 4 {
		t.Fatalf("%d demo orders, want 4", len(all))
	}
	for who, want := range map[string]int{"alice": 2, "bob": 1, "carol": 2, "dave": 4, "erin": 1, "frank": 1} {
		t.Run(who, func(t *testing.T) {
			var listed []order
			if got := w.as(t, who, "GET", "/orders", "", &listed); got != 200 || len(listed) != want {
				t.Errorf("status %d with %d orders, want %d", got, len(listed), want)
			}
			for _, o := range all {
				status := w.as(t, who, "GET", "/orders/"+o.ID, "", nil)
				inList := slices.ContainsFunc(listed, func(l order) bool { return l.ID == o.ID })
				if (status == 200) != inList {
					t.Errorf("order of %s: status %d, in the list: %v", o.Owner, status, inList)
				}
			}
		})
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
	before, err := ledger{w.store}.visible(t.Context(), people["dave"], "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := (ledger{w.store}).prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := ledger{w.store}.visible(t.Context(), people["dave"], "acme")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}
